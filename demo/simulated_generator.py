"""Stands for a generator in the demo of the bootstrap loop: renders heads, and errs as a LoRA might that saw a dataset.

    python -m demo.simulated_generator --gaps gaps.json --output DIR --dataset DIR --seed 1
    python -m demo.simulated_generator --prompts plan.json --output DIR --dataset DIR

reads   --dataset DIR    what was trained on: the angle of every picture, which the renderer wrote into the file
        --gaps | --prompts    what to render: gaps of gap_analysis.py, or a fixed plan
writes  DIR/*.png, DIR/generation_metadata.json    as generate_synthetic.py does

How wrong a picture comes out depends on one thing: how many pictures of the dataset show a head turned like the one
that is asked for. Angles seen often come out well; of others the head stays too near the front and the face is
somebody else's in part. Neither a LoRA nor the number of the round is looked at. With --never-improves only the real
photos count, whatever was merged: the control, with which a loop must end without a gain.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from demo.identity import Identity, draw_identity
from demo.parallel import render_all
from demo.scene import Scene, draw_scene
from demo.sets import far_stranger
from utils.console import EXIT_OK, UserError, run_script
from utils.contracts import (
    GapReport,
    GeneratedImage,
    GenerationMetadata,
    PromptPlan,
    read_contract,
    write_contract,
)
from utils.defaults import METADATA, SYNTHETIC_PREFIX
from utils.files import write_bytes_atomic
from utils.gaps import GAP_TYPES
from utils.progress import GroupProgress

SAID = "simulated: rendered heads in place of a diffusion model's images"
PERSON_SEED = (5, 19)  # who is rendered
PIXELS = 384
GRAIN = 3.0  # grey levels: small smooth renders would count as blurred without it
YAWS_DEG = {"front": (0.0, 16.0), "three_quarter": (33.0, 47.0), "profile": (64.0, 74.0)}  # asked for, either side

KINSHIP_DEG = 10.0  # a picture teaches angles about so far from its own
ENOUGH = 2.5  # pictures of an angle after which the error has fallen to 37 %
LUCK = (0.2, 1.2)  # the error of one picture is the usual one times a number between these
TURN_LOST, FACE_LOST = 0.75, 1.0  # of the turn, and of the likeness, at an error of 1
YAW_KEY = "yaw_deg"  # in the PNG


def people() -> tuple[Identity, Identity]:
    """The person, and somebody else."""
    person = draw_identity(np.random.default_rng(PERSON_SEED))
    return person, far_stranger(person, np.random.default_rng(PERSON_SEED[0]))


def write_png(path: Path, image: np.ndarray, yaw_deg: float) -> None:
    """A picture (H, W, 3) BGR with its true angle inside."""
    import io

    from PIL import Image, PngImagePlugin

    told = PngImagePlugin.PngInfo()
    told.add_text(YAW_KEY, f"{yaw_deg:.2f}")
    buffer = io.BytesIO()
    Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).save(buffer, "PNG", pnginfo=told)
    write_bytes_atomic(path, buffer.getvalue())


def known_yaws(dataset: Path, never_improves: bool) -> list[float]:
    """Absolute angles of the dataset's pictures."""
    from PIL import Image

    yaws = []
    for path in sorted(dataset.glob("*.png")):
        if never_improves and path.name.startswith(SYNTHETIC_PREFIX):
            continue
        with Image.open(path) as picture:
            yaws.append(abs(float(picture.info[YAW_KEY])))
    return yaws


def usual_error(yaw_deg: float, yaws: list[float]) -> float:
    """0 to 1, falling with the number of pictures that show such an angle."""
    apart = (abs(yaw_deg) - np.array(yaws)) / KINSHIP_DEG
    return float(np.exp(-np.exp(-(apart**2) / 2).sum() / ENOUGH))


