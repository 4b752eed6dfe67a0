"""One picture of what the renderer can do.

python -m demo.contact_sheet --output contact_sheet.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from demo.expressions import EXPRESSIONS
from demo.identity import Identity, draw_identity
from demo.render import render
from demo.scene import FRAMINGS, LIGHTS, Scene
from utils.files import write_bytes_atomic


def _mixed(crowd: list[Identity]) -> list[Identity]:
    """The first of each hair style in a crowd, then others: twelve."""
    order = ("long", "side_part", "bob", "short", "curly", "bun", "receding", "bald", "crop")
    chosen = [next(who for who in crowd if who.hair == style) for style in order if any(w.hair == style for w in crowd)]
    return (chosen + [who for who in crowd if who not in chosen])[:12]


def sheet_rows(seed: int) -> list[list[Scene]]:
    """Six rows of eight: persons, one head turning, ages, expressions, lights, and framings with hands and covers."""
    people = _mixed([draw_identity(np.random.default_rng([seed, k])) for k in range(60)])
    return [
        _persons(people[:8]),
        _turning(people[2]),
        _ages(people[7], people[3]),
        _expressions(people[5]),
        _lights(people[8]),
        _framings(people[9]),
    ]


def _persons(people: list[Identity]) -> list[Scene]:
    kinds, lights = ("studio", "indoor", "outdoor"), ("studio", "window", "daylight")
    return [
        Scene(
            person,
            yaw_deg=-18.0 + 5 * i,
            fill=0.62,
            background=kinds[i % 3],
            background_seed=40 + i,
            clothes_seed=i,
            light=LIGHTS[lights[i % 3]],
            seed=i,
        )
        for i, person in enumerate(people)
    ]


def _turning(person: Identity) -> list[Scene]:
    yaws_deg = (-80, -55, -30, -10, 10, 30, 55, 80)
    return [Scene(person, yaw_deg=yaw, fill=0.62, background_seed=3, clothes_seed=4, seed=9) for yaw in yaws_deg]


def _ages(*people: Identity) -> list[Scene]:
    same = {"fill": 0.66, "yaw_deg": 12, "background_seed": 5, "clothes_seed": 2, "seed": 3, "light": LIGHTS["window"]}
    return [Scene(person, age_years=age, **same) for person in people for age in (22.0, 42.0, 58.0, 76.0)]


def _expressions(person: Identity) -> list[Scene]:
    faces = [(name, {}) for name in EXPRESSIONS] + [("neutral", {"eyes_closed": True})]
    same = {"fill": 0.70, "yaw_deg": -8, "background": "outdoor", "background_seed": 8, "clothes_seed": 7}
    return [Scene(person, expression=name, light=LIGHTS["daylight"], **same, **extra) for name, extra in faces]


def _lights(person: Identity) -> list[Scene]:
    kinds = ("studio", "indoor", "outdoor")
    same = {"fill": 0.64, "yaw_deg": 15, "clothes_seed": 1}
    return [
        Scene(person, light=light, background=kinds[i % 3], background_seed=60 + i, **same)
        for i, light in enumerate(LIGHTS.values())
    ]


def _framings(person: Identity) -> list[Scene]:
    shots = [("extreme_close_up", {}), ("close_up", {"hand": "cheek"}), ("bust", {"hand": "chin"})]
    shots += [("half_body", {"hand": "wave", "glasses": "clear"}), ("full_figure", {})]
    shots += [("bust", {"cover": "mask", "glasses": "dark"}), ("bust", {"cover": "hand"}), ("bust", {"yaw_deg": 150.0})]
    same = {"background": "indoor", "background_seed": 12, "clothes_seed": 5}
    return [Scene(person, fill=FRAMINGS[name], **same, **extra) for name, extra in shots]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="PNG or JPEG to write")
    parser.add_argument("--seed", type=int, default=7, help="decides the persons")
    parser.add_argument("--pixels", type=int, default=240, help="side of one picture")
    args = parser.parse_args(argv)
    rows = [
        np.hstack([render(scene, args.pixels, samples=2.0).image for scene in row]) for row in sheet_rows(args.seed)
    ]
    if args.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        print(f"{args.output} should end in .png or .jpg.", file=sys.stderr)
        return 2
    write_bytes_atomic(args.output, cv2.imencode(args.output.suffix, np.vstack(rows))[1].tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
