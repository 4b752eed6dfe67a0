"""Write a world of known truth: reference pictures and candidate sets with planted faults.

    python -m demo.make_world --output demo_world --seed 1
    python -m demo.make_world --output small --seed 1 --size 6 --pixels 256 --sets balanced overtrained

writes  OUTPUT/Reference_Images/*.png  OUTPUT/Lora_Candidates/<set>/*.png  a truth.json in each of these folders,
        OUTPUT/planted.txt: the table of what is planted where, which also goes to stdout, and, when all of it is
        there, OUTPUT/world.json: what it was made with
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from demo.parallel import render_all
from demo.render import Picture
from demo.sets import KINDS, PlantedSet, Shot, World, make_set, make_steps, make_world
from utils import options
from utils.console import EXIT_OK, UserError, run_script
from utils.defaults import PROJECT
from utils.files import reason_of, write_bytes_atomic, write_text_atomic
from utils.progress import GroupProgress

SMALLEST_SIZE, SMALLEST_PIXELS = 2, 64  # below that a set shows nothing and a head has no features
_RENDERER = (
    "backgrounds",
    "expressions",
    "hair",
    "head",
    "identity",
    "parts",
    "raster",
    "render",
    "scene",
    "sets",
    "shade",
    "skin",
)
_RENDERER += ("surfaces", "truth", "make_world")
REFERENCES, CANDIDATES, TRUTH, STAMP = "Reference_Images", "Lora_Candidates", "truth.json", "world.json"

_OURS = re.compile(rf"({REFERENCES}|{CANDIDATES}/[\w-]+)/(\d+\.png|{TRUTH.replace('.', chr(92) + '.')})")


@dataclass(frozen=True)
class Settings:
    """What decides every picture of a world."""

    seed: int = 1
    size: int = 12  # pictures in each candidate set; the reference has 4 more
    pixels: int = 384  # width and height of each picture
    sets: tuple[str, ...] = tuple(KINDS)
    severity: float | None = None  # 0 to 1 for all sets; None: each kind has its own
    steps: bool = True  # with the step series lora-000002 ... lora-000012


DEFAULT = Settings()


def write_shots(folder: Path, shots: Iterable[Shot], pictures: Iterable[Picture], head: dict) -> None:
    """Pictures first, then truth.json: a folder with a truth file is complete. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i, (shot, picture) in enumerate(zip(shots, pictures, strict=True)):
        name = f"{i:03d}.png"
        write_bytes_atomic(folder / name, cv2.imencode(".png", picture.image)[1].tobytes())
        entries.append({"file": name, "planted": shot.planted, "facts": shot.facts, **picture.truth.as_dict()})
    text = json.dumps({**head, "images": entries}, indent=1, ensure_ascii=False)
    write_text_atomic(folder / TRUTH, text + "\n")


def planted_rows(world: World, sets: list[PlantedSet]) -> list[tuple[str, ...]]:
    """Heading first: set, images, severity, planted pictures, the panel that should show it, what it is."""
    rows = [("set", "images", "severity", "planted", "look at", "what")]
    marked = [shot.planted for shot in world.reference if shot.planted]
    look_at = "Face Similarity, NearestSimilarity in the CSV"
    rows.append((REFERENCES, str(len(world.reference)), "-", _counts(marked), look_at, "the person"))
    for one in sets:
        marked = [shot.planted for shot in one.shots if shot.planted]
        rows.append((one.name, str(len(one.shots)), f"{one.severity:.2f}", _counts(marked), one.panel, one.note))
    return rows


def _counts(marked: list[str]) -> str:
    return ", ".join(f"{marked.count(m)} {m}" for m in dict.fromkeys(marked)) or "-"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def run(output: Path, settings: Settings = DEFAULT, workers: int | None = None) -> list[tuple[str, ...]]:
    """Render and write one world; `planted_rows` of it. Raises OSError, UserError."""
    world = make_world(settings.seed, reference_size=max(settings.size + 4, 8))
    sets = [make_set(world, kind, settings.size, settings.severity) for kind in settings.sets]
    if settings.steps:
        sets += make_steps(world, size=settings.size)
    folders = _folders(output, world, sets, {"seed": settings.seed, "pixels": settings.pixels})
    stamp = {"renderer": _renderer(), "world": asdict(settings), "planted": []}
    stamp["files"] = [
        (folder.relative_to(output) / name).as_posix()
        for folder, shots, _ in folders
        for name in [*(f"{i:03d}.png" for i in range(len(shots))), TRUTH]
    ]
    _begin(output, stamp)
    _write_folders(folders, settings.pixels, workers)
    rows = planted_rows(world, sets)
    write_text_atomic(output / "planted.txt", _aligned(rows) + "\n")
    _write_stamp(output, stamp | {"planted": rows})
    return rows


