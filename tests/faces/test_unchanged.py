"""A run that would make the results once more that lie in its folder already says so, and makes none."""

import json
import os
import shutil
import time

import pytest
from conftest import run_script

from mirror.faces.unchanged import fingerprint_of, still_right

LONG_AGO = 1_600_000_000


def age(*folders):
    """Files of long ago: a file of the last two seconds is never taken for unchanged."""
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def known(tmp_path, tiny_pack, make_picture, metrics):
    """A run's options, and a function that runs it again with more of them: (run, names of new result files)."""
    pack = shutil.copytree(tiny_pack, tmp_path / "pack")
    for i in range(3):
        make_picture(tmp_path / "ref" / f"{i}.png", seed=i)
    for i in range(2):
        make_picture(tmp_path / "cand" / "lora" / f"{i}.png", seed=10 + i)
    (tmp_path / "cand" / "lora" / "0.txt").write_text("photo of ohwx", encoding="utf-8")
    age(tmp_path / "ref", tmp_path / "cand", pack)

    def run(*arguments, **environment):
        before = set((tmp_path / "out").glob("*")) if (tmp_path / "out").is_dir() else set()
        done = metrics("--pack", pack, *arguments, **environment)
        return done, sorted(path.name for path in set((tmp_path / "out").glob("*")) - before)

    first, made = run()
    assert first.code == 0 and len(made) == 4, first.stderr
    return first, run


def test_the_same_again_is_told_and_not_made(known, tmp_path):
    first, run = known
    again, made = run()
    assert again.code == 0 and made == []
    assert again.stdout == first.stdout, "tables, verdicts and paths are those of the first run"
    assert "Nothing has changed since 2" in again.stderr
    as_json, made = run("--json")
    assert made == [] and json.loads(as_json.stdout) == first.summary
    kept, made = run("--export-keep", tmp_path / "keep.txt", "--fail-below", "1")
    assert made == [] and kept.code == 3, "the gate looks at known results too"
    assert (tmp_path / "keep.txt").read_text(encoding="utf-8").split() == first.summary["dataset"]["keep"]
    refused, made = run("--export-keep", tmp_path / "ref" / "0.png")
    assert refused.code == 2 and made == [] and "is a picture" in refused.stderr


def test_nothing_heavy_is_loaded_for_it(known, tmp_path):
    _, run = known
    again, _ = run(PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rsplit("|", 1)[1].strip() for line in again.stderr.splitlines() if line.count("|") == 2}
    assert "mirror.faces.unchanged" in loaded and not loaded & {"numpy", "pandas", "cv2", "onnxruntime", "sqlite3"}


def _add_picture(tmp_path):
    shutil.copy2(tmp_path / "ref" / "0.png", tmp_path / "cand" / "lora" / "2.png")


def _change_prompt(tmp_path):
    path = tmp_path / "cand" / "lora" / "0.txt"
    path.write_text("photo of ohwx, smiling", encoding="utf-8")
    os.utime(path, (LONG_AGO, LONG_AGO))


def _add_empty_group(tmp_path):
    (tmp_path / "cand" / "another").mkdir()


def _turn_model_into_another(tmp_path):
    path = next((tmp_path / "pack").glob("*.onnx"))
    os.utime(path, (LONG_AGO + 9, LONG_AGO + 9))


def _delete_a_page(tmp_path):
    max((tmp_path / "out").glob("Dashboard_*")).unlink()


def _delete_the_cache(tmp_path):
    (tmp_path / "cache.sqlite").unlink()


def test_whatever_changed_is_measured(known, tmp_path):
    _, run = known
    for change in (
        _add_picture,
        _change_prompt,
        _add_empty_group,
        _turn_model_into_another,
        _delete_a_page,
        _delete_the_cache,
    ):
        change(tmp_path)
        again, made = run()
        assert again.code == 0 and len(made) == 4, f"{change.__name__}: {again.stderr}"
        assert "Nothing has changed" not in again.stderr


def test_another_option_or_machine_is_another_run(known):
    _, run = known
    for arguments, environment in (
        (("--map", "3d"), {}),
        (("--no-cache",), {}),
        ((), {"CUDA_VISIBLE_DEVICES": "7"}),
    ):
        again, made = run(*arguments, **environment)
        assert again.code == 0 and len(made) == 4, again.stderr


def test_a_picture_that_could_not_be_read_is_tried_again(tmp_path, tiny_pack, make_picture, metrics):
    make_picture(tmp_path / "ref" / "0.png")
    make_picture(tmp_path / "ref" / "1.png", seed=1)
    (tmp_path / "ref" / "broken.png").write_bytes(b"no picture")
    age(tmp_path / "ref")
    for count in (1, 2):
        assert metrics("--pack", tiny_pack).code == 0
        assert len(list((tmp_path / "out").glob("Summary_*"))) == count


def test_a_broken_summary_is_no_result(known, tmp_path):
    first, run = known
    path = first.file("Summary")
    path.write_text(path.read_text(encoding="utf-8").replace('"groups"', '"grupos"'), encoding="utf-8")
    again, made = run()
    assert again.code == 0 and len(made) == 4


def test_files_of_this_moment_and_too_many_are_not_vouched_for(tmp_path, monkeypatch):
    place = tmp_path / "photos"
    place.mkdir()
    (place / "a.png").touch()
    assert fingerprint_of({}, [place], []) is None
    os.utime(place / "a.png", (time.time() + 3600,) * 2)
    assert fingerprint_of({}, [place], []) is None, "a time stamp of the future never gets old"
    age(place)
    assert fingerprint_of({}, [place], []) == fingerprint_of({}, [place], []) is not None
    monkeypatch.setattr("mirror.faces.unchanged._MOST_FILES", 1)
    assert fingerprint_of({}, [place], []) is None
    assert still_right(tmp_path, None) is None


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "photos" / "inside").mkdir(parents=True)
    (tmp_path / "photos" / "inside" / "a.png").touch()
    age(tmp_path / "photos")
    try:
        (tmp_path / "photos" / "inside" / "up").symlink_to(tmp_path / "photos", target_is_directory=True)
        (tmp_path / "photos" / "nowhere.png").symlink_to(tmp_path / "missing.png")
    except OSError:
        pytest.skip("this system does not let users make links")
    before = fingerprint_of({}, [tmp_path / "photos"], [])
    assert before is not None
    (tmp_path / "missing.png").touch()
    os.utime(tmp_path / "missing.png", (LONG_AGO, LONG_AGO))
    assert fingerprint_of({}, [tmp_path / "photos"], []) not in (None, before), "a link that leads somewhere now"


def test_missing_photos_are_said_as_ever(tmp_path):
    done = run_script("mirror_metrics.py", "--reference", tmp_path / "none", "--output", tmp_path)
    assert done.returncode == 2 and "does not exist" in done.stderr
