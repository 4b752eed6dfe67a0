"""The simulated generator, and the small world that the demo of the loop begins with. .ci/run runs the demo itself."""

import json

import numpy as np
import pytest

from demo import simulated_generator
from demo.simulated_generator import SAID, known_yaws, parse_args, scene_for, usual_error, write_png
from utils.contracts import GenerationMetadata, PlannedPrompt, PromptPlan, read_contract, write_contract

SEEDS = range(60)


def dataset_of(folder, **files):
    folder.mkdir()
    for name, yaw in files.items():
        write_png(folder / f"{name}.png", np.zeros((8, 8, 3), np.uint8), yaw)
    return folder


def turned_enough(yaws, target="profile"):
    """Share of pictures that come out in the bin that was asked for."""
    from utils.pose import angle_bin

    return np.mean([angle_bin(scene_for(target, seed, yaws).yaw_deg) == target for seed in SEEDS])


def test_angles_seen_often_come_out_well_and_others_fail():
    frontal = [3.0 * i for i in range(-5, 6)]
    assert turned_enough(frontal, "front") == 1.0
    assert 0 < turned_enough(frontal) < 0.5
    assert turned_enough([*frontal, 66, 70]) > turned_enough(frontal)
    assert turned_enough([*frontal, *[68.0] * 8]) > 0.9
    person = simulated_generator.people()[0]
    strange = [person.distance(scene_for("profile", seed, frontal).who) for seed in SEEDS]
    learnt = [person.distance(scene_for("profile", seed, [*frontal, *[68.0] * 8]).who) for seed in SEEDS]
    assert np.median(learnt) < np.median(strange) / 2


def test_the_error_falls_with_every_picture_of_such_an_angle():
    errors = [usual_error(70.0, [0.0] * 20 + [68.0] * count) for count in range(6)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.95 and errors[-1] < 0.2


def test_it_depends_on_the_dataset_alone(tmp_path):
    """Not on a LoRA or a round: it has no option for either. The control forgets what was merged."""
    folder = dataset_of(tmp_path / "d", photo_0=5.0, synthetic_iter3_face_angle_profile_x=70.0)
    assert known_yaws(folder, False) == [5.0, 70.0] and known_yaws(folder, True) == [5.0]
    options = vars(parse_args(["--gaps", "g", "--dataset", "d", "--output", "o"]))
    assert not {"lora", "iteration", "round"} & set(options)
    assert scene_for("profile", 4, [1.0, 60.0]) == scene_for("profile", 4, [1.0, 60.0])


def test_it_says_that_it_simulates(tmp_path):
    folder = dataset_of(tmp_path / "d", photo_0=5.0)
    plan = PromptPlan(images=[PlannedPrompt(prompt="ohwx, front view, facing the camera", seed=1, name="one")])
    write_contract(tmp_path / "plan.json", plan)
    arguments = ["--gaps", "", "--prompts", tmp_path / "plan.json", "--dataset", folder, "--output", tmp_path / "out"]
    assert simulated_generator.main(list(map(str, arguments))) == 0
    metadata = read_contract(tmp_path / "out" / "generation_metadata.json", GenerationMetadata, "x")
    assert metadata.settings["simulated"] == SAID and metadata.script == "demo/simulated_generator.py"
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["one.png"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    from demo.bootstrap_world import prepare
    from utils.console import UserError

    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds files that are no demo's"):
        prepare(tmp_path, False)


def test_the_configuration_of_the_demo_is_valid(tmp_path):
    from demo.bootstrap_world import configuration
    from utils.loop_config import load_config

    for name in ("tiny_sdxl", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "goals.json").write_text("{}")
    for control in (False, True):
        (tmp_path / "config.json").write_text(json.dumps(configuration(tmp_path, control)))
        command = load_config(tmp_path / "config.json").generation.command
        assert ("--never-improves" in command) == control


def test_a_tiny_random_sdxl_gets_nothing_approved(tmp_path):
    """All steps are ours: a base model of noise trains, generates, is rejected, and v1 stays."""
    from conftest import run_script

    from demo import bootstrap_world

    bootstrap_world.render_photos(tmp_path / "photos")
    for path in sorted((tmp_path / "photos").glob("*.png"))[16:]:
        path.unlink()
    bootstrap_world.build(tmp_path / "tiny_sdxl")
    (tmp_path / "goals.json").write_text(json.dumps(bootstrap_world.GOALS))
    given = bootstrap_world.configuration(tmp_path, False)
    small = ["--width", "64", "--height", "64", "--device", "cpu"]
    given["generation"] = {"num_per_gap": 2, "steps": 2, "options": small}
    given["metrics"] = {"samples": 3}
    (tmp_path / "config.json").write_text(json.dumps(given))
    done = run_script("bootstrap_loop.py", "--config", tmp_path / "config.json", "--yes")
    assert done.returncode == 0, done.stderr
    assert "✓ Training: LoRA v1 complete" in done.stdout and "✓ Validation: 0 approved (0%)" in done.stdout
    assert "No image of two rounds in a row may enter the dataset" in done.stdout
    assert "v1, the control, is kept" in done.stdout
    loras = tmp_path / "loras"
    assert (loras / "lora.safetensors").read_bytes() == (loras / "v1" / "lora.safetensors").read_bytes()
