"""How often does the expression sensor say what a rendered head really shows?

    python -m benchmarks.expression_bench                       # the demo's own model
    python -m benchmarks.expression_bench --model FILE --people 60

Renders people of a seed of their own (`UNSEEN_SEED`), each with every expression at an angle of every band, measures
them with the demo pack and reads them with the product's sensor, and prints Markdown tables. A face that is not found
or of which the model is not sure counts as wrong. Intervals of 95 % are a bootstrap over people.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.truth_bench import bootstrap
from demo.render import Picture
from demo.scene import Scene, draw_scene
from demo.training_data import UNSEEN_SEED, draw_people, generator, render_all
from mirror.contracts.expressions import EXPRESSIONS
from mirror.detectors.expressions import ExpressionModel
from mirror.faces.engine import FaceEngine, FaceMeasurement
from mirror.faces.expressions import ExpressionSensor
from mirror.faces.packs import find_pack
from utils import options
from utils.console import EXIT_OK, run_script
from utils.defaults import DEMO_EXPRESSION, DEMO_PACK

BANDS_DEG = ((0.0, 15.0), (15.0, 30.0), (30.0, 45.0), (45.0, 60.0))
AIM_DEG = 45.0  # the aim of 90 % is for heads from frontal to here
NOT_SURE, NOT_FOUND = "not sure", "no face"
PIXELS = 384


@dataclass(frozen=True)
class Answer:
    """One picture: who, what is true, and what was read (NOT_SURE, NOT_FOUND)."""

    person: int
    expression: str
    yaw_deg: float
    read: str
    box_error: tuple[float, float, float] | None  # right, down, larger, in shares of the true box's longer side
    roll_error_deg: float | None

    @property
    def right(self) -> bool:
        return self.read == self.expression


def unseen_scenes(people: int, bands: tuple = BANDS_DEG) -> list[list[Scene]]:
    """A list for each person: every expression, one everyday picture in each band of yaw, every fifth with glasses."""
    random = generator(UNSEEN_SEED, "expressions")
    groups = []
    for who in draw_people(UNSEEN_SEED, people):
        scenes = []
        for name in EXPRESSIONS:
            for low, high in bands:
                yaw = float(random.uniform(low, high) * random.choice([-1, 1]))
                glasses = str(random.choice(["none", "clear"], p=[0.8, 0.2]))
                scenes.append(draw_scene(who, random, yaw_deg=yaw, expression=name, glasses=glasses))
        groups.append(scenes)
    return groups


def answer(person: int, picture: Picture, engine: FaceEngine, sensor: ExpressionSensor) -> Answer:
    """The picture through the detector and the sensor."""
    truth = picture.truth
    face = engine.measure(picture.image)
    reading = sensor.read("", picture.image, face)
    read = NOT_FOUND if face.box_xyxy is None else (reading.expression if reading else None) or NOT_SURE
    box, roll = None, None
    if face.box_xyxy is not None:
        box, roll = box_error(face, truth.face_box_xyxy), face.roll_deg - truth.roll_deg
    return Answer(person, truth.expression, truth.yaw_deg, read, box, roll)


def box_error(face: FaceMeasurement, true_box: tuple[float, ...]) -> tuple[float, float, float]:
    """How far the crop's square lies right of and below the true one, and how much larger it is (natural logarithm)."""
    found, true = np.array(face.box_xyxy), np.array(true_box)
    longer = (true[2:] - true[:2]).max()
    right, down = ((found[:2] + found[2:]) - (true[:2] + true[2:])) / 2 / longer
    return float(right), float(down), float(np.log((found[2:] - found[:2]).max() / longer))


def measure(people: int, model: Path, workers: int | None, bands: tuple = BANDS_DEG) -> list[Answer]:
    """All answers."""
    groups = unseen_scenes(people, bands)
    engine = FaceEngine(find_pack(DEMO_PACK).folder)
    sensor = ExpressionSensor(ExpressionModel(model))
    owner = [i for i, group in enumerate(groups) for _ in group]
    pictures = render_all([scene for group in groups for scene in group], PIXELS, workers)
    return [answer(i, picture, engine, sensor) for i, picture in zip(owner, pictures, strict=True)]


def share_line(name: str, answers: list[Answer]) -> str:
    """A row of the first table: share that is right, its interval, how many."""
    by_person = [[a.right for a in answers if a.person == i] for i in sorted({a.person for a in answers})]
    shares = [float(np.mean(one)) for one in by_person]
    low, high = bootstrap(shares, np.mean, seed=1)
    return f"| {name} | {np.mean([a.right for a in answers]):.1%} | {low:.1%} to {high:.1%} | {len(answers)} |"


def report(answers: list[Answer]) -> list[str]:
    """The tables' lines."""
    near = [a for a in answers if abs(a.yaw_deg) < AIM_DEG]
    lines = ["| heads | right | 95 % interval | of |", "|---|---|---|---|"]
    lines.append(share_line(f"all, frontal to {AIM_DEG:.0f} degrees", near))
    lines += [share_line(f"... {name}", [a for a in near if a.expression == name]) for name in EXPRESSIONS]
    for low, high in BANDS_DEG:
        some = [a for a in answers if low <= abs(a.yaw_deg) < high]
        lines += [share_line(f"all, {low:.0f} to {high:.0f} degrees", some)] if some else []
    columns = [*EXPRESSIONS, NOT_SURE, NOT_FOUND]
    lines += [
        "",
        f"| shown, to {AIM_DEG:.0f} degrees | read: {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in EXPRESSIONS:
        counts = Counter(a.read for a in near if a.expression == name)
        lines.append(f"| {name} | {' | '.join(str(counts[column]) for column in columns)} |")
    errors = np.array([a.box_error for a in answers if a.box_error])
    rolls = np.array([a.roll_error_deg for a in answers if a.roll_error_deg is not None])
    lines += ["", "Measured boxes against true ones, in shares of the longer side (mean and standard deviation):"]
    lines += [
        f"{name} {errors[:, i].mean():+.3f}, {errors[:, i].std():.3f}"
        for i, name in enumerate(("right", "down", "ln size"))
    ]
    return [*lines, f"roll, degrees {rolls.mean():+.1f}, {rolls.std():.1f}"]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m benchmarks.expression_bench", __doc__)
    parser.add_argument("--model", type=Path, default=DEMO_EXPRESSION, help="ONNX file of the expression model")
    parser.add_argument("--people", type=int, default=40, help="how many people to render")
    parser.add_argument("--workers", type=int, help="processes that render; without it one a core")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)

    def run() -> int:
        print("\n".join(report(measure(args.people, args.model, args.workers))))
        return EXIT_OK

    return run_script(run, args.debug)


if __name__ == "__main__":
    sys.exit(main())
