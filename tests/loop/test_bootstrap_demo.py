"""The simulated generator, and the small world that the demo of the loop begins with. .ci/run runs the demo itself."""

import json
import re

import numpy as np
import pytest
from loop_fixture import make_loop

from demo import simulated_generator
from demo.simulated_generator import (
    SAID,
    known_yaws,
    learned_from,
    luck_of,
    parse_args,
    scene_for,
    usual_error,
    write_png,
)
from mirror.contracts.contract import read_contract, write_contract
from mirror.contracts.generation import GenerationMetadata
from mirror.contracts.history import IterationHistory, IterationRecord, LoraRecord
from mirror.contracts.manifest import MergedImage, MergeManifest, RealPhoto
from mirror.contracts.plan import PlannedPrompt, PromptPlan
from utils.console import UserError
from utils.files import sha256_of

SEEDS = range(60)
HISTORY_FACTS = dict.fromkeys(("created", "updated", "person", "base_model", "dataset_dir", "lora_output_dir"), "")
HISTORY_FACTS |= {"seed": 1, "held_out": 0, "settings": {}}


def dataset_of(folder, **files):
    folder.mkdir()
    for name, yaw in files.items():
        write_png(folder / f"{name}.png", np.zeros((8, 8, 3), np.uint8), yaw)
    return folder


def scenes(target, yaws):
    return [scene_for(target, seed, luck_of(yaws, seed), yaws) for seed in SEEDS]


def turned_enough(yaws, target="profile"):
    """Share of pictures that come out in the bin that was asked for."""
    from mirror.faces.pose import angle_bin

    return np.mean([angle_bin(scene.yaw_deg) == target for scene in scenes(target, yaws)])


def test_angles_seen_often_come_out_well_and_others_fail():
    frontal = [3.0 * i for i in range(6)] * 2
    assert turned_enough(frontal, "front") == 1.0
    assert 0 < turned_enough(frontal) < 0.5
    assert turned_enough([*frontal, 66, 70]) > turned_enough(frontal)
    assert turned_enough([*frontal, *[68.0] * 8]) > 0.9
    person = simulated_generator.people()[0]
    strange = [person.distance(scene.who) for scene in scenes("profile", frontal)]
    learnt = [person.distance(scene.who) for scene in scenes("profile", [*frontal, *[68.0] * 8])]
    assert np.median(learnt) < np.median(strange) / 2


