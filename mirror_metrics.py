#!/usr/bin/env python3
"""Measure how well face LoRAs keep a person's identity: similarity, age, head pose, and copies of your photos.

    python mirror_metrics.py                                  # Reference_Images/ against Lora_Candidates/*/
    python mirror_metrics.py --reference DIR --candidates DIR --output DIR
    python mirror_metrics.py --holdout DIR                    # real photos that no LoRA was trained on
    python mirror_metrics.py --baseline DIR                   # images made without a LoRA, as the floor
    python mirror_metrics.py --demo                           # rendered heads with planted faults; needs no photos

reads   Reference_Images/*.jpg ...            real photos of one person (the ground truth)
        Reference_Images/holdout/*.jpg ...    photos that no LoRA was trained on (optional, as with --holdout)
        Lora_Candidates/<LoRA>/*.png ...      generated images, one folder for each LoRA or checkpoint (optional)
        Lora_Candidates/_baseline/*.png ...   images made without a LoRA (optional, as with --baseline)
writes  Dashboard_<time>.html  CopycatReport_<time>.html  Data_<time>.csv  Summary_<time>.json

Every picture's largest face is measured with an InsightFace model pack: ArcFace embedding, age, head angles. References
are scored against the centroid of the *other* references (leave-one-out), generated images against the centroid of all;
with --holdout everything is scored against the centroid of the held-out photos instead, which no training could copy.
Everything stays on this computer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.contracts import table as columns
from utils import options
from utils.console import EXIT_BELOW, EXIT_OK, UserError, print_table, run_script, say, show, show_json
from utils.defaults import (
    CACHE_FILE,
    DEMO_PACK,
    DEMO_WORLD,
    DETECTION_SIZE,
    IMAGE_EXTENSIONS,
    PACK,
    PROJECT,
)
from utils.files import Status, demand_writable, first_of, tell_ignored, timestamp, versions_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    import pandas as pd

    from mirror.contracts.summary import DatasetCheck, PackInfo, Summary
    from mirror.detectors.engines import Engine
    from mirror.faces.inputs import Folders, Inputs
    from mirror.faces.measurer import Picture


# Settings. Each is also an option of the command line, which wins.
PATH_REFERENCE = PROJECT / "Reference_Images"
PATH_CANDIDATES_ROOT = PROJECT / "Lora_Candidates"
EXTENSIONS = IMAGE_EXTENSIONS  # of pictures, upper or lower case; utils/defaults.py lists them

FEWEST_HELD_OUT = 5  # as the loop holds out at least

NOT_FOR_PEOPLE = "The demo pack was trained on rendered heads: its scores say nothing about photos of people."


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.faces.unchanged import still_right

    planted = point_at_demo(args) if args.demo else []  # a row for each fault in its pictures
    fingerprint = None if args.no_cache or args.require_gpu else fingerprint_for(args)
    known = still_right(args.output, fingerprint) if args.cache.is_file() else None
    return measure(args, fingerprint, planted) if known is None else finish_unchanged(args, known, planted)


def measure(args: argparse.Namespace, fingerprint: str | None, planted: list[tuple[str, ...]]) -> int:
    """A run in full, from folders to result files."""
    from mirror.dataset.keeping import demand_list_file
    from mirror.dataset.references import BESIDE, Photo, repeats_among
    from mirror.dataset.soundness import check
    from mirror.detectors.engines import choose_engine
    from mirror.faces.asked_pack import find_or_download
    from mirror.faces.cache import measurement_cache
    from mirror.faces.copies import add_copies
    from mirror.faces.identity_map import FEWEST_FACES_FOR_MAP, identity_map, import_for_map
    from mirror.faces.inputs import collect, split_by_prompts
    from mirror.faces.measurer import Measurer
    from mirror.faces.table import add_map, score_pictures, warnings_about
    from mirror.generation.origins import origins_of
    from mirror.report.files import PREVIEWED_PICTURES, PageFiles
    from mirror.report.results import write_results

    folders = folders_of(args)
    inputs = collect(folders)
    demand_writable(args.output, "--output takes another folder.")
    if args.export_keep:
        demand_list_file(args.export_keep)
    for warning in inputs.warnings:
        say(f"Note: {warning}")
    pack = find_or_download(args.pack, args.pack_url)
    say(f"Model pack {pack.name} in {pack.folder}. {pack.licence()}")
    if pack.name == DEMO_PACK:
        inputs.warnings.append(NOT_FOR_PEOPLE)
        say(f"Note: {NOT_FOR_PEOPLE}")
    seconds: dict[str, float] = {}
    count = len(inputs.references + inputs.held_out + inputs.candidates)
    with measurement_cache(args.cache, keeps=not args.no_cache) as cache:
        measurer = Measurer(
            pack,
            cache,
            args.device,
            args.det_size,
            args.max_megapixels,
            args.require_gpu,
            while_loading=import_for_map if count >= FEWEST_FACES_FOR_MAP else None,
            previews=count <= PREVIEWED_PICTURES,
            engine=choose_engine(args.engine, args.precision, args.device),
        )
        with timed(seconds, "measuring"):
            measurer.measure(inputs.references, BESIDE)
            _demand_a_face(inputs.references, "reference")
            if args.holdout is not None:
                measurer.measure(inputs.held_out)
                _demand_a_face(inputs.held_out, "held-out photo")
            measurer.measure(inputs.candidates)
            photos = [Photo.of(picture) for picture in inputs.references]
            dataset = check(photos, repeats_among(photos, cache))
        with timed(seconds, "prompts"):
            origins, problems = origins_of([picture.path for picture in inputs.candidates], cache)
            inputs.warnings += problems
            for picture, origin in zip(inputs.candidates, origins, strict=True):
                picture.origin = origin
            for sentence in split_by_prompts(inputs):
                say(f"Note: {sentence}")
                inputs.warnings.append(sentence)
        with timed(seconds, "map"):
            pack_info = measurer.pack_info()
            pictures = inputs.references + inputs.held_out + inputs.candidates
            table = score_pictures(pictures, pack_info, args.face)
            face_map, map_note = identity_map(pictures, int(args.map[0]), cache)
            add_map(table, face_map)
        with timed(seconds, "copies"):
            add_copies(table, pictures, cache)
        seconds["networks"] = measurer.load_seconds
        seconds["measuring"] -= measurer.load_seconds
    if args.holdout is not None:
        inputs.warnings.append("Similarity is to the centroid of the held-out photos, not of the references.")
        if sum(photo.measured for photo in inputs.held_out) < FEWEST_HELD_OUT:
            inputs.warnings.append(
                f"Fewer than {FEWEST_HELD_OUT} held-out photos: one odd photo moves every similarity."
            )
    for warning in warnings_about(table, args.device):
        say(f"Warning: {warning}")
        inputs.warnings.append(warning)
    summary = summarise(args, folders, inputs, table, pack_info, dataset, measurer.runs_on)
    failed = table[columns.STATUS].isin([Status.UNREADABLE, Status.ERROR]).any()
    may_go_better = failed or problems or measurer.runs_on.said  # next time, with the same files
    summary.fingerprint = None if may_go_better else fingerprint
    summary.seconds = {part: round(duration, 3) for part, duration in seconds.items()}
    write_results(args.output, table, PageFiles.of(pictures, args.output), face_map, map_note, summary)
    return finish(args, summary, planted)


def finish_unchanged(args: argparse.Namespace, summary: Summary, planted: list[tuple[str, ...]]) -> int:
    """A run that would make the results once more that lie in its folder already."""
    from mirror.dataset.keeping import demand_list_file

    if args.export_keep:
        demand_list_file(args.export_keep)
    for warning in summary.warnings:
        say(f"Note: {warning}")
    when = summary.created.replace("T", " ")
    say(f"Nothing has changed since {when}: these are the results of then. To make them anew, delete them.")
    return finish(args, summary, planted)


def finish(args: argparse.Namespace, summary: Summary, planted: list[tuple[str, ...]]) -> int:
    """What follows once result files are there: the list of photos, the talk, the exit code."""
    from mirror.dataset.keeping import write_keep

    if args.export_keep:
        write_keep(args.export_keep, summary.dataset)
    if planted:
        tell_planted(args, planted)
    tell(args, summary)
    return EXIT_OK if args.fail_below is None else gate(summary, args.fail_below)


def fingerprint_for(args: argparse.Namespace) -> str | None:
    """Of everything that the results of a run rest on; None where it has to measure, or to say what is wrong."""
    from mirror.faces.packs import PackError, find_pack
    from mirror.faces.unchanged import fingerprint_of

    try:
        pack = find_pack(args.pack)
    except PackError:
        return None
    if pack is None:  # to be downloaded
        return None
    beside = ("output", "cache", "json", "fail_below", "export_keep", "debug")  # they change no result
    options = {name: value for name, value in vars(args).items() if name not in beside}
    asked = [args.reference, args.candidates or Path(PATH_CANDIDATES_ROOT), args.holdout, args.baseline]
    program = [Path(__file__), PROJECT / "mirror", PROJECT / "utils"]
    folders = [Path(folder) for folder in [*asked, pack.folder] if folder]
    return fingerprint_of(options, folders, program, args.export_keep)


def gate(summary: Summary, limit: float) -> int:
    """EXIT_BELOW where the best group's median similarity is below `limit`, or where there is no best group."""
    best = next(answer for answer in summary.answers if answer.question == "best checkpoint")
    median = best.numbers.get("median")
    if median is not None and median >= limit:
        return EXIT_OK
    say(f"--fail-below {limit:g}: {best.text}")
    return EXIT_BELOW


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """How long a part of the run takes, into `seconds`."""
    started = time.monotonic()
    yield
    seconds[part] = time.monotonic() - started


