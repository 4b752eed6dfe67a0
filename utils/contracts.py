"""The JSON files that scripts hand to each other, as typed models.

Every contract carries `schema_version`; reading another version, a broken file or a wrong type raises
`ContractError` with the file, the field and the script to run again. Writing is atomic (see `utils.files`).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from utils.files import write_text_atomic


class ContractError(ValueError):
    """A JSON file between scripts cannot be used; the message names file, field and cure."""


REFERENCE, CANDIDATE = "Reference", "Candidate"  # types of a group


def group_label(kind: str, name: str) -> str:
    """What people read: a LoRA that is itself called Reference must not be taken for the references."""
    return f"{name} (LoRA)" if kind == CANDIDATE and name.casefold() == REFERENCE.casefold() else name


class Status(StrEnum):
    """What became of one input file. Only OK and RESCUED carry measurements."""

    OK = "ok"
    RESCUED = "rescued"  # found only after black padding around the picture
    NO_FACE = "no_face"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    ERROR = "error"  # the networks themselves failed on this picture

    @property
    def measured(self) -> bool:
        return self in (Status.OK, Status.RESCUED)


class Contract(BaseModel):
    """Base of all contracts: unknown fields are an error, so that a typo never passes in silence."""

    model_config = ConfigDict(extra="forbid")


class PackInfo(Contract):
    """The model pack that measured. `identity` is name@hash of the model files: scores of two identities do not mix."""

    name: str
    identity: str
    tasks: list[str]
    licence: str
    pose_source: Literal["landmark_3d_68", "keypoints"]
    has_age: bool


class Spread(Contract):
    """Five numbers of one measured quantity; all null where nothing was measured (`count` 0)."""

    count: int
    median: float | None = None
    q1: float | None = None
    q3: float | None = None
    minimum: float | None = None
    maximum: float | None = None


class GroupSummary(Contract):
    """One group (the references, or one LoRA folder) in numbers. Angles in degrees, shares as counts."""

    type: Literal["Reference", "Candidate"]
    name: str
    images: int
    faces: int
    rescued: int
    failed: int
    statuses: dict[Status, int]
    similarity: Spread
    nearest_similarity: Spread
    age: Spread
    yaw_abs_deg: Spread
    det_score: Spread
    aspect_ratio: Spread
    angle_bins: dict[str, int]
    copy_bands: dict[str, int]


class Summary(Contract):
    """`Summary_<timestamp>.json`: one run of mirror_metrics.py in numbers."""

    schema_version: Literal[1] = 1
    script: Literal["mirror_metrics.py"] = "mirror_metrics.py"
    created: str
    pack: PackInfo
    providers: dict[str, int]  # execution provider -> faces that it measured, now or when they entered the cache
    versions: dict[str, str]
    settings: dict[str, str | int | float | bool | None]
    reference_folder: str
    candidates_folder: str | None
    groups: list[GroupSummary]
    ignored_files: dict[str, int]  # suffix -> number of files in the folders that are not images
    warnings: list[str]
    seconds: dict[str, float]  # what the run spent on loading networks, measuring, the map and the pages
    results: dict[str, str]  # kind -> file name


Model = TypeVar("Model", bound=Contract)


def write_contract(path: Path, contract: Contract) -> None:
    """Write `contract` as indented UTF-8 JSON, whole or not at all."""
    write_text_atomic(path, contract.model_dump_json(indent=2) + "\n")


def read_contract(path: Path, model: type[Model], made_by: str) -> Model:
    """Read `path` as `model`; `made_by` names the script to run again. Raises ContractError."""
    again = f"run {made_by} again to write it anew"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{path} cannot be read ({error}); {again}.") from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ContractError(f"{path}: field {field}: {first['msg']}; {again}.") from error
