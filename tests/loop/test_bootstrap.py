"""bootstrap_loop.py as users run it: console, files, adopting, undoing, resuming with other settings, real photos."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess

import pytest
from conftest import ROOT
from loop_fixture import PHOTOS, loop_command, make_loop, run_loop

from mirror.contracts.contract import read_contract
from mirror.contracts.history import IterationHistory
from mirror.contracts.manifest import MergeManifest

QUICK = {"FAKE_PAUSE_S": "0.002"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One loop of fakes that ended; tests that change it work on copies."""
    base = tmp_path_factory.mktemp("done")
    config = make_loop(base)
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    return base, run


@pytest.fixture
def ended(done):
    """The same loop in the same place, which is put back afterwards."""
    base, kept = done[0], done[0].with_name("kept")
    shutil.copytree(base, kept)
    yield base, base / "config.json"
    for folder in (base, base.with_name("moved")):
        shutil.rmtree(folder, ignore_errors=True)
    kept.rename(base)


DOCUMENTED_FOLDERS = ("outputs/facevault/organized/alice", "models")  # of bootstrap_config.json


def history_of(base):
    return read_contract(base / "out" / "iteration_history.json", IterationHistory, "x")


def manifest_of(base):
    return read_contract(base / "out" / "merge_manifest.json", MergeManifest, "x")


def test_console_says_what_is_documented(done):
    lines = done[1].stdout.splitlines()
    patterns = [
        r"  ✓ Gap Analysis: 2 gaps found",
        r"  ✓ Generated: 8 images",
        r"  ✓ Validation: \d+ approved \(\d+%\)",
        r"  ✓ Merged: \d+ images? into dataset",
        r"  ✓ Training: LoRA v2 complete",
        r"  ✓ Improvement: \d+\.\d% \((above|below) 5% threshold\)",
    ]
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines), pattern


def test_files_are_those_documented(done):
    out, loras = done[0] / "out", done[0] / "loras"
    for name in ("iteration_history.json", "merge_manifest.json", "bootstrap_report.html", "gaps_iter1.json"):
        assert (out / name).is_file(), name
    for name in ("synthetic_iter1", "approved_iter1", "dataset", "holdout"):
        assert any((out / name).iterdir()), name
    history = history_of(done[0])
    best = next(lora for lora in history.loras if lora.name == history.best)
    assert (loras / "lora.safetensors").read_bytes() == (loras / best.file).read_bytes()
    assert [lora.name for lora in history.loras] == ["v1", "v2", "v3", "v4"]
    assert history.loras[0].synthetic_images == 0 and history.held_out == 6


def test_every_training_sees_all_real_photos_and_all_that_was_merged(done):
    history, manifest = history_of(done[0]), manifest_of(done[0])
    for lora in history.loras:
        assert lora.real_images == 24
        assert lora.synthetic_images == sum(one.iteration <= lora.iteration for one in manifest.merged)
    assert len(list((done[0] / "out" / "dataset").glob("*.png"))) == 24 + len(manifest.merged)
    assert {photo.file for photo in manifest.real if photo.held_out} == {
        path.name for path in (done[0] / "out" / "holdout").glob("*.png")
    }


def test_the_users_photos_are_untouched(done, tmp_path):
    fresh = make_loop(tmp_path / "again").parent / "photos"
    assert {path.name: path.read_bytes() for path in (done[0] / "photos").iterdir()} == {
        path.name: path.read_bytes() for path in fresh.iterdir()
    }


def test_page_shows_rounds_samples_and_the_decision(done):
    page = (done[0] / "out" / "bootstrap_report.html").read_text()
    decision = history_of(done[0]).iterations[-1].decision
    assert decision.words in page and "baseline" in page and page.count("data:image/jpeg") == 3 * 4
    assert "needs real photos" not in page and "http" not in page.replace("http-equiv", "")