def test_the_error_falls_with_every_picture_of_such_an_angle():
    errors = [usual_error(70.0, [0.0] * 20 + [68.0] * count) for count in range(6)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.95 and errors[-1] < 0.2


def test_the_error_depends_on_what_was_learned_and_on_no_seed_or_round(tmp_path):
    """Another seed shows another scene of the same head, as far turned; the baseline forgets what was merged."""
    folder = dataset_of(tmp_path / "d", photo_0=5.0, synthetic_iter3_face_angle_profile_x=70.0)
    pictures = learned_from(folder, None)
    yaws = known_yaws(pictures, False)
    assert yaws == [5.0, 70.0] and known_yaws(pictures, True) == [5.0]
    one, other = (scene_for("profile", seed, luck_of(yaws, 3), yaws) for seed in (1042, 9043))
    assert (one.yaw_deg, one.who) == (other.yaw_deg, other.who) and one != other
    assert luck_of(yaws, 3) != luck_of(yaws, 4) and luck_of(yaws, 3) != luck_of([5.0], 3)
    assert not {"iteration"} & set(vars(parse_args(["--gaps", "g", "--dataset", "d", "--output", "o"])))


def test_a_lora_knows_what_it_was_trained_on_and_nothing_later(tmp_path):
    """v1 the real photos; v3 the first two merges, of which the second was taken out since; v4 the third as well."""
    files = {"photo_0": 1.0, "synthetic_1": 61.0, "synthetic_3": 63.0}
    dataset_of(tmp_path / "dataset", **files)
    dataset_of(tmp_path / "real", photo_0=1.0)
    dataset_of(tmp_path / "approved_iter2", kept=62.0)
    loras = []
    for number, learned in ((1, []), (3, [1, 2]), (4, [1, 2, 3])):
        lora = tmp_path / f"v{number}.safetensors"
        lora.write_bytes(str(number).encode())
        record = LoraRecord(name=f"v{number}", file=lora.name, sha256=sha256_of(lora), iteration=number - 1)
        loras.append(record.model_copy(update={"learned_from": learned}))
    history = IterationHistory(**HISTORY_FACTS, loras=loras)
    write_contract(tmp_path / "iteration_history.json", history)
    merged = [merged_image(f"synthetic_{n}.png", f"approved_iter{n}/x.png", n) for n in (1, 3)]
    gone = merged_image("synthetic_2.png", "approved_iter2/kept.png", 2)
    real = [RealPhoto(file="photo_0.png", sha256="0", caption_sha256=None)]
    manifest = MergeManifest(dataset_dir="", seed=1, real=real, merged=merged, taken_out=[gone], undone=[2])
    write_contract(tmp_path / "merge_manifest.json", manifest)

    def known(number):
        return known_yaws(learned_from(tmp_path / "dataset", tmp_path / f"v{number}.safetensors"), False)

    assert [known(1), known(3), known(4)] == [[1.0], [1.0, 61.0, 62.0], [1.0, 61.0, 62.0, 63.0]]
    (tmp_path / "v9.safetensors").write_bytes(b"9")
    with pytest.raises(UserError, match="is no LoRA of"):
        known(9)


def merged_image(file, source, iteration):
    facts = dict.fromkeys(("gap_type", "target", "seed", "quality"))
    return MergedImage(
        file=file, source=source, sha256="", caption="", iteration=iteration, lora="", lora_sha256="", **facts
    )


def test_it_says_that_it_simulates(tmp_path):
    folder = dataset_of(tmp_path / "d", photo_0=5.0)
    plan = PromptPlan(images=[PlannedPrompt(prompt="ohwx, front view, facing the camera", seed=1, name="one")])
    write_contract(tmp_path / "plan.json", plan)
    arguments = ["--gaps", "", "--prompts", tmp_path / "plan.json", "--dataset", folder, "--output", tmp_path / "out"]
    assert simulated_generator.main(list(map(str, arguments))) == 0
    metadata = read_contract(tmp_path / "out" / "generation_metadata.json", GenerationMetadata, "x")
    assert metadata.settings["simulated"] == SAID and metadata.script == "demo/simulated_generator.py"
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["one.png"]


def test_validation_and_metrics_say_so_too(tmp_path, make_picture):
    """What they warn of stands on their console, in their files and at the head of their pages."""
    import mirror_metrics
    from mirror.dataset import batch
    from mirror.faces.inputs import collect

    make_picture(tmp_path / "ref" / "photo.png")
    make_picture(tmp_path / "cand" / "v1" / "one.png")
    told = GenerationMetadata(created="", dataset="", images=[], settings={"simulated": SAID})
    write_contract(tmp_path / "cand" / "v1" / "generation_metadata.json", told)
    arguments = ["--reference", tmp_path / "ref", "--candidates", tmp_path / "cand"]
    inputs = collect(mirror_metrics.folders_of(mirror_metrics.parse_args(list(map(str, arguments)))))
    assert f"The images of v1 are {SAID}." in inputs.warnings
    assert f"These images are {SAID}." in batch.collect(tmp_path / "cand" / "v1", tmp_path / "ref").warnings


def test_gap_pages_of_a_loop_that_simulates_say_so_once_something_is_merged(tmp_path):
    """Their thumbnails are those of the working dataset, in which merged images lie."""
    from mirror.loop.commands import Commands, LoopPaths
    from mirror.loop.config import load_config
    from mirror.loop.iteration import FindGaps
    from mirror.loop.state import Loop
    from mirror.loop.steps import Ledger
    from mirror.training.presets import PRESETS

    config = load_config(make_loop(tmp_path), PRESETS)
    config.gap_analysis.command = None
    paths = LoopPaths(tmp_path / "out", tmp_path / "loras")
    commands = Commands(config, paths, tmp_path)
    manifest = MergeManifest(dataset_dir="", seed=1, real=[], merged=[merged_image("synthetic_1.png", "x.png", 1)])
    history = IterationHistory(**HISTORY_FACTS, simulated=SAID)
    loop = Loop(config, paths, commands, Ledger(paths.history, history), manifest, ())

    def gap_command(number):
        return FindGaps(loop, IterationRecord(number=number)).child.command

    assert "--note" not in gap_command(1), "its own merge comes after its gap analysis"
    assert gap_command(2)[-2:] == ["--note", f"The synthetic images are {SAID}."]
    history.simulated = None
    assert "--note" not in gap_command(2)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    from demo.bootstrap_world import SIMULATED, prepare

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photo_00.png").write_text("mine")
    with pytest.raises(UserError, match="holds files that are no demo's"):
        prepare(tmp_path, SIMULATED)
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "photo_00.png"]
    (tmp_path / "bootstrap_world.json").write_text("damaged")
    with pytest.raises(UserError, match="holds another demo"):
        prepare(tmp_path, SIMULATED)


