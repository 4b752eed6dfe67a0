#!/usr/bin/env python3
"""MirrorMetrics: how alike, how old, how turned and how free are the faces that a LoRA makes?

    python mirror_metrics.py                                  # Reference_Images/ against Lora_Candidates/*/
    python mirror_metrics.py --reference DIR --candidates DIR --output DIR
    python mirror_metrics.py --holdout DIR                    # real photos that no LoRA was trained on
    python mirror_metrics.py --demo                           # rendered heads with planted faults; needs no photos

reads   Reference_Images/*.jpg ...            real photos of one person (the ground truth)
        Lora_Candidates/<LoRA>/*.png ...      generated images, one folder for each LoRA or checkpoint (optional)
writes  Dashboard_<time>.html  CopycatReport_<time>.html  Data_<time>.csv  Summary_<time>.json

Every picture's largest face is measured with an InsightFace model pack: ArcFace embedding, age, head angles. References
are scored against the centroid of the *other* references (leave-one-out), generated images against the centroid of all;
with --holdout everything is scored against the centroid of the held-out photos instead, which no training could copy.
Everything stays on this computer.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mirror.contracts import table as columns
from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show, show_json
from utils.defaults import (
    CACHE_FILE,
    DEMO_PACK,
    DEMO_WORLD,
    DETECTION_SIZE,
    IMAGE_EXTENSIONS,
    PACK,
    PROJECT,
    VERSION,
)

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    import numpy as np
    import pandas as pd

    from mirror.contracts.summary import GroupSummary, PackInfo, Summary
    from mirror.faces.cache import FaceCache
    from mirror.faces.measurer import Picture
    from mirror.faces.packs import Pack

Listed = TypeVar("Listed")

# Settings. Each is also an option of the command line, which wins.
PATH_REFERENCE = PROJECT / "Reference_Images"
PATH_CANDIDATES_ROOT = PROJECT / "Lora_Candidates"
EXTENSIONS = IMAGE_EXTENSIONS  # jpg, jpeg, png, webp, bmp; upper or lower case

SAME_PICTURE = 0.9999  # similarity that only the very same picture reaches
FEWEST_FACES_FOR_MAP = 5  # below that t-SNE has no neighbourhoods to keep
MAP_SEED = 42
LOOSE = "(no folder)"  # group of pictures that lie beside the LoRA folders
NOT_FOR_PEOPLE = "The demo pack was trained on rendered heads: its scores say nothing about photos of people."


@dataclass
class Inputs:
    """Everything found in the folders."""

    references: list[Picture]
    candidates: list[Picture]
    groups: list[tuple[str, str]]  # (type, name), empty folders included
    held_out: list[Picture] = field(default_factory=list)  # real photos that no LoRA was trained on
    ignored: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def collect(args: argparse.Namespace) -> Inputs:
    """List references and candidates. Raises UserError where there is nothing to do."""
    from mirror.contracts.summary import CANDIDATE, HELD_OUT, REFERENCE
    from utils.files import readable
    from utils.images import iter_subfolders

    reference = _folder(Path(args.reference), "--reference")
    inputs = Inputs([], [], [(REFERENCE, REFERENCE)])
    inputs.references = _pictures(inputs, REFERENCE, REFERENCE, reference, args.recursive)
    if args.holdout is not None:
        inputs.groups.append((REFERENCE, HELD_OUT))
        inputs.held_out = _pictures(inputs, REFERENCE, HELD_OUT, _folder(args.holdout, "--holdout"), args.recursive)
    root = _candidates_root(args)
    if root is not None:
        loose = _pictures(inputs, CANDIDATE, LOOSE, root, recursive=False)
        names = {LOOSE} if loose else set()
        inputs.groups += [(CANDIDATE, name) for name in names]
        inputs.candidates += loose
        for folder in _opened(root, lambda: list(iter_subfolders(root))):
            name = _not_yet(readable(folder.name), names)
            inputs.groups.append((CANDIDATE, name))
            try:
                found = _pictures(inputs, CANDIDATE, name, folder, args.recursive)
            except UserError as error:  # one group that cannot be opened must not stop the others
                found = []
                inputs.warnings.append(str(error))
            else:
                inputs.warnings += [] if found else [f"{folder} holds no pictures."]
            inputs.candidates += found
    inputs.warnings += _simulated(inputs)
    inputs.warnings = [readable(warning) for warning in inputs.warnings]
    if not inputs.references:
        raise UserError(*_what_to_put_where(args, bool(inputs.candidates)))
    return inputs


def _pictures(inputs: Inputs, kind: str, group: str, folder: Path, recursive: bool) -> list[Picture]:
    """Pictures of one group; what was passed over goes into `inputs`. Raises UserError."""
    from mirror.faces.measurer import Picture
    from utils.files import readable
    from utils.images import holds_pictures, list_images

    listing = _opened(folder, lambda: list_images(folder, recursive, EXTENSIONS))
    inputs.ignored.update(listing.ignored)
    inputs.warnings += listing.problems
    left_out = [sub for sub in listing.subfolders if group != LOOSE and holds_pictures(sub, EXTENSIONS)]
    if left_out:
        sentence = f"{folder}: {len(left_out)} sub-folder(s) with pictures were left out; --recursive takes them in."
        inputs.warnings.append(sentence)
    names: set[str] = set()
    return [
        Picture(kind, group, _not_yet(readable(path.relative_to(folder).as_posix()), names), path)
        for path in listing.images
    ]


def _simulated(inputs: Inputs) -> list[str]:
    """What generators say of groups that they only simulated."""
    from utils.simulation import said_of

    folders = {picture.path.parent: picture.group for picture in inputs.candidates}
    said = {group: words for folder, group in folders.items() if (words := said_of(folder))}
    return [
        f"The images of {', '.join(group for group in said if said[group] == words)} are {words}."
        for words in dict.fromkeys(said.values())
    ]


def _opened(folder: Path, look: Callable[[], Listed]) -> Listed:
    """`look()`, with a folder that cannot be opened told as a UserError."""
    try:
        return look()
    except OSError as error:
        raise UserError(f"{folder} cannot be opened: {error.strerror or error}.") from error


def _not_yet(name: str, names: set[str]) -> str:
    """`name`, or with a number behind it where `names` has it already; added to `names`."""
    unique, number = name, 1
    while unique in names:
        number += 1
        unique = f"{name} ({number})"
    names.add(unique)
    return unique


def _folder(path: Path, option: str) -> Path:
    if path.is_dir():
        return path
    found = "is a file, not a folder" if path.exists() else "does not exist"
    raise UserError(f"{path} {found}. {option} takes the folder that holds the pictures.")


def _candidates_root(args: argparse.Namespace) -> Path | None:
    if args.candidates is None:  # the default folder may be missing: references alone are a full run
        return Path(PATH_CANDIDATES_ROOT) if Path(PATH_CANDIDATES_ROOT).is_dir() else None
    return _folder(args.candidates, "--candidates")


def _what_to_put_where(args: argparse.Namespace, has_candidates: bool) -> tuple[str, ...]:
    suffixes = ", ".join(EXTENSIONS)
    root = args.candidates or PATH_CANDIDATES_ROOT
    without_photos = "There are generated images, but no real photos to compare them with."
    return (
        without_photos if has_candidates else "There are no pictures yet.",
        f"  Put real photos of the person ({suffixes}) into  {args.reference}",
        f"  and, if you have them, generated images into     {root}{os.sep}<one folder for each LoRA>",
        "  then run the same command again. Photos alone are enough for a check of the dataset before training.",
        "  To see it at work without photos: --demo",
    )


def prepare_demo(args: argparse.Namespace) -> list[tuple[str, ...]]:
    """Point `args` at the demo world, rendered first if need be; what is planted there. Raises UserError."""
    from demo.make_world import CANDIDATES, REFERENCES, find_or_make
    from mirror.faces.packs import demo_pack, missing_demo_pack

    own = {"--reference": args.reference != PATH_REFERENCE, "--candidates": args.candidates is not None}
    own["--holdout"] = args.holdout is not None
    own["--pack"] = args.pack not in (PACK, DEMO_PACK)
    if any(own.values()):
        chosen = ", ".join(option for option, given in own.items() if given)
        raise UserError(f"--demo brings its own pictures and its own model pack; leave out {chosen}.")
    pack = demo_pack()
    if pack is None:  # said before anything is rendered
        raise UserError(missing_demo_pack())
    args.pack = str(pack.folder)
    planted = find_or_make(args.demo)
    args.reference, args.candidates = args.demo / REFERENCES, args.demo / CANDIDATES
    if args.output == Path("."):
        args.output = args.demo / "Results"
    if args.cache == CACHE_FILE:
        args.cache = args.demo / CACHE_FILE.name
    return planted


def tell_planted(args: argparse.Namespace, planted: list[tuple[str, ...]]) -> None:
    """What was planted where, and where the pages show it; not into --json."""
    if args.json:
        return
    rows = [[name, what, panel] for name, _, _, _, panel, what in planted[1:]]
    print_table("Planted in this world, and where to look for it", ["Group", "Planted", "Look at"], rows, numbers=False)


def find_or_download(args: argparse.Namespace) -> Pack:
    """The pack that was asked for, fetched once if need be. Raises UserError: no other pack ever takes its place."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from mirror.faces.packs import DOWNLOAD_URL, download_pack, find_pack, missing_demo_pack
    from utils.console import talk

    pack = find_pack(args.pack)
    if pack is not None:
        return pack
    if args.pack == DEMO_PACK:
        raise UserError(missing_demo_pack())
    url = args.pack_url or DOWNLOAD_URL.format(name=args.pack)
    say(f"The model pack {args.pack} is not here yet; downloading it once from {url}")
    columns = (
        TextColumn(args.pack, markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=talk()) as bar:
        task = bar.add_task("", total=None)
        return download_pack(args.pack, url, lambda done, total: bar.update(task, completed=done, total=total))


def identity_map(pictures: list[Picture], dimensions: int, cache: FaceCache) -> tuple[np.ndarray | None, str]:
    """t-SNE coordinates (len(pictures), dimensions), NaN without a face; or None and the reason in a sentence."""
    import hashlib

    import numpy as np

    from mirror.faces.metrics import safe_perplexity

    rows = [i for i, p in enumerate(pictures) if p.measured]
    if len(rows) < FEWEST_FACES_FOR_MAP:
        return None, f"The map needs at least {FEWEST_FACES_FOR_MAP} faces; here are {len(rows)}."
    embeddings = np.stack([pictures[i].face.embedding for i in rows])
    key = f"tsne{dimensions}-{MAP_SEED}-" + hashlib.sha256(embeddings.tobytes()).hexdigest()
    kept = cache.get_blob("map", key)
    if kept is None:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        # cosine: for unit vectors the angle between faces, which is what ArcFace is trained on
        tsne = TSNE(
            dimensions, perplexity=safe_perplexity(len(rows)), init="random", metric="cosine", random_state=MAP_SEED
        )
        with threadpool_limits(1):  # its threads wait in a spin at every step, which is slower on a busy machine
            kept = tsne.fit_transform(embeddings).astype("<f4").tobytes()
        cache.put_blob("map", key, kept)
    coordinates = np.full((len(pictures), dimensions), np.nan)
    coordinates[rows] = np.frombuffer(kept, dtype="<f4").reshape(-1, dimensions)
    return coordinates, ""


def import_for_later() -> None:
    """What every run with new faces needs at its end, and what takes a second to import."""
    import pandas  # noqa: F401
    import sklearn.manifold  # noqa: F401


def summarise(args: argparse.Namespace, inputs: Inputs, table: pd.DataFrame, pack: PackInfo) -> Summary:
    """The run in numbers."""
    from importlib.metadata import version

    import cv2
    import numpy as np

    from mirror.contracts.summary import Summary
    from mirror.faces.engine import DETECTION_THRESHOLD, RESCUE_PADDING
    from mirror.faces.table import summarise_group
    from utils.files import readable

    root = _candidates_root(args)
    return Summary(
        created=time.strftime("%Y-%m-%dT%H:%M:%S"),
        pack=pack,
        providers=dict(Counter(table.loc[table[columns.DET_SCORE].notna(), columns.PROVIDER])),
        versions={
            "mirror_metrics": VERSION,
            "python": sys.version.split()[0],
            "insightface": version("insightface"),
            "onnxruntime": _onnxruntime_version(),
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        },
        settings={
            "device": args.device,
            "det_size": args.det_size,
            "det_threshold": DETECTION_THRESHOLD,
            "rescue_padding": RESCUE_PADDING,
            "max_megapixels": args.max_megapixels,
            "recursive": args.recursive,
            "map": args.map,
            "map_seed": MAP_SEED,
            "holdout": None if args.holdout is None else readable(str(args.holdout.resolve())),
        },
        reference_folder=readable(str(Path(args.reference).resolve())),
        candidates_folder=readable(str(root.resolve())) if root else None,
        groups=[summarise_group(table, kind, name) for kind, name in inputs.groups],
        ignored_files=dict(inputs.ignored.most_common()),
        warnings=inputs.warnings,
        seconds={},
        results={},
    )


def _onnxruntime_version() -> str:
    """Of the distribution that holds the code: with a GPU, `onnxruntime` is only a marker (see requirements/)."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime"):
        try:
            return f"{version(name)} ({name})"
        except PackageNotFoundError:
            continue
    return "unknown"


def tell(args: argparse.Namespace, inputs: Inputs, summary: Summary) -> None:
    """The end of a run: the table and the paths on stdout, or the summary alone with --json."""
    from mirror.contracts.summary import group_label

    if inputs.ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in inputs.ignored.most_common())
        say(f"Passed over files that are no pictures: {kinds}.")
    if args.json:
        show_json(summary.model_dump_json(indent=2))
        return
    rows = [
        [
            group_label(group.type, group.name),
            *map(str, (group.images, group.faces, group.failed)),
            *_similarity_of(group),
        ]
        for group in summary.groups
    ]
    columns = ["Group", "Images", "Faces", "Failed", "Median similarity", "95 % interval", "Q1", "Q3"]
    standard = "held-out photos" if args.holdout else "references"
    print_table(
        f"Similarity to the {standard} (which are scored leave-one-out)",
        columns,
        rows,
        fold=("Q3", "Q1", "Images", "95 % interval"),
        elsewhere="The summary has them.",
    )
    providers = ", ".join(f"{name} ({count})" for name, count in summary.providers.items())
    show(f"Pack {summary.pack.identity}, measured by {providers}", summary.pack.licence)
    for kind, name in summary.results.items():
        show(f"{kind + ':':<11}{args.output / name}")


def _similarity_of(group: GroupSummary) -> list[str]:
    """Median, its interval, first and third quartile."""
    spread, interval = group.similarity, group.similarity_interval
    numbers = ["-" if value is None else f"{value:.3f}" for value in (spread.median, spread.q1, spread.q3)]
    return [numbers[0], "-" if interval is None else f"{interval[0]:.3f} - {interval[1]:.3f}", *numbers[1:]]


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.faces.cache import open_cache
    from mirror.faces.measurer import Measurer
    from mirror.faces.table import score_pictures
    from mirror.report.results import write_results

    planted = prepare_demo(args) if args.demo else []
    inputs = collect(args)
    _check_output(args.output)
    for warning in inputs.warnings:
        say(f"Note: {warning}")
    pack = find_or_download(args)
    say(f"Model pack {pack.name} in {pack.folder}. {pack.licence()}")
    if pack.name == DEMO_PACK:
        inputs.warnings.append(NOT_FOR_PEOPLE)
        say(f"Note: {NOT_FOR_PEOPLE}")
    cache = open_cache(None if args.no_cache else args.cache)
    if cache.message:
        say(f"Note: {cache.message}")
    try:
        measurer = Measurer(
            pack, cache, args.device, args.det_size, args.max_megapixels, args.require_gpu, meanwhile=import_for_later
        )
        started = time.monotonic()
        measurer.measure(inputs.references)
        _demand_a_face(inputs.references, "reference")
        if args.holdout is not None:
            measurer.measure(inputs.held_out)
            _demand_a_face(inputs.held_out, "held-out photo")
        measurer.measure(inputs.candidates)
        measured = time.monotonic()
        pack_info = measurer.pack_info()
        pictures = inputs.references + inputs.held_out + inputs.candidates
        table = score_pictures(pictures, pack_info)
        face_map, map_note = identity_map(pictures, int(args.map[0]), cache)
        mapped = time.monotonic()
    except KeyboardInterrupt:
        if cache.keeps:
            say("What was measured so far is kept; the same command goes on from there.")
        raise
    finally:
        cache.close()
    if args.holdout is not None:
        inputs.warnings.append("Similarity is to the centroid of the held-out photos, not of the references.")
    inputs.warnings += _doubts(args, table)
    summary = summarise(args, inputs, table, pack_info)
    summary.seconds = {
        "networks": round(measurer.load_seconds, 3),
        "measuring": round(measured - started - measurer.load_seconds, 3),
        "map": round(mapped - measured, 3),
    }
    thumbnails = [picture.thumbnail for picture in pictures]
    write_results(args.output, table, thumbnails, face_map, map_note, summary)
    if planted:
        tell_planted(args, planted)
    tell(args, inputs, summary)
    return EXIT_OK


def _doubts(args: argparse.Namespace, table: pd.DataFrame) -> list[str]:
    """What makes the numbers mean less than they seem to; said now and in the results."""
    from mirror.contracts.summary import CANDIDATE, HELD_OUT, REFERENCE
    from mirror.faces.measurer import CUDA, GPU_ADVICE

    doubts = []
    held_out = table[(table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == HELD_OUT)]
    known = int((held_out[columns.NEAREST_SIMILARITY] > SAME_PICTURE).sum())
    if known:
        doubts.append(
            f"{known} held-out photo(s) are references too: what was trained on tells nothing about likeness."
        )
    providers = set(table[columns.PROVIDER].dropna())
    if args.device == "cuda" and providers - {CUDA}:
        doubts.append(f"--device cuda was asked for, but {', '.join(providers - {CUDA})} measured. {GPU_ADVICE}")
    same = table[(table[columns.TYPE] == CANDIDATE) & (table[columns.NEAREST_SIMILARITY] > SAME_PICTURE)]
    for group, number in same[columns.GROUP].value_counts(sort=False).items():
        doubts.append(f"{group}: {number} picture(s) are references themselves; they say nothing about a LoRA.")
    for doubt in doubts:
        say(f"Warning: {doubt}")
    return doubts


def _check_output(folder: Path) -> None:
    """Find out before the work, not after it, that results cannot be written. Raises UserError."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Results cannot be written to {folder}: {reason}. --output takes another folder.") from error


