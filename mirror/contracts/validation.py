"""`validation_report.json`: what validate_synthetic.py decided about each image."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from mirror.contracts.contract import Contract
from mirror.contracts.gaps import AskedForGap, GapSensors


class Outcome(StrEnum):
    """Of one check. Not measured is never a pass."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_MEASURED = "not_measured"


class Verdict(StrEnum):
    """On one image. Unverified: nothing failed, but a gate could not be measured."""

    APPROVED = "approved"
    REJECTED = "rejected"
    UNVERIFIED = "unverified"


class Check(Contract):
    """One gate. `value` is null where it was not measured; `reason` is empty where it passed."""

    check: str  # a name of mirror/dataset/checks.py
    value: float | str | None
    limit: float | str | tuple[float, float] | None  # a number to reach or stay below, a range, or the target
    outcome: Outcome
    reason: str = ""


class ValidatedImage(AskedForGap):
    """One image with every check. null is not measured."""

    file: str  # relative to `folder`, forward slashes
    sha256: str | None  # of the file; null where it could not be read
    verdict: Verdict
    gap_type: str | None
    target: str | None
    quality: float | None  # 0-1, see mirror/dataset/checks.py
    relative_sharpness: float | None  # by the median of the real photos: 1 is as sharp as they are
    yaw_deg: float | None
    similarity: float | None  # to the centroid of the references
    nearest_reference: str | None
    nearest_similarity: float | None
    checks: list[Check]
    copied_to: str | None = None  # where its copy lies; null with --no-auto-filter


class ReferenceFacts(Contract):
    """The real photos that the images were compared with."""

    folder: str
    images: int
    faces: int
    level: float | None  # median leave-one-out similarity, the measure for identity
    sharpness: float | None  # median


class ValidationReport(Contract):
    """`validation_report.json`: which images of a folder may enter the dataset, and why not the others."""

    schema_version: Literal[1] = 1
    script: Literal["validate_synthetic.py"] = "validate_synthetic.py"
    created: str
    folder: str
    metadata: str | None  # the generation_metadata.json that was read
    references: ReferenceFacts | None
    sensors: GapSensors
    identity_pack: str | None  # name@hash
    settings: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    providers: dict[str, int] = {}  # what ran the pack's networks -> images with a face
    approved: int
    rejected: int
    unverified: int
    approved_percent: float | None
    mean_quality: float | None  # of the approved images
    failures: dict[str, int]  # check -> images that failed it
    ignored_files: dict[str, int]
    warnings: list[str]
    images: list[ValidatedImage]
