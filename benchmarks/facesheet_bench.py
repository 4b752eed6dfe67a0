"""Does export_facesheet.py take the right pictures? Rendered people from all sides through the real script.

    python -m benchmarks.facesheet_bench --pack demo                 # 17 people, 408 heads: 8 minutes on 2 busy cores
    python -m benchmarks.facesheet_bench --pack DIR --people 3

Each person's pictures are a dataset of their own. Sides are known from the renderer's points, not from signs: the side
of the jaw that is nearer to the camera is the one that the picture shows. Prints a Markdown table; rates carry Wilson
intervals of 95 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.truth_bench import wilson
from demo.identity import draw_identity
from demo.parallel import render_all
from demo.render import Picture
from demo.scene import HEAD_CM, draw_scene

ROOT = Path(__file__).resolve().parent.parent
ANGLES = {  # wanted |yaw| and the yaws that count as such, degrees
    "front": (0, 0, 15),
    "three_quarter_left": (40, 25, 55),
    "three_quarter_right": (40, 25, 55),
    "profile_left": (90, 55, 180),
    "profile_right": (90, 55, 180),
}
PICTURES, PIXELS, CELL = 24, 384, 256
NEAR_DEG = 5.0
JAW_IN_IMAGE_LEFT, JAW_IN_IMAGE_RIGHT = (
    2,
    14,
)  # rows of the 68 points; of a frontal head, so the person's right and left
EYES = slice(36, 48)


def pictures_of(seed: int) -> list[Picture]:
    """One person as people photograph each other, half of the pictures; the others from anywhere up to profile."""
    random = np.random.default_rng([seed, 16])
    who = draw_identity(random)
    yaws = np.where(random.random(PICTURES) < 0.5, random.normal(0, 24, PICTURES), random.uniform(-90, 90, PICTURES))
    scenes = [draw_scene(who, random, yaw_deg=float(np.clip(yaw, -90, 90))) for yaw in yaws]
    return list(render_all(scenes, PIXELS, workers=1))


def side_of(picture: Picture) -> str:
    """The person's own side that is nearer to the camera."""
    depth = picture.truth.points_68[:, 2]
    return "left" if depth[JAW_IN_IMAGE_RIGHT] > depth[JAW_IN_IMAGE_LEFT] else "right"


def tilt_of(picture: Picture) -> float:
    """Degrees clockwise by which the head is tilted in the picture: its roll, and in profile its pitch too."""
    truth = picture.truth
    if abs(truth.yaw_deg) < 55:
        return truth.roll_deg
    return truth.roll_deg - np.sign(truth.yaw_deg) * truth.pitch_deg


def measure_person(seed: int, pack: str) -> dict:
    """Plain numbers of one person's sheet."""
    pictures = {f"{number:02d}.png": one for number, one in enumerate(pictures_of(seed), 1)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "photos").mkdir()
        for name, picture in pictures.items():
            cv2.imwrite(str(folder / "photos" / name), picture.image)
        record = run_script(folder, pack)
    asked = sides = 0
    swapped = []
    for name, angle in angles_given(record):
        side = angle.rpartition("_")[2]
        if side in ("left", "right"):
            sides += 1
            swapped += [name] if side_of(pictures[name]) != side else []
    cells = [cell_facts(cell, pictures) for cell in record["cells"]]
    asked = [cell for cell in cells if cell["holds"]]
    scales = np.array([cell["cm"] for cell in cells if cell["cm"]])
    return {"swapped": swapped, "sides": sides, "cells": asked, "filled": cells, "sizes": scales / scales.mean() - 1}


def run_script(folder: Path, pack: str) -> dict:
    command = [sys.executable, "export_facesheet.py", "--dataset", folder / "photos", "--output", folder / "sheet.jpg"]
    command += ["--angles", ",".join(ANGLES), "--cell", CELL, "--pack", pack, "--cache", folder / "cache.sqlite"]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads((folder / "sheet.json").read_text(encoding="utf-8"))


def angles_given(record: dict) -> list[tuple[str, str]]:
    """(file, angle) of every picture that counts as an angle, chosen or not."""
    given = [(cell["chosen"]["file"], cell["angle"]) for cell in record["cells"] if cell["chosen"]]
    for one in record["not_used"]:
        given += [(one["file"], angle) for angle in ANGLES if f"{angle}: " in one["reason"]]
    return given


