"""What the demos of the bootstrap loop begin with: rendered photos of a person, a base model, a configuration.

In two kinds nothing is simulated: the loop with the demo's diffusion model (demo/train_diffusion.py makes it), and its
control, whose LoRAs learn as many steps from the real photos alone. Two have a simulated generator, for tests of how
loops end: one learns, the baseline never does.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from demo.identity import Identity
from demo.parallel import render_all
from demo.scene import draw_scene
from demo.simulated_generator import GRAIN, PIXELS, SAID, people, write_png
from demo.tiny_sdxl import tiny_sdxl
from mirror.faces.pose import BIN_LIMITS_DEG
from utils.console import UserError, say
from utils.defaults import DEMO_EXPRESSION, DEMO_PACK, MODELS_FOLDER
from utils.files import write_text_atomic
from utils.progress import GroupProgress

LOOP, CONTROL, SIMULATED, BASELINE = "loop", "control", "simulated", "baseline"
DIFFUSION = MODELS_FOLDER / "demo" / "diffusion"

# A dataset as people have it: most photos from the front, few turned, hardly a profile.
FRONT, TURNED, PROFILE = 31, 3, 2
SEED = 3
_FIRST, *_BETWEEN, _LAST = BIN_LIMITS_DEG
GOALS = {  # both generators are asked to turn heads and no more, so light and expressions have no goals
    "face_angle": {  # so many profiles that the gap stays open: no loop of the demo ends for want of gaps
        _FIRST: {"goal": 30, "trigger": 20},
        **{name: {"goal": 30 // len(_BETWEEN), "trigger": 25 // len(_BETWEEN)} for name in _BETWEEN},
        _LAST: {"goal": 40, "trigger": 35},
    },
    "lighting": {"low_key": None, "high_key": None},
    "expression": {"neutral": None, "smile": None},
}
# The tiny SDXL of the simulated demos gets a few real steps: it learns nothing that anybody could see.
TRAINING = "--repeats 1 --batch 4 --resolution 64 --rank 4 --device cpu --no-gradient-checkpointing"

# How the demo's diffusion model is taught a person and asked for images, see benchmarks/demo_diffusion_bench.py.
TRAINING_STEPS = 480
LEARNING = (
    "--repeats 4 --batch 4 --resolution 96 --rank 16 --alpha 16 --conv-rank 16 --learning-rate 2e-3 --min-snr-gamma 0 "
    "--noise-offset 0 --device cpu --no-gradient-checkpointing"
)
SAMPLING_STEPS, GUIDANCE = 16, 3.0
STAMP = "bootstrap_world.json"  # written last: the world is whole
BEGUN = "bootstrap_world.begun"  # written first: what lies beside it is ours, and may be made anew


def prepare(folder: Path, kind: str) -> Path:
    """The configuration of a loop in `folder`, with everything it needs; what is there already stays. UserError."""
    from mirror.faces.packs import demo_pack, missing_demo_pack

    if demo_pack() is None:
        raise UserError(missing_demo_pack())
    if not is_simulated(kind) and not (DIFFUSION / "model_index.json").is_file():
        raise UserError(
            f"The demo's diffusion model is not in {DIFFUSION}; get it with the repository, or use --demo-simulated."
        )
    stamp, begun = folder / STAMP, folder / BEGUN
    facts = {"seed": SEED, "photos": [FRONT, TURNED, PROFILE], "kind": kind}
    if stamp.is_file() and _facts_in(stamp) != facts:
        raise UserError(f"{folder} holds another demo of the loop; choose another folder, or delete it.")
    if not stamp.is_file() and not begun.is_file() and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds files that are no demo's; choose another folder.")
    if not stamp.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(begun, "")
        say(f"Preparing the demo in {folder}: {FRONT + TURNED + PROFILE} rendered photos of a person.")
        if is_simulated(kind):
            render_photos(folder / "photos")
            tiny_sdxl(folder / "tiny_sdxl")
        else:
            person, _ = people()
            render_small_photos(folder / "photos", person, SEED)
        write_text_atomic(folder / "goals.json", json.dumps(GOALS))
        write_text_atomic(folder / "config.json", json.dumps(configuration(folder, kind), indent=2))
        write_text_atomic(stamp, json.dumps(facts))
    begun.unlink(missing_ok=True)
    if is_simulated(kind):
        say(f"Note: the generator of this demo is {SAID}.")
    return folder / "config.json"


def is_simulated(kind: str) -> bool:
    """Whether images are rendered instead of generated."""
    return kind in (SIMULATED, BASELINE)


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


def render_small_photos(folder: Path, who: Identity, seed: int) -> None:
    """Photos of a person as the diffusion model draws them, with captions, as few of them turned."""
    from demo.diffusion.photos import usual_yaws, write_photos

    random = np.random.default_rng(seed)
    write_photos(folder, who, usual_yaws(FRONT, TURNED, PROFILE, random), random)


def configuration(folder: Path, kind: str) -> dict:
    """Real gap analysis, validation, merge, training and measuring; of some kinds the generator is simulated."""
    simulated = is_simulated(kind)
    made = {
        "person_name": "demo",
        "person_trigger": "ohwx person",
        "base_model": str((folder / "tiny_sdxl" if simulated else DIFFUSION).resolve()),
        "dataset_dir": str((folder / "photos").resolve()),
        "models_dir": str(MODELS_FOLDER.resolve()),
        "output_dir": str((folder / "output").resolve()),
        "lora_output_dir": str((folder / "loras").resolve()),
        "max_iterations": 5 if simulated else 2,
        "pack": DEMO_PACK,
        # of rendered heads, as the pack is; one for photos that lies in the models folder would see little in them
        "expression_model": str(DEMO_EXPRESSION.resolve()) if DEMO_EXPRESSION.is_file() else None,
        "gap_analysis": {"goals": str((folder / "goals.json").resolve())},
        "metrics": {"samples": 30},
    }
    return made | (_with_simulation(kind) if simulated else _with_diffusion(kind))


def _with_simulation(kind: str) -> dict:
    generator = ["{python}", "-m", "demo.simulated_generator", "--gaps", "{gaps}", "--prompts", "{prompts}"]
    generator += ["--dataset", "{dataset}", "--lora", "{lora}", "--output", "{output}", "--trigger", "{trigger}"]
    generator += ["--seed", "{seed}", "--num-per-gap", "{num_per_gap}"]
    generator += ["--never-improves"] if kind == BASELINE else []  # the only thing in which the baseline differs
    return {
        "max_synthetic_share": 0.5,
        "generation": {"num_per_gap": 7, "command": generator},
        "training": {"epochs": 1, "synthetic_weight": 1.0, "options": TRAINING.split()},
    }


def _with_diffusion(kind: str) -> dict:
    return {
        "real_photos_only": kind == CONTROL,  # the only thing in which the control differs
        "generation": {
            "num_per_gap": 12,
            "candidates": 8,  # what generates is small and quick, and half of its images are not the person
            "num_inference_steps": SAMPLING_STEPS,
            "guidance_scale": GUIDANCE,
            "options": ["--device", "cpu", "--batch", "6"],
        },
        "training": {"preset": "sd15", "steps": TRAINING_STEPS, "options": LEARNING.split()},
    }