def _demand_a_face(pictures: list[Picture], what: str) -> None:
    if any(picture.measured for picture in pictures):
        return
    lines = [f"  {picture.filename}: {picture.status} ({picture.reason})" for picture in pictures[:20]]
    lines += [f"  and {len(pictures) - 20} more"] if len(pictures) > 20 else []
    raise UserError(f"No face could be measured in any {what}, so there is nothing to compare with:", *lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "mirror_metrics.py",
        __doc__,
        "Exit codes: 0 done, 2 something to change (one sentence says what), 1 our fault, 130 interrupted.",
    )
    add = parser.add_argument
    add("--reference", type=options.path, default=PATH_REFERENCE, metavar="DIR", help="real photos of the person")
    add(
        "--candidates",
        type=options.path,
        metavar="DIR",
        help=f"one sub-folder of generated images for each LoRA (default: {PATH_CANDIDATES_ROOT}, if it is there)",
    )
    add(
        "--output",
        type=options.path,
        default=Path("."),
        metavar="DIR",
        help="folder for the result files; . is the current one",
    )
    add(
        "--holdout",
        type=options.path,
        metavar="DIR",
        help="real photos that no LoRA was trained on; similarity is then to their centroid, not to the references'",
    )
    add("--recursive", action="store_true", help="take in pictures of sub-folders too")
    add(
        "--pack",
        default=PACK,
        metavar="NAME|DIR",
        help="InsightFace model pack, by name or folder; scores of different packs do not mix",
    )
    add(
        "--pack-url",
        metavar="URL",
        help="where to download the pack from if it is not here (default: InsightFace's release page)",
    )
    options.add_device(parser, "auto takes an NVIDIA GPU if onnxruntime has one")
    add("--require-gpu", action="store_true", help="stop unless the networks really run on CUDA")
    add(
        "--det-size",
        type=_detection_size,
        default=DETECTION_SIZE,
        metavar="PIXELS",
        help="side of the detector's input, a multiple of 32",
    )
    options.add_max_megapixels(parser)
    add(
        "--demo",
        type=options.path,
        nargs="?",
        const=DEMO_WORLD,
        metavar="DIR",
        help="render a world of heads with planted faults into DIR, or find it there, and measure it with the pack "
        f"that ships with this project; results go to DIR/Results (without DIR: {DEMO_WORLD.name} beside this script)",
    )
    add("--map", choices=("2d", "3d"), default="2d", help="dimensions of the identity map")
    options.add_cache(parser)
    add("--json", action="store_true", help="print the summary as JSON to stdout, and nothing else there")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


_detection_size = options.number(
    "a multiple of 32 between 64 and 4096", lambda value: 64 <= value <= 4096 and value % 32 == 0, whole=True
)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
