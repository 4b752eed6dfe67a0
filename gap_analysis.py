#!/usr/bin/env python3
"""What does a dataset for a face LoRA lack? Counts angles, hands, light ..., and compares them with goals.

    python gap_analysis.py DATASET
    python gap_analysis.py DATASET --models-dir models --output gaps.json

reads   DATASET/*.jpg ...      pictures of one person
        models/                detectors: yolov5l-face.pt, hand_yolov8n.pt, eyes_yolov.pt, each optional; an InsightFace
                               pack here or in ~/.insightface/models takes the place of the first
writes  gaps.json              what is missing, for generate_synthetic.py and validate_synthetic.py
        gaps.html              the same as a page to look at

What no sensor could measure is reported as not measured, never as 0 %. Everything stays on this computer.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show, show_json
from utils.defaults import (
    BOOTSTRAP_REQUIREMENTS,
    HARD_SYNTHETIC_SHARE,
    IMAGE_EXTENSIONS,
    MAX_SYNTHETIC_SHARE,
    SYNTHETIC_PREFIX,
)
from utils.files import demand_writable, disk_errors_as, first_of, some_of, tell_ignored, timestamp, versions_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.contract import Spread
    from mirror.contracts.gaps import (
        Distribution,
        GapReport,
        ImageRecord,
        NearDuplicate,
        NotMeasured,
        Recommendation,
    )
    from mirror.dataset.examiner import ExaminedPicture
    from mirror.dataset.gaps import GapType
    from mirror.dataset.sensors import Sensors

# Settings. Each is also an option of the command line, which wins.
OUTPUT = Path("gaps.json")


def add_recommendations(image_paths: list[str], models_dir: Path, recommendations: list[dict]) -> None:
    """The place for gaps of your own: look at the pictures, and append what is missing to `recommendations`.

    An entry has `type`, `target`, `count` and `reason`; one of a type and target that is there already takes its place.
    Its prompts come from a table in generate_synthetic.py; docs/gap-analysis.md has an example.
    """


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.dataset.examiner import Examiner
    from mirror.dataset.sensors import find_sensors, sensor_choice
    from mirror.faces.cache import measurement_cache
    from utils.files import readable

    types = gap_types(args)
    dataset = collect(args)
    dataset.warnings += [readable(args.note)] if args.note else []
    _check_output(args.output)
    for warning in dataset.warnings:
        say(f"Note: {warning}")
    with measurement_cache(args.cache, keeps=not args.no_cache) as cache:
        sensors = find_sensors(sensor_choice(args), cache, "analysed")
        Examiner(sensors, sensors.told(types), cache, args.max_megapixels).examine(dataset.pictures)
    _demand_a_picture(dataset.pictures)
    report = analyse(args, dataset, types, sensors)
    for warning in warnings_about(report):
        say(f"Warning: {warning}")
        report.warnings.append(warning)
    page = write_results(args.output, report, dataset.pictures)
    tell(args, report, page)
    return EXIT_OK


@dataclass
class Dataset:
    """What the folder holds."""

    folder: Path
    pictures: list[ExaminedPicture]
    ignored: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def collect(args: argparse.Namespace) -> Dataset:
    """List the pictures. Raises UserError where there are none."""
    from mirror.dataset.examiner import ExaminedPicture
    from utils.files import readable
    from utils.images import demand_folder, holds_pictures, list_images

    folder = demand_folder(args.dataset, "gap_analysis.py takes the folder that holds the dataset's pictures.")
    listing = list_images(folder, args.recursive)
    names = [readable(path.relative_to(folder).as_posix()) for path in listing.images]
    dataset = Dataset(folder, [ExaminedPicture(name, path) for name, path in zip(names, listing.images, strict=True)])
    dataset.ignored = listing.ignored
    dataset.warnings = [readable(problem) for problem in listing.problems]
    left_out = [] if args.recursive else [sub for sub in listing.subfolders if holds_pictures(sub)]
    hint = f"{len(left_out)} sub-folder(s) with pictures were left out; --recursive takes them in."
    if not dataset.pictures:
        raise UserError(
            f"{folder} holds no pictures ({', '.join(IMAGE_EXTENSIONS)})." + (f" {hint}" if left_out else "")
        )
    dataset.warnings += [readable(f"{folder}: {hint}")] if left_out else []
    return dataset


def gap_types(args: argparse.Namespace) -> Mapping[str, GapType]:
    """The registered types, with the goals of --goals."""
    from mirror.dataset.gaps import GAP_TYPES
    from mirror.dataset.goals import load_goals

    return GAP_TYPES if args.goals is None else load_goals(args.goals, GAP_TYPES)


def analyse(args: argparse.Namespace, dataset: Dataset, types: Mapping[str, GapType], sensors: Sensors) -> GapReport:
    """What was seen, in shares; what is missing, in images."""
    import cv2
    import numpy as np

    from mirror.contracts.gaps import GapReport, providers_of
    from mirror.dataset.gaps import distribution, recommend, synthetic_room
    from utils.files import readable

    records = [picture.record for picture in dataset.pictures]
    seen = [record for record in records if record.size_wh is not None]
    told = sensors.told(types)
    distributions = [distribution(gap, [record.values.get(gap.name) for record in seen]) for gap in told.values()]
    synthetic = sum(record.file.rpartition("/")[2].startswith(SYNTHETIC_PREFIX) for record in seen)
    room = synthetic_room(len(seen), synthetic, args.max_synthetic_share)
    return GapReport(
        created=timestamp(),
        dataset=readable(str(dataset.folder.resolve())),
        recommendations=with_own(args, dataset, recommend(distributions, room, args.max_synthetic_share)),
        distributions=distributions,
        not_measured=_not_measured(args, types, distributions, sensors),
        sensors=sensors.info,
        settings=_settings(args),
        versions=versions_of("gap_analysis", opencv=cv2.__version__, numpy=np.__version__),
        providers=providers_of(record.measured_by for record in records),
        synthetic_images=synthetic,
        synthetic_room=room,
        sharpness=_spread([record.sharpness for record in seen]),
        brightness=_spread([record.brightness for record in seen]),
        near_duplicates=_near_duplicates(seen),
        ignored_files=dict(dataset.ignored.most_common()),
        warnings=dataset.warnings,
        images=records,
    )


def with_own(args: argparse.Namespace, dataset: Dataset, found: list[Recommendation]) -> list[Recommendation]:
    """What was found, and what `add_recommendations` adds. Raises UserError for an entry that says too little."""
    from mirror.contracts.gaps import own_recommendations

    entries = [gap.model_dump() for gap in found]
    readable_ones = [one.path for one in dataset.pictures if one.record.size_wh is not None]
    add_recommendations([str(path) for path in readable_ones], args.models_dir, entries)
    return own_recommendations(entries, "add_recommendations in gap_analysis.py")


def _not_measured(
    args: argparse.Namespace, types: Mapping[str, GapType], distributions: list[Distribution], sensors: Sensors
) -> list[NotMeasured]:
    """Every type that could be measured in no picture, and targets that the expression model does not tell; why."""
    from mirror.contracts.gaps import NotMeasured
    from mirror.dataset.gaps import ANGLE, EXPRESSION, EYES, HANDS
    from mirror.dataset.sensors import no_expression_model
    from mirror.detectors.detectors import EYE, HAND
    from utils.defaults import DETECTOR_FILES

    def no_detector(kind: str, name: str | None) -> str:
        return f"there is no {kind} detector: put {name or DETECTOR_FILES[kind]} into {args.models_dir}"

    why = {
        ANGLE: "no face was found that it could be read from",
        EXPRESSION: "no face was found in which the expression model is sure of one",
    }
    if sensors.hands is None:
        why[HANDS] = no_detector(HAND, args.hand_model)
    if sensors.eyes is None:
        why[EYES] = no_detector(EYE, args.eye_model)
    if sensors.expressions is None:
        why[EXPRESSION] = no_expression_model(args.models_dir)
    unmeasured = [types[one.type] for one in distributions if not one.measured]
    unknown = [NotMeasured(type=gap.name, why=why.get(gap.needs, "no picture shows it")) for gap in unmeasured]
    partly = [(gap, sensors.untold(gap)) for gap in types.values() if gap not in unmeasured]
    return unknown + [
        NotMeasured(type=gap.name, targets=untold, why=f"{sensors.expressions.identity} does not tell them")
        for gap, untold in partly
        if untold
    ]


def _settings(args: argparse.Namespace) -> dict[str, str | int | float | bool | None]:
    from mirror.dataset.pixels import DUPLICATE_BITS, SHARPNESS_SIDE
    from mirror.dataset.sensors import sensor_choice
    from mirror.detectors.detectors import CONFIDENCE, OVERLAP
    from utils.defaults import DETECTION_SIZE
    from utils.files import readable

    return sensor_choice(args).settings() | {
        "goals": None if args.goals is None else readable(str(args.goals.resolve())),
        "max_synthetic_share": args.max_synthetic_share,
        "recursive": args.recursive,
        "max_megapixels": args.max_megapixels,
        "det_size": DETECTION_SIZE,
        "detector_confidence": CONFIDENCE,
        "detector_iou": OVERLAP,
        "sharpness_side": SHARPNESS_SIDE,
        "duplicate_bits": DUPLICATE_BITS,
    }


def _spread(values: list[float]) -> Spread:
    import numpy as np

    from mirror.contracts.contract import Spread

    if not values:
        return Spread(count=0)
    low, q1, median, q3, high = (round(float(value), 2) for value in np.percentile(values, [0, 25, 50, 75, 100]))
    return Spread(count=len(values), median=median, q1=q1, q3=q3, minimum=low, maximum=high)


def _near_duplicates(seen: list[ImageRecord]) -> list[NearDuplicate]:
    from mirror.contracts.gaps import NearDuplicate
    from mirror.dataset.pixels import near_duplicates

    pairs = near_duplicates([int(record.picture_hash, 16) for record in seen])
    return [NearDuplicate(first=seen[i].file, second=seen[j].file, differing_bits=bits) for i, j, bits in pairs]


def warnings_about(report: GapReport) -> list[str]:
    """What makes the shares mean less, or the dataset worse, than it seems."""
    from mirror.dataset.gaps import FEWEST_IMAGES, GOOD_MINIMUM, IDEAL_IMAGES
    from mirror.dataset.pixels import SHARPNESS_LIMIT, SHARPNESS_SIDE
    from mirror.faces.engine import TURN_THE_FILE
    from utils.decoding import BLACK_AND_WHITE, TRANSPARENT
    from utils.files import Status

    seen = [record for record in report.images if record.size_wh is not None]
    said = []
    if len(seen) < GOOD_MINIMUM:
        size = f"at least {GOOD_MINIMUM} images are advised, {IDEAL_IMAGES} or more are ideal"
        weak = f"below {FEWEST_IMAGES} a share says little; " if len(seen) < FEWEST_IMAGES else ""
        said.append(f"The dataset has {len(seen)} readable image(s): {weak}{size}.")
    failed = Counter(record.status for record in report.images if record.size_wh is None)
    if failed:
        said.append(f"Not read: {', '.join(f'{count} {status}' for status, count in failed.items())}.")
    counts = {
        "no face was found": sum(record.status == Status.NO_FACE for record in seen),
        "more than one face was found": sum((record.faces or 0) > 1 for record in seen),
        f"the picture is blurred (sharpness below {SHARPNESS_LIMIT:g} at {SHARPNESS_SIDE} pixels)": sum(
            record.sharpness < SHARPNESS_LIMIT for record in seen
        ),
        "the picture is too dark": sum(record.exposure == "under" for record in seen),
        "the picture is too bright": sum(record.exposure == "over" for record in seen),
    }
    said += [f"In {count} of {len(seen)} images {what}." for what, count in counts.items() if count]
    for fault, what in (
        (TURN_THE_FILE, "lie on their side or upside down; turn the files"),
        (BLACK_AND_WHITE, "are black-and-white; colour photos of the person serve the dataset better"),
        (TRANSPARENT, "have transparent parts, which are shown on white"),
    ):
        named = [record.file for record in seen if fault in record.reason]
        if named:
            said.append(f"{len(named)} of {len(seen)} images {what}: {some_of(named)}.")
    if report.near_duplicates:
        pairs = [f"{one.first} and {one.second}" for one in report.near_duplicates]
        said.append(f"Near duplicates, of which one is enough: {some_of(pairs, separator='; ')}.")
    return said


def write_results(output: Path, report: GapReport, pictures: list[ExaminedPicture]) -> Path:
    """Write page and gap file, the gap file last; path of the page. Raises UserError."""
    from mirror.contracts.contract import write_contract
    from mirror.report.gaps import build_gaps
    from utils.files import write_text_atomic

    page = output.with_suffix(".html")
    with disk_errors_as(f"Results cannot be written to {output.parent}"):
        write_text_atomic(page, build_gaps(report, [picture.thumbnail for picture in pictures]))
        write_contract(output, report)
    return page


def tell(args: argparse.Namespace, report: GapReport, page: Path) -> None:
    """The end of a run: the table and the gaps on stdout, or the report alone with --json."""
    tell_ignored(report.ignored_files)
    if args.json:
        show_json(report.model_dump_json(indent=2))
        return
    wanted = {gap.key: str(gap.count) for gap in report.recommendations}
    rows = [
        [
            f"{one.title}: {share.target}",
            f"{share.count} of {one.measured}" if one.measured else "not measured",
            _percent(share.share_percent),
            _percent(share.goal_percent),
            wanted.get((one.type, share.target), "-"),
        ]
        for one in report.distributions
        for share in one.targets
    ]
    print_table("The dataset compared with its goals", ["Target", "Images", "Share", "Goal", "To add"], rows)
    for missing in report.not_measured:
        which = f" {', '.join(missing.targets)}" if missing.targets else ""
        show(f"Not measured: {missing.type}{which}, because {missing.why}.")
    for gap in report.recommendations:
        show(f"Gap: {gap.key}, {gap.count} to add. {gap.reason}.")
    count = len(report.recommendations)
    show(f"{count} gap(s) found." if count else "0 gaps: every goal that could be measured is reached.")
    show(f"Angles by {report.sensors.angle.identity}", f"gaps: {args.output}", f"page: {page}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}%"


def _check_output(output: Path) -> None:
    """Find out before the work, not after it, that results cannot be written. Raises UserError."""
    from mirror.contracts.contract import demand_own

    if output.suffix.lower() != ".json":
        raise UserError(f"--output {output} is no .json file; the page is written next to it as .html.")
    demand_own(output, "gap_analysis.py")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; it takes the name of the gap file, such as gaps.json.")
    demand_writable(output.parent, "--output takes another file.")


def _demand_a_picture(pictures: list[ExaminedPicture]) -> None:
    if any(picture.record.size_wh is not None for picture in pictures):
        return
    lines = [f"  {one.file}: {one.record.status} ({one.record.reason})" for one in pictures]
    raise UserError("No picture of the dataset could be read, so nothing is known of it:", *first_of(lines))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "gap_analysis.py",
        __doc__,
        "Exit codes: 0 done, 2 something to change (one sentence says what), 1 our fault, 130 interrupted.",
    )
    add = parser.add_argument
    add("dataset", type=options.path, metavar="DATASET", help="folder with the dataset's pictures")
    add("--output", type=options.path, default=OUTPUT, metavar="FILE", help="gap file; a page is written next to it")
    add(
        "--goals",
        type=options.path,
        metavar="FILE",
        help="JSON file with other goals (default: those of mirror/dataset/gaps.py)",
    )
    add(
        "--max-synthetic-share",
        type=_synthetic_share,
        default=MAX_SYNTHETIC_SHARE,
        metavar="SHARE",
        help=f"largest share of the dataset that may be synthetic after adding, 0 to {HARD_SYNTHETIC_SHARE:g}",
    )
    add("--recursive", action="store_true", help="take in pictures of sub-folders too")
    options.add_sensors(parser)
    add("--note", metavar="TEXT", help="a note to show on the page and in the gap file")
    options.add_face_device(parser)
    options.add_engine(parser)
    options.add_max_megapixels(parser)
    options.add_cache(parser)
    add("--json", action="store_true", help="print the gap file as JSON to stdout; messages go to stderr")
    options.add_debug_and_version(parser)
    return parser.parse_args(argv)


_synthetic_share = options.number(
    f"a share between 0 and {HARD_SYNTHETIC_SHARE:g}", lambda value: 0 <= value <= HARD_SYNTHETIC_SHARE
)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug, BOOTSTRAP_REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(main())