def folders_of(args: argparse.Namespace) -> Folders:
    """Where pictures are to be found. Raises UserError for --candidates that are not there."""
    from mirror.faces.inputs import Folders, existing_folder, found_holdout

    default = Path(PATH_CANDIDATES_ROOT)  # may be missing: references alone are a full run
    if args.candidates is not None:
        candidates = existing_folder(args.candidates, "--candidates")
    else:
        candidates = default if default.is_dir() else None
    asked = args.candidates or default
    reference = Path(args.reference)
    if args.holdout is None:
        args.holdout = found_holdout(reference, EXTENSIONS)
    return Folders(
        reference,
        candidates,
        asked,
        holdout=args.holdout,
        recursive=args.recursive,
        extensions=EXTENSIONS,
        baseline=args.baseline,
    )


def point_at_demo(args: argparse.Namespace) -> list[tuple[str, ...]]:
    """Point `args` at the demo world, rendered first if need be; what is planted there. Raises UserError."""
    from demo.make_world import CANDIDATES, REFERENCES, find_or_make
    from mirror.faces.packs import demo_pack, missing_demo_pack

    own = {"--reference": args.reference != PATH_REFERENCE, "--candidates": args.candidates is not None}
    own["--holdout"], own["--baseline"] = args.holdout is not None, args.baseline is not None
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
    rows = [[group, what, panel] for group, *_, panel, what in planted[1:]]
    print_table("Planted in this world, and where to look for it", ["Group", "Planted", "Look at"], rows, numbers=False)