def test_an_existing_lora_is_adopted_and_kept(tmp_path):
    config = make_loop(tmp_path, max_iterations=1)
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"quality": "0.4"}}
    )
    mine = len(header).to_bytes(8, "little") + header.encode() + b"mine"
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "lora.safetensors").write_bytes(mine)
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    assert "✓ Training: LoRA v1 adopted" in run.stdout
    assert (tmp_path / "loras" / "v1" / "lora.safetensors").read_bytes() == mine
    first = history_of(tmp_path).loras[0]
    assert first.adopted and first.real_images is None
    assert "v1 was there before this loop. It may have learned from the held-out photos" in run.stderr
    assert not (tmp_path / "out" / "logs" / "iter0_train.log").exists()


def test_a_broken_lora_is_not_adopted(tmp_path):
    config = make_loop(tmp_path)
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "lora.safetensors").write_bytes(b"\x10" + b"\0" * 30)
    run = run_loop(config)
    assert run.returncode == 2 and "lora.safetensors is no .safetensors file with weights in it" in run.stderr


def test_undo_takes_the_merge_out_and_the_loop_goes_on_without(done, tmp_path):
    base = tmp_path / "copy"
    config = make_loop(base, max_iterations=2)
    assert run_loop(config, **QUICK).returncode == 0
    page = (base / "out" / "bootstrap_report.html").read_text(encoding="utf-8")
    last = history_of(base).iterations[-1].decision.words
    assert page.count(f"<p>{last}</p>") == 1
    merged = {one.file for one in manifest_of(base).merged if one.iteration == 2}
    run = run_loop(config, "--undo", 2)
    assert run.returncode == 0 and f"✓ Taken out: {len(merged)} image" in run.stdout, run.stderr
    assert "Trained on them, so no longer compared, used to generate or kept as the best LoRA: v3\n" in run.stdout
    assert f"<p>{last}</p>" not in (base / "out" / "bootstrap_report.html").read_text(encoding="utf-8")
    history = history_of(base)
    best = next(lora for lora in history.loras if lora.name == history.best)
    assert best.name != "v3" and f"best: {best.name}" in run.stdout
    assert (base / "loras" / "lora.safetensors").read_bytes() == (base / "loras" / best.file).read_bytes()
    left = {path.name for path in (base / "out" / "dataset").iterdir()}
    assert merged and not merged & left and any("iter1" in name for name in left)
    assert run_loop(config, "--undo", 2).returncode == 0, "twice does no harm"
    run = run_loop(config, "--undo", 7)
    assert run.returncode == 2 and "Iteration 7 was never merged" in run.stderr
    edited = json.loads(config.read_text()) | {"max_iterations": 3}
    config.write_text(json.dumps(edited))
    run = run_loop(config, **QUICK)
    assert run.returncode == 0 and "Iteration 3: of at most 3, with LoRA v2" in run.stdout, run.stderr
    history = history_of(base)
    assert [one.number for one in history.iterations] == [0, 1, 2, 3]
    assert history.loras[-1].synthetic_images == sum(one.iteration in (1, 3) for one in manifest_of(base).merged)


def test_undo_where_there_is_no_loop_makes_nothing(tmp_path):
    config = make_loop(tmp_path)
    run = run_loop(config, "--undo", 1)
    assert run.returncode == 2 and "There is no loop in" in run.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "loras").exists()


def test_undo_of_an_iteration_that_has_not_ended_makes_it_again(tmp_path):
    config = make_loop(tmp_path, max_iterations=1)
    wish = tmp_path / "templates" / "fail_gaps"
    wish.write_text("exit 3")
    assert run_loop(config, **QUICK).returncode == 2, "the baseline is made"
    wish = wish.rename(wish.with_name("fail_train"))
    assert run_loop(config, **QUICK).returncode == 2
    merged = manifest_of(tmp_path).merged
    assert merged
    run = run_loop(config, "--undo", 1)
    assert run.returncode == 0 and "the next run makes it again" in run.stdout, run.stderr
    assert not manifest_of(tmp_path).merged and not manifest_of(tmp_path).undone
    assert not list((tmp_path / "out" / "dataset").glob("synthetic_*"))
    wish.unlink()
    run = run_loop(config, **QUICK)
    assert run.returncode == 0 and "Iteration 1: of at most 1" in run.stdout, run.stderr
    assert manifest_of(tmp_path).merged == merged and history_of(tmp_path).loras[-1].name == "v2"


