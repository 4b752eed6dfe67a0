"""Workflow 1 of beaver.py offline with the real scripts: a rendered album, one person's dataset, a LoRA, the loop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_script
from loop_fixture import make_loop

from demo.album import make_album, write_album

PERSONS, PHOTOS, PIXELS, SEED = 3, (6, 8), 256, 7
SMALL = "train --epochs 1 --resolution 64 --rank 4 --repeats 1 --no-cache"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The folder in which the workflow ran."""
    from tiny_models import tiny_sdxl

    home = tmp_path_factory.mktemp("workflow")
    write_album(home / "photos", make_album(SEED, PERSONS, PHOTOS), PIXELS, workers=1)
    tiny_sdxl(home / "base")
    answers = ("--workflow", "1", "--photos", "photos", "--person", "alice", "--pack", "demo", "--base-model", "base")
    done = subprocess.run(
        [sys.executable, str(ROOT / "beaver.py"), *answers, "--more", SMALL, "--more", "prep --size 256", "--yes"],
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return home


def test_the_dataset_is_of_one_person_and_has_all_that_was_found(home):
    truth = {one["file"]: one["faces"] for one in json.loads((home / "photos" / "truth.json").read_text())["images"]}
    dataset = home / "outputs" / "facevault" / "organized" / "alice"
    pictures = json.loads((dataset / "metadata.json").read_text(encoding="utf-8"))["pictures"]
    shown = []
    for one in pictures:
        left, _, right, _ = one["window_xyxy"]
        faces = [face for face in truth[Path(one["source"]).name] if face["box_xyxy"]]
        inside = [face for face in faces if left <= (face["box_xyxy"][0] + face["box_xyxy"][2]) / 2 < right]
        assert len(inside) == 1, "nobody else's face is in it"
        shown.append(inside[0]["person"])
        assert (dataset / one["file"]).with_suffix(".txt").read_text().startswith("ohwx alice, ")
    assert len(set(shown)) == 1 and len(shown) >= PHOTOS[0]


def test_the_lora_is_trained_on_the_captions(home):
    log = json.loads((home / "outputs" / "lora_models" / "alice" / "training_log.json").read_text(encoding="utf-8"))
    assert log["finished"] and (home / "outputs" / "lora_models" / "alice" / "lora.safetensors").is_file()


def test_the_loop_takes_the_dataset_as_it_is(home, tmp_path):
    dataset = home / "outputs" / "facevault" / "organized" / "alice"
    config = make_loop(tmp_path / "loop", max_iterations=1, dataset_dir=str(dataset))
    done = run_script("bootstrap_loop.py", "--config", config, "--yes", FAKE_PAUSE_S="0.002")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "loop" / "out" / "merge_manifest.json").read_text(encoding="utf-8"))
    prepared = json.loads((dataset / "metadata.json").read_text(encoding="utf-8"))["pictures"]
    assert {one["file"] for one in manifest["real"]} == {one["file"] for one in prepared}
    assert all(one["caption_sha256"] for one in manifest["real"])


def test_the_menus_configuration_of_the_loop_is_accepted(home):
    answers = ("--workflow", "4", "--person", "alice", "--pack", "demo", "--base-model", "base")
    done = run_script("beaver.py", *answers, "--dry-run", cwd=home)
    assert done.returncode == 0 and "outputs/bootstrap_alice.json --dry-run" in done.stdout
    from mirror.guide.workflows import write_loop_config

    given = {"person": "alice", "output": str(home / "outputs"), "base_model": str(home / "base"), "pack": "demo"}
    write_loop_config(given | {"trigger": "ohwx alice", "preset": "sdxl", "iterations": "1"})
    done = run_script("bootstrap_loop.py", "--config", home / "outputs" / "bootstrap_alice.json", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "gap_analysis.py" in done.stdout and "v1" in done.stdout
