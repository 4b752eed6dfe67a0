"""What a face sheet shows, cell by cell, and why: the JSON beside the picture."""

from __future__ import annotations

from typing import ClassVar

from mirror.contracts.contract import Contract
from mirror.contracts.exports import ExportRecord


class Chosen(Contract):
    """The picture in a cell. Degrees have the signs of mirror.faces.pose."""

    file: str  # relative to the dataset's folder, forward slashes
    is_synthetic: bool
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    off_deg: float  # from the wanted angle
    cost_deg: dict[str, float]  # what speaks against it, each in degrees of angle; the lowest sum was chosen
    among: int  # pictures that fit the angle
    sharpness: float | None
    likeness: float | None  # to the other pictures, corrected for the turn of the head
    expression: str | None  # None: not measured, or the model is not sure
    neutral: float | None  # share, 0 to 1; None: not measured
    levelled_by: str
    turned_deg: float  # counterclockwise, to level the head
    scale: float  # pixels of the cell by pixels of the picture; above 1 it is enlarged
    outside: float  # share of the head's place in the cell that lies outside the picture
    matrix: list[list[float]]  # (2, 3): from x, y, 1 in the picture to x, y in the cell
    faults: list[str]


class SheetCell(Contract):
    """One asked angle."""

    angle: str  # as asked
    shows: str  # in words
    box_xyxy: tuple[int, int, int, int]  # in the sheet, pixels, without its label
    chosen: Chosen | None  # None: the dataset lacks it
    missing: str | None = None  # why it is empty
    how_to_get: str | None = None


class FaceSheetRecord(ExportRecord):
    """The JSON beside a face sheet."""

    script_name: ClassVar[str] = "export_facesheet.py"

    sheet: str  # file name
    size_wh: tuple[int, int]  # pixels
    dpi: int
    cells: list[SheetCell]
