"""`facevault.py prep` and `export`: one person's pictures, faces whole, nobody else, captions kept, kills harmless."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_script
from vault_fixture import VaultRun, make_vault

from mirror.vault.preparing import SHAPES, bucket, crop_around


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """The largest cluster is alice, the next one Bob; duplicates were looked for."""
    folder = tmp_path_factory.mktemp("album")
    run = VaultRun(make_vault(folder), folder / "named")
    (run.output.parent / "photos").symlink_to(folder / "photos")
    run("cluster")
    one, two = sorted(run.clusters, key=lambda number: -len(run.clusters[number]))[:2]
    run("label", one, "alice")
    run("label", two, "Bob B.")
    if not (run.output / "duplicates.json").is_file():
        text = '{"schema_version": 1, "created": "", "pictures": 0, "settings": {}, "groups": []}'
        (run.output / "duplicates.json").write_text(text)
    return run.output


@pytest.fixture
def vault(named, tmp_path) -> VaultRun:
    return VaultRun(named, tmp_path)


def test_the_folder_is_what_the_guide_names_and_metadata_accounts_for_every_photo(vault):
    done = vault("prep", "alice", "--size", 128)
    folder = vault.output / "organized" / "alice"
    made = vault.json("organized/alice/metadata.json")
    assert {path.name for path in folder.glob("*.jpg")} == {one["file"] for one in made["images"]}
    photos = vault.ask(
        "SELECT DISTINCT content FROM faces WHERE person = (SELECT id FROM persons WHERE name = 'alice')"
    )
    assert len(made["images"]) + len(made["left_out"]) == len(photos)
    for one in made["images"]:
        height, width = cv2.imread(str(folder / one["file"])).shape[:2]
        assert (width, height) == tuple(one["size_wh"]) and width * height <= 1.35 * 128**2
        left, top, right, bottom = one["crop_xyxy"]
        box = next(iter(vault.ask(f"SELECT left, top, right, bottom FROM faces WHERE id = {one['face']}")))
        assert left <= max(0, box[0]) and top <= max(0, box[1]) and right >= box[2] - 1 and bottom >= box[3] - 1
    assert "Face angle: profile" in done.stdout and f"dataset: {folder}" in done.stdout
    assert "are fewer than 15" in done.stderr or "are advised" in done.stderr


def test_gap_analysis_takes_the_folder(vault, tmp_path):
    vault("prep", "alice", "--size", 256)
    folder = vault.output / "organized" / "alice"
    done = run_script("gap_analysis.py", folder, "--pack", "demo", "--output", tmp_path / "gaps.json", "--no-cache")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "gaps.json").is_file()


def test_captions_stay_and_what_is_not_wanted_any_more_goes(vault):
    vault("prep", "alice")
    folder = vault.output / "organized" / "alice"
    (one, *_), own = sorted(folder.glob("*.jpg")), folder / "my own.jpg"
    one.with_suffix(".txt").write_text("ohwx alice, smiling")
    own.write_bytes(one.read_bytes())
    face = next(
        image["face"] for image in vault.json("organized/alice/metadata.json")["images"] if image["file"] != one.name
    )
    stamp = one.stat().st_mtime_ns
    vault("label", "--take-out", face)
    vault("prep", "alice")
    made = vault.json("organized/alice/metadata.json")
    assert face not in {image["face"] for image in made["images"]}
    assert {path.name for path in folder.glob("*.jpg")} == {image["file"] for image in made["images"]} | {own.name}
    assert one.with_suffix(".txt").read_text() == "ohwx alice, smiling" and one.stat().st_mtime_ns == stamp


def test_without_crops_the_bytes_are_the_photos(vault):
    vault("prep", "alice", "--no-crop")
    for one in vault.json("organized/alice/metadata.json")["images"]:
        made = vault.output / "organized" / "alice" / one["file"]
        assert made.read_bytes() == Path(one["source"]).read_bytes() and one["crop_xyxy"] is None


def test_kills_in_prep_leave_a_folder_that_the_next_run_completes(vault):
    command = [sys.executable, str(ROOT / "facevault.py"), "prep", "alice", "--output", str(vault.output)]
    folder = vault.output / "organized" / "alice"
    for goal in (1, 2, 3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(folder.glob("*.jpg"))) < goal:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    vault("prep", "alice")
    made = vault.json("organized/alice/metadata.json")
    assert {path.name for path in folder.glob("*.jpg")} == {one["file"] for one in made["images"]}
    assert all(cv2.imread(str(folder / one["file"])) is not None for one in made["images"])


def test_export_of_all_as_a_trainer_takes_it(vault):
    vault("export", "--all", "--format", "lora", "--symlink", "--repeats", 7)
    manifest = vault.json("manifest.json")
    assert [(one["person"], one["folder"]) for one in manifest["persons"]] == [
        ("alice", "lora_ready/7_alice"),
        ("Bob B.", "lora_ready/7_Bob_B"),
    ]
    for one in manifest["persons"]:
        files = list((vault.output / one["folder"]).glob("*.jpg"))
        assert len(files) == one["images"] > 0
        assert os.stat(files[0]).st_nlink == 2  # no second copy on the disk


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prep", "nobody"), "There is no cluster nobody"),
        (("export",), "Name one of --all and --person"),
        (("prep", "alice", "--size", "3"), "not a whole number from 64 on"),
    ],
)
def test_a_mistake_gets_one_sentence(vault, arguments, said):
    assert said in vault(*arguments, code=2).stderr


def test_a_cluster_without_a_name_is_not_prepared(vault):
    number = min(number for number in vault.clusters if number not in vault.names)
    assert "has no name yet" in vault("prep", number, code=2).stderr


def test_a_folder_of_somebody_else_is_left_alone(vault):
    folder = vault.output / "organized" / "alice"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text('{"mine": 1}')
    assert "was not written by this facevault.py" in vault("prep", "alice", code=2).stderr
    assert (folder / "metadata.json").read_text() == '{"mine": 1}'


def test_crops_hold_the_face_and_nobody_else():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(int(v) for v in rng.integers(300, 1200, 2))
        side = float(rng.uniform(40, 120))
        place = rng.uniform(0, np.subtract(size, side))
        face = (*place, *(place + side))
        other = rng.uniform(0, np.subtract(size, 60))
        others = [(*other, *(other + 60))]
        crop = crop_around(face, others, size)
        if crop is None:
            continue
        left, top, right, bottom = crop
        assert (
            0 <= left <= face[0]
            and 0 <= top <= face[1]
            and face[2] <= right <= size[0]
            and face[3] <= bottom <= size[1]
        )
        assert right <= others[0][0] or others[0][2] <= left or bottom <= others[0][1] or others[0][3] <= top
        assert min(abs((right - left) / (bottom - top) - shape) for shape in SHAPES) < 0.03
    assert crop_around((100, 100, 200, 200), [], (600, 400)) == (0, 0, 600, 400)
    assert bucket((3000, 2000), 1024) == (1280, 832) and bucket((500, 400), 1024) == (500, 400)
