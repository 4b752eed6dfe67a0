"""bootstrap_loop.py as users run it: console, files, adopting, undoing, resuming with other settings, real photos."""

import json
import os
import pty
import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from loop_fixture import loop_command, make_loop, run_loop

from utils.contracts import IterationHistory, MergeManifest, read_contract

QUICK = {"FAKE_PAUSE_S": "0.002"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One loop of fakes that ended; tests that change it work on copies."""
    base = tmp_path_factory.mktemp("done")
    config = make_loop(base)
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    return base, run


def history_of(base):
    return read_contract(base / "out" / "iteration_history.json", IterationHistory, "x")


def manifest_of(base):
    return read_contract(base / "out" / "merge_manifest.json", MergeManifest, "x")


def test_console_says_what_is_documented(done):
    lines = done[1].stdout.splitlines()
    patterns = [
        r"✓ Gap Analysis: 2 gaps found",
        r"✓ Generated: 8 images",
        r"✓ Validation: \d+ approved \(\d+%\)",
        r"✓ Merged: \d+ images? into dataset",
        r"✓ Training: LoRA v2 complete",
        r"✓ Improvement: \d+\.\d% \((above|below) 5% threshold\)",
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
    assert decision.words in page and "control" in page and page.count("data:image/jpeg") == 3 * 4
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
    merged = {one.file for one in manifest_of(base).merged if one.iteration == 2}
    run = run_loop(config, "--undo", 2)
    assert run.returncode == 0 and f"✓ Taken out: {len(merged)} image" in run.stdout, run.stderr
    assert "v3 learned from them" in run.stdout
    left = {path.name for path in (base / "out" / "dataset").iterdir()}
    assert merged and not merged & left and any("iter1" in name for name in left)
    assert run_loop(config, "--undo", 2).returncode == 0, "twice does no harm"
    run = run_loop(config, "--undo", 7)
    assert run.returncode == 2 and "There is no merge of iteration 7" in run.stderr
    edited = json.loads(config.read_text()) | {"max_iterations": 3}
    config.write_text(json.dumps(edited))
    run = run_loop(config, **QUICK)
    assert run.returncode == 0 and "Iteration 3 of at most 3" in run.stdout, run.stderr
    history = history_of(base)
    assert [one.number for one in history.iterations] == [0, 1, 2, 3]
    assert history.loras[-1].synthetic_images == sum(one.iteration in (1, 3) for one in manifest_of(base).merged)


def test_more_iterations_go_on_and_another_base_model_is_refused(tmp_path):
    config = make_loop(tmp_path, max_iterations=1)
    assert run_loop(config, **QUICK).returncode == 0
    given = json.loads(config.read_text())
    config.write_text(json.dumps(given | {"base_model": "another/model"}))
    run = run_loop(config)
    assert run.returncode == 2 and "begun with base_model 'nobody/nothing'" in run.stderr
    config.write_text(json.dumps(given | {"max_iterations": 2}))
    run = run_loop(config, **QUICK)
    assert run.returncode == 0 and "Iteration 2 of at most 2" in run.stdout and "Round 0" not in run.stdout


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
    assert "✗ Needs real photos: face_angle profile" in run.stdout and "v1, the control, is kept" in run.stdout


def test_a_generator_that_never_helps_ends_with_no_gain(tmp_path):
    config = make_loop(tmp_path, max_iterations=9)
    (tmp_path / "templates" / "no_gain").touch()
    run = run_loop(config, **QUICK)
    assert run.returncode == 0, run.stderr
    decision = history_of(tmp_path).iterations[-1].decision
    assert decision.best == "v1" and "No gain" in decision.words


def test_dry_run_prints_commands_that_parse_and_writes_nothing(tmp_path):
    for name in ("dataset", "models"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "bootstrap_config.json", tmp_path / "config.json")
    run = run_loop(tmp_path / "config.json", "--dry-run")
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if not line.startswith("#")]
    scripts = [re.search(r"(\w+)\.py", line)[1] for line in lines]
    steps = ["train_lora", "generate_synthetic", "mirror_metrics"]
    assert scripts == [*steps, "gap_analysis", "generate_synthetic", "validate_synthetic", *steps]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "dataset", "models"]
    for script, line in zip(scripts, lines, strict=True):
        parsed_by(script, line)


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
    assert process.returncode == 0 and b"Up to 1 iteration" in talk and not (tmp_path / "out").exists()


def test_ctrl_c_ends_the_child_and_the_loop(tmp_path):
    import signal

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
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=30)
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
        assert page.texts(".bar .label")[0].split() == ["v1", "control"]
        assert len(page.texts("table.samples tbody tr")) == 3