def summarise(
    args: argparse.Namespace,
    folders: Folders,
    inputs: Inputs,
    table: pd.DataFrame,
    pack: PackInfo,
    dataset: DatasetCheck,
    engine: Engine,
) -> Summary:
    """The run in numbers."""
    from importlib.metadata import version

    import cv2
    import numpy as np

    from mirror.contracts.summary import CANDIDATE, Summary
    from mirror.detectors.engines import OPENVINO
    from mirror.detectors.providers import onnxruntime_version
    from mirror.faces.answers import conclude
    from mirror.faces.finding import DETECTION_THRESHOLD, RESCUE_PADDING
    from mirror.faces.identity_map import MAP_SEED
    from mirror.faces.measurer import embeddings_of
    from mirror.faces.table import summarise_group
    from utils.files import readable

    root = folders.candidates
    pictures = inputs.references + inputs.held_out + inputs.candidates
    concluded = conclude(table, inputs.groups, embeddings_of(pictures), dataset)
    groups = [summarise_group(table, kind, name) for kind, name in inputs.groups]
    for group in groups:
        if group.type == CANDIDATE:
            group.verdicts = concluded.verdicts.get(group.name, [])
    return Summary(
        created=timestamp(),
        pack=pack,
        providers=dict(Counter(table.loc[table[columns.DET_SCORE].notna(), columns.PROVIDER])),
        versions=versions_of(
            "mirror_metrics",
            insightface=version("insightface"),
            onnxruntime=onnxruntime_version(),
            opencv=cv2.__version__,
            numpy=np.__version__,
            **({OPENVINO: version(OPENVINO)} if engine.name == OPENVINO else {}),
        ),
        settings={
            "device": args.device,
            "engine": engine.name,
            "precision": engine.precision,
            "det_size": args.det_size,
            "det_threshold": DETECTION_THRESHOLD,
            "rescue_padding": RESCUE_PADDING,
            "max_megapixels": args.max_megapixels,
            "recursive": args.recursive,
            "face": args.face,
            "map": args.map,
            "map_seed": MAP_SEED,
            "baseline": None if args.baseline is None else readable(str(args.baseline.resolve())),
            "holdout": None if args.holdout is None else readable(str(args.holdout.resolve())),
        },
        reference_folder=readable(str(Path(args.reference).resolve())),
        candidates_folder=readable(str(root.resolve())) if root else None,
        groups=groups,
        compared=concluded.compared,
        ranking=concluded.ranking,
        curves=concluded.curves,
        answers=concluded.answers,
        dataset=dataset,
        ignored_files=dict(inputs.ignored.most_common()),
        warnings=inputs.warnings,
        seconds={},
        results={},
    )


