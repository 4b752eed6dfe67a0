"""`facevault.py prep`: the best part of every photo, nothing lost or doubled, what people wrote and changed is kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import cv2
import pytest
from conftest import ROOT, run_script
from vault_fixture import VaultRun, make_vault

from mirror.dataset.buckets import buckets

SIZE = 256


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> Path:
    """A vault in which the two largest clusters have names."""
    vault = make_vault(tmp_path_factory.mktemp("prep"))
    assert run_script("facevault.py", "cluster", "--output", vault).returncode == 0
    persons = json.loads((vault / "labels.json").read_text(encoding="utf-8"))["persons"]
    sizes = sorted(persons, key=lambda one: -len(one["faces"]))
    for cluster, name in zip(sizes, ("alice", "bob"), strict=False):
        done = run_script("facevault.py", "label", cluster["cluster"], name, "--output", vault)
        assert done.returncode == 0, done.stderr
    return vault


@pytest.fixture
def vault(named, tmp_path) -> VaultRun:
    return VaultRun(named, tmp_path)


def prep(vault: VaultRun, *more: object, code: int = 0) -> subprocess.CompletedProcess:
    return vault("prep", "alice", "--size", SIZE, *more, code=code)


def dataset(vault: VaultRun) -> Path:
    return vault.output / "organized" / "alice"


def pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))


def metadata(vault: VaultRun) -> dict:
    return vault.json("organized/alice/metadata.json")


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def photos_of_alice(vault: VaultRun) -> set[str]:
    query = "SELECT content FROM faces WHERE person = (SELECT id FROM persons WHERE name = 'alice')"
    return {content for (content,) in vault.ask(query)}


def test_every_photo_is_in_the_dataset_or_has_its_reason(vault):
    before = digests(vault.photos)
    done = prep(vault)
    found = metadata(vault)
    contents = [one["content"] for one in found["pictures"] + found["left_out"]]
    assert sorted(contents) == sorted(photos_of_alice(vault)) and len(found["pictures"]) >= 5
    assert all(one["reason"] for one in found["left_out"])
    assert digests(vault.photos) == before, "originals stay as they are"
    pictures = [path.name for path in pictures_in(dataset(vault))]
    assert pictures == sorted(one["file"] for one in found["pictures"])
    for one in found["pictures"]:
        height, width = cv2.imread(str(dataset(vault) / one["file"])).shape[:2]
        assert [width, height] == one["size_wh"] and width * height <= SIZE * SIZE
        left, top, right, bottom = one["face_xyxy"]
        assert left >= -1 and top >= -1 and right <= width + 1 and bottom <= height + 1
    qualities = [one["quality"] for one in found["pictures"]]
    assert qualities == sorted(qualities, reverse=True), "the best first"
    assert f"{len(pictures)} pictures of alice" in done.stdout and "fewer than 15" in done.stderr


def test_shot_sizes_and_light_are_those_that_gap_analysis_finds(vault, tmp_path):
    prep(vault)
    gaps = tmp_path / "gaps.json"
    done = run_script("gap_analysis.py", dataset(vault), "--pack", "demo", "--no-cache", "--output", gaps)
    assert done.returncode == 0, done.stderr
    report = json.loads(gaps.read_text(encoding="utf-8"))
    told = {one["file"]: one["values"] for one in metadata(vault)["pictures"]}
    seen = {one["file"]: one["values"] for one in report["images"]}
    assert told.keys() == seen.keys()
    for kind, least in (("shot_size", 0.9), ("face_angle", 0.8), ("lighting", 0.8)):
        same = sum(told[file][kind] == seen[file][kind] for file in told)
        assert same >= least * len(told), (kind, [(told[one][kind], seen[one][kind]) for one in told])


def test_a_second_run_writes_nothing_and_another_size_takes_the_place(vault):
    prep(vault)
    before = {path.name: path.stat().st_mtime_ns for path in pictures_in(dataset(vault))}
    prep(vault)
    assert {path.name: path.stat().st_mtime_ns for path in pictures_in(dataset(vault))} == before
    (dataset(vault) / "mine.png").write_bytes(b"a file of somebody else")
    assert {Path(name).suffix for name in before} == {".png", ".jpg"}, "some are cut, some are taken as they are"
    prep(vault, "--kohya", 7, "--jsonl")
    assert [path.name for path in pictures_in(dataset(vault))] == ["mine.png"]
    inner = dataset(vault) / "7_ohwx alice"
    assert {path.name for path in pictures_in(inner)} == set(before)
    lines = [json.loads(line) for line in (dataset(vault) / "metadata.jsonl").read_text().splitlines()]
    assert {line["file_name"] for line in lines} == {f"7_ohwx alice/{name}" for name in before}
    prep(vault)
    assert not inner.exists() and len(pictures_in(dataset(vault))) == len(before) + 1
    assert not (dataset(vault) / "metadata.jsonl").exists()


def test_what_people_wrote_is_kept(vault, tmp_path):
    contents = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in vault.photos.glob("*.jpg")}
    theirs = contents[sorted(photos_of_alice(vault))[0]]
    beside = theirs.with_suffix(".txt")
    beside.write_text("ohwx alice on her birthday\n", encoding="utf-8")
    try:
        vault("caption", "alice", "--trigger", "ohwx alice")
        prep(vault)
        rows = {Path(one["source"]).name: one for one in metadata(vault)["pictures"]}
        assert rows[theirs.name]["caption_by"] == "person"
        assert (dataset(vault) / rows[theirs.name]["file"]).with_suffix(".txt").read_text().startswith("ohwx alice on")
        (other,) = [one for name, one in rows.items() if name != theirs.name][:1]
        text = (dataset(vault) / other["file"]).with_suffix(".txt")
        assert other["caption_by"] == "measured" and text.read_text().strip() == other["caption"]
        assert other["caption"].startswith("ohwx alice, ")
        text.write_text("ohwx alice in the garden, my own words\n")
        vault("caption", "alice", "--trigger", "zkz woman", "--style", "sentence")
        prep(vault)
        assert text.read_text() == "ohwx alice in the garden, my own words\n"
        after = {one["file"]: one for one in metadata(vault)["pictures"]}
        assert after[other["file"]]["caption_by"] == "person" and metadata(vault)["trigger"] == "zkz woman"
        others = [one["caption"] for one in after.values() if one["caption_by"] == "measured"]
        assert others and all(one.startswith("zkz woman, a ") for one in others)
        prep(vault, "--most", 1)
        assert text.exists(), "a caption that somebody wrote outlives its picture"
    finally:
        beside.unlink()


def test_what_people_changed_goes_with_its_picture(vault, tmp_path):
    """Into kohya's folder and back, and under the new name of a photo."""
    library = tmp_path / "library"
    library.mkdir()
    (source,) = [Path(one["source"]) for one in metadata_after(vault)["pictures"]][:1]
    photo = library / "first.jpg"
    photo.write_bytes(source.read_bytes() + b"another file")  # behind the end of a JPEG
    vault("scan", library, "--pack", "demo")
    vault("cluster")
    vault("caption", "alice")
    prep(vault)

    def words(folder: Path, stem: str) -> str:
        (text,) = folder.glob(f"{stem}_*.txt")
        return text.read_text()

    (text,) = dataset(vault).glob("first_*.txt")
    text.write_text("ohwx alice in the garden")
    (picture,) = [path for path in pictures_in(dataset(vault)) if path.stem == text.stem]
    picture.write_bytes(b"retouched")
    prep(vault, "--kohya")
    inner = dataset(vault) / "10_ohwx alice"
    assert words(inner, "first") == "ohwx alice in the garden" and not text.exists()
    assert (inner / picture.name).read_bytes() == b"retouched" and not picture.exists()
    photo.rename(library / "second.jpg")
    vault("scan", library, "--pack", "demo")
    prep(vault, "--no-crop")
    assert words(dataset(vault), "second") == "ohwx alice in the garden" and not inner.exists()
    found = [path for path in pictures_in(dataset(vault)) if path.stem.endswith(text.stem[-8:])]
    assert [path.read_bytes() for path in found] == [b"retouched"], "once, though a copy would end otherwise"
    (row,) = [one for one in metadata(vault)["pictures"] if one["file"] == found[0].name]
    assert row["caption"] == "ohwx alice in the garden" and row["caption_by"] == "person"


