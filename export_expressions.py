#!/usr/bin/env python3
"""Pictures of a person by expression for a VTuber model (Live2D): aligned, so that they lie over each other.

    python export_expressions.py --dataset DIR --expressions neutral,smile,surprised,angry --output alice_live2d/
    python export_expressions.py --dataset DIR --output FOLDER --matting models/modnet.onnx --gaps missing.json

reads   DIR/*.jpg ...            pictures of one person, never changed
        models/                  an InsightFace pack, and an expression model: FER+, HSEmotion or one of your own
        --matting FILE           MODNet, U-2-Net, RMBG-1.4 or BiRefNet as ONNX: makes the background transparent
writes  FOLDER/smile/01_photo.png ...   the best first; one square size, eyes on the same pixels, never enlarged
        FOLDER/index.json        which picture shows what and why, where the eyes lie, and why the others are left out
        FOLDER/index.html        all of them on a page, two of them laid over each other
        --gaps FILE              what is missing, for generate_synthetic.py

Expressions are measured, never guessed: without an expression model nothing is written. Everything stays on this
computer.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show
from utils.defaults import EXPRESSION_FILES
from utils.files import readable, versions_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.expression_export import ExpressionFolder, ExpressionsRecord
    from mirror.detectors.matting import MattingModel
    from mirror.export.dataset import ExportDataset
    from mirror.export.expression_record import Pictures
    from mirror.export.expressions import Choice

# Settings. Each is also an option of the command line, which wins.
EXPRESSIONS_ASKED = "neutral,smile,surprised,angry"
COUNT, MOST = 5, 20  # pictures of each expression
CANVAS = 1024  # pixels
MOST_YAW_DEG, SMALLEST_CANVAS = 20.0, 256  # mirror/export/expressions.py says why

RECORD, PAGE = "index.json", "index.html"


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.contracts.expression_export import ExpressionsRecord
    from mirror.detectors.matting import MattingModel
    from mirror.export.aligned import align
    from mirror.export.dataset import read_dataset
    from mirror.export.expression_record import common_canvas, file_names
    from mirror.export.expressions import Wanted, choose
    from mirror.export.package import Package
    from mirror.faces.cache import measurement_cache
    from mirror.report.expressions import build_expressions, small_picture

    demand_options(args)
    package = Package(args.output / RECORD, ExpressionsRecord)
    package.demand_free([PAGE])
    matting = None if args.matting is None else MattingModel(args.matting, args.device)
    with measurement_cache(args.cache, keeps=not args.no_cache) as cache:
        dataset = read_dataset(args, cache)
    demand_told(args, dataset)
    wanted = Wanted(args.expressions, args.count, args.canvas, args.max_yaw, args.smallest_canvas)
    choice = choose(dataset, wanted)
    demand_a_picture(args, dataset, choice)
    eyes = {one.candidate.file: one.eyes for one in choice.chosen}
    canvas = common_canvas(args, eyes)
    pictures, previews = {}, {}
    for name, ranked in file_names(choice).items():
        file = ranked.candidate.file
        aligned = align(ranked.candidate, eyes[file], canvas, matting)
        package.add(name, aligned.png())
        pictures[file] = (name, ranked, eyes[file], aligned)
        previews[name] = small_picture(aligned.bgra)
    record = make_record(args, dataset, choice, canvas, matting, pictures)
    package.add(PAGE, build_expressions(record, previews).encode())
    package.write(record)
    tell(args, record)
    tell_gaps(args, dataset, record.expressions)
    return EXIT_OK


def demand_options(args: argparse.Namespace) -> None:
    """Find out before the work what cannot be done. Raises UserError."""
    from mirror.detectors.expressions import find_expression_model
    from mirror.export.expression_gaps import demand_gap_file

    if args.output.is_file():
        raise UserError(f"--output {args.output} is a file; it takes a folder, such as alice_live2d.")
    if args.output.resolve().is_relative_to(args.dataset.resolve()):
        raise UserError(f"--output {args.output} lies in the dataset, so it could be chosen from next time.")
    if args.gaps is not None:
        demand_gap_file(args.gaps, args.output)
    if args.expression_model is None and find_expression_model(args.models_dir) is None:
        raise UserError(
            "There is no expression model, and expressions are measured, never guessed: put FER+ "
            "(emotion-ferplus-8.onnx of github.com/onnx/models), HSEmotion (enet_b0_8_best_afew.onnx of "
            f"github.com/av-savchenko/hsemotion-onnx) or one of your own ({EXPRESSION_FILES[0]}) into "
            f"{args.models_dir}, or name it with --expression-model."
        )


def demand_told(args: argparse.Namespace, dataset: ExportDataset) -> None:
    """Raise UserError where the model tells none of the expressions."""
    tells = dataset.expressions.tells
    if not set(args.expressions) & set(tells):
        raise UserError(
            f"{dataset.expressions.identity} cannot tell {' or '.join(args.expressions)}; it tells {', '.join(tells)}."
        )


def demand_a_picture(args: argparse.Namespace, dataset: ExportDataset, choice: Choice) -> None:
    """Raise UserError where no picture can be taken; the gap file is written all the same."""
    from mirror.export.expression_record import folder_of

    if choice.chosen:
        return
    tell_gaps(args, dataset, [folder_of(args, dataset, shown, {}) for shown in choice.shown])
    reasons = [f"  {one.file}: {one.reason}" for one in choice.not_used]
    raise UserError(
        f"None of the {len(dataset.candidates)} picture(s) of {dataset.folder} that can be chosen from shows "
        f"{' or '.join(args.expressions)} well enough, so no picture was written.",
        *reasons[:5],
        *([f"  and {len(reasons) - 5} more"] if len(reasons) > 5 else []),
    )


def make_record(
    args: argparse.Namespace,
    dataset: ExportDataset,
    choice: Choice,
    canvas: int,
    matting: MattingModel | None,
    pictures: Pictures,
) -> ExpressionsRecord:
    """Everything that is known of the export; the same dataset and options give the same."""
    import cv2
    import numpy as np

    from mirror.contracts.expression_export import ExpressionsRecord
    from mirror.export.aligned import EYES_XY
    from mirror.export.expression_record import folder_of, why_smaller
    from utils.images import natural_key

    not_used = sorted([*dataset.not_used, *choice.not_used], key=lambda one: (natural_key(one.file), one.file))
    eyes = {file: eyes for file, (_, _, eyes, _) in pictures.items()}
    return ExpressionsRecord(
        complete=True,
        dataset=readable(str(args.dataset)),
        pack=dataset.pack,
        expression_model=dataset.expressions.identity,
        settings={
            "expressions": list(args.expressions),
            "count": args.count,
            "canvas": args.canvas,
            "max_yaw": args.max_yaw,
            "smallest_canvas": args.smallest_canvas,
            "allow_synthetic": args.allow_synthetic,
            "recursive": args.recursive,
            "max_megapixels": args.max_megapixels,
        },
        versions=versions_of("export_expressions", opencv=cv2.__version__, numpy=np.__version__),
        warnings=[readable(one) for one in dataset.warnings],
        not_used=not_used,
        files={},  # the package fills it in
        canvas=canvas,
        canvas_said=why_smaller(args, eyes, canvas),
        left_eye_xy=EYES_XY[0],
        right_eye_xy=EYES_XY[1],
        matting_model=None if matting is None else matting.identity,
        matting_kind=None if matting is None else matting.kind,
        tells=list(dataset.expressions.tells),
        pictures=len(choice.chosen) + len(not_used),
        expressions=[folder_of(args, dataset, shown, pictures) for shown in choice.shown],
    )


def tell(args: argparse.Namespace, record: ExpressionsRecord) -> None:
    """The end of a run: what was chosen and why, on stdout."""
    for warning in record.warnings:
        say(f"Note: {warning}")
    rows = [row for folder in record.expressions for row in rows_of(folder)]
    columns = ["Expression", "File", "From", "Score", "Sure", "Yaw", "Pitch", "Sharpness", "Likeness", "Scale"]
    print_table(
        "Expressions",
        columns,
        rows,
        fold=("Pitch", "Scale", "Likeness", "Sharpness", "File"),
        elsewhere=f"{RECORD} has it.",
    )
    for folder in record.expressions:
        if folder.said:
            show(f"{folder.expression}: {folder.said}")
    if record.canvas_said:
        show(record.canvas_said)
    (left, height), (right, _) = record.left_eye_xy, record.right_eye_xy
    show(
        f"Eyes lie at {left:g} and {right:g} of the width and {height:g} of the height, in all {record.canvas} x "
        f"{record.canvas} pictures.",
        f"Backgrounds are transparent by {record.matting_model} ({record.matting_kind})."
        if record.matting_model
        else "Backgrounds are as they are; --matting FILE makes them transparent.",
        f"{len(record.not_used)} of {record.pictures} picture(s) are not in the export; {RECORD} says why of each.",
        f"To look at: {args.output / PAGE}",
    )


def rows_of(folder: ExpressionFolder) -> list[list[str]]:
    """An expression in the table."""
    if not folder.pictures:
        return [[folder.expression, "none" if folder.told else "not measured", *["-"] * 8]]
    return [
        [
            folder.expression,
            one.file.partition("/")[2],
            f"{one.picture} (generated)" if one.is_synthetic else one.picture,
            f"{one.score:.2f}",
            f"{one.confidence:.0%}",
            f"{one.yaw_deg:.0f}",
            f"{one.pitch_deg:.0f}",
            f"{one.sharpness:.0f}",
            "-" if one.likeness is None else f"{one.likeness:.2f}",
            f"{one.scale:.2f}",
        ]
        for one in folder.pictures
    ]


def tell_gaps(args: argparse.Namespace, dataset: ExportDataset, folders: list[ExpressionFolder]) -> None:
    """Write the gap file where one is asked for, and say what it asks for."""
    if args.gaps is None:
        return
    from mirror.export.expression_gaps import write_gaps

    count = write_gaps(args, dataset, folders)
    show(
        f"Gap file for generate_synthetic.py: {readable(str(args.gaps))} asks for {count} picture(s)."
        if count
        else f"Nothing is missing: {readable(str(args.gaps))} asks for no picture."
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    from mirror.contracts.expressions import EXPRESSIONS
    from mirror.export.arguments import add_dataset, add_measuring

    parser = options.script_parser(
        "export_expressions.py",
        __doc__,
        "Exit codes: 0 done, also where an expression is missing, 2 something to change (one sentence says what) or no "
        "picture can be taken, 1 our fault, 130 interrupted.",
    )
    add = parser.add_argument
    add_dataset(parser, "folder of the export, such as alice_live2d")
    add(
        "--expressions",
        type=_expressions,
        default=EXPRESSIONS_ASKED,
        metavar="NAMES",
        help=f"a folder each, with commas between, of: {', '.join(EXPRESSIONS)}",
    )
    add("--count", type=options.between(1, MOST, True), default=COUNT, metavar="N", help="pictures of each at most")
    add(
        "--canvas",
        type=options.between(128, 4096, True),
        default=CANVAS,
        metavar="PIXELS",
        help="side of all pictures; smaller where a chosen face does not fill it, as nothing is enlarged",
    )
    add(
        "--smallest-canvas",
        type=options.between(64, 4096, True),
        default=SMALLEST_CANVAS,
        metavar="PIXELS",
        help="pictures whose face does not fill such a canvas are left out",
    )
    add(
        "--max-yaw",
        type=options.between(0, 90),
        default=MOST_YAW_DEG,
        metavar="DEGREES",
        help="how far a head may be turned to a side; VTuber models are drawn from the front",
    )
    add(
        "--matting",
        type=options.path,
        metavar="FILE",
        help="ONNX model that makes the background transparent: MODNet, U-2-Net, RMBG-1.4 or BiRefNet (default: "
        "backgrounds stay)",
    )
    add(
        "--gaps",
        type=options.path,
        metavar="FILE",
        help="write what is missing to --count as a gap file for generate_synthetic.py",
    )
    add_measuring(parser)
    return parser.parse_args(argv)


def _expressions(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    from mirror.contracts.expressions import EXPRESSIONS

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in EXPRESSIONS]
    if unknown or not names:
        said = f"{unknown[0]!r} is no expression" if unknown else "no expression is named"
        raise argparse.ArgumentTypeError(f"{said}; known: {', '.join(EXPRESSIONS)}")
    return names


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