def test_a_demo_goes_on_with_what_it_made_and_is_no_other_kind(tmp_path, monkeypatch):
    from demo import bootstrap_world as world

    monkeypatch.setattr(world, "render_small_photos", lambda folder, who, seed: folder.mkdir())
    monkeypatch.setattr(world, "DIFFUSION", tmp_path / "diffusion")
    with pytest.raises(UserError, match=r"diffusion model is not in .*--demo-simulated"):
        world.prepare(tmp_path / "demo", world.LOOP)
    assert not (tmp_path / "demo").exists()
    (tmp_path / "diffusion").mkdir()
    (tmp_path / "diffusion" / "model_index.json").write_text("{}")
    config = world.prepare(tmp_path / "demo", world.LOOP)
    written = config.stat().st_mtime_ns
    assert world.prepare(tmp_path / "demo", world.LOOP).stat().st_mtime_ns == written
    with pytest.raises(UserError, match="holds another demo"):
        world.prepare(tmp_path / "demo", world.CONTROL)


def test_kinds_of_the_demo_need_it_and_exclude_each_other():
    from conftest import run_script

    alone = run_script("bootstrap_loop.py", "--demo-control")
    assert alone.returncode == 2 and "--demo-control belongs to --demo" in alone.stderr
    both = run_script("bootstrap_loop.py", "--demo", "--demo-control", "--demo-baseline")
    assert both.returncode == 2 and "not allowed with" in both.stderr


def test_the_configuration_of_the_demo_is_valid(tmp_path, monkeypatch):
    from demo.bootstrap_world import BASELINE, CONTROL, LOOP, SIMULATED, configuration
    from mirror.loop.config import load_config
    from mirror.training.presets import PRESETS

    for name in ("tiny_sdxl", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "goals.json").write_text("{}")

    def read(kind):
        (tmp_path / "config.json").write_text(json.dumps(configuration(tmp_path, kind)))
        return load_config(tmp_path / "config.json", PRESETS)

    seen = []
    for kind in (SIMULATED, BASELINE):
        config = read(kind)
        command = config.generation.command
        assert ("--never-improves" in command) == (kind == BASELINE)
        plain = [argument for argument in command if argument != "--never-improves"]
        seen.append(config.model_copy(update={"generation": config.generation.model_copy(update={"command": plain})}))
    assert seen[0] == seen[1], "the generator's ability is all in which the baseline differs"
    monkeypatch.setattr("demo.bootstrap_world.DIFFUSION", tmp_path / "tiny_sdxl")  # any folder: it need only be there
    loop, control = read(LOOP), read(CONTROL)
    assert loop.generation.command is None and loop.training.command is None, "nothing is simulated"
    assert (loop.real_photos_only, control.real_photos_only) == (False, True)
    assert loop == control.model_copy(update={"real_photos_only": False})


CRASHES_ONCE = '''
"""Ends a training as it begins, and a generation once it has made an image, as a crash of native code does; once."""
import os, sys, threading, time
here = os.path.dirname(__file__)

def crash(name):
    with open(os.path.join(here, name), "x"):
        os.abort()

def crash_once_there_is_an_image(folder):
    while not any(name.endswith(".png") for _, _, names in os.walk(folder) for name in names):
        time.sleep(0.01)
    crash("generation")

command = " ".join(sys.orig_argv)
if "train_lora.py" in command and not os.path.exists(os.path.join(here, "training")):
    crash("training")
if "generate_synthetic.py" in command and "synthetic_iter1" in command:
    if not os.path.exists(os.path.join(here, "generation")):
        folder = os.path.join(here, "output", "synthetic_iter1")
        threading.Thread(target=crash_once_there_is_an_image, args=(folder,), daemon=True).start()
'''