def test_what_learned_from_undone_images_generates_no_more(ended):
    """Undoing the first merge leaves the baseline alone, also for the iteration that is under way."""
    base, config = ended
    change(config, max_iterations=4)
    wish = base / "templates" / "fail_validate"
    wish.write_text("exit 3")
    assert run_loop(config, **QUICK).returncode == 2
    assert history_of(base).iterations[-1].generator != "v1"
    run = run_loop(config, "--undo", 1)
    assert run.returncode == 0 and "best LoRA: v2, v3, v4\n" in run.stdout, run.stderr
    history = history_of(base)
    assert (history.best, history.iterations[-1].generator) == ("v1", "v1")
    wish.unlink()
    assert run_loop(config, **QUICK).returncode == 0
    last = history_of(base).loras[-1]
    assert last.name == "v5" and last.learned_from == [2, 3, 4]


def change(config, **keys):
    config.write_text(json.dumps(json.loads(config.read_text()) | keys))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"person_trigger": "sks"}, 'begun with person_trigger "ohwx alice", and it is "sks" now'),
        ({"person_name": "bob"}, 'begun with person_name "alice", and it is "bob" now'),
        ({"training": {"epochs": 3}}, "begun with training.epochs 10, and it is 3 now"),
        ({"training": {"command": ["{python}", "x.py", "{dataset}", "{output}"]}}, "begun with training.command"),
        ({"gap_analysis": {"goals": "goals.json"}}, "begun with gap_analysis.goals null, and it is "),
    ],
)
def test_a_changed_setting_is_refused_in_words(ended, keys, words):
    base, config = ended
    (base / "goals.json").write_text('{"face_angle": {"profile": 30}}')
    given = json.loads(config.read_text())
    change(config, **{key: given[key] | value if isinstance(value, dict) else value for key, value in keys.items()})
    run = run_loop(config)
    assert run.returncode == 2 and words in run.stderr and "begins" not in run.stderr, run.stderr


def weighed(base):
    """make_loop with commands that are told of candidates and weight."""
    config = make_loop(base, max_iterations=1)
    given = json.loads(config.read_text())
    given["generation"]["command"] += ["{candidates}"]
    given["training"]["command"] += ["{synthetic_weight}"]
    config.write_text(json.dumps(given))
    return config


def test_of_many_candidates_as_many_as_are_wanted_are_merged(tmp_path):
    config = weighed(tmp_path)
    given = json.loads(config.read_text())
    change(config, generation=given["generation"] | {"num_per_gap": 2})
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    iteration = history_of(tmp_path).iterations[1]
    assert iteration.generated == 2 * 4 * 4 and [gap.wanted for gap in iteration.gaps] == [2, 2]
    assert iteration.merged == 4 < iteration.approved
    spare = iteration.approved - 4
    assert iteration.left_out == {"enough_better_ones": spare}
    words = "left out because better ones were approved for the same gaps"
    assert f"Note: {spare} approved images {words}." in run.stderr
    page = (tmp_path / "out" / "bootstrap_report.html").read_text()
    assert f"{spare} approved and {words}" in page
    assert {one.target for one in manifest_of(tmp_path).merged} == {"profile", "low_key"}


