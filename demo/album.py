"""Write a photo album of known truth: several persons, group pictures, profiles, strangers who appear once.

    python -m demo.album --output album --persons 8 --photos 10 20 --seed 1
    python -m demo.album --output small --persons 3 --photos 4 6 --pixels 256

writes  OUTPUT/*.jpg, in an order that mixes the persons, and OUTPUT/truth.json: who is where in each picture

Among the persons are two siblings, and one who is photographed over thirty years.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from demo.identity import Identity, draw_identity
from demo.make_world import SMALLEST_PIXELS, TRUTH
from demo.parallel import render_all
from demo.render import Picture
from demo.scene import BACKGROUNDS, LIGHTS, Scene, draw_scene
from utils import options
from utils.console import EXIT_OK, UserError, run_script, show
from utils.files import reason_of, write_bytes_atomic, write_text_atomic
from utils.progress import GroupProgress

PROFILE_SHARE, GROUP_SHARE = 0.12, 0.18  # of the pictures; our choice, as in a family's album
PROFILE_DEG = (62.0, 85.0)
STRANGERS_EACH = 0.5  # strangers for each person
SIBLING_SHARE = 0.45  # how far a sibling's face lies towards an unrelated one
YEARS = 30.0  # between the first and the last photo of the one who is photographed over many years
GROUP_SIZES, GROUP_WIDTH = (2, 3, 4), 0.62  # persons in a group picture; width of each by the picture's height
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Shot:
    """One picture: who is in it from left to right, each as a scene of its own."""

    names: tuple[str, ...]
    scenes: tuple[Scene, ...]


@dataclass(frozen=True)
class Album:
    """`people` by name: p00 and p01 are siblings, the last one is seen over many years, s.. are strangers."""

    people: dict[str, Identity]
    shots: list[Shot]


def make_album(seed: int, persons: int, photos: tuple[int, int]) -> Album:
    """`photos`: fewest and most pictures of each person, group pictures not counted."""
    rng = np.random.default_rng([seed, 77])
    people = {f"p{i:02d}": draw_identity(rng) for i in range(persons)}
    if persons > 2:
        people["p01"] = _sibling(people["p00"], rng)
    known = list(people)
    shots = []
    for name in known:
        count = int(rng.integers(photos[0], photos[1] + 1))
        years = YEARS if name == known[-1] and persons > 3 else 0.0
        shots += [Shot((name,), (scene,)) for scene in _portraits(people[name], count, years, rng)]
    strangers = {f"s{i:02d}": draw_identity(rng) for i in range(round(persons * STRANGERS_EACH))}
    people |= strangers
    shots += [Shot((name,), (draw_scene(who, rng),)) for name, who in strangers.items()]
    groups = round(len(shots) * GROUP_SHARE) if persons > 1 else 0
    shots += [_group(people, known, rng) for _ in range(groups)]
    return Album(people, [shots[i] for i in rng.permutation(len(shots))])


def _sibling(who: Identity, rng: np.random.Generator) -> Identity:
    other = draw_identity(rng)
    return who.towards(other, SIBLING_SHARE).with_values(hair_style=other.hair_style, moles=other.moles)


def _portraits(who: Identity, count: int, years: float, rng: np.random.Generator) -> list[Scene]:
    scenes = []
    for i in range(count):
        scene = draw_scene(who, rng, glasses=str(rng.choice(["none", "clear"], p=[0.9, 0.1])))
        if rng.uniform() < PROFILE_SHARE:
            scene = replace(scene, yaw_deg=float(rng.choice([-1, 1]) * rng.uniform(*PROFILE_DEG)))
        if years:
            scene = replace(scene, age_years=round(20.0 + years * i / max(1, count - 1)))
        scenes.append(scene)
    return scenes


def _group(people: dict[str, Identity], known: list[str], rng: np.random.Generator) -> Shot:
    """Side by side, in one light and before one kind of background."""
    size = min(int(rng.choice(GROUP_SIZES)), len(known))
    names = tuple(str(name) for name in rng.choice(known, size, replace=False))
    light = LIGHTS[str(rng.choice(["studio", "daylight", "overcast", "lamp"]))]
    same = {"light": light, "background": str(rng.choice(BACKGROUNDS)), "background_seed": int(rng.integers(1 << 30))}
    return Shot(
        names, tuple(draw_scene(people[name], rng, fill=float(rng.uniform(0.36, 0.46)), **same) for name in names)
    )


def write_album(output: Path, album: Album, pixels: int, workers: int | None = None) -> None:
    """Pictures first, then truth.json: a folder with a truth file is complete. Raises OSError."""
    output.mkdir(parents=True, exist_ok=True)
    entries = []
    singles = [shot for shot in album.shots if len(shot.names) == 1]
    grouped = [shot for shot in album.shots if len(shot.names) > 1]
    with GroupProgress() as progress:
        task = progress.add("Rendering", len(album.shots))
        for shot, pictures in _rendered(singles, grouped, pixels, workers):
            number = album.shots.index(shot)
            name = f"{number:04d}.jpg"
            image = np.hstack([picture.image for picture in pictures])
            jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
            write_bytes_atomic(output / name, jpeg)
            entries.append({"file": name, "faces": _faces(shot, pictures)})
            progress.step(task)
    entries.sort(key=lambda entry: entry["file"])
    people = {name: who.as_dict() for name, who in album.people.items()}
    write_text_atomic(output / TRUTH, json.dumps({"people": people, "images": entries}, indent=1) + "\n")


def _rendered(
    singles: list[Shot], grouped: list[Shot], pixels: int, workers: int | None
) -> Iterator[tuple[Shot, list[Picture]]]:
    singles = sorted(singles, key=lambda shot: shot.names)  # the renderer is quicker where one person follows itself
    for shot, picture in zip(singles, render_all([one.scenes[0] for one in singles], pixels, workers), strict=True):
        yield shot, [picture]
    heads = render_all(
        [scene for one in grouped for scene in one.scenes], (round(pixels * GROUP_WIDTH), pixels), workers
    )
    for shot in grouped:
        yield shot, [next(heads) for _ in shot.scenes]


def _faces(shot: Shot, pictures: list[Picture]) -> list[dict]:
    """Who is where: boxes in pixels of the joined picture; null where the face is turned out of sight."""
    faces, left = [], 0
    for name, scene, picture in zip(shot.names, shot.scenes, pictures, strict=True):
        box = picture.truth.face_box_xyxy
        moved = None if box is None else [round(box[i] + (left if i % 2 == 0 else 0), 1) for i in range(4)]
        faces.append(
            {"person": name, "box_xyxy": moved, "yaw_deg": round(scene.yaw_deg, 1), "age": round(scene.age, 1)}
        )
        left += picture.image.shape[1]
    return faces


def run(args: argparse.Namespace) -> int:
    """Render one album. Raises UserError."""
    if args.photos[0] > args.photos[1]:
        raise UserError(
            f"--photos {args.photos[0]} {args.photos[1]}: the first number is the fewest, the second the most."
        )
    if args.output.exists() and any(args.output.iterdir()):
        raise UserError(f"{args.output} is not empty. Choose another folder for an album.")
    album = make_album(args.seed, args.persons, tuple(args.photos))
    try:
        write_album(args.output, album, args.pixels, args.workers)
    except OSError as error:
        raise UserError(f"The album cannot be written to {args.output}: {reason_of(error)}.") from error
    show(f"{len(album.shots)} pictures of {args.persons} persons and {len(album.people) - args.persons} strangers")
    return EXIT_OK


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m demo.album", __doc__)
    add = parser.add_argument
    add("--output", type=options.path, required=True, metavar="DIR", help="new folder for the pictures")
    add("--persons", type=options.count, default=8, metavar="N", help="persons who appear more than once")
    add("--photos", type=options.count, nargs=2, default=[10, 20], metavar=("FEWEST", "MOST"), help="of each person")
    add("--pixels", type=options.at_least(SMALLEST_PIXELS), default=320, metavar="N", help="height of the pictures")
    add("--seed", type=options.seed, default=1, metavar="N", help="decides everything")
    add("--workers", type=options.count, metavar="N", help="processes (default: one a core)")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
