"""Stands for a generator in the demo of the bootstrap loop: renders heads, and errs as a LoRA might that saw a dataset.

    python -m demo.simulated_generator --gaps gaps.json --output DIR --dataset DIR --seed 1
    python -m demo.simulated_generator --prompts plan.json --output DIR --dataset DIR --lora v2/lora.safetensors

reads   --dataset DIR         the working dataset: the angle of every picture, which the renderer wrote into the file
        --lora FILE           which of them it learned from, by the history and the manifest beside the dataset
                              (without it: all of them)
        --gaps | --prompts    what to render: gaps of gap_analysis.py, or a fixed plan
writes  DIR/*.png, DIR/generation_metadata.json    as generate_synthetic.py does

How wrong a picture comes out depends on one thing: how many of the pictures that the LoRA learned from show a head
turned like the one that is asked for. Angles seen often come out well; of others the head stays too near the front and
the face is somebody else's in part. How much luck a picture of a gap has is drawn from what was learned and from its
place in the batch, that of a plan's picture from its seed, which is the same for all LoRAs: the number of the iteration
plays no part. With --never-improves only the real photos count, whatever was merged: the baseline, with which a loop
must end without a gain.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np

from demo.identity import Identity, draw_identity
from demo.parallel import render_all
from demo.scene import Scene, draw_scene
from demo.sets import far_stranger
from mirror.contracts.contract import read_contract, write_contract
from mirror.contracts.gaps import GapReport
from mirror.contracts.generation import GeneratedImage, GenerationMetadata
from mirror.contracts.history import IterationHistory
from mirror.contracts.manifest import MergeManifest
from mirror.contracts.plan import PromptPlan
from mirror.dataset.gaps import GAP_TYPES
from mirror.faces.pose import BIN_LIMITS_DEG
from mirror.loop.commands import HISTORY, MANIFEST
from mirror.loop.photos import REAL
from utils import options
from utils.console import EXIT_OK, UserError, run_script
from utils.defaults import METADATA, SYNTHETIC_PREFIX
from utils.files import sha256_of, timestamp, write_bytes_atomic
from utils.progress import GroupProgress

SAID = "simulated: rendered heads in place of a diffusion model's images"
PERSON_SEED = (5, 19)  # who is rendered; any would do
PIXELS = 384  # the demo's detectors find nearly all heads of this size, and more takes longer
GRAIN = 3.0  # grey levels: small smooth renders would count as blurred without it
MOST_IMAGES = 1000  # of one batch: its seeds are this many times --seed, and count from there


def asked_yaws(low: float, high: float) -> tuple[float, float]:
    """What is asked for in a bin, either side: well inside it, and in the last one not so far that no face shows."""
    if low == 0:
        return 0.0, high - 9
    return (low + 9, low + 19) if high > 90 else (low + 8, high - 8)


YAWS_DEG = {name: asked_yaws(*limits) for name, limits in BIN_LIMITS_DEG.items()}

# Our choices, so that two profiles among the photos give a few good ones, and a dozen give mostly good ones.
KINSHIP_DEG = 10.0  # a picture teaches angles about so far from its own
ENOUGH = 2.5  # pictures of an angle after which the error has fallen to 37 %
LUCK = (0.2, 1.2)  # the error of one picture is the usual one times a number between these
TURN_LOST, FACE_LOST = 0.75, 1.0  # of the turn, and of the identity, at an error of 1
_LUCK, _SCENE = 17, 18  # what random numbers are for, so that those of one purpose never are those of another
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


def learned_from(dataset: Path, lora: Path | None) -> list[Path]:
    """The pictures of the working dataset that a LoRA was trained on. Raises UserError for a LoRA of no loop here.

    The history says which merges it learned from, and the manifest which images those were, also where they were taken
    out of the dataset since then.
    """
    if lora is None:
        return sorted(dataset.glob("*.png"))
    output = dataset.parent
    history = read_contract(output / HISTORY, IterationHistory, "bootstrap_loop.py")
    manifest = read_contract(output / MANIFEST, MergeManifest, "bootstrap_loop.py")
    sha256 = sha256_of(lora)
    record = next((one for one in history.loras if one.sha256 == sha256), None)
    if record is None:
        raise UserError(f"{lora} is no LoRA of {output / HISTORY}; this simulated generator knows what those learned.")
    merged = [one for one in manifest.merged + manifest.taken_out if one.iteration in record.learned_from]
    return [output / REAL / photo.file for photo in manifest.real if not photo.held_out] + [
        place if (place := dataset / one.file).is_file() else output / one.source for one in merged
    ]


def known_yaws(pictures: list[Path], never_improves: bool) -> list[float]:
    """Absolute angles of the pictures, in order of size."""
    from PIL import Image

    yaws = []
    for path in pictures:
        if never_improves and path.name.startswith(SYNTHETIC_PREFIX):
            continue
        with Image.open(path) as picture:
            yaws.append(abs(float(picture.info[YAW_KEY])))
    return sorted(yaws)


def usual_error(yaw_deg: float, yaws: list[float]) -> float:
    """0 to 1, falling with the number of pictures that show such an angle."""
    apart = (abs(yaw_deg) - np.array(yaws)) / KINSHIP_DEG
    return float(np.exp(-np.exp(-(apart**2) / 2).sum() / ENOUGH))


def luck_of(yaws: list[float], place: int) -> list[int]:
    """Seed of the luck of one picture of a gap: what was learned, and its place in the batch."""
    learned = hashlib.sha256(json.dumps(yaws).encode()).digest()
    return [int.from_bytes(learned[:4], "big"), place]


def scene_for(target: str, seed: int, luck: list[int], yaws: list[float]) -> Scene:
    """The picture that comes out when `target` is asked for. `luck` seeds its error, `seed` all else that it shows."""
    chance = np.random.default_rng([*luck, _LUCK])
    low, high = YAWS_DEG[target]
    asked = float(chance.uniform(low, high) * chance.choice([-1, 1]))
    error = min(1.0, usual_error(asked, yaws) * float(chance.uniform(*LUCK)))
    person, stranger = people()
    who, random = person.towards(stranger, FACE_LOST * error), np.random.default_rng([seed, _SCENE])
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
                    seed=args.seed * MOST_IMAGES + len(images),
                )
            )
    return images


def target_of(image: GeneratedImage) -> str:
    """What the prompt asks for; the words are those of the gap types."""
    if image.target:
        return image.target
    targets = GAP_TYPES["face_angle"].targets
    return next((one.name for one in targets for words in one.prompts if words in image.prompt), next(iter(YAWS_DEG)))


def run(args: argparse.Namespace) -> int:
    images = wanted(args)
    yaws = known_yaws(learned_from(args.dataset, args.lora), args.never_improves)
    args.output.mkdir(parents=True, exist_ok=True)
    scenes = [
        scene_for(target_of(image), image.seed, luck_of(yaws, place) if args.gaps else [image.seed], yaws)
        for place, image in enumerate(images)
    ]
    with GroupProgress() as progress:
        task = progress.add("Rendering (simulated generator)", len(scenes))
        for image, scene, picture in zip(images, scenes, render_all(scenes, PIXELS, samples=1.0), strict=True):
            write_png(args.output / image.file, picture.image, scene.yaw_deg)
            image.created = timestamp()
            progress.step(task)
    write_contract(
        args.output / METADATA,
        GenerationMetadata(
            script="demo/simulated_generator.py",
            created=timestamp(),
            gaps_file=str(args.gaps) if args.gaps else None,
            settings={"simulated": SAID, "never_improves": args.never_improves},
            images=images,
        ),
    )
    print(json.dumps({"images": len(images), "said": SAID}))
    return EXIT_OK


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default. An empty path counts as not given, as the loop writes it."""
    parser = options.script_parser("python -m demo.simulated_generator", __doc__)
    add = parser.add_argument
    add("--gaps", type=_path, metavar="FILE", help="gaps to render images for")
    add("--prompts", type=_path, metavar="FILE", help="a fixed plan instead")
    add("--dataset", type=Path, required=True, metavar="DIR", help="the loop's working dataset")
    add("--lora", type=_path, metavar="FILE", help="what it learned from counts (default: the whole dataset)")
    add("--output", type=Path, required=True, metavar="DIR", help="gets pictures and metadata")
    add("--trigger", default="ohwx person", metavar="WORDS", help="for the prompts")
    add("--num-per-gap", type=int, default=6, metavar="N", help="most images for one gap")
    add("--seed", type=int, default=1, metavar="N", help="of light, background and hair, never of the error")
    add("--never-improves", action="store_true", help="learn nothing from merged images: the baseline")
    options.add_debug_and_version(parser)
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
