"""The JSON files of FaceVault: `scan_report.json`, `duplicates.json`, `labels.json`, and the names people write."""

from __future__ import annotations

from typing import Literal

from mirror.contracts.contract import Contract
from mirror.contracts.summary import PackInfo


class ScannedFile(Contract):
    """One file of the scanned folder."""

    file: str  # relative to the folder, forward slashes; bytes that are no UTF-8 are written as \xNN
    status: str  # ok, rescued, rotated, no_face, unreadable, too_large, error
    reason: str
    faces: int  # that are in the store
    content: str | None  # SHA-256; null where the file could not be read
    measured_now: bool  # False: it was known, or could not be read


class MovedFile(Contract):
    """A file that was found again by its content."""

    file: str
    was: str


class ScanReport(Contract):
    """`scan_report.json`: what became of every file of the folder."""

    schema_version: Literal[1] = 1
    script: Literal["facevault.py"] = "facevault.py"
    created: str
    photos: str  # the folder
    pack: PackInfo
    settings: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    measured_now: int  # pictures
    faces: int  # of all files of this folder
    moved: list[MovedFile]
    vanished: list[str]
    ignored_files: dict[str, int]
    warnings: list[str]
    files: list[ScannedFile]


class LabelledFace(Contract):
    """One face of a cluster."""

    face: int  # its number in the vault, which --take-out and --split take
    file: str
    box_xyxy: tuple[float, float, float, float]  # pixels
    score: float
    sharpness: float
    yaw_deg: float


class LabelledPerson(Contract):
    """One cluster."""

    cluster: int
    name: str | None
    kept: bool  # False: "not a person to keep"
    faces: list[LabelledFace]


class Labels(Contract):
    """`labels.json`: who is in which picture."""

    schema_version: Literal[1] = 1
    script: Literal["facevault.py"] = "facevault.py"
    created: str
    pack: str
    persons: list[LabelledPerson]
    unclustered: list[LabelledFace]  # faces in no cluster


class DuplicateFile(Contract):
    """One file that shows the same as the one that is kept."""

    file: str
    kind: Literal["exact", "near", "burst"]
    bits: int  # of the perceptual hash that differ, of 64
    likeness: float  # correlation of the pictures laid over each other, at most 1
    mirrored: bool
    why: str  # the other one is kept


class DuplicateGroup(Contract):
    """Files that show the same."""

    keep: str
    duplicates: list[DuplicateFile]


class Duplicates(Contract):
    """`duplicates.json`: nothing is deleted; `prep` and `export` leave the duplicates out."""

    schema_version: Literal[1] = 1
    script: Literal["facevault.py"] = "facevault.py"
    created: str
    pictures: int  # that were compared
    settings: dict[str, int | float]
    groups: list[DuplicateGroup]
