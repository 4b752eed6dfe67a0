"""What the demo of the bootstrap loop begins with: rendered photos of a person, a tiny base model, a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from demo.parallel import render_all
from demo.scene import draw_scene
from demo.simulated_generator import GRAIN, PIXELS, SAID, people, write_png
from demo.tiny_sdxl import tiny_sdxl
from mirror.faces.pose import BIN_LIMITS_DEG
from utils.console import UserError, say
from utils.defaults import DEMO_EXPRESSION, DEMO_PACK, MODELS_FOLDER
from utils.files import write_text_atomic
from utils.progress import GroupProgress

# A dataset as people have it: most photos from the front, few turned, hardly a profile.
FRONT, TURNED, PROFILE = 31, 3, 2
SEED = 3
_FIRST, *_BETWEEN, _LAST = BIN_LIMITS_DEG
GOALS = {  # the simulated generator turns heads and no more, so light and expressions have no goals
    "face_angle": {  # so many profiles that the gap is open in every iteration: a loop must end by what its LoRAs gain
        _FIRST: {"goal": 30, "trigger": 20},
        **{name: {"goal": 30 // len(_BETWEEN), "trigger": 25 // len(_BETWEEN)} for name in _BETWEEN},
        _LAST: {"goal": 40, "trigger": 35},
    },
    "lighting": {"low_key": None, "high_key": None},
    "expression": {"neutral": None, "smile": None},
}
# A few real steps: the tiny model learns nothing that anybody could see, whatever it is trained for.
TRAINING = "--repeats 1 --batch 4 --resolution 64 --rank 4 --device cpu --no-gradient-checkpointing"
STAMP = "bootstrap_world.json"  # written last: the world is whole
BEGUN = "bootstrap_world.begun"  # written first: what lies beside it is ours, and may be made anew


def prepare(folder: Path, baseline: bool) -> Path:
    """The configuration of a loop in `folder`, with everything it needs; what is there already stays. UserError."""
    from mirror.faces.packs import demo_pack, missing_demo_pack

    if demo_pack() is None:
        raise UserError(missing_demo_pack())
    stamp, facts = folder / STAMP, {"seed": SEED, "photos": [FRONT, TURNED, PROFILE], "baseline": baseline}
    begun = folder / BEGUN
    if stamp.is_file() and _facts_in(stamp) != facts:
        raise UserError(f"{folder} holds another demo of the loop; choose another folder, or delete it.")
    if not stamp.is_file() and not begun.is_file() and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds files that are no demo's; choose another folder.")
    if not stamp.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(begun, "")
        say(f"Preparing the demo in {folder}: {FRONT + TURNED + PROFILE} rendered photos and a tiny SDXL.")
        render_photos(folder / "photos")
        tiny_sdxl(folder / "tiny_sdxl")
        write_text_atomic(folder / "goals.json", json.dumps(GOALS))
        write_text_atomic(folder / "config.json", json.dumps(configuration(folder, baseline), indent=2))
        write_text_atomic(stamp, json.dumps(facts))
    begun.unlink(missing_ok=True)
    say(f"Note: the generator of this demo is {SAID}.")
    return folder / "config.json"


def _facts_in(stamp: Path) -> object:
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))
    except ValueError:
        return None


def render_photos(folder: Path) -> None:
    random = np.random.default_rng(SEED)
    person, _ = people()
    yaws = [
        *random.uniform(-20, 20, FRONT),
        *(random.uniform(28, 42, TURNED) * random.choice([-1, 1], TURNED)),
        *(random.uniform(60, 66, PROFILE) * random.choice([-1, 1], PROFILE)),
    ]
    scenes = [draw_scene(person, random, yaw_deg=float(yaw), pitch_deg=0.0, grain=GRAIN) for yaw in yaws]
    folder.mkdir(exist_ok=True)
    with GroupProgress() as progress:
        task = progress.add("Rendering photos", len(scenes))
        for index, (scene, picture) in enumerate(zip(scenes, render_all(scenes, PIXELS, samples=1.0), strict=True)):
            write_png(folder / f"photo_{index:02d}.png", picture.image, scene.yaw_deg)
            progress.step(task)


def configuration(folder: Path, baseline: bool) -> dict:
    """Real gap analysis, validation, merge, training and measuring; the generator alone is simulated."""
    generator = ["{python}", "-m", "demo.simulated_generator", "--gaps", "{gaps}", "--prompts", "{prompts}"]
    generator += ["--dataset", "{dataset}", "--lora", "{lora}", "--output", "{output}", "--trigger", "{trigger}"]
    generator += ["--seed", "{seed}", "--num-per-gap", "{num_per_gap}"]
    generator += ["--never-improves"] if baseline else []  # the only thing in which the baseline differs
    return {
        "person_name": "demo",
        "person_trigger": "ohwx person",
        "base_model": str((folder / "tiny_sdxl").resolve()),
        "dataset_dir": str((folder / "photos").resolve()),
        "models_dir": str(MODELS_FOLDER.resolve()),
        "output_dir": str((folder / "output").resolve()),
        "lora_output_dir": str((folder / "loras").resolve()),
        "max_iterations": 5,
        "max_synthetic_share": 0.5,
        "pack": DEMO_PACK,
        # of rendered heads, as the pack is; one for photos that lies in the models folder would see little in them
        "expression_model": str(DEMO_EXPRESSION.resolve()) if DEMO_EXPRESSION.is_file() else None,
        "gap_analysis": {"goals": str((folder / "goals.json").resolve())},
        "generation": {"num_per_gap": 7, "command": generator},
        "metrics": {"samples": 30},
        "training": {"epochs": 1, "options": TRAINING.split()},
    }