def test_a_loop_from_before_images_had_candidates_and_a_weight_goes_on_without(tmp_path):
    """v1 is not trained again, and nothing has to be put into the configuration."""
    config = weighed(tmp_path)
    given = {name: json.loads(config.read_text())[name] for name in ("generation", "training")}
    change(
        config, generation=given["generation"] | {"candidates": 1}, training=given["training"] | {"synthetic_weight": 1}
    )
    wish = tmp_path / "templates" / "fail_validate"
    wish.write_text("exit 1")
    assert run_loop(config, **QUICK).returncode != 0
    wish.unlink()
    path = tmp_path / "out" / "iteration_history.json"
    history = json.loads(path.read_text())
    del history["settings"]["training.synthetic_weight"]
    path.write_text(json.dumps(history))
    change(config, **given)
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    after = history_of(tmp_path)
    assert after.iterations[1].generated == 8, "one image for each that is wanted"
    assert after.iterations[0].steps[0].finished == history["iterations"][0]["steps"][0]["finished"]
    assert after.loras[0].sha256 == history["loras"][0]["sha256"] and after.best
    assert "training.synthetic_weight" not in json.loads(path.read_text())["settings"], "nor is it an hour later"
    assert run_loop(config).returncode == 0


def test_a_weight_that_changes_is_refused(tmp_path):
    config = weighed(tmp_path)
    assert run_loop(config, **QUICK).returncode == 0
    change(config, training=json.loads(config.read_text())["training"] | {"synthetic_weight": 0.25})
    run = run_loop(config)
    assert run.returncode == 2 and "begun with training.synthetic_weight 0.5, and it is 0.25 now" in run.stderr


def test_settings_of_a_step_that_never_ended_may_change(tmp_path):
    """A first training that ran out of memory is cured in the configuration; its folder holds nothing to compare."""
    config = make_loop(tmp_path, max_iterations=1)
    command = json.loads(config.read_text())["training"]["command"]
    change(config, training={"command": ["{python}", "-c", "raise SystemExit(1)", "{dataset}", "{output}"]})
    assert run_loop(config).returncode != 0
    change(config, training={"command": command}, metrics=json.loads(config.read_text())["metrics"] | {"samples": 4})
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    assert history_of(tmp_path).loras[0].samples == 4
    change(config, training={"command": command, "epochs": 3})
    run = run_loop(config)
    assert run.returncode == 2 and "begun with training.epochs 10, and it is 3 now" in run.stderr


def test_a_lora_folder_on_another_drive(ended, monkeypatch):
    from mirror.loop import steps

    def two_drives(path, folder):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(steps.os.path, "relpath", two_drives)
    path = ended[0] / "loras" / "v1" / "lora.safetensors"
    assert ended[0] / "out" / steps.relative(path, ended[0] / "out") == path


def test_a_loop_goes_on_where_its_folder_was_moved_to(ended):
    base, config = ended
    there = base.rename(base.with_name("moved"))
    text = (there / config.name).read_text()
    (there / config.name).write_text(text.replace(str(base), str(there)))
    change(there / config.name, max_iterations=4)
    run = run_loop(there / config.name, **QUICK)
    assert run.returncode == 0, run.stderr
    assert "Iteration 4: of at most 4" in run.stdout and "Iteration 3" not in run.stdout


def test_a_held_out_photo_that_is_taken_away_is_said_before_any_step(ended):
    base, config = ended
    change(config, max_iterations=9)
    next((base / "photos" / photo.file).unlink() for photo in manifest_of(base).real if photo.held_out)
    run = run_loop(config)
    assert run.returncode == 2 and "this loop holds it out" in run.stderr and "begins" not in run.stderr
    assert run.stderr.count("\n") == 1


def test_held_out_photos_with_other_bytes_stay_held_out(ended):
    base, config = ended
    change(config, max_iterations=4)
    names = {photo.file for photo in manifest_of(base).real if photo.held_out}
    for name in names:
        with open(base / "photos" / name, "ab") as file:
            file.write(b"added by a photo manager")
    assert run_loop(config, **QUICK).returncode == 0
    assert {photo.file for photo in manifest_of(base).real if photo.held_out} == names
    assert {path.name for path in (base / "out" / "holdout").glob("*.png")} == names
    assert not names & {path.name for path in (base / "out" / "dataset").iterdir()}
    assert history_of(base).held_out == 6


@pytest.mark.parametrize("field", ["caption", "lora", "seed"])
def test_a_manifest_that_was_changed_by_hand_is_refused(ended, field):
    base, config = ended
    path = base / "out" / "merge_manifest.json"
    told = json.loads(path.read_text())
    told["merged"][0][field] = 4 if field == "seed" else "mine"
    path.write_text(json.dumps(told))
    run = run_loop(config)
    assert run.returncode == 2 and "one of them was edited by hand" in run.stderr