def test_a_deleted_picture_stays_away_until_it_is_restored(vault):
    vault("caption", "alice")
    prep(vault)
    every = pictures_in(dataset(vault))
    every[0].unlink()
    vault("caption", "alice")
    prep(vault, "--kohya")
    prep(vault)
    assert pictures_in(dataset(vault)) == every[1:]
    (left,) = [one for one in metadata(vault)["left_out"] if "somebody deleted its picture" in one["reason"]]
    assert left["content"].startswith(every[0].stem[-8:])
    assert "organized/alice stays as it was" in vault("label", "alice", "Al.").stdout
    assert "Al. is called alice now.\n" in vault("label", "Al.", "alice").stdout
    prep(vault, "--most", 1)
    assert prep(vault, "--restore").returncode == 0 and pictures_in(dataset(vault)) == every
    prep(vault, "--most", 1)
    prep(vault)
    assert pictures_in(dataset(vault)) == every, "what prep itself took away is no choice of somebody's"


def test_a_trigger_stays_until_another_is_given(vault):
    def begins(trigger: str) -> bool:
        captions = [one["caption"] for one in metadata(vault)["pictures"]]
        return metadata(vault)["trigger"] == trigger and all(one.startswith(f"{trigger}, ") for one in captions)

    vault("caption", "alice", "--trigger", "zkw alice")
    prep(vault)
    vault("caption", "alice", "--style", "sentence")
    assert begins("zkw alice")
    prep(vault, "--trigger", "abc girl")
    assert begins("abc girl")
    prep(vault)
    assert begins("abc girl")
    bob = vault.ask("SELECT id FROM persons WHERE name = 'bob'")[0][0]
    vault("label", bob, "Smith, John")
    assert "ohwx Smith John, " in vault("caption", "Smith, John").stdout