def cell_facts(cell: dict, pictures: dict[str, Picture]) -> dict:
    """How far the chosen picture is from the wanted angle by its true yaw, and the best of the dataset."""
    wanted, low, high = ANGLES[cell["angle"]]
    side = cell["angle"].rpartition("_")[2]
    yaws = {name: abs(one.truth.yaw_deg) for name, one in pictures.items() if side == "front" or side_of(one) == side}
    holds = [yaw for yaw in yaws.values() if low <= yaw <= high]
    facts = {"angle": cell["angle"], "holds": bool(holds), "behind": None, "cm": None, "tilt": None, "eyes": None}
    if cell["chosen"] is None:
        return facts
    picture = pictures[cell["chosen"]["file"]]
    matrix = np.array(cell["chosen"]["matrix"])
    best = min(abs(yaw - wanted) for yaw in yaws.values())
    facts["behind"] = abs(abs(picture.truth.yaw_deg) - wanted) - best
    pixels_a_cm = picture.truth.scene["fill"] * PIXELS / HEAD_CM
    facts["cm"] = cell["chosen"]["scale"] * pixels_a_cm
    facts["tilt"] = cell["chosen"]["turned_deg"] - tilt_of(picture)
    eyes = picture.truth.points_68[EYES, :2].mean(axis=0) @ matrix[:, :2].T + matrix[:, 2]
    facts["eyes"] = float(eyes[1] / CELL)
    return facts


def rate(label: str, answers: list[bool], unit: str) -> str:
    low, high = wilson(sum(answers), len(answers))
    share = f"{np.mean(answers):.1%} ({low:.1%} to {high:.1%})"
    return f"| {label} | {share} | {sum(answers)} of {len(answers)} {unit} |"


def report(people: list[dict]) -> list[str]:
    cells = [cell for one in people for cell in one["cells"]]
    filled = [cell for one in people for cell in one["filled"] if cell["behind"] is not None]
    sides = sum(one["sides"] for one in people)
    swapped = [name for one in people for name in one["swapped"]]
    lines = ["| figure | value | of |", "|---|---|---|"]
    lines.append(f"| heads | {len(people) * PICTURES} | {len(people)} people |")
    lines.append(f"| left and right swapped | {len(swapped)} | {sides} heads that count as turned |")
    lines.append(rate("angles that the dataset holds are filled", [c["behind"] is not None for c in cells], "cells"))
    near = [c["behind"] is not None and c["behind"] <= NEAR_DEG for c in cells]
    lines.append(rate("the chosen angle is within 5° of the best available", near, "cells"))
    for angle in ANGLES:
        some = [c["behind"] is not None and c["behind"] <= NEAR_DEG for c in cells if c["angle"] == angle]
        lines.append(rate(f"... {angle}", some, "cells"))
    sizes = np.abs(np.concatenate([one["sizes"] for one in people]))
    tilts, eyes = np.abs([c["tilt"] for c in filled]), np.array([c["eyes"] for c in filled])
    for label, values, unit in (
        ("size of the head against the others of its sheet, off by", 100 * sizes, " %"),
        ("tilt of the head in its cell", tilts, "°"),
        ("height of the eyes in the cell, off by", 100 * np.abs(eyes - np.median(eyes)), " % of the cell"),
    ):
        spread = f"median {np.median(values):.1f}{unit}, 90 % below {np.quantile(values, 0.9):.1f}{unit}"
        lines.append(f"| {label} | {spread} | {len(values)} cells |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", required=True, help="name or folder of an InsightFace pack")
    parser.add_argument("--people", type=int, default=17, help=f"each with {PICTURES} pictures (default: 17)")
    parser.add_argument("--seed", type=int, default=0, help="of the first person (default: 0)")
    args = parser.parse_args()
    people = []
    for number in range(args.people):
        people.append(measure_person(args.seed + number, args.pack))
        print(f"person {number + 1} of {args.people}", file=sys.stderr, flush=True)
    print("\n".join(report(people)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