def test_too_large_a_synthetic_share_is_said_before_any_step(ended):
    _, config = ended
    change(config, max_synthetic_share=0.05)
    run = run_loop(config)
    assert run.returncode == 2 and "of the working dataset is synthetic" in run.stderr and "--undo 3" in run.stderr
    assert run_loop(config, "--undo", 3).returncode == 0


def test_new_photos_lift_a_stop_that_rests_on_the_old_ones(tmp_path):
    from loop_fakes import picture

    config = make_loop(tmp_path, photos=20, max_iterations=9)
    (tmp_path / "templates" / "approve_none").touch()
    assert run_loop(config, **QUICK).returncode == 0
    assert history_of(tmp_path).iterations[-1].decision.rule == "nothing_approved"
    for index in range(20):
        (tmp_path / "photos" / f"more_{index}.png").write_bytes(picture(f"more {index}"))
    run = run_loop(config, **QUICK)
    assert run.returncode == 0 and "Iteration 3: of at most 9" in run.stdout, run.stderr
    assert "Iteration 4: of at most 9" in run.stdout and "Iteration 5" not in run.stdout
    assert "None of the 40 real photos is held out: when this loop began, too few could be" in run.stderr
    assert "The dataset has" not in run.stderr and "have changed since v1" in run.stderr


def test_new_photos_do_not_lift_another_stop_and_that_is_said(ended):
    from loop_fakes import picture

    base, config = ended
    (base / "photos" / "new.png").write_bytes(picture("new"))
    run = run_loop(config, **QUICK)
    assert (
        run.returncode == 0
        and "The real photos have changed since, but this loop stopped for another reason" in run.stdout
    )


def test_generated_files_and_folders_among_the_photos_are_said(tmp_path):
    from loop_fakes import picture

    config = make_loop(tmp_path, max_iterations=1)
    (tmp_path / "photos" / "synthetic_old.png").write_bytes(picture("old"))
    (tmp_path / "photos" / "synthetic_old.txt").write_text("ohwx alice")
    (tmp_path / "photos" / "10_alice").mkdir()
    (tmp_path / "photos" / "10_alice" / "a.png").write_bytes(picture("a"))
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    assert "1 file(s) in dataset_dir are named synthetic_" in run.stderr and "the pictures in 10_alice" in run.stderr
    first, second = history_of(tmp_path).loras
    assert (first.real_images, first.synthetic_images) == (24, 0)
    assert second.synthetic_images == len(manifest_of(tmp_path).merged) + 1


def test_the_loop_carries_every_kind_of_caption(tmp_path):
    """Whatever holds it, the copy is a .txt in UTF-8, which every trainer reads; both runs say once what was read."""
    config = make_loop(tmp_path, max_iterations=1)
    photos = tmp_path / "photos"
    (photos / "photo_01.caption").write_text("lächelnd\nsecond", encoding="utf-16")
    rows = [{"file_name": f"photo_{index:02d}.png", "text": f"of {index}"} for index in (0, 2, 4, 5)]
    (photos / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        run = run_loop(config, **QUICK)
        assert run.returncode == 0, run.stderr
        said = "Captions: 10 from .txt files, 1 from .caption files, 3 from metadata.jsonl."
        assert run.stderr.count(said) == run.stderr.count("Captions:") == 1
    out = tmp_path / "out"
    copies = [*(out / "real").glob("*.txt"), *(out / "holdout").glob("*.txt")]
    texts = {path.name: path.read_bytes().decode() for path in copies}
    assert texts["photo_00.txt"] == "ohwx alice, photo 0" and texts["photo_01.txt"] == "lächelnd\nsecond"
    assert (texts["photo_02.txt"], texts["photo_05.txt"]) == ("of 2", "of 5") and len(texts) == 14
    trained = {path.name: path.read_bytes().decode() for path in (out / "dataset").glob("photo_*.txt")}
    assert trained.items() <= texts.items() and len(trained) > 8


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("photo_01.caption", b"\xff\xd8\xff\xe0", "photo_01.caption is not text (UTF-8 or UTF-16)"),
        ("metadata.jsonl", b'{"file_name": "photo_01.jpg", "text": "b"}', "photo_01.jpg and photo_01.png have differ"),
    ],
)
def test_captions_that_cannot_be_carried_are_said_before_the_work(tmp_path, name, data, said):
    from loop_fakes import picture

    config = make_loop(tmp_path, max_iterations=1)
    (tmp_path / "photos" / "photo_01.jpg").write_bytes(picture("another one"))
    (tmp_path / "photos" / name).write_bytes(data)
    run = run_loop(config, **QUICK)
    assert run.returncode == 2 and said in run.stderr and "Traceback" not in run.stderr
    assert not (tmp_path / "out" / "real").exists()