def test_whole_photos_as_copies_and_as_links(vault):
    prep(vault, "--no-crop")
    found = metadata(vault)["pictures"]
    for one in found:
        assert (dataset(vault) / one["file"]).read_bytes() == Path(one["source"]).read_bytes()
    prep(vault, "--no-crop", "--symlink")
    assert all((dataset(vault) / one["file"]).is_symlink() for one in found)
    prep(vault, "--no-crop")
    assert not any((dataset(vault) / one["file"]).is_symlink() for one in found)
    assert all(Path(one["source"]).is_file() for one in found)


def test_a_photo_that_lies_on_its_side_stands_upright(vault, tmp_path):
    photo = cv2.imread(metadata_after(vault)["pictures"][0]["source"])
    library = tmp_path / "library"
    library.mkdir()
    cv2.imwrite(str(library / "side.png"), cv2.rotate(photo, cv2.ROTATE_90_CLOCKWISE))
    vault("scan", library, "--pack", "demo")
    (face,) = vault.ask(
        "SELECT faces.id, turned FROM faces JOIN files ON faces.content = files.content "
        f"WHERE files.path = CAST('{library / 'side.png'}' AS BLOB)"
    )
    assert face[1] == 270
    vault("cluster", "--min-cluster", 1)
    vault("label", cluster_of(vault, face[0]), "turned")
    vault("prep", "turned", "--size", SIZE)
    rows = vault.json("organized/turned/metadata.json")["pictures"]
    (one,) = [row for row in rows if row["source"].endswith("side.png")]
    image = cv2.imread(str(vault.output / "organized" / "turned" / one["file"]))
    left, top, right, bottom = one["window_xyxy"]
    expected = cv2.resize(photo[top:bottom, left:right], one["size_wh"], interpolation=cv2.INTER_AREA)
    assert abs(image.astype(int) - expected.astype(int)).mean() < 2


def metadata_after(vault: VaultRun) -> dict:
    prep(vault)
    return metadata(vault)


def cluster_of(vault: VaultRun, face: int) -> int:
    return vault.ask(f"SELECT person FROM faces WHERE id = {face}")[0][0]


