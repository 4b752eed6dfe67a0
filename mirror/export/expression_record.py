"""What the record of export_expressions.py says of each expression and picture, and the one canvas of all."""

from __future__ import annotations

import argparse
from pathlib import PurePosixPath

from mirror.contracts.expression_export import ExpressionFolder, ExpressionPicture
from mirror.export.aligned import Aligned, Eyes
from mirror.export.dataset import ExportDataset
from mirror.export.expressions import Choice, Ranked, Shown
from mirror.export.geometry import scale_of
from utils.files import file_word, readable, some_of

# By the file of the dataset: the file of the export, the picture, where its eyes are, and what became of it.
Pictures = dict[str, tuple[str, Ranked, Eyes, Aligned]]
WORTH_IT = 1.1  # from this gain on it is said what a larger canvas would take; our choice


def common_canvas(args: argparse.Namespace, found: dict[str, Eyes]) -> int:
    """Side of all pictures: as asked, or what the smallest face of the chosen ones fills without being enlarged."""
    return min(args.canvas, *(eyes.canvas for eyes in found.values()))


def why_smaller(args: argparse.Namespace, found: dict[str, Eyes], canvas: int) -> str:
    """One sentence on a canvas that is smaller than asked; empty for one that is not."""
    if canvas == args.canvas:
        return ""
    smallest = [file for file, eyes in found.items() if eyes.canvas == canvas]
    others = [eyes.canvas for eyes in found.values() if eyes.canvas > canvas]
    possible = min([args.canvas, *others])
    is_worth_it = others and possible >= WORTH_IT * canvas
    larger = f"; without it {possible} are possible (--smallest-canvas {canvas + 2})" if is_worth_it else ""
    return (
        f"The pictures are {canvas} x {canvas} pixels, not {args.canvas}: the face of {some_of(smallest)} fills no "
        f"more, nothing is enlarged, and all must overlay{larger}."
    )


def file_names(choice: Choice) -> dict[str, Ranked]:
    """Names of the files in the package, each with its picture."""
    return {
        f"{shown.expression}/{number:02d}_{file_word(PurePosixPath(one.candidate.file).stem)[:60]}.png": one
        for shown in choice.shown
        for number, one in enumerate(shown.chosen, 1)
    }


def folder_of(
    args: argparse.Namespace,
    dataset: ExportDataset,
    shown: Shown,
    pictures: Pictures,
) -> ExpressionFolder:
    """What the record says of one expression."""
    lacking = args.count - len(shown.chosen)
    return ExpressionFolder(
        expression=shown.expression,
        told=shown.told,
        shown_by=shown.shown_by if shown.told else None,
        usable=shown.usable if shown.told else None,
        lacking=lacking if shown.told else None,
        said=what_lacks(args, dataset, shown, lacking),
        pictures=[picture_of(*pictures[one.candidate.file]) for one in shown.chosen],
    )


def what_lacks(args: argparse.Namespace, dataset: ExportDataset, shown: Shown, lacking: int) -> str:
    """One or two sentences on what an expression lacks, and how to get it; empty where it lacks nothing."""
    if not shown.told:
        model = dataset.expressions
        return (
            f"{model.identity} ({model.kind}) cannot tell it, so it is not measured; --expression-model takes another "
            "model."
        )
    if not lacking:
        return ""
    pictures = {0: "no picture shows it", 1: "1 picture shows it"}.get(
        shown.shown_by, f"{shown.shown_by} pictures show it"
    )
    found = f"{len(shown.chosen) or 'None'} of {args.count}: {pictures}"
    unfit = f", {shown.usable} of them fit" if shown.usable < shown.shown_by else ""
    ways = ["take such photos from the front"]
    if shown.synthetic:
        ways.append(f"give --allow-synthetic for {shown.synthetic} generated one(s)")
    ways.append(
        f"generate them from {args.gaps.name}" if args.gaps else "give --gaps FILE and generate_synthetic.py makes them"
    )
    return readable(f"{found}{unfit}. For {lacking} more: {', or '.join(ways)}.")


def picture_of(name: str, ranked: Ranked, eyes: Eyes, aligned: Aligned) -> ExpressionPicture:
    """What the record says of one picture."""
    candidate = ranked.candidate
    return ExpressionPicture(
        file=name,
        picture=candidate.file,
        is_synthetic=candidate.is_synthetic,
        score=ranked.score,
        parts=ranked.parts,
        confidence=round(ranked.confidence, 4),
        yaw_deg=round(candidate.face.yaw_deg, 1),
        pitch_deg=round(candidate.face.pitch_deg, 1),
        sharpness=candidate.pixels.sharpness,
        likeness=candidate.likeness,
        scale=round(scale_of(aligned.matrix), 4),
        matrix=aligned.matrix.round(6).tolist(),
        eyes_by=eyes.told_by,
        beyond_share=aligned.beyond_share,
        faults=list(candidate.faults),
    )