def test_more_iterations_go_on_and_another_base_model_is_refused(tmp_path):
    config = make_loop(tmp_path, max_iterations=1)
    assert run_loop(config, **QUICK).returncode == 0
    given = json.loads(config.read_text())
    config.write_text(json.dumps(given | {"base_model": "another/model"}))
    run = run_loop(config)
    assert run.returncode == 2 and 'begun with base_model "nobody/nothing", and it is "another/model"' in run.stderr
    config.write_text(json.dumps(given | {"max_iterations": 2}))
    run = run_loop(config, **QUICK)
    assert run.returncode == 0 and "Iteration 2: of at most 2" in run.stdout and "Iteration 0" not in run.stdout


def test_new_photos_between_two_runs_are_trained_on(tmp_path):
    from loop_fakes import picture

    config = make_loop(tmp_path, max_iterations=1)
    assert run_loop(config, **QUICK).returncode == 0
    held_out = {photo.sha256 for photo in manifest_of(tmp_path).real if photo.held_out}
    (tmp_path / "photos" / "new.png").write_bytes(picture("new"))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_iterations": 2}))
    assert run_loop(config, **QUICK).returncode == 0
    assert {photo.sha256 for photo in manifest_of(tmp_path).real if photo.held_out} == held_out
    assert history_of(tmp_path).loras[-1].real_images == 25


def test_nothing_approved_keeps_v1_and_says_so(tmp_path):
    config = make_loop(tmp_path, max_iterations=9)
    (tmp_path / "templates" / "approve_none").touch()
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    history = history_of(tmp_path)
    assert (history.best, len(history.loras), len(history.iterations)) == ("v1", 1, 3)
    assert history.iterations[-1].decision.rule == "nothing_approved"
    assert set(history.iterations[-1].needs_real_photos) == {"face_angle profile", "lighting low_key"}
    assert "✗ Needs real photos: face_angle profile" in run.stdout and "v1, the baseline, is kept" in run.stdout


def test_a_generator_that_never_helps_ends_with_no_gain(tmp_path):
    config = make_loop(tmp_path, max_iterations=9)
    (tmp_path / "templates" / "no_gain").touch()
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    decision = history_of(tmp_path).iterations[-1].decision
    assert decision.best == "v1" and "No gain" in decision.words


def test_dry_run_prints_commands_that_parse_and_writes_nothing(tmp_path):
    for name in DOCUMENTED_FOLDERS:
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "bootstrap_config.json", tmp_path / "config.json")
    run = run_loop(tmp_path / "config.json", "--dry-run")
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if not line.startswith("#")]
    scripts = [re.search(r"(\w+)\.py", line)[1] for line in lines]
    steps = ["train_lora", "generate_synthetic", "mirror_metrics"]
    assert scripts == [*steps, "gap_analysis", "generate_synthetic", "validate_synthetic", *steps]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "models", "outputs"]
    assert not (tmp_path / "outputs" / "bootstrap").exists()
    for script, line in zip(scripts, lines, strict=True):
        parsed_by(script, line)


