"""A run that would make the results once more that lie in its folder already says so, and makes none."""

import json
import os
import shutil
import time

import pytest

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
        ((), {}),  # the newest results are of --map 3d
        (("--no-cache",), {}),
        ((), {"CUDA_VISIBLE_DEVICES": "7"}),
    ):
        again, made = run(*arguments, **environment)
        assert again.code == 0 and len(made) == 4, again.stderr
    again, made = run("--require-gpu")
    assert again.code == 2 and made == [], "it looks for the GPU every time"


def test_results_and_lists_among_the_photos_change_nothing(known, tmp_path):
    _, run = known
    for _ in range(2):
        again, _ = run("--output", tmp_path / "ref", "--export-keep", tmp_path / "ref" / "keep.txt")
        assert again.code == 0, again.stderr
        assert len(list((tmp_path / "ref").glob("*_*"))) == 4
    assert "Nothing has changed" in again.stderr


def test_results_that_somebody_saved_anew_are_not_ours(known):
    first, run = known
    table = first.file("Data")
    table.write_text(table.read_text(encoding="utf-8-sig"), encoding="utf-8")
    os.utime(table, (time.time() + 60,) * 2)
    again, made = run()
    assert again.code == 0 and len(made) == 4


def test_held_out_photos_are_told_again(known, tmp_path, make_picture):
    _, run = known
    make_picture(tmp_path / "held" / "a.png", seed=30)
    age(tmp_path / "held")
    first, made = run("--holdout", tmp_path / "held")
    assert len(made) == 4 and "held-out photos" in first.stdout
    again, made = run("--holdout", tmp_path / "held")
    assert made == [] and again.stdout == first.stdout


@pytest.mark.parametrize("name", ["ref/broken.png", "cand/lora/generation_metadata.json"])
def test_what_could_not_be_read_is_tried_again(tmp_path, tiny_pack, make_picture, metrics, name):
    pack = shutil.copytree(tiny_pack, tmp_path / "pack")
    for picture in ("ref/0.png", "ref/1.png", "cand/lora/0.png"):
        make_picture(tmp_path / picture)
    (tmp_path / name).write_bytes(b"neither a picture nor JSON")
    age(tmp_path / "ref", tmp_path / "cand", pack)
    for count in (1, 2):
        assert metrics("--pack", pack).code == 0
        summaries = sorted((tmp_path / "out").glob("Summary_*"))
        assert len(summaries) == count
        assert json.loads(summaries[-1].read_text(encoding="utf-8"))["fingerprint"] is None


def test_a_broken_summary_is_no_result(known):
    first, run = known
    path = first.file("Summary")
    path.write_text(path.read_text(encoding="utf-8").replace('"groups"', '"grupos"'), encoding="utf-8")
    again, made = run()
    assert again.code == 0 and len(made) == 4


def test_what_is_new_or_takes_long_to_list_is_not_vouched_for(tmp_path, monkeypatch):
    place = tmp_path / "photos"
    place.mkdir()
    (place / "a.png").touch()
    assert fingerprint_of({}, [place], []) is None, "written in this moment"
    os.utime(place / "a.png", (time.time() + 3600,) * 2)
    assert fingerprint_of({}, [place], []) is None, "a time stamp of the future never gets old"
    age(place)
    found = fingerprint_of({}, [place], [])
    assert found is not None
    (place / "__pycache__").mkdir()
    assert fingerprint_of({}, [place], []) == found, "Python's own files come when they like"
    assert fingerprint_of({"map": "3d"}, [place], []) != found
    assert fingerprint_of({}, [], [place]) == found, "the program's files count as all others"
    monkeypatch.setattr("mirror.faces.unchanged._MOST_SECONDS", -1)
    assert fingerprint_of({}, [place], []) is None
    assert still_right(tmp_path, None) is None


def test_links_count_by_their_names_and_by_where_they_lead(tmp_path):
    for name in ("step_100", "step_200"):
        (tmp_path / "cand" / name).mkdir(parents=True)
        (tmp_path / "cand" / name / "a.png").touch()
    age(tmp_path / "cand")
    link = tmp_path / "cand" / "x_final"
    try:
        link.symlink_to(tmp_path / "cand" / "step_200", target_is_directory=True)
        (tmp_path / "cand" / "step_100" / "up").symlink_to(tmp_path / "cand", target_is_directory=True)
        (tmp_path / "cand" / "nowhere.png").symlink_to(tmp_path / "missing.png")
    except OSError:
        pytest.skip("this system does not let users make links")
    found = [fingerprint_of({}, [tmp_path / "cand"], [])]
    link.unlink()
    link.symlink_to(tmp_path / "cand" / "step_100", target_is_directory=True)
    found.append(fingerprint_of({}, [tmp_path / "cand"], []))
    link.rename(tmp_path / "cand" / "y_other")
    found.append(fingerprint_of({}, [tmp_path / "cand"], []))
    (tmp_path / "missing.png").touch()
    age(tmp_path / "missing.png")
    found.append(fingerprint_of({}, [tmp_path / "cand"], []))
    assert None not in found and len(set(found)) == len(found)


def test_photos_that_are_gone_are_missed(known, tmp_path):
    _, run = known
    shutil.rmtree(tmp_path / "ref")
    again, made = run()
    assert again.code == 2 and made == [] and "no real photos" in again.stderr