def scene_for(target: str, seed: int, yaws: list[float]) -> Scene:
    """The picture that comes out when `target` is asked for."""
    random = np.random.default_rng([seed, 17])
    low, high = YAWS_DEG[target]
    asked = float(random.uniform(low, high) * random.choice([-1, 1]))
    error = min(1.0, usual_error(asked, yaws) * float(random.uniform(*LUCK)))
    person, stranger = people()
    who = person.towards(stranger, FACE_LOST * error)
    return draw_scene(who, random, yaw_deg=asked * (1 - TURN_LOST * error), pitch_deg=0.0, roll_deg=0.0, grain=GRAIN)


def wanted(args: argparse.Namespace) -> list[GeneratedImage]:
    """What to render, with names, targets and seeds. Raises ContractError."""
    if args.prompts:
        plan = read_contract(args.prompts, PromptPlan, "bootstrap_loop.py")
        return [GeneratedImage(file=f"{one.name}.png", prompt=one.prompt, seed=one.seed) for one in plan.images]
    report = read_contract(args.gaps, GapReport, "gap_analysis.py")
    images = []
    for gap in report.recommendations:
        if gap.type != "face_angle":
            raise UserError(f"{args.gaps} asks for {gap.type}; this simulated generator turns heads and no more.")
        words = GAP_TYPES[gap.type].target(gap.target).prompts
        for index in range(min(gap.count, args.num_per_gap)):
            images.append(
                GeneratedImage(
                    file=f"{SYNTHETIC_PREFIX}{gap.type}_{gap.target}_{index + 1:03d}.png",
                    gap_type=gap.type,
                    target=gap.target,
                    prompt=f"photo of {args.trigger}, {words[index % len(words)]}",
                    seed=args.seed * 1000 + len(images),
                )
            )
    return images


def target_of(image: GeneratedImage) -> str:
    """What the prompt asks for; the words are those of the gap types."""
    if image.target:
        return image.target
    targets = GAP_TYPES["face_angle"].targets
    return next((one.name for one in targets for words in one.prompts if words in image.prompt), "front")


def run(args: argparse.Namespace) -> int:
    images = wanted(args)
    yaws = known_yaws(args.dataset, args.never_improves)
    args.output.mkdir(parents=True, exist_ok=True)
    scenes = [scene_for(target_of(image), image.seed, yaws) for image in images]
    with GroupProgress() as progress:
        task = progress.add("Rendering (simulated generator)", len(scenes))
        for image, scene, picture in zip(images, scenes, render_all(scenes, PIXELS, samples=1.0), strict=True):
            write_png(args.output / image.file, picture.image, scene.yaw_deg)
            image.created = time.strftime("%Y-%m-%dT%H:%M:%S")
            progress.step(task)
    write_contract(
        args.output / METADATA,
        GenerationMetadata(
            script="demo/simulated_generator.py",
            created=time.strftime("%Y-%m-%dT%H:%M:%S"),
            gaps_file=str(args.gaps) if args.gaps else None,
            settings={"simulated": SAID, "never_improves": args.never_improves},
            images=images,
        ),
    )
    print(json.dumps({"images": len(images), "said": SAID}))
    return EXIT_OK


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default. An empty path is none: the loop leaves empty what it does not ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.simulated_generator",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--gaps", type=_path, metavar="FILE", help="gaps to render images for")
    add("--prompts", type=_path, metavar="FILE", help="a fixed plan instead")
    add("--dataset", type=Path, required=True, metavar="DIR", help="what the simulated LoRA was trained on")
    add("--output", type=Path, required=True, metavar="DIR", help="gets pictures and metadata")
    add("--trigger", default="ohwx person", metavar="WORDS", help="for the prompts")
    add("--num-per-gap", type=int, default=6, metavar="N", help="most images for one gap")
    add("--seed", type=int, default=1, metavar="N", help="decides everything that is random")
    add("--never-improves", action="store_true", help="learn nothing from merged images: the control")
    add("--debug", action="store_true", help="show the traceback of an unexpected error")
    args = parser.parse_args(argv)
    if (args.gaps is None) == (args.prompts is None):
        parser.error("it takes either --gaps or --prompts")
    return args


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
