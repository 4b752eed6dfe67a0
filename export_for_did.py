#!/usr/bin/env python3
"""Which pictures of a dataset make the best source for a talking head at D-ID? Chooses, cuts and says why.

    python export_for_did.py --dataset outputs/facevault/organized/alice --output alice_did_package/
    python export_for_did.py --dataset DATASET --output FOLDER --count 3 --allow-synthetic

reads   DATASET/*.jpg ...     pictures of one person, never changed
        models/               an InsightFace model pack, and an expression model where there is one
writes  FOLDER/source_01.jpg  the best picture: hair and shoulders in it, never enlarged, without EXIF
        FOLDER/source_02.jpg  ... alternatives, each unlike the ones before
        FOLDER/metadata.json  why each was chosen, what limits it, and why the other pictures were left out
        FOLDER/preview.html   the same as a page to look at

Where no picture is good enough nothing is written: the closest three are shown with what each lacks. The rules are the
table in mirror/export/did_rules.py, D-ID's own limits that in mirror/export/did_limits.py.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show
from utils.files import versions_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.did import DidRecord, DidSource
    from mirror.export.dataset import ExportDataset
    from mirror.export.did import Choice
    from mirror.export.did_rules import Judged

COUNT, MOST = 5, 20  # source pictures: by default one and four alternatives
RECORD, PAGE = "metadata.json", "preview.html"


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.contracts.did import DidRecord
    from mirror.export.dataset import read_dataset
    from mirror.export.did import choose, source_name, source_of
    from mirror.export.did_rules import judge, untold_rules
    from mirror.export.package import Package
    from mirror.faces.cache import measurement_cache
    from mirror.report.did import build_did
    from utils.images import preview

    demand_outside(args)
    package = Package(args.output / RECORD, DidRecord)
    package.demand_free([PAGE, *(source_name(number) for number in range(1, args.count + 1))])
    with measurement_cache(args.cache, keeps=not args.no_cache) as cache:
        dataset = read_dataset(args, cache)
    untold = untold_rules(dataset)
    judged = [judge(candidate, untold, args.ignore) for candidate in dataset.candidates]
    demand_a_good_one(dataset, judged)
    choice = choose(judged, args.count)
    sources, previews = [], {}
    for number, chosen in enumerate(choice.chosen, 1):
        source, data = source_of(number, chosen, choice.good)
        package.add(source.file, data)
        sources.append(source)
        previews[source.file] = preview(chosen.cut.image)
    record = record_of(args, dataset, choice, sources, untold)
    package.add(PAGE, build_did(record, previews).encode())
    package.write(record)
    tell(args, record)
    return EXIT_OK


def demand_outside(args: argparse.Namespace) -> None:
    """Raise UserError where the package would lie among the pictures that are chosen from, or where a file is."""
    if args.output.is_file():
        raise UserError(f"--output {args.output} is a file; it takes a folder, such as alice_did_package.")
    if args.output.resolve().is_relative_to(args.dataset.resolve()):
        raise UserError(f"--output {args.output} lies in the dataset, so it could be chosen from next time.")


def demand_a_good_one(dataset: ExportDataset, judged: list[Judged]) -> None:
    """Raise UserError where every picture lacks something, with the closest three on stdout."""
    from mirror.export.did import closest

    if any(not one.broken for one in judged):
        return
    rows = [[one.candidate.file, "; ".join(figure.lacks for figure in one.broken)] for one in closest(judged)]
    print_table("The closest, and what each lacks", ["Picture", "Lacks"], rows, numbers=False)
    broken = sorted({figure.rule.name for one in closest(judged)[:1] for figure in one.broken})
    generated = len(dataset.synthetic_left_out)
    more = f" {generated} generated one(s) were not asked, --allow-synthetic asks them." if generated else ""
    raise UserError(
        f"None of the {len(judged)} picture(s) of {dataset.folder} is good enough, so nothing was written.{more}",
        f"  Take a photo that fits, or give --ignore {','.join(broken)} to let pass what the closest one lacks.",
    )


def record_of(
    args: argparse.Namespace,
    dataset: ExportDataset,
    choice: Choice,
    sources: list[DidSource],
    untold: dict[str, str],
) -> DidRecord:
    """All that is known of the package, and of every picture that is not in it."""
    import cv2
    import numpy as np

    from mirror.contracts.did import DidRecord
    from mirror.export.did import service_limits
    from mirror.export.did_rules import what_sensors_tell
    from utils.files import readable
    from utils.images import natural_key

    not_used = sorted([*dataset.not_used, *choice.not_used], key=lambda one: (natural_key(one.file), one.file))
    warnings = [readable(one) for one in dataset.warnings]
    if len(sources) < args.count:
        warnings.append(
            f"{len(sources)} of {args.count} pictures: the dataset has no more good ones that differ from each other."
        )
    return DidRecord(
        complete=True,
        dataset=readable(str(args.dataset)),
        pack=dataset.pack,
        expression_model=None if dataset.expressions is None else dataset.expressions.identity,
        settings={
            "count": args.count,
            "ignore": list(args.ignore),
            "allow_synthetic": args.allow_synthetic,
            "recursive": args.recursive,
            "max_megapixels": args.max_megapixels,
        },
        versions=versions_of("export_for_did", opencv=cv2.__version__, numpy=np.__version__),
        warnings=warnings,
        not_used=not_used,
        files={},  # the package fills it in
        pictures=len(sources) + len(not_used),
        good=choice.good,
        sources=sources,
        service_limits=service_limits(),
        sensors=what_sensors_tell(dataset, untold),
    )


def tell(args: argparse.Namespace, record: DidRecord) -> None:
    """What was chosen and why: the table on stdout, the rest beside it."""
    for warning in record.warnings:
        say(f"Note: {warning}")
    for sentence in record.sensors:
        say(f"Note: {sentence}")
    rows = []
    for source in record.sources:
        shown = {figure.rule: figure.shown for figure in source.figures}
        marked = f"{source.picture} (generated)" if source.is_synthetic else source.picture
        figures = [shown[name] for name in ("yaw", "pitch", "sharpness", "light")]
        size = "{} x {}".format(*source.size_wh)
        rows.append([source.file, marked, f"{source.score:.2f}", *figures, size, source.differs or source.why])
    columns = ["File", "From", "Score", "Yaw", "Pitch", "Sharpness", "Light", "Pixels", "Why"]
    print_table(
        "Pictures for D-ID",
        columns,
        rows,
        numbers=False,
        fold=("Why", "Light", "Sharpness"),
        elsewhere=f"{RECORD} has it.",
    )
    show(f"{len(record.not_used)} of {record.pictures} picture(s) are not in the package; {RECORD} says why of each.")
    show(f"To look at: {args.output / PAGE}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    from mirror.export import arguments

    parser = options.script_parser(
        "export_for_did.py",
        __doc__,
        "Exit codes: 0 done, 2 something to change (one sentence says what), 1 our fault, 130 interrupted.",
    )
    arguments.add_dataset(parser, "folder of the package, such as alice_did_package")
    parser.add_argument(
        "--count", type=_count, default=COUNT, metavar="N", help="pictures at most: the best one and alternatives"
    )
    parser.add_argument(
        "--ignore",
        type=_rules,
        default=(),
        metavar="RULES",
        help="rules that a picture may break, such as expression,light (their names stand in the table of the docs)",
    )
    arguments.add_measuring(parser)
    return parser.parse_args(argv)


_count = options.between(1, MOST, whole=True)


def _rules(text: str) -> tuple[str, ...]:
    """Names of rules with commas between."""
    from mirror.export.did_rules import RULE_NAMES

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in RULE_NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is no rule; known: {', '.join(RULE_NAMES)}")
    return names


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
