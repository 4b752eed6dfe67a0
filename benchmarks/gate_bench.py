"""Does validation keep other people out of a dataset, and does it let the person in, also in profile?

    python -m benchmarks.gate_bench --people 8
    python -m benchmarks.gate_bench --people 8 --pack DIR

Renders photos of people whom no demo model saw, and for each of them a batch as a generator leaves it: the person,
somebody else altogether, and a sibling (a face half way between the two), each at 0, 30 and 60 degrees.
validate_synthetic.py judges the batch. Prints a Markdown table: how many were rejected for who they
are, with intervals of 95 % (Wilson's, as if images of one person were independent).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.demo_models_bench import rate
from demo.bootstrap_world import FRONT, PROFILE, TURNED
from demo.identity import Identity
from demo.scene import draw_scene
from demo.simulated_generator import GRAIN, PIXELS, write_png
from demo.training_data import UNSEEN_SEED, draw_people, generator, render_all
from mirror.contracts.contract import read_contract, write_contract
from mirror.contracts.generation import GeneratedImage, GenerationMetadata
from mirror.contracts.validation import Outcome, ValidationReport
from mirror.dataset.checks import IDENTITY
from utils import options
from utils.console import EXIT_OK, UserError, run_script, say
from utils.defaults import DEMO_PACK, METADATA, PROJECT
from utils.files import timestamp

YAWS = {0.0: "front", 30.0: "three_quarter", 60.0: "profile"}  # asked, and the bin that it is in
WHO = ("the person", "somebody else", "a sibling")
HALF = 0.5  # of the way from one face to another: as near as brothers are


def run(args: argparse.Namespace) -> int:
    """The table over all people."""
    crowd = draw_people(UNSEEN_SEED, 2 * args.people)
    seen: Counter = Counter()
    rejected: Counter = Counter()
    with tempfile.TemporaryDirectory(prefix="gate_bench_") as folder:
        for index in range(args.people):
            say(f"person {index + 1} of {args.people}")
            person, other = crowd[index], crowd[args.people + index]
            base = Path(folder) / str(index)
            render_photos(base / "photos", person, index)
            made = render_batch(base / "batch", person, other, args.each, index)
            for key, is_rejected in judged(base, args.pack, made):
                seen[key] += 1
                rejected[key] += is_rejected
    print("| who | " + " | ".join(f"{yaw:.0f} degrees" for yaw in YAWS) + " | all |\n|---|---|---|---|---|")
    for who in WHO:
        cells = [rate(rejected[who, yaw], seen[who, yaw]) for yaw in YAWS]
        total = sum(rejected[who, yaw] for yaw in YAWS), sum(seen[who, yaw] for yaw in YAWS)
        print(f"| {who}, rejected | {' | '.join(cells)} | {rate(*total)} |")
    return EXIT_OK


def render_photos(folder: Path, person: Identity, seed: int) -> None:
    """A dataset as the loop's demo has it: most photos from the front, few turned, hardly a profile."""
    random = generator(UNSEEN_SEED + seed, "gate photos")
    yaws = [*random.uniform(-20, 20, FRONT), *random.uniform(28, 42, TURNED), *random.uniform(60, 66, PROFILE)]
    write(folder, [(f"photo_{at:02d}.png", person, float(yaw)) for at, yaw in enumerate(yaws)], random)


def render_batch(folder: Path, person: Identity, other: Identity, each: int, seed: int) -> dict[str, tuple[str, float]]:
    """File -> who it shows, and how far turned."""
    random = generator(UNSEEN_SEED + seed, "gate batch")
    heads = {"the person": person, "somebody else": other, "a sibling": person.towards(other, HALF)}
    made, images = {}, []
    for who, yaw in [(who, yaw) for who in WHO for yaw in YAWS for _ in range(each)]:
        name = f"synthetic_{len(made):03d}.png"
        made[name] = (who, yaw)
        images.append((name, heads[who], float(yaw + random.uniform(-5, 5)) * float(random.choice([-1, 1]))))
    write(folder, images, random)
    listed = [
        GeneratedImage(file=name, gap_type="face_angle", target=YAWS[yaw], prompt="photo of ohwx person", seed=at)
        for at, (name, (_, yaw)) in enumerate(made.items())
    ]
    metadata = GenerationMetadata(script="benchmarks/gate_bench.py", created=timestamp(), images=listed)
    write_contract(folder / METADATA, metadata)
    return made


def write(folder: Path, images: list[tuple[str, Identity, float]], random: np.random.Generator) -> None:
    """Everyday pictures of heads, by name."""
    folder.mkdir(parents=True)
    scenes = [draw_scene(who, random, yaw_deg=yaw, pitch_deg=0.0, grain=GRAIN) for _, who, yaw in images]
    for (name, _, yaw), picture in zip(images, render_all(scenes, PIXELS, samples=1.0), strict=True):
        write_png(folder / name, picture.image, yaw)


def judged(base: Path, pack: str, made: dict[str, tuple[str, float]]) -> list[tuple[tuple[str, float], bool]]:
    """(who, yaw) and whether it failed by who it is, for every image whose face was measured."""
    command = ["validate_synthetic.py", base / "batch", "--reference", base / "photos", "--pack", pack]
    command += ["--no-auto-filter", "--report", base / "report.json", "--cache", base / "cache.sqlite"]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=PROJECT, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise UserError(f"validate_synthetic.py ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    report = read_contract(base / "report.json", ValidationReport, "validate_synthetic.py")
    found = []
    for image in report.images:
        outcome = next((check.outcome for check in image.checks if check.check == IDENTITY), None)
        if outcome in (Outcome.PASSED, Outcome.FAILED):
            found.append((made[image.file], outcome == Outcome.FAILED))
    return found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m benchmarks.gate_bench", __doc__)
    add = parser.add_argument
    add("--pack", default=DEMO_PACK, help="name or folder of a model pack")
    add("--people", type=int, default=8, help="how many datasets of one person")
    add("--each", type=int, default=4, help="images of every kind and angle")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
