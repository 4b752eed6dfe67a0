#!/usr/bin/env python3
"""Validate generated images: which of them may enter the dataset of a person, and why not the others?

    python validate_synthetic.py synthetic_iter1
    python validate_synthetic.py synthetic_iter1 --reference Reference_Images --approved approved --rejected rejected

reads   DIR/*.png ...                  generated images, with captions (.txt) beside them where there are any
        DIR/generation_metadata.json   what each of them should show; names the gap file, and with it the dataset and
                                       the sensors (without it, images are validated without a target)
        the dataset, or --reference    real photos of the person
writes  approved, rejected, unverified folders with copies, in DIR unless named; nothing there is overwritten
        validation_report.json         every check of every image: value, limit, passed, failed or not measured
        validation_report.html         the same as a page to look at

An image with a failed check is rejected; one that no check failed, but where a check could not be measured, is
unverified and kept apart. The limits stand in mirror/dataset/checks.py. Everything stays on this computer.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show, show_json
from utils.defaults import (
    BOOTSTRAP_REQUIREMENTS,
    METADATA,
    UNVERIFIED_WORDS,
)
from utils.files import demand_writable, tell_ignored, timestamp, versions_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.validation import ReferenceFacts, ValidatedImage, ValidationReport
    from mirror.dataset.batch import Batch
    from mirror.dataset.checks import Thresholds
    from mirror.dataset.measuring import Measured, References

REPORT = "validation_report.json"
DONE = "Validation Complete"


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.dataset.batch import collect
    from mirror.dataset.judging import judge_all
    from mirror.dataset.measuring import measure
    from mirror.dataset.sorting import folders_of
    from mirror.faces.cache import measurement_cache

    batch = collect(args.folder, args.reference, folders_of(args).values())
    _check_folders(args, batch)
    with measurement_cache(args.cache, keeps=not args.no_cache, shared=True) as cache:
        measured = measure(args, batch, cache)
        images = judge_all(args, batch, measured, cache)
    batch.warnings += [f"Not measured: {reason}." for reason in reasons_unmeasured(images)]
    for warning in batch.warnings:
        say(f"Note: {warning}")
    report = report_of(args, batch, measured, images)
    page = write_results(args, batch, measured.references, report)
    tell(args, report, page)
    return EXIT_OK


def reasons_unmeasured(images: list[ValidatedImage]) -> list[str]:
    """Why checks of unverified images could not be measured, each reason once."""
    from mirror.contracts.validation import Outcome, Verdict

    unsure = [image for image in images if image.verdict == Verdict.UNVERIFIED]
    reasons = [one.reason for image in unsure for one in image.checks if one.outcome == Outcome.NOT_MEASURED]
    return list(dict.fromkeys(reasons))


def report_of(
    args: argparse.Namespace, batch: Batch, measured: Measured, images: list[ValidatedImage]
) -> ValidationReport:
    """The run in numbers."""
    import cv2
    import numpy as np

    from mirror.contracts.gaps import providers_of
    from mirror.contracts.validation import Outcome, ValidationReport, Verdict
    from mirror.dataset.checks import LIMITS
    from utils.files import readable

    count = Counter(image.verdict for image in images)
    scores = [image.quality for image in images if image.verdict == Verdict.APPROVED and image.quality is not None]
    failed = Counter(one.check for image in images for one in image.checks if one.outcome == Outcome.FAILED)
    return ValidationReport(
        created=timestamp(),
        folder=readable(str(batch.folder.resolve())),
        metadata=readable(str(batch.metadata.resolve())) if batch.metadata else None,
        references=_reference_facts(measured.references, measured.thresholds),
        sensors=measured.sensors.info,
        identity_pack=measured.measurer.identity if measured.measurer else None,
        settings=measured.choice.settings() | LIMITS | {"allow_unverified": ",".join(args.allow_unverified)},
        versions=versions_of("validate_synthetic", opencv=cv2.__version__, numpy=np.__version__),
        providers=providers_of(face.provider for face in measured.faces.values()),
        approved=count[Verdict.APPROVED],
        rejected=count[Verdict.REJECTED],
        unverified=count[Verdict.UNVERIFIED],
        approved_percent=round(100 * count[Verdict.APPROVED] / len(images), 2) if images else None,
        mean_quality=round(sum(scores) / len(scores), 4) if scores else None,
        failures=dict(failed.most_common()),
        ignored_files=dict(batch.ignored.most_common()),
        warnings=batch.warnings,
        images=images,
    )


def _reference_facts(references: References, thresholds: Thresholds) -> ReferenceFacts | None:
    from mirror.contracts.validation import ReferenceFacts
    from utils.files import readable

    if references.folder is None:
        return None
    return ReferenceFacts(
        folder=readable(str(references.folder.resolve())),
        images=len(references.pictures),
        faces=len(references.faces),
        level=None if thresholds.level is None else round(thresholds.level, 4),
        sharpness=thresholds.sharpness,
    )


def write_results(args: argparse.Namespace, batch: Batch, references: References, report: ValidationReport) -> Path:
    """Copies first, then the page, the report last; path of the page. Raises UserError."""
    from mirror.contracts.contract import write_contract
    from mirror.dataset.sorting import sort_files, writing
    from mirror.report.validation import build_validation
    from utils.files import write_text_atomic

    page = args.report.with_suffix(".html")
    beside = {one.file: one.thumbnail for one in references.pictures}
    with writing(args.report.parent):
        sort_files(args, batch, report)
        write_text_atomic(page, build_validation(report, [one.thumbnail for one in batch.pictures], beside))
        write_contract(args.report, report)
    return page


def tell(args: argparse.Namespace, report: ValidationReport, page: Path) -> None:
    """The end of a run: table and summary on stdout, or the report alone with --json."""
    from mirror.contracts.validation import Outcome, Verdict
    from mirror.dataset.checks import CHECK_NAMES

    tell_ignored(report.ignored_files)
    if args.json:
        show_json(report.model_dump_json(indent=2))
        return
    wrong = {Verdict.REJECTED: Outcome.FAILED, Verdict.UNVERIFIED: Outcome.NOT_MEASURED}
    rows = [
        [image.file, str(image.verdict), "; ".join(f"{CHECK_NAMES[one.check]}: {one.reason}" for one in found)]
        for image in report.images
        if (found := [one for one in image.checks if one.outcome == wrong.get(image.verdict)])
    ]
    if rows:
        print_table("Not approved, and why", ["Image", "Verdict", "Reason"], rows, numbers=False)
    share = f" ({100 * report.approved / len(report.images):.1f}%)" if report.images else ""
    show(DONE, "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (len(DONE) + 2))
    show(f"Approved: {report.approved}{share}", f"Rejected: {report.rejected}")
    if report.unverified:
        show(f"Unverified: {report.unverified} (kept apart; --allow-unverified says what may pass unmeasured)")
    show(f"Avg Quality: {'-' if report.mean_quality is None else format(report.mean_quality, '.2f')}")
    show(f"report: {args.report}", f"page: {page}")


def _check_folders(args: argparse.Namespace, batch: Batch) -> None:
    """Find out before the work, not after it, that results cannot be written. Raises UserError."""
    from mirror.contracts.contract import demand_own
    from mirror.dataset.sorting import folders_of

    taken = {args.folder.resolve(): "the folder of the generated images"}
    if batch.dataset is not None:
        if batch.dataset.resolve() in taken:
            raise UserError(f"{batch.dataset} holds the generated images; --reference takes the folder of real photos.")
        taken[batch.dataset.resolve()] = "the folder of the real photos"
    for verdict, folder in folders_of(args).items():
        if folder.resolve() in taken:
            raise UserError(f"--{verdict} {folder} is {taken[folder.resolve()]}; it takes another one.")
        taken[folder.resolve()] = f"the folder of the {verdict} images"
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--{verdict} {folder} is a file; it takes a folder.")
        if not os.access(_nearest_existing(folder), os.W_OK):
            raise UserError(f"--{verdict} {folder} cannot be written; choose another folder.")
    if args.report.suffix.lower() != ".json":
        raise UserError(f"--report {args.report} is no .json file; the page is written next to it as .html.")
    demand_own(args.report, "validate_synthetic.py")
    demand_writable(args.report.parent, "--report takes another file.")


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    parser = options.script_parser(
        "validate_synthetic.py",
        __doc__,
        "Exit codes: 0 done, also when all are rejected; 2 something to change (one sentence says what), "
        "1 our fault, 130 interrupted.",
    )
    add = parser.add_argument
    add("folder", type=options.path, metavar="DIR", help=f"generated images, with {METADATA} where there is one")
    add("--approved", type=options.path, metavar="DIR", help="copies of approved images (default: approved in DIR)")
    add("--rejected", type=options.path, metavar="DIR", help="copies of rejected images (default: rejected in DIR)")
    add(
        "--unverified",
        type=options.path,
        metavar="DIR",
        help="copies of unverified images (default: unverified in DIR)",
    )
    add(
        "--reference",
        type=options.path,
        metavar="DIR",
        help="real photos of the person (default: the dataset named in the metadata)",
    )
    add("--no-auto-filter", action="store_true", help="only report; copy nothing")
    add(
        "--report",
        type=options.path,
        metavar="FILE",
        help=f"report file; an .html page is written next to it (default: {REPORT} in DIR)",
    )
    add(
        "--allow-unverified",
        type=_words,
        default=(),
        metavar="WORDS",
        help=f"what an image may pass unmeasured: {','.join(UNVERIFIED_WORDS)}; target is one that no sensor measures, "
        "such as a smile (default: none)",
    )
    options.add_sensors(parser, inherited=True)
    options.add_face_device(parser)
    options.add_engine(parser)
    options.add_max_megapixels(parser)
    options.add_cache(parser)
    add("--json", action="store_true", help="print the report as JSON to stdout, and nothing else there")
    options.add_debug_and_version(parser)
    args = parser.parse_args(argv)
    args.report = args.report or args.folder / REPORT
    return args


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = [word for word in words if word not in UNVERIFIED_WORDS]
    if unknown or not words:
        named = f"{unknown[0]!r} is none of them" if unknown else "it is empty"
        raise argparse.ArgumentTypeError(f"it takes {', '.join(UNVERIFIED_WORDS)}, with commas between; {named}")
    return words


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug, BOOTSTRAP_REQUIREMENTS)


if __name__ == "__main__":
    sys.exit(main())