@pytest.mark.parametrize(
    ("given", "said"), [({}, ""), ({"steps": 4}, "--steps 4"), ({"guidance_scale": 0}, "--guidance 0.0")]
)
def test_what_the_configuration_does_not_say_is_left_to_the_family(tmp_path, given, said):
    """FLUX.1-schnell wants 4 steps and guidance 0, SDXL 30 and 7.5: see the table of families."""
    for name in DOCUMENTED_FOLDERS:
        (tmp_path / name).mkdir(parents=True)
    config = json.loads((ROOT / "bootstrap_config.json").read_text())
    config |= {"base_model": "black-forest-labs/FLUX.1-schnell", "generation": given}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = run_loop(tmp_path / "config.json", "--dry-run")
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if "generate_synthetic.py" in line]
    assert len(lines) == 3 and all(" ".join(re.findall(r"--(?:steps|guidance) \S+", line)) == said for line in lines)


def parsed_by(script, line):
    """The script's own parser takes every option of the line."""
    import importlib
    import shlex

    module = importlib.import_module(script)
    module.parse_args(shlex.split(line)[2:])


def test_few_photos_are_said_and_none_is_held_out(tmp_path):
    config = make_loop(tmp_path, photos=12, max_iterations=1)
    run = run_loop(config, **QUICK)
    assert run.returncode == 0 and "none is held out" in run.stderr
    assert not any((tmp_path / "out" / "holdout").iterdir()) and history_of(tmp_path).held_out == 0