def test_duplicates_are_left_out_as_long_as_the_better_one_is_there(vault, tmp_path):
    source = Path(metadata_after(vault)["pictures"][0]["source"])
    library = tmp_path / "library"
    library.mkdir()
    photo = cv2.imread(str(source))
    cv2.imwrite(str(library / "smaller.jpg"), cv2.resize(photo, None, fx=0.8, fy=0.8), [cv2.IMWRITE_JPEG_QUALITY, 60])
    vault("scan", library, "--pack", "demo")
    vault("cluster")
    vault("dedup")
    prep(vault)
    (left,) = [one for one in metadata(vault)["left_out"] if one["source"].endswith("smaller.jpg")]
    assert "near duplicate of" in left["reason"] and source.name in left["reason"]
    row = f"UPDATE files SET vanished = 1 WHERE path = CAST('{source}' AS BLOB)"
    with closing(sqlite3.connect(vault.output / "vault.sqlite")) as db, db:
        db.execute(row)
    prep(vault)
    assert any(one["source"].endswith("smaller.jpg") for one in metadata(vault)["pictures"])


def test_a_photo_that_changed_or_went_is_left_out(vault, tmp_path):
    library = tmp_path / "library"
    sources = [Path(one["source"]) for one in metadata_after(vault)["pictures"]][:3]
    library.mkdir()
    names = ("changed.jpg", "gone.jpg", "twice.jpg")
    for path, name in zip(sources, names, strict=True):
        (library / name).write_bytes(path.read_bytes() + b"another file")  # behind the end of a JPEG
    shutil.copy(library / "twice.jpg", library / "twice again.jpg")
    vault("scan", library, "--pack", "demo")
    vault("cluster")
    (library / "changed.jpg").write_bytes(sources[1].read_bytes())
    (library / "gone.jpg").unlink()
    (library / "twice.jpg").unlink()
    prep(vault)
    reasons = {Path(one["source"]).name: one["reason"] for one in metadata(vault)["left_out"]}
    assert "changed since the scan" in reasons["changed.jpg"] and "vanished" in reasons["gone.jpg"]
    assert any(Path(one["source"]).name.startswith("twice") for one in metadata(vault)["pictures"])


def test_kills_lose_nothing_and_double_nothing(vault):
    vault("caption", "alice")
    prep(vault)
    wanted = {name: value for name, value in digests(dataset(vault)).items() if name != "metadata.json"}
    shutil.rmtree(dataset(vault))
    command = [sys.executable, str(ROOT / "facevault.py"), "prep", "alice", "--size", str(SIZE), "--output"]
    for kill in range(8):
        process = subprocess.Popen([*command, str(vault.output)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if dataset(vault).is_dir() and len(pictures_in(dataset(vault))) > kill:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    prep(vault)
    there = {name: value for name, value in digests(dataset(vault)).items() if name != "metadata.json"}
    assert there == wanted, "nothing half written is left"
    assert vault.ask("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prep", "nobody"), "is called nobody; known: alice, bob"),
        (("caption", "99999"), "There is no cluster 99999. facevault.py label shows"),
        (("prep", "alice", "--min-face", "5000"), "No photo of alice can be used"),
        (("prep", "alice", "--size", "10"), "from 256 to 4096"),
        (("caption", "alice", "--trigger", "a, b"), "is no trigger"),
        (("caption", "alice", "--model", "nowhere"), "holds no captioner"),
        (("export", "--person", "nobody"), "is called nobody"),
        (("export",), "--all --person is required"),
    ],
)
def test_a_mistake_gets_one_sentence(vault, arguments, said):
    done = vault(*arguments, code=2)
    assert said in done.stderr and done.stderr.count("takes it in") <= 3