def _folders(
    output: Path, world: World, sets: list[PlantedSet], facts: dict
) -> list[tuple[Path, tuple[Shot, ...], dict]]:
    """(folder, its pictures, head of its truth.json)"""
    people = {"person": world.person, "stranger": world.stranger, "second_stranger": world.second_stranger}
    head = {"set": REFERENCES, "kind": "reference", "panel": "Face Similarity"} | facts
    head |= {name: who.as_dict() for name, who in people.items()}
    folders = [(output / REFERENCES, world.reference, head)]
    for one in sets:
        head = {"set": one.name, "kind": one.kind, "severity": one.severity, "panel": one.panel, "note": one.note}
        folders.append((output / CANDIDATES / one.name, one.shots, head | facts))
    return folders


def _write_folders(folders: list[tuple[Path, tuple[Shot, ...], dict]], pixels: int, workers: int | None) -> None:
    pictures = render_all([shot.scene for _, shots, _ in folders for shot in shots], pixels, workers)
    with GroupProgress() as progress:
        task = progress.add("Rendering", sum(len(shots) for _, shots, _ in folders))

        def counted(count: int) -> Iterable[Picture]:
            for _ in range(count):
                yield next(pictures)
                progress.step(task)

        for folder, shots, head in folders:
            write_shots(folder, shots, counted(len(shots)), head)


def _begin(output: Path, stamp: dict) -> None:
    """Mark `output` as a world's, and remove the files of an earlier one, as its stamp lists them.

    The stamp is written before the first picture, so that what an interrupted run leaves is known too. Raises UserError
    for a folder with files that no world was written to: they are somebody's own.
    """
    earlier = _read_stamp(output)
    own = [output / REFERENCES, output / CANDIDATES]
    if earlier is None and any(_has_files(folder) for folder in own):
        raise UserError(f"{output} holds files that are not a demo world's. Choose another folder.")
    if output.resolve() == PROJECT.resolve() or any(folder.is_symlink() for folder in own):
        raise UserError(f"{output} is where your own pictures belong. Choose another folder for a demo world.")
    for name in earlier["files"] if earlier else ():
        if _OURS.fullmatch(name):
            (output / name).unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    _write_stamp(output, stamp)


def _has_files(folder: Path) -> bool:
    return any(path.is_file() and not path.name.startswith(".") for path in folder.rglob("*"))


def _read_stamp(output: Path) -> dict | None:
    """What a world was made with; None for a folder without one, or with a file of that name that is not ours."""
    try:
        stamp = json.loads((output / STAMP).read_text(encoding="utf-8"))
        lists = [stamp["files"], *stamp["planted"]]
        texts = [text for each in lists for text in each]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    right = isinstance(stamp.get("world"), dict) and "renderer" in stamp
    return stamp if right and all(isinstance(text, str) for text in texts) else None


def _write_stamp(output: Path, stamp: dict) -> None:
    """`planted` is empty until the world is whole."""
    write_text_atomic(output / STAMP, json.dumps(stamp, indent=1) + "\n")


def _renderer() -> str:
    """Changes with what draws the pictures or decides what is planted: a world of an older renderer is made anew."""
    sources = [Path(__file__).with_name(f"{name}.py") for name in _RENDERER]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def find_or_make(output: Path) -> list[tuple[str, ...]]:
    """`planted_rows` of the default world in `output`, rendered unless it is there already. Raises UserError."""
    stamp = _read_stamp(output)
    if stamp and stamp["world"] != json.loads(json.dumps(asdict(DEFAULT))):
        raise UserError(f"{output} holds another world (seed {stamp['world'].get('seed')}). Choose another folder.")
    whole = stamp and stamp["planted"] and all((output / name).is_file() for name in stamp["files"])
    if whole and stamp["renderer"] == _renderer():
        return [tuple(row) for row in stamp["planted"]]
    try:
        return run(output)
    except OSError as error:
        raise UserError(f"The demo world cannot be written to {output}: {reason_of(error)}.") from error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser("python -m demo.make_world", __doc__)
    add = parser.add_argument
    add("--output", type=options.path, required=True, help="folder to write to; made when missing")
    add("--seed", type=options.seed, default=DEFAULT.seed, help="decides everything that is random")
    add(
        "--size",
        type=options.at_least(SMALLEST_SIZE),
        default=DEFAULT.size,
        help="pictures in each candidate set; the reference has 4 more",
    )
    add(
        "--pixels",
        type=options.at_least(SMALLEST_PIXELS),
        default=DEFAULT.pixels,
        help="width and height of each picture",
    )
    names = ", ".join(KINDS)
    add("--sets", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND", help=f"which sets: {names}")
    add("--severity", type=options.between(0, 1), help="for all sets; without it each kind has its own")
    add("--no-steps", action="store_true", help="leave out the step series lora-000002 ... lora-000012")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


def write_world(args: argparse.Namespace) -> int:
    """Exit code; the table goes to stdout. Raises UserError."""
    settings = Settings(args.seed, args.size, args.pixels, tuple(args.sets), args.severity, not args.no_steps)
    try:
        print(_aligned(run(args.output, settings)))
    except OSError as error:
        raise UserError(f"The world cannot be written to {args.output}: {reason_of(error)}.") from error
    return EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Exit code of the command."""
    args = parse_args(argv)
    return run_script(lambda: write_world(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
