"""What can export_for_did.py tell, and how good are its choices? Rendered heads whose truth is known.

    python -m benchmarks.did_bench                               # took 16 minutes on 2 busy cores
    python -m benchmarks.did_bench --persons 4 --datasets 2      # a quick look

The first table is about the sensors, on everyday pictures of people whom the pack never saw, turned by up to 22
degrees: how far head angles are off, and how well open mouths, closed eyes and covered faces are told from others. An
area under the curve (AUC) of 0.5 is guessing, 1.0 tells all. The second runs the script itself over datasets of one
person each, and looks up the truth of what it chose. Rates carry 95 % intervals (Wilson).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks.truth_bench import wilson
from demo.identity import draw_identity
from demo.render import Picture, render
from demo.scene import draw_scene
from mirror.export.dataset import Light
from mirror.export.geometry import eye_opening, mouth_opening
from mirror.faces.engine import FaceEngine, FaceMeasurement
from mirror.faces.pose import angles_from_keypoints
from utils import options
from utils.console import EXIT_OK, run_script, say, show
from utils.defaults import PROJECT
from utils.files import Status

PACK = PROJECT / "models" / "demo" / "face"
MOST_YAW_DEG, MOST_PITCH_DEG = 22.0, 18.0
SENSOR_PIXELS, DATASET_SIZE_WH = 512, (640, 800)
# (expression, eyes closed, cover) of one person's pictures
SHOTS = (
    ("neutral", False, "none"),
    ("neutral", False, "none"),
    ("smile", False, "none"),
    ("serious", False, "none"),
    ("laughing", False, "none"),
    ("surprised", False, "none"),
    ("neutral", True, "none"),
    ("neutral", False, "mask"),
    ("neutral", False, "hand"),
)
OPEN_MOUTHS = ("laughing", "surprised")
LIMIT_DEG = 10.0
COLUMNS = ("| figure | value | of |", "|---|---|---|")


class Seen(NamedTuple):
    """One picture: what is true, and what was measured."""

    picture: Picture
    face: FaceMeasurement


def run(args: argparse.Namespace) -> int:
    """Both tables as Markdown."""
    cv2.setNumThreads(1)
    seen = look(args.persons)
    show("", "**What the sensors tell**", "", *COLUMNS, *(f"| {line} |" for line in sensor_lines(seen)))
    chosen = [choices(seed, args.pictures) for seed in range(args.datasets)]
    show("", "**What is chosen**", "", *COLUMNS, *(f"| {line} |" for line in choice_lines(chosen)))
    return EXIT_OK


def look(persons: int) -> list[Seen]:
    """Pictures of people of a seed of their own, measured; those without a face are left out and told."""
    engine, seen = FaceEngine(PACK, "cpu"), []
    for number in range(persons):
        random = np.random.default_rng([number, 777])
        who = draw_identity(random)
        for expression, closed, cover in SHOTS:
            yaw, pitch = random.uniform(-MOST_YAW_DEG, MOST_YAW_DEG), random.uniform(-MOST_PITCH_DEG, MOST_PITCH_DEG)
            scene = draw_scene(who, random, yaw_deg=float(yaw), pitch_deg=float(pitch), expression=expression)
            picture = render(replace(scene, eyes_closed=closed, cover=cover), SENSOR_PIXELS)
            face = engine.measure(picture.image)
            if face.status != Status.NO_FACE:
                seen.append(Seen(picture, face))
    say(f"{len(seen)} of {persons * len(SHOTS)} heads were found.")
    return seen


def sensor_lines(seen: list[Seen]) -> list[str]:
    bare = [one for one in seen if one.picture.truth.scene["cover"] == "none"]
    lines = list(pose_lines(bare))
    opened = np.array([one.picture.truth.expression in OPEN_MOUTHS for one in bare])
    closed = np.array([one.picture.truth.eyes_closed for one in bare])
    truth = [replace(one.face, landmarks=tuple(map(tuple, one.picture.truth.points_68[:, :2]))) for one in bare]
    for whose, faces in (("pack's landmarks", [one.face for one in bare]), ("true landmarks", truth)):
        mouth, eyes = (np.array([of(face) for face in faces]) for of in (mouth_opening, eye_opening))
        lines.append(f"open mouths by the {whose}, AUC | {auc(mouth, opened):.2f} | {opened.sum()} of {len(bare)}")
        # laughing eyes are narrow and no fault
        calm = ~np.array([one.picture.truth.expression == "laughing" for one in bare])
        found = auc(-eyes[calm], closed[calm])
        lines.append(f"closed eyes by the {whose}, AUC | {found:.2f} | {closed.sum()} of {calm.sum()}")
    covered = np.array([one.picture.truth.scene["cover"] != "none" for one in seen])
    apart = np.array([disagreement(one.face) for one in seen])
    lines.append(f"masks and hands by landmarks that disagree, AUC | {auc(apart, covered):.2f} | {covered.sum()}")
    sides = [Light.of(one.picture.image, one.face).sides for one in bare]
    return [*lines, f"evenness of light, 5th / 50th percentile | {' / '.join(percentiles(sides, 5, 50))} | {len(bare)}"]


def pose_lines(bare: list[Seen]) -> list[str]:
    """How far yaw and pitch are off by landmarks and by keypoints."""
    by_keypoints = [angles_from_keypoints(np.array(one.face.keypoints)) for one in bare]
    found = {
        "landmarks": [(one.face.yaw_deg, one.face.pitch_deg) for one in bare],
        "keypoints": [(angles.yaw_deg, angles.pitch_deg) for angles in by_keypoints],
    }
    true = np.array([(one.picture.truth.yaw_deg, one.picture.truth.pitch_deg) for one in bare])
    lines = []
    for source, angles in found.items():
        off = np.abs(np.array(angles) - true)
        for name, column in zip(("yaw", "pitch"), off.T, strict=True):
            values = "° / ".join(percentiles(column, 50, 90, 95))
            lines.append(f"{name} by {source}, off by (50 / 90 / 95 % of heads) | {values}° | {len(bare)}")
    return lines


def percentiles(values: np.ndarray | list[float], *shares: float) -> list[str]:
    digits = 2 if max(values) <= 1 else 1
    return [f"{value:.{digits}f}" for value in np.percentile(values, shares)]


def auc(values: np.ndarray, is_true: np.ndarray) -> float:
    """Chance that a true one has the larger value."""
    ours, others = values[is_true][:, None], values[~is_true][None]
    return float(((ours > others) + 0.5 * (ours == others)).mean())


def disagreement(face: FaceMeasurement) -> float:
    """Largest distance of the keypoints from the same points of the landmarks, by that of the eyes."""
    points, five = np.array(face.landmarks), np.array(face.keypoints)
    same = np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), *points[[30, 48, 54]]])
    return float(np.linalg.norm(same - five, axis=1).max() / np.linalg.norm(five[0] - five[1]))


class Choice(NamedTuple):
    """One dataset: (yaw, pitch) in degrees of all its pictures, and the indices of those that were chosen."""

    true_deg: np.ndarray  # (N, 2)
    chosen: list[int]


def choices(seed: int, count: int) -> Choice:
    """export_for_did.py over a dataset of everyday pictures of one person, as users run it."""
    random = np.random.default_rng([seed, 778])
    who = draw_identity(random)
    pictures = [render(draw_scene(who, random), DATASET_SIZE_WH) for _ in range(count)]
    with tempfile.TemporaryDirectory() as scratch:
        dataset, output = Path(scratch) / "dataset", Path(scratch) / "package"
        dataset.mkdir()
        for number, picture in enumerate(pictures):
            cv2.imwrite(str(dataset / f"{number:03d}.png"), picture.image)
        command = [sys.executable, str(PROJECT / "export_for_did.py"), "--dataset", str(dataset)]
        command += ["--output", str(output), "--pack", str(PACK), "--no-cache"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL)
        if done.returncode not in (0, 2):
            raise RuntimeError(done.stderr)
        record = output / "metadata.json"
        sources = json.loads(record.read_text(encoding="utf-8"))["sources"] if done.returncode == 0 else []
    true_deg = np.array([(picture.truth.yaw_deg, picture.truth.pitch_deg) for picture in pictures])
    return Choice(true_deg, [int(Path(one["picture"]).stem) for one in sources])


def choice_lines(found: list[Choice]) -> list[str]:
    first = [one for one in found if one.chosen]
    lines = [f"datasets with a package | {len(first)} | {len(found)}"]
    turned = [np.abs(one.true_deg).max(axis=1) for one in found]
    best = [np.abs(one.true_deg[one.chosen[0]]).max() for one in first]
    every = np.concatenate([np.abs(one.true_deg[one.chosen]).max(axis=1) for one in first])
    for name, angles in (("source_01", np.array(best)), ("all sources", every), ("all pictures", np.hstack(turned))):
        for limit in (LIMIT_DEG, LIMIT_DEG + 5):
            hits = int((angles <= limit).sum())
            low, high = wilson(hits, len(angles))
            shown = f"{hits / len(angles):.0%} ({low:.0%} to {high:.0%})"
            lines.append(f"{name}: true yaw and pitch within {limit:g}° | {shown} | {len(angles)}")
    return lines


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = options.script_parser("python -m benchmarks.did_bench", __doc__)
    add = parser.add_argument
    add("--persons", type=options.at_least(2), default=40, metavar="N", help="people for the sensors, 9 pictures each")
    add("--datasets", type=options.at_least(1), default=20, metavar="N", help="datasets to choose from")
    add("--pictures", type=options.at_least(6), default=16, metavar="N", help="pictures of each dataset")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main() -> int:
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
