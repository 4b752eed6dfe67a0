"""How alike are pictures of a person, and of other people, to frontal references, as the head turns?

    python -m benchmarks.identity_by_yaw --pack DIR             # 20 rendered people, 340 pictures: about 5 minutes
    python -m benchmarks.identity_by_yaw --pack DIR --references goals   # 50 % front, 30 % three-quarter, 20 % profile

Every person gets 10 references, near the front or turned as the goals of gap_analysis.py want them, and 4 pictures at
each angle, in everyday light (demo/scene.py). Each picture is compared with the centroid of its own person's references
and with everybody else's. Scores are shares of the level at which those references score among each other, which is how
mirror/faces/metrics.identity_limit is stated. Prints the Markdown table of that function's docstring.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from demo.identity import draw_identity
from demo.parallel import render_all
from demo.scene import Scene, draw_scene
from mirror.faces.engine import FaceEngine, FaceMeasurement
from mirror.faces.metrics import centroid, identity_limit, reference_level
from mirror.faces.packs import find_pack
from utils import options
from utils.console import EXIT_OK, UserError, run_script, say

YAWS_DEG = (0, 15, 30, 45, 60, 75)
REFERENCES, PICTURES = 10, 4  # of each person; pictures at each angle, half of them to either side
REFERENCE_YAW_DEG = 15.0  # thresholds deviation: an everyday set of photos, mostly frontal
GOAL_YAWS_DEG = (-5, 3, -12, 8, 20, 35, -40, 45, 65, -72)
FRONTAL, GOALS = "frontal", "goals"
HEADING = (
    "| yaw | yaw measured | the person, 5 / 50 / 95 % | others, 50 / 95 % | limit | kept | let in |\n"
    "|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Probe:
    """One picture that is compared. `scores` (people,) are shares of each one's level, `limits` (people,) as well."""

    person: int
    true_yaw_deg: int  # without its sign
    seen_yaw_deg: float
    scores: np.ndarray
    limits: np.ndarray


def scenes_of(person: int, seed: int, references: str) -> list[Scene]:
    """References first, then the pictures at each of YAWS_DEG."""
    random = np.random.default_rng([seed, person])
    who = draw_identity(random)
    yaws = np.clip(random.normal(0, REFERENCE_YAW_DEG, REFERENCES), -40, 40)
    yaws = GOAL_YAWS_DEG if references == GOALS else yaws
    sides = [1 if k % 2 else -1 for k in range(PICTURES)]
    yaws = [*yaws, *(side * yaw for yaw in YAWS_DEG for side in sides)]
    return [draw_scene(who, random, yaw_deg=float(yaw)) for yaw in yaws]


def measured_faces(args: argparse.Namespace, pack: Path) -> list[list[FaceMeasurement]]:
    """Of each person, what the pack saw in `scenes_of`."""
    cv2.setNumThreads(1)
    engine = FaceEngine(pack, "cpu")
    found = []
    for person in range(args.people):
        scenes = scenes_of(person, args.seed, args.references)
        found.append([engine.measure(picture.image) for picture in render_all(scenes, args.pixels, 1)])
        say(f"{person + 1} of {args.people} people")
    return found


def probes_of(faces: list[list[FaceMeasurement]]) -> tuple[list[Probe], np.ndarray]:
    """Every picture with a face against everybody's references, and the levels (people,) of the references."""
    known = [[face for face in own[:REFERENCES] if face.embedding is not None] for own in faces]
    references = [np.stack([face.embedding for face in own]) for own in known]
    centroids = np.stack([centroid(embeddings) for embeddings in references])
    yaws = [np.array([face.yaw_deg for face in own]) for own in known]
    levels = np.array([reference_level(*one) for one in zip(references, yaws, strict=True)])
    probes = []
    for person, own in enumerate(faces):
        for place, face in enumerate(own[REFERENCES:]):
            if face.embedding is None:
                continue
            limits = np.array([identity_limit(face.yaw_deg, level) for level in levels]) / levels
            scores = centroids @ face.embedding / levels
            probes.append(Probe(person, YAWS_DEG[place // PICTURES], abs(face.yaw_deg), scores, limits))
    return probes, levels


def row(yaw_deg: int, probes: list[Probe]) -> str:
    """One line of the table."""
    own = np.array([probe.scores[probe.person] for probe in probes])
    kept = np.mean([probe.scores[probe.person] >= probe.limits[probe.person] for probe in probes])
    others = np.array([np.delete(probe.scores, probe.person) for probe in probes])
    let_in = np.mean([np.delete(probe.scores >= probe.limits, probe.person) for probe in probes])
    limit = np.median([probe.limits[probe.person] for probe in probes])
    seen = np.median([probe.seen_yaw_deg for probe in probes])
    return (
        f"| {yaw_deg} | {seen:.0f} | {_percentiles(own, 5, 50, 95)} | {_percentiles(others, 50, 95)} | {limit:.2f} | "
        f"{kept:.0%} | {let_in:.0%} |"
    )


def _percentiles(values: np.ndarray, *which: int) -> str:
    return " / ".join(f"{value:.2f}" for value in np.percentile(values, which))


def run(args: argparse.Namespace) -> int:
    """Render, measure, print. Raises UserError."""
    pack = find_pack(args.pack)
    if pack is None:
        raise UserError(f"There is no model pack {args.pack}; --pack takes its folder.")
    if args.people < 2:
        raise UserError(f"--people {args.people} is too few: at least 2, one to be compared with another.")
    probes, levels = probes_of(measured_faces(args, pack.folder))
    print(HEADING)
    for yaw_deg in YAWS_DEG:
        print(row(yaw_deg, [probe for probe in probes if probe.true_yaw_deg == yaw_deg]))
    lost = args.people * PICTURES * len(YAWS_DEG) - len(probes)
    print(f"\nLevel of the references {levels.min():.2f} to {levels.max():.2f}; pictures without a face: {lost}")
    return EXIT_OK


def main() -> int:
    """Exit code of the command."""
    parser = options.script_parser("python -m benchmarks.identity_by_yaw", __doc__)
    parser.add_argument("--pack", required=True, metavar="NAME|DIR", help="InsightFace model pack")
    parser.add_argument("--people", type=int, default=20, help="rendered at random")
    parser.add_argument("--references", choices=(FRONTAL, GOALS), default=FRONTAL, help="how they are turned")
    parser.add_argument("--pixels", type=int, default=384, help="width and height of each picture")
    parser.add_argument("--seed", type=int, default=1, help="decides who they are and how they stand")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    args = parser.parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
