"""Write a world of known truth: reference pictures and candidate sets with planted faults.

    python -m demo.make_world --output demo_world --seed 1
    python -m demo.make_world --output small --seed 1 --size 6 --pixels 256 --sets balanced overtrained

writes  OUTPUT/Reference_Images/*.png  OUTPUT/Lora_Candidates/<set>/*.png  a truth.json in each of these folders, and
        OUTPUT/planted.txt: the table of what is planted where, which also goes to stdout
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2

from demo.render import render
from demo.sets import KINDS, PlantedSet, Shot, World, make_set, make_steps, make_world
from utils.console import EXIT_OK, UserError, run_script
from utils.files import write_bytes_atomic, write_text_atomic
from utils.progress import GroupProgress

SMALLEST_SIZE, SMALLEST_PIXELS = 2, 64  # below that a set shows nothing and a head has no features


def write_shots(
    folder: Path, shots: tuple[Shot, ...], pixels: int, head: dict, on_picture: Callable[[], None] = lambda: None
) -> None:
    """Pictures first, then truth.json: a folder with a truth file is complete. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i, shot in enumerate(shots):
        picture = render(shot.scene, pixels)
        name = f"{i:03d}.png"
        write_bytes_atomic(folder / name, cv2.imencode(".png", picture.image)[1].tobytes())
        entries.append({"file": name, "planted": shot.planted, "facts": shot.facts, **picture.truth.as_dict()})
        on_picture()
    text = json.dumps({**head, "pixels": pixels, "images": entries}, indent=1, ensure_ascii=False)
    write_text_atomic(folder / "truth.json", text + "\n")


def planted_table(world: World, sets: list[PlantedSet]) -> str:
    """Name, size, severity, planted pictures, the panel that should show it."""
    rows = [("set", "images", "severity", "planted", "look at", "what")]
    marked = [shot.planted for shot in world.reference if shot.planted]
    look_at = "Face Similarity, NearestSimilarity in the CSV"
    rows.append(("Reference_Images", str(len(world.reference)), "-", _counts(marked), look_at, "the person"))
    for one in sets:
        marked = [shot.planted for shot in one.shots if shot.planted]
        rows.append((one.name, str(len(one.shots)), f"{one.severity:.2f}", _counts(marked), one.panel, one.note))
    widths = [max(len(row[k]) for row in rows) for k in range(6)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _counts(marked: list[str]) -> str:
    return ", ".join(f"{marked.count(m)} {m}" for m in dict.fromkeys(marked)) or "-"


def run(output: Path, seed: int, size: int, pixels: int, kinds: list[str], severity: float | None, steps: bool) -> str:
    """Render and write one world; the table of what is planted where. Raises OSError."""
    world = make_world(seed, reference_size=max(size + 4, 8))
    sets = [make_set(world, kind, size, severity) for kind in kinds]
    if steps:
        sets += make_steps(world, size=size)
    people = {"person": world.person, "stranger": world.stranger, "second_stranger": world.second_stranger}
    head = {"set": "Reference_Images", "kind": "reference", "panel": "Face Similarity", "seed": seed}
    head |= {name: who.as_dict() for name, who in people.items()}
    folders = [(output / "Reference_Images", world.reference, head)]
    for one in sets:
        head = {"set": one.name, "kind": one.kind, "severity": one.severity, "panel": one.panel, "note": one.note}
        folders.append((output / "Lora_Candidates" / one.name, one.shots, head | {"seed": seed}))
    with GroupProgress() as progress:
        for folder, shots, head in folders:
            task = progress.add(folder.name, len(shots))
            write_shots(folder, shots, pixels, head, partial(progress.step, task))
    table = planted_table(world, sets)
    write_text_atomic(output / "planted.txt", table + "\n")
    return table


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.make_world",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder to write to; made when missing")
    add("--seed", type=int, default=1, help="decides everything that is random")
    add("--size", type=int, default=12, help="pictures in each candidate set; the reference has 4 more")
    add("--pixels", type=int, default=384, help="width and height of each picture")
    names = ", ".join(KINDS)
    add("--sets", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND", help=f"which sets: {names}")
    add("--severity", type=float, help="0 to 1 for all sets; without it each kind has its own")
    add("--no-steps", action="store_true", help="leave out the step series lora-000002 ... lora-000012")
    add("--debug", action="store_true", help="show the traceback of an unexpected error")
    return parser.parse_args(argv)


def checked_run(args: argparse.Namespace) -> int:
    """Exit code; the table goes to stdout. Raises UserError for values that make no world."""
    for name, value, least in (
        ("size", args.size, SMALLEST_SIZE),
        ("pixels", args.pixels, SMALLEST_PIXELS),
        ("seed", args.seed, 0),
    ):
        if value < least:
            raise UserError(f"--{name} {value} is too small: at least {least}.")
    if args.severity is not None and not 0 <= args.severity <= 1:
        raise UserError(f"--severity {args.severity} is not between 0 and 1.")
    try:
        print(run(args.output, args.seed, args.size, args.pixels, args.sets, args.severity, not args.no_steps))
    except OSError as error:
        raise UserError(f"The world cannot be written to {args.output}: {error.strerror or error}.") from error
    return EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: checked_run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
