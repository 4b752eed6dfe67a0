"""Do the pictures of export_expressions.py lie over each other, and show what their folder says? Rendered heads.

    python -m benchmarks.expressions_export_bench --persons 14 --pictures 14    # took 5 minutes on 2 busy cores
    python -m benchmarks.expressions_export_bench --persons 4           # a quick look

Writes datasets of one person each, everyday photos of people whom the pack never saw, and runs the script on them with
the demo pack. The first table says how far the true eyes lie from their place, in percent of the canvas, by what they
were measured with; 2 % is asked for. The second looks up the true expression of what was chosen (with a model that
reads rendered heads, --expression-model). Rates carry 95 % intervals (Wilson).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.truth_bench import wilson
from demo.identity import Identity
from demo.render import render
from demo.scene import draw_scene
from demo.training_data import UNSEEN_SEED, draw_people, generator
from mirror.contracts.expression_export import ExpressionsRecord
from mirror.contracts.expressions import EXPRESSIONS
from mirror.export.aligned import EYES_XY, eyes_of
from mirror.export.geometry import eyes, moved, similarity
from mirror.export.irises import find_irises
from mirror.faces.engine import FaceEngine
from utils import options
from utils.console import EXIT_OK, UserError, run_script, say, show
from utils.defaults import DEMO_EXPRESSION, PROJECT

PACK = PROJECT / "models" / "demo" / "face"
PIXELS = 512
MOST_YAW_DEG = 20.0  # as the script takes them
EXPORTED = "irises, else the mean (as exported)"
COUNT = 3  # pictures of each expression
ASKED = 0.02  # of the canvas
OTHER_YAW_DEG = 35.0  # every fifth photo is turned up to here, which the script has to leave out


@dataclass(frozen=True)
class Photo:
    """What is true of one."""

    expression: str
    eyes: np.ndarray  # (2, 2) pixels


def run(args: argparse.Namespace) -> int:
    """Both tables as Markdown."""
    cv2.setNumThreads(1)
    engine = FaceEngine(PACK, "cpu")
    places, chosen = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for person, who in enumerate(draw_people(UNSEEN_SEED, args.persons)):
            folder = Path(scratch) / f"{person:03d}"
            photos = write_photos(folder / "photos", who, person, args.pictures)
            places += [
                one for name, photo in photos.items() for one in compare(engine, folder / "photos" / name, photo)
            ]
            if args.expression_model.is_file():
                chosen += chosen_of(folder, photos, args.expression_model)
            say(f"person {person + 1} of {args.persons}")
    show(
        "",
        "**Where the eyes lie**",
        "",
        "| measured by | median | 90 % within | within 2 % of the canvas |",
        "|---|---|---|---|",
    )
    for name in ("keypoints", "landmarks", "mean of both", EXPORTED):
        show(place_line(name, np.array([off for by, off in places if by == name])))
    show("", "**What is chosen**", "", "| figure | value | of |", "|---|---|---|")
    for line in choice_lines(chosen) if chosen else ["| no expression model at hand: not measured | | |"]:
        show(line)
    return EXIT_OK


def write_photos(folder: Path, who: Identity, person: int, count: int) -> dict[str, Photo]:
    """Photos of one person, with every expression in turn."""
    random = generator(UNSEEN_SEED, f"export {person}")
    folder.mkdir(parents=True)
    photos = {}
    for number in range(count):
        most = OTHER_YAW_DEG if number % 5 == 4 else MOST_YAW_DEG
        expression = EXPRESSIONS[number % len(EXPRESSIONS)]
        scene = draw_scene(who, random, expression=expression, yaw_deg=float(random.uniform(-most, most)))
        picture = render(scene, PIXELS)
        name = f"{number:03d}.jpg"
        (folder / name).write_bytes(cv2.imencode(".jpg", picture.image, [cv2.IMWRITE_JPEG_QUALITY, 93])[1].tobytes())
        photos[name] = Photo(expression, picture.truth.five_points[:2])
    return photos


def compare(engine: FaceEngine, path: Path, photo: Photo) -> list[tuple[str, float]]:
    """(measured by, distance of the worse eye from its place by the canvas) of one photo within the limit of yaw."""
    image = cv2.imread(str(path))
    face = engine.measure(image)
    if face.box_xyxy is None or abs(face.yaw_deg) > MOST_YAW_DEG:
        return []
    keypoints, landmarks = np.array(face.keypoints[:2]), eyes(face)
    found = {
        "keypoints": keypoints,
        "landmarks": landmarks,
        "mean of both": (keypoints + landmarks) / 2,
    }
    irises = find_irises(image, eyes_of(face).points)
    found[EXPORTED] = found["mean of both"] if irises is None else irises
    return [(name, off_place(points, photo)) for name, points in found.items()]


def off_place(measured: np.ndarray, photo: Photo) -> float:
    """Share of the canvas."""
    placed = moved(photo.eyes, similarity(measured, np.array(EYES_XY)))
    return float(np.linalg.norm(placed - np.array(EYES_XY), axis=1).max())


def place_line(name: str, off: np.ndarray) -> str:
    good = int((off <= ASKED).sum())
    low, high = wilson(good, len(off))
    share = f"{good / len(off):.0%} ({low:.0%} to {high:.0%}) of {len(off)}"
    return f"| {name} | {np.median(off):.1%} | {np.percentile(off, 90):.1%} | {share} |"


def chosen_of(folder: Path, photos: dict[str, Photo], model: Path) -> list[dict]:
    """What the script chose of one dataset, with its truth. Raises UserError where it fails."""
    given_options = {
        "--dataset": folder / "photos",
        "--output": folder / "out",
        "--pack": PACK,
        "--expression-model": model.resolve(),
        "--expressions": ",".join(EXPRESSIONS),
        "--count": COUNT,
    }
    given = [str(part) for option in given_options.items() for part in option]
    command = [sys.executable, str(PROJECT / "export_expressions.py"), *given, "--no-cache", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise UserError(f"{folder}: {done.stderr}")
    record = ExpressionsRecord.model_validate(json.loads((folder / "out" / "index.json").read_text(encoding="utf-8")))
    wanted = np.array([record.left_eye_xy, record.right_eye_xy])
    found = []
    for one in record.expressions:
        for place, picture in enumerate(one.pictures):
            photo = photos[picture.picture]
            off = moved(photo.eyes, np.array(picture.matrix)) / record.canvas - wanted
            right = photo.expression == one.expression
            found.append({"first": place == 0, "right": right, "off": float(np.linalg.norm(off, axis=1).max())})
    return found


def choice_lines(chosen: list[dict]) -> list[str]:
    """Rows of the second table."""
    lines = []
    for label, some in (
        ("pictures in the folder of their true expression", chosen),
        ("... the best of each folder", [one for one in chosen if one["first"]]),
    ):
        right = sum(one["right"] for one in some)
        low, high = wilson(right, len(some))
        lines.append(f"| {label} | {right / len(some):.1%} ({low:.0%} to {high:.0%}) | {len(some)} pictures |")
    off = np.array([one["off"] for one in chosen])
    lines.append(f"| worse eye off its place, median / 90 % | {np.median(off):.1%} / {np.percentile(off, 90):.1%} | |")
    good = int((off <= ASKED).sum())
    return [*lines, f"| both eyes within 2 % of the canvas | {good / len(off):.0%} | {len(off)} pictures |"]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m benchmarks.expressions_export_bench", __doc__)
    parser.add_argument("--persons", type=options.count, default=20, metavar="N", help="datasets of one person each")
    parser.add_argument("--pictures", type=options.count, default=20, metavar="N", help="photos of each")
    parser.add_argument(
        "--expression-model",
        type=options.path,
        default=DEMO_EXPRESSION,
        metavar="FILE",
        help="reads expressions of rendered heads; without it the second table is left out",
    )
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main() -> int:
    """Exit code."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
