#!/usr/bin/env python3
"""One sheet of a person's head from all sides, such as artists use for a MetaHuman: the best picture of each angle.

    python export_facesheet.py --dataset DIR --output alice.jpg
    python export_facesheet.py --dataset DIR --angles front,profile_left,profile_right,three_quarter --output alice.png

reads   DIR/*.jpg ...          pictures of one person, never changed
        models/                an InsightFace pack, here or in ~/.insightface/models; an expression model, optional
writes  alice.jpg              the sheet: heads level, equally large, labelled; JPEG, PNG or TIFF by its suffix, 300 dpi
        alice.json             which picture is in which cell and why, and why the others are not

Left and right are the person's own: profile_left shows the left side of the face, its nose points to the left of the
picture. An angle that the dataset lacks is an empty cell. Everything stays on this computer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from utils import options
from utils.console import EXIT_OK, UserError, print_table, run_script, say, show
from utils.files import readable, versions_of

if TYPE_CHECKING:  # imported where they are used, so that --help is instant
    from mirror.contracts.facesheet import Chosen, FaceSheetRecord, SheetCell
    from mirror.export.dataset import ExportDataset
    from mirror.export.facesheet import Choice, Pick
    from mirror.export.sheet import Layout

# Settings. Each is also an option of the command line, which wins.
ANGLES = "front,profile_left,profile_right,three_quarter"
CELL = 1024  # pixels; 8.7 cm in print at 300 dpi
COLUMNS = 4
BACKGROUND = "original"


def run(args: argparse.Namespace) -> int:
    """The whole job, top to bottom."""
    from mirror.contracts.facesheet import FaceSheetRecord
    from mirror.export.dataset import read_dataset
    from mirror.export.facesheet import angles_of, choose
    from mirror.export.package import Package
    from mirror.export.sheet import colour_of, demand_format, draw_sheet, encoded, layout_of
    from mirror.faces.cache import measurement_cache

    angles, background = angles_of(args.angles), colour_of(args.background)
    layout, file_format = layout_of(args.cell, args.columns, len(angles)), demand_format(args.output)
    demand_outside(args.output, args.dataset)
    package = Package(args.output.with_suffix(".json"), FaceSheetRecord)
    package.demand_free([args.output.name])
    with measurement_cache(args.cache, keeps=not args.no_cache) as cache:
        dataset = read_dataset(args, cache)
    choices = choose(dataset, angles, args.cell)
    demand_a_picture(dataset, choices)
    record = make_record(args, dataset, choices, layout)
    package.add(args.output.name, encoded(draw_sheet(choices, layout, background), file_format))
    package.write(record)
    for name in package.deleted:
        say(f"{args.output.parent / name} of an earlier run was deleted: one record is of one sheet.")
    tell(args, record)
    return EXIT_OK


def demand_outside(output: Path, dataset: Path) -> None:
    """Raise UserError for a sheet that would become a picture of the dataset."""
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; it takes the name of the sheet, such as alice.jpg.")
    if output.resolve().is_relative_to(dataset.resolve()):
        raise UserError(f"--output {output} lies in the dataset, and would become one of its pictures.")


def demand_a_picture(dataset: ExportDataset, choices: list[Choice]) -> None:
    """Raise UserError, with what each angle lacks, where no cell can be filled."""
    from mirror.export.facesheet import how_to_get

    if any(choice.best for choice in choices):
        return
    lines = [f"  {choice.angle.name}: {how_to_get(dataset, choice.angle)}" for choice in choices]
    raise UserError(f"No picture of {dataset.folder} shows one of the asked angles, so no sheet was written.", *lines)


def make_record(
    args: argparse.Namespace, dataset: ExportDataset, choices: list[Choice], layout: Layout
) -> FaceSheetRecord:
    """Everything that is known of the sheet; the same dataset and options give the same."""
    import cv2
    import PIL

    from mirror.contracts.facesheet import FaceSheetRecord
    from mirror.export.facesheet import left_over
    from mirror.export.sheet import DPI

    return FaceSheetRecord(
        script=FaceSheetRecord.script_name,
        complete=True,
        dataset=readable(str(args.dataset)),
        pack=dataset.pack,
        expression_model=None if dataset.expressions is None else dataset.expressions.identity,
        settings={
            "angles": args.angles,
            "background": args.background,
            "cell": args.cell,
            "columns": args.columns,
            "allow_synthetic": args.allow_synthetic,
            "recursive": args.recursive,
            "max_megapixels": args.max_megapixels,
        },
        versions=versions_of("export_facesheet", opencv=cv2.__version__, pillow=PIL.__version__),
        warnings=[readable(one) for one in (*dataset.warnings, *warnings_about(dataset, choices, layout))],
        not_used=left_over(dataset, choices),
        files={},
        sheet=readable(args.output.name),
        size_wh=layout.size_wh,
        dpi=DPI,
        cells=[cell_of(dataset, choice, layout, index) for index, choice in enumerate(choices)],
    )


def cell_of(dataset: ExportDataset, choice: Choice, layout: Layout, index: int) -> SheetCell:
    """What the record says of one cell."""
    from mirror.contracts.facesheet import SheetCell
    from mirror.export.facesheet import how_to_get

    angle, box = choice.angle, layout.box(index)
    if choice.best is None:
        return SheetCell(
            angle=angle.name,
            shows=angle.shows,
            box_xyxy=box,
            chosen=None,
            missing=f"None of the {len(dataset.candidates)} pictures that can be chosen from shows {angle.shows}.",
            how_to_get=readable(how_to_get(dataset, angle)),
        )
    chosen = chosen_of(choice.best, len(choice.ranked))
    return SheetCell(angle=angle.name, shows=angle.shows, box_xyxy=box, chosen=chosen)


def chosen_of(pick: Pick, among: int) -> Chosen:
    """The figures of a picture that was taken."""
    from mirror.contracts.facesheet import Chosen
    from mirror.export.facesheet import neutral_share

    candidate, face = pick.candidate, pick.candidate.face
    neutral = neutral_share(candidate)
    return Chosen(
        file=candidate.file,
        is_synthetic=candidate.is_synthetic,
        yaw_deg=round(face.yaw_deg, 1),
        pitch_deg=round(face.pitch_deg, 1),
        roll_deg=round(face.roll_deg, 1),
        off_deg=round(pick.off_deg, 1),
        cost_deg=pick.cost_deg,
        among=among,
        sharpness=candidate.pixels.sharpness,
        likeness=candidate.likeness,
        expression=None if candidate.reading is None else candidate.reading.expression,
        neutral=None if neutral is None else round(neutral, 3),
        levelled_by=pick.placement.levelled_by,
        turned_deg=pick.placement.turned_deg,
        scale=round(pick.placement.scale, 3),
        outside=pick.placement.outside,
        matrix=pick.placement.matrix.round(5).tolist(),
        faults=list(candidate.faults),
    )


def warnings_about(dataset: ExportDataset, choices: list[Choice], layout: Layout) -> list[str]:
    """What the sheet is weaker by than it could be."""
    said = []
    picks = [choice.best for choice in choices if choice.best]
    enlarged = [pick for pick in picks if pick.placement.scale > 1]
    if enlarged:
        sharp = int(layout.cell / max(pick.placement.scale for pick in enlarged))
        said.append(
            f"{len(enlarged)} of {len(picks)} heads are enlarged to fill their cells, as their pictures are smaller; "
            f"with --cell {sharp} none is."
        )
    if picks and all(pick.candidate.face.landmarks is None for pick in picks):
        said.append(
            "This pack has no 3-D landmarks: angles come from five points of the face, which show profiles as less "
            "turned than they are."
        )
    if dataset.expressions is None:
        said.append("There is no expression model, so a neutral face could not be preferred.")
    return said


def tell(args: argparse.Namespace, record: FaceSheetRecord) -> None:
    """The end of a run: what was chosen and why, on stdout."""
    for warning in record.warnings:
        say(f"Note: {warning}")
    columns = ["Angle", "Picture", "Yaw", "Off by", "Among", "Sharpness", "Neutral", "Likeness", "Scale", "Against it"]
    print_table(
        "The face sheet",
        columns,
        [row_of(cell) for cell in record.cells],
        fold=("Among", "Likeness", "Neutral", "Scale", "Sharpness"),
        elsewhere=f"They stand in {args.output.with_suffix('.json')}.",
    )
    for cell in record.cells:
        if cell.chosen is None:
            show(f"Missing: {cell.angle}. {cell.how_to_get}")
    width, height = record.size_wh
    centimetres = f"{2.54 * width / record.dpi:.1f} x {2.54 * height / record.dpi:.1f} cm in print"
    show(f"{len(record.not_used)} picture(s) of the dataset are not in the sheet; the record says why.")
    show(f"sheet: {args.output} ({width} x {height} pixels, {centimetres})")
    show(f"record: {args.output.with_suffix('.json')}")


def row_of(cell: SheetCell) -> list[str]:
    """A cell in the table."""
    one = cell.chosen
    if one is None:
        return [cell.angle, "missing", *["-"] * 8]
    costs = {name: cost for name, cost in one.cost_deg.items() if name != "angle" and cost >= 0.5}  # degrees
    against = ", ".join(sorted(costs, key=lambda name: -costs[name])) or "nothing"
    return [
        cell.angle,
        f"{one.file} (generated)" if one.is_synthetic else one.file,
        str(round(one.yaw_deg)),
        str(round(one.off_deg)),
        str(one.among),
        "-" if one.sharpness is None else f"{one.sharpness:.0f}",
        "-" if one.neutral is None else f"{one.neutral:.2f}",
        "-" if one.likeness is None else f"{one.likeness:.2f}",
        f"{one.scale:.2f}",
        against,
    ]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, each with its default."""
    from mirror.export.arguments import add_dataset, add_measuring

    parser = options.script_parser(
        "export_facesheet.py",
        __doc__,
        "Exit codes: 0 done, also with empty cells, 2 something to change (one sentence says what) or no cell can be "
        "filled, 1 our fault, 130 interrupted.",
    )
    add = parser.add_argument
    add_dataset(parser, "the sheet: a .jpg, .png or .tif file; its record is written beside it as .json")
    add(
        "--angles",
        default=ANGLES,
        metavar="NAMES",
        help="cells in their order, with commas between, of: front, three_quarter, three_quarter_left, "
        "three_quarter_right, profile, profile_left, profile_right, up, down. Left and right are the person's own: "
        "in profile_left and three_quarter_left the nose points to the left of the picture, in profile_right and "
        "three_quarter_right to its right; three_quarter and profile alone take the better side",
    )
    add("--cell", type=options.between(128, 4096, whole=True), default=CELL, metavar="PIXELS", help="side of a cell")
    add("--columns", type=options.between(1, 9, whole=True), default=COLUMNS, metavar="N", help="cells in a row")
    add(
        "--background",
        default=BACKGROUND,
        metavar="original|COLOUR",
        help="colour (white, #808080) of the sheet, of its empty cells, and of what lies outside a picture; the "
        "background behind a head inside its picture stays as it is, as nothing here cuts heads out. original: white "
        "paper, and outside a picture the colour of its edge",
    )
    add_measuring(parser)
    return parser.parse_args(argv)


def main() -> int:
    """Exit code of the script."""
    args = parse_args()
    return run_script(lambda: run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