def test_it_asks_on_a_terminal_alone(tmp_path):
    """A no ends it before anything is written; without a terminal, or with --yes, nothing is asked."""
    config = make_loop(tmp_path, max_iterations=1)
    master, slave = pty.openpty()
    process = subprocess.Popen(loop_command(config), stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.write(master, b"n\n")
    _, talk = process.communicate(timeout=60)
    os.close(slave)
    os.close(master)
    assert process.returncode == 0 and b"up to 1 iteration" in talk and not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_requests_to_end_end_the_child_and_the_loop(tmp_path, number):
    config = make_loop(tmp_path, max_iterations=1)
    process = subprocess.Popen(
        loop_command(config),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FAKE_PAUSE_S": "5"},
    )
    process.stderr.readline()
    process.send_signal(number)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130 and talk.rstrip().endswith("Interrupted.")
    assert run_loop(config, **QUICK).returncode == 0


def test_real_photos_through_real_gap_analysis_and_validation(tmp_path, mini_pack, photos):
    """The photos beside the repository as dataset: the steps that measure are ours, generation and training fakes."""
    config = make_loop(tmp_path, max_iterations=1)
    given = json.loads(config.read_text())
    for section in ("gap_analysis", "validation", "metrics"):
        given[section].pop("command")
    given |= {"dataset_dir": str(photos), "pack": str(mini_pack)}
    config.write_text(json.dumps(given))
    before = {path.name: path.stat().st_mtime_ns for path in photos.iterdir()}
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    gaps = json.loads((tmp_path / "out" / "gaps_iter1.json").read_text())
    assert gaps["sensors"]["angle"]["identity"].startswith("pack_mini@")
    history = history_of(tmp_path)
    one = history.iterations[1]
    assert history.held_out >= 5 and one.gaps and one.generated == one.rejected, "16 pixels of noise show nobody"
    assert one.decision.best == "v1"
    report = json.loads((tmp_path / "out" / "validation_iter1.json").read_text())
    assert report["references"]["images"] == len(list((tmp_path / "out" / "dataset").iterdir()))
    assert {path.name: path.stat().st_mtime_ns for path in photos.iterdir()} == before


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(done, tmp_path, width):
    from pages_browser import assert_fits, assert_quiet, chromium, opened

    html = (done[0] / "out" / "bootstrap_report.html").read_text(encoding="utf-8")
    with chromium() as browser:
        page = opened(browser, tmp_path, html, width)
        assert_quiet(page)
        assert_fits(page)
        assert page.texts(".bar .label")[0].split() == ["v1", "baseline"]
        assert len(page.texts("table.samples tbody tr")) == 3


def test_without_auto_filter_the_loop_ends_before_it_merges(tmp_path):
    config = make_loop(tmp_path, max_iterations=1, validation={"auto_filter": False})
    run = run_loop(config, **QUICK)
    assert run.returncode == 2, run.stderr
    assert "Nothing was merged, as validation.auto_filter is false: look at " in run.stderr
    assert "✓ Validation: " in run.stdout and "✓ Merged" not in run.stdout
    told = json.loads(config.read_text())
    told["validation"]["auto_filter"] = True
    config.write_text(json.dumps(told))
    again = run_loop(config, **QUICK)
    assert again.returncode == 0 and "✓ Merged: " in again.stdout, again.stderr


def test_auto_filter_is_told_to_our_own_script(tmp_path):
    for name in DOCUMENTED_FOLDERS:
        (tmp_path / name).mkdir(parents=True)
    given = json.loads((ROOT / "bootstrap_config.json").read_text()) | {"validation": {"auto_filter": False}}
    (tmp_path / "config.json").write_text(json.dumps(given))
    run = run_loop(tmp_path / "config.json", "--dry-run")
    (line,) = (line for line in run.stdout.splitlines() if "validate_synthetic.py" in line)
    assert line.endswith(" --no-auto-filter")


def test_fewer_gaps_than_before_are_said_to_be_better(tmp_path):
    config = make_loop(tmp_path, max_iterations=2)
    assert run_loop(config, **QUICK).returncode == 0
    gaps = json.loads((tmp_path / "templates" / "gaps.json").read_text())
    gaps["recommendations"] = gaps["recommendations"][:1]
    (tmp_path / "templates" / "gaps.json").write_text(json.dumps(gaps))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_iterations": 3}))
    run = run_loop(config, **QUICK)
    assert "  ✓ Gap Analysis: 1 gap found (improving!)" in run.stdout.splitlines(), run.stdout


def test_a_gap_of_ones_own_goes_through_the_loop(tmp_path):
    """A type that nothing measures, with a name that is no file name, in a gap file of no more than is documented."""
    config = make_loop(tmp_path, max_iterations=1)
    own = {"type": "hair/colour", "target": "red", "count": 3, "reason": "none is red"}
    (tmp_path / "templates" / "gaps.json").write_text(json.dumps({"distributions": [], "recommendations": [own]}))
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    merged = manifest_of(tmp_path).merged
    assert merged and {(one.gap_type, one.target) for one in merged} == {("hair/colour", "red")}
    assert all(one.file.startswith("synthetic_iter1_hair_colour_red_") for one in merged)


def test_a_control_learns_from_the_real_photos_only_with_another_seed_each_time(tmp_path):
    config = make_loop(tmp_path, real_photos_only=True)
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    assert "Iteration 1: of at most 3, on the real photos only" in run.stdout
    assert "Generat" not in run.stdout and not list((tmp_path / "out").glob("synthetic_*"))
    history = history_of(tmp_path)
    assert len(history.loras) > 1 and len({lora.sha256 for lora in history.loras}) == len(history.loras)
    assert {(lora.real_images, lora.synthetic_images) for lora in history.loras} == {(PHOTOS - 6, 0)}
    decision = history.iterations[-1].decision
    assert (decision.rule, decision.best) == ("no_gain", "v1")
    page = (tmp_path / "out" / "bootstrap_report.html").read_text(encoding="utf-8")
    assert "on the real photos only" in page and "<td>0</td>" not in page, "no gap was looked for"
    assert "Not looked for." in page and "No images were generated." in page and "None was rejected." not in page
    shown = run_loop(make_loop(tmp_path / "dry", real_photos_only=True), "--dry-run").stdout
    assert "validate" not in shown and " gaps " not in shown and "each with another seed" in shown
    config.write_text(config.read_text().replace('"real_photos_only": true', '"real_photos_only": false'))
    again = run_loop(config)
    assert again.returncode == 2 and "begun with real_photos_only true, and it is null now" in again.stderr