def test_a_person_goes_by_the_number_of_the_cluster_too(vault):
    number = vault.ask("SELECT id FROM persons WHERE name = 'alice'")[0][0]
    vault("caption", number)
    vault("prep", number, "--size", SIZE)
    assert metadata(vault)["person"] == "alice" and metadata(vault)["trigger"] == "ohwx alice"
    vault("export", "--person", f"cluster {number}", "--format", "json")
    assert [one["name"] for one in vault.json("manifest.json")["persons"]] == ["alice"]
    unnamed = vault.ask("SELECT id FROM persons WHERE name IS NULL")[0][0]
    assert f"facevault.py label {unnamed} NAME gives one" in vault("prep", unnamed, code=2).stderr
    assert f"cluster {number} is called alice already." in vault("label", "alice", "alice").stdout
    vault("label", "--not-a-person", number)
    assert f"label {number} NAME changes that" in vault("prep", number, code=2).stderr
    assert f"cluster {number} is called alice and kept again." in vault("label", number, "alice").stdout


def test_odd_names_get_a_folder_and_no_two_share_one(vault):
    bob = vault.ask("SELECT id FROM persons WHERE name = 'bob'")[0][0]
    vault("label", bob, "bob/../X: ann")
    vault("prep", "bob/../X: ann", "--size", SIZE)
    assert vault.json("organized/bob_.._X_ ann/metadata.json")["person"] == "bob/../X: ann"
    vault("label", bob, "Con.1")
    assert "person_Con.1" in vault("prep", "Con.1", "--size", SIZE).stdout, "Con is a device of Windows"
    vault("label", bob, "bob_.._X_ ann")
    said = vault("prep", "bob_.._X_ ann", code=2).stderr
    assert "is the folder of bob/../X: ann" in said


def test_a_metadata_file_of_somebody_else_is_not_overwritten(vault):
    dataset(vault).mkdir(parents=True)
    (dataset(vault) / "metadata.json").write_text('{"mine": true}')
    assert "was not written by facevault.py" in prep(vault, code=2).stderr
    assert "was not written by facevault.py" in vault("export", "--person", "alice", code=2).stderr
    assert "was not written by facevault.py" in vault("caption", "alice", code=2).stderr
    assert os.listdir(dataset(vault)) == ["metadata.json"]


def test_exports_are_what_other_programs_take(vault, tmp_path):
    vault("caption", "alice")
    prep(vault)
    made = digests(dataset(vault))
    done = vault("export", "--all", "--format", "lora", "--size", SIZE)
    assert "alice" in done.stdout and vault.json("manifest.json")["format"] == "lora"
    plan = ("--base-model", "nobody/x", "--preset", "sdxl", "--dry-run", "--trigger", "ohwx bob", "--no-cache")
    trained = run_script("train_lora.py", vault.output / "lora_ready" / "bob", "--output", tmp_path / "l", *plan)
    pictures = len(pictures_in(vault.output / "lora_ready" / "bob" / "10_ohwx bob"))
    assert trained.returncode == 0 and f"images: {pictures}" in trained.stdout and pictures >= 5
    done = vault("export", "--all", "--symlink")
    assert "prepared already" in done.stdout and digests(dataset(vault)) == made, "a dataset is not mixed up"
    prep(vault, "--no-crop", "--most", 2)
    made = digests(dataset(vault))
    vault("export", "--person", "alice")
    assert digests(dataset(vault)) == made, "nor one of whole photos"
    links = list((vault.output / "organized" / "bob").glob("*.jpg"))
    assert f"{len(links)} pictures, {len(links)} of them as symlink" in done.stdout
    assert links and all(path.is_symlink() for path in links)
    vault("export", "--person", "alice", "--format", "json")
    (alice,) = vault.json("manifest.json")["persons"]
    assert {one["content"] for one in alice["photos"]} == photos_of_alice(vault) and alice["folder"] is None
    assert all(one["caption"].startswith("ohwx alice, ") for one in alice["photos"])


def test_crops_are_trainers_buckets_where_the_photo_is_large_enough(vault):
    prep(vault)
    sizes = [tuple(one["size_wh"]) for one in metadata(vault)["pictures"]]
    windows = [one["window_xyxy"] for one in metadata(vault)["pictures"]]
    for size, (left, top, right, bottom) in zip(sizes, windows, strict=True):
        assert size in buckets(SIZE) or size == (right - left, bottom - top)
