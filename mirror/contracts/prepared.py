"""What FaceVault hands on: `metadata.json` of a prepared dataset, and `manifest.json` of an export."""

from __future__ import annotations

from typing import Literal

from mirror.contracts.contract import Contract
from mirror.contracts.gaps import Distribution, Recommendation

CaptionBy = Literal["person", "measured", "model"]
Box = tuple[float, float, float, float]


class PreparedPicture(Contract):
    """One picture of a dataset, and where it comes from. Boxes are xyxy in pixels."""

    file: str  # relative to the dataset's folder, forward slashes
    source: str  # the photo, which stays as it is
    content: str  # its SHA-256
    quality: float  # 0 to 1 among the person's own photos, see mirror.vault.preparation; the best picture stands first
    size_wh: tuple[int, int]  # as it was saved
    window_xyxy: tuple[int, int, int, int]  # what was cut out of the upright photo
    face_xyxy: Box  # in the saved picture
    yaw_deg: float  # signs as in mirror.faces.pose
    values: dict[str, str]  # gap type -> target, as gap_analysis.py sorts pictures
    caption: str | None
    caption_by: CaptionBy | None


class LeftOut(Contract):
    """A photo of the person that did not enter the dataset."""

    source: str
    content: str
    reason: str


class PreparedSet(Contract):
    """`metadata.json` in the folder of a dataset."""

    schema_version: Literal[1] = 1
    script: Literal["facevault.py"] = "facevault.py"
    created: str
    person: str
    trigger: str
    settings: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    pictures: list[PreparedPicture]
    left_out: list[LeftOut]
    distributions: list[Distribution]
    recommendations: list[Recommendation]
    warnings: list[str]


class ExportedPhoto(Contract):
    """A photo in which a person was found."""

    source: str
    content: str
    face_xyxy: Box  # pixels of the photo as it lies on the disk, EXIF orientation applied
    score: float
    yaw_deg: float
    caption: str | None


class ExportedPerson(Contract):
    """One person with all photos, and the folder that was written for it."""

    name: str
    folder: str | None
    photos: list[ExportedPhoto]


class Manifest(Contract):
    """`manifest.json`: what facevault.py export wrote."""

    schema_version: Literal[1] = 1
    script: Literal["facevault.py"] = "facevault.py"
    created: str
    format: Literal["organized", "lora", "json"]
    persons: list[ExportedPerson]