def tell(args: argparse.Namespace, summary: Summary) -> None:
    """The end of a run: the table and the paths on stdout, or the summary alone with --json."""
    from mirror.dataset.keeping import tell_check
    from mirror.report.words import tell_groups, tell_verdicts

    tell_ignored(summary.ignored_files)
    if args.json:
        show_json(summary.model_dump_json(indent=2))
        return
    tell_groups(summary, "held-out photos" if summary.settings["holdout"] else "references")
    tell_check(summary.dataset, args.export_keep)
    tell_verdicts(summary)
    providers = ", ".join(f"{name} ({count})" for name, count in summary.providers.items())
    show(f"Pack {summary.pack.identity}, measured by {providers}", summary.pack.licence)
    for kind, name in summary.results.items():
        show(f"{kind + ':':<11}{args.output / name}")


def _demand_a_face(pictures: list[Picture], what: str) -> None:
    if any(picture.measured for picture in pictures):
        return
    lines = [f"  {picture.filename}: {picture.status} ({picture.reason})" for picture in pictures]
    raise UserError(f"No face could be measured in any {what}, so there is nothing to compare with:", *first_of(lines))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "mirror_metrics.py",
        __doc__,
        "Exit codes: 0 done, 2 something to change (one sentence says what), 3 the best group is below --fail-below, "
        "1 our fault, 130 interrupted.",
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
        help="real photos that no LoRA was trained on; similarity is then measured to these, not to the references "
        "(default: the folder holdout among the references, if it is there)",
    )
    add(
        "--baseline",
        type=options.path,
        metavar="DIR",
        help="images of the same prompts made without a LoRA: the floor (default: a candidate folder named _baseline)",
    )
    add(
        "--fail-below",
        type=_similarity,
        metavar="SIMILARITY",
        help="exit code 3 where the median similarity of the best group is lower, for scripts",
    )
    add(
        "--export-keep",
        type=options.path,
        metavar="FILE",
        help="write the names of the reference photos that are good enough to train on, one a line",
    )
    add("--recursive", action="store_true", help="take in pictures of sub-folders too")
    add("--map", choices=("2d", "3d"), default="2d", help="dimensions of the identity map")
    add(
        "--demo",
        type=options.path,
        nargs="?",
        const=DEMO_WORLD,
        metavar="DIR",
        help="measure a demo set of rendered heads with known faults, rendered into DIR on first use, with the pack "
        f"that ships with this project; results go to DIR/Results (without DIR: {DEMO_WORLD.name} beside this script)",
    )
    add("--json", action="store_true", help="print the summary as JSON to stdout, and nothing else there")
    _add_measuring(parser)
    return parser.parse_args(argv)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    measuring = parser.add_argument_group("measuring and machine")
    add = measuring.add_argument
    add(
        "--face",
        choices=("largest", "nearest"),
        default="largest",
        help="which face of a generated picture with several people is measured: the largest one, or the one most like "
        "the references (of references it is always the largest)",
    )
    add(
        "--pack",
        default=PACK,
        metavar="NAME|DIR",
        help="InsightFace model pack, by name or folder; scores from different packs cannot be compared",
    )
    add(
        "--pack-url",
        metavar="URL",
        help="where to download the pack from if it is not here (default: InsightFace's release page)",
    )
    options.add_face_device(measuring)
    options.add_engine(measuring)
    add("--require-gpu", action="store_true", help="stop unless the networks really run on CUDA")
    add(
        "--det-size",
        type=_detection_size,
        default=DETECTION_SIZE,
        metavar="PIXELS",
        help="side of the detector's input, a multiple of 32",
    )
    options.add_max_megapixels(measuring)
    options.add_cache(measuring)
    options.add_debug_and_version(measuring)


_similarity = options.number("a similarity between -1 and 1", lambda value: -1 <= value <= 1)
_detection_size = options.number(
    "a multiple of 32 between 64 and 4096", lambda value: 64 <= value <= 4096 and value % 32 == 0, whole=True
)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
