"""`index.json` of export_expressions.py: which pictures show which expression, and where their eyes lie."""

from __future__ import annotations

from typing import ClassVar

from mirror.contracts.contract import Contract
from mirror.contracts.exports import ExportRecord


class ExpressionPicture(Contract):
    """One aligned picture."""

    file: str
    picture: str  # it comes from, relative to the dataset's folder
    is_synthetic: bool
    score: float  # 0 to 1, by which pictures of one expression are ranked
    parts: dict[str, float]  # of the score, 0 to 1 each
    confidence: float  # share of the expression in what the model sees
    yaw_deg: float
    pitch_deg: float
    sharpness: float
    likeness: float | None  # to the other pictures; null: too few of them
    scale: float  # 1: as large as in the picture; never more
    matrix: list[list[float]]  # 2 x 3: pixels of the picture to pixels of the canvas
    eyes_by: str  # irises, or where they were not both seen the pack's points
    beyond_share: float  # of the canvas, where the picture ends; it is transparent there
    faults: list[str]


class ExpressionFolder(Contract):
    """One expression that was asked for."""

    expression: str
    told: bool  # False: the model cannot tell it, so nothing is known of it
    shown_by: int | None  # pictures that may be chosen from and show it; null where it is not told
    usable: int | None  # of them; the others are turned, too small or repeated
    lacking: int | None  # pictures to --count
    said: str  # what is to be said of it; empty where there is nothing
    pictures: list[ExpressionPicture]  # the best first


class ExpressionsRecord(ExportRecord):
    """The whole export. All pictures are canvas x canvas pixels, with the eyes at the same place."""

    script_name: ClassVar[str] = "export_expressions.py"

    script: str = "export_expressions.py"
    canvas: int  # pixels
    canvas_said: str  # why it is smaller than asked; empty where it is not
    left_eye_xy: tuple[float, float]  # share of the canvas; the one at the left of the picture
    right_eye_xy: tuple[float, float]
    matting_model: str | None  # identity; null: backgrounds are as they are
    matting_kind: str | None
    tells: list[str]  # expressions that the model can tell
    pictures: int  # of the dataset
    expressions: list[ExpressionFolder]
