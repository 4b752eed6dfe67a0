"""`metadata.json` of export_for_did.py: which pictures were chosen for D-ID, why, and what limits them."""

from __future__ import annotations

from typing import ClassVar

from mirror.contracts.contract import Contract
from mirror.contracts.exports import ExportRecord


class DidFigure(Contract):
    """One rule, measured on one picture."""

    rule: str
    value: float | None  # null: not measured
    shown: str  # the value for people
    limit: float
    shown_limit: str  # "at most 10.0°"
    passed: bool | None  # null: not measured
    ignored: bool  # by --ignore
    goodness: float | None  # 1 at the ideal, 0 at the limit, below 0 beyond it
    measured_by: str


class DidSource(Contract):
    """One picture of the package."""

    file: str
    picture: str  # it comes from, relative to the dataset's folder
    is_synthetic: bool
    score: float  # 0 to 1, by which good pictures are ranked
    why: str
    limited_by: list[str]
    differs: str  # from those that were chosen before it
    size_wh: tuple[int, int]  # pixels of the file
    crop_xyxy: tuple[int, int, int, int]  # pixels of the picture, upright
    turned_deg: int  # clockwise, before it was cropped
    scale: float  # 1: as large as in the picture; never more
    face_pixels: float  # shorter side of the face in the file
    bytes: int
    jpeg_quality: int
    figures: list[DidFigure]


class DidLimit(Contract):
    """What the service publishes, or what we chose."""

    what: str
    value: str
    source: str
    looked_up: str


class DidRecord(ExportRecord):
    """The whole package."""

    script_name: ClassVar[str] = "export_for_did.py"

    script: str = "export_for_did.py"
    pictures: int  # of the dataset
    good: int  # of them that break no rule
    sources: list[DidSource]
    service_limits: list[DidLimit]
    sensors: list[str]  # how far the figures can be trusted