def test_a_tiny_random_sdxl_gets_nothing_approved(tmp_path):
    """All steps are ours: a base model of noise trains, generates, is rejected, and v1 stays. Two crash once."""
    from conftest import run_script

    from demo import bootstrap_world

    bootstrap_world.render_photos(tmp_path / "photos")
    for path in sorted((tmp_path / "photos").glob("*.png"))[16:]:
        path.unlink()
    bootstrap_world.tiny_sdxl(tmp_path / "tiny_sdxl")
    (tmp_path / "goals.json").write_text(json.dumps(bootstrap_world.GOALS))
    given = bootstrap_world.configuration(tmp_path, bootstrap_world.SIMULATED)
    small = ["--width", "64", "--height", "64", "--device", "cpu"]
    given["generation"] = {"num_per_gap": 2, "candidates": 1, "steps": 2, "options": small}
    given["metrics"] = {"samples": 3}
    (tmp_path / "config.json").write_text(json.dumps(given))
    (tmp_path / "sitecustomize.py").write_text(CRASHES_ONCE)
    done = run_script("bootstrap_loop.py", "--config", tmp_path / "config.json", "--yes", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    for step in ("Training", "Generation"):
        assert done.stderr.count(f"Note: {step} was ended by signal 6: a library crashed.") == 1
    log = (tmp_path / "output" / "logs" / "iter1_generate.log").read_text()
    assert re.search(r"^[1-9]\d* of \d+ images are there from an earlier run\.$", log, re.MULTILINE), log
    assert "✓ Training: LoRA v1 complete" in done.stdout and "✓ Validation: 0 approved (0%)" in done.stdout
    assert "No image of the last two iterations could be added to the dataset" in done.stdout
    assert "v1, the baseline, is kept" in done.stdout
    loras = tmp_path / "loras"
    assert (loras / "lora.safetensors").read_bytes() == (loras / "v1" / "lora.safetensors").read_bytes()


def test_the_sheet_of_a_loop_says_what_it_cannot_show(tmp_path, capsys):
    """What it draws is made by the scripts of the loop, which have tests of their own."""
    from benchmarks import loop_sheet

    def refused(sheet="sheet.jpg"):
        assert loop_sheet.main([str(tmp_path / "loop"), str(tmp_path / sheet)]) == 2
        assert not (tmp_path / sheet).exists()
        return capsys.readouterr().err

    with pytest.raises(SystemExit):
        loop_sheet.parse_args([str(tmp_path), "sheet.png"])
    assert "sheet.png should end in .jpg" in capsys.readouterr().err
    assert "is no folder of a loop's demo" in refused()
    (tmp_path / "loop" / "output").mkdir(parents=True)
    assert "iteration_history.json" in refused()
    history = IterationHistory(**HISTORY_FACTS, loras=[])
    file = tmp_path / "loop" / "output" / "iteration_history.json"
    write_contract(file, history.model_copy(update={"simulated": SAID}))
    assert "are simulated; the sheet takes a loop of --demo" in refused()
    write_contract(file, history)
    assert "has not ended; run it to its end first" in refused()


def test_the_sheet_shows_photos_of_every_angle(tmp_path):
    from benchmarks import loop_sheet
    from demo.bootstrap_world import FRONT

    with pytest.raises(UserError, match=f"holds 0 photos, and the sheet shows {loop_sheet.COLUMNS}"):
        loop_sheet.photos_of(tmp_path)
    for number in range(FRONT + 5):
        write_png(tmp_path / f"photo_{number:02d}.png", np.full((8, 8, 3), number, np.uint8), 0.0)
    shown = [int(photo[0, 0, 0]) for photo in loop_sheet.photos_of(tmp_path)]
    assert len(shown) == loop_sheet.COLUMNS == len(set(shown)) and shown[-5:] == list(range(FRONT, FRONT + 5))
