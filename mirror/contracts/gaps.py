"""`gaps.json`: what gap_analysis.py measured and found missing."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from mirror.contracts.contract import Contract, Spread
from utils.files import Status


class GapKey(NamedTuple):
    """What a gap is known by: a gap type and one of its targets; None for an image that was made for no gap."""

    type: str | None
    target: str | None

    def __str__(self) -> str:
        return f"{self.type} {self.target}" if self.type else "no target"


class MadeForGap:
    """What an image that may have been made for a gap has beside its fields `gap_type` and `target`."""

    @property
    def key(self) -> GapKey:
        return GapKey(self.gap_type, self.target)


class AngleSensor(Contract):
    """What measured faces and angles. Angles of two identities are not compared: each errs in its own way."""

    kind: Literal["pack", "detector"]
    identity: str  # name@hash of the model files
    source: Literal["landmark_3d_68", "keypoints"]


class GapSensors(Contract):
    """Who measured, by identity; null where there was no such detector."""

    angle: AngleSensor
    hands: str | None
    eyes: str | None


class Recommendation(Contract):
    """One gap: `count` images that show `target` are to be added. 0 where the synthetic cap leaves no room."""

    type: str  # name of a gap type, see mirror/dataset/gaps.py
    target: str
    count: int = Field(ge=0)
    reason: str
    share_percent: float
    goal_percent: float
    wanted: int = Field(ge=0)  # before the synthetic cap

    @property
    def key(self) -> GapKey:
        return GapKey(self.type, self.target)


class TargetShare(Contract):
    """One value of a gap type: how many images show it, against its goal. null: nothing measured, or no goal."""

    target: str
    label: str
    count: int
    share_percent: float | None
    goal_percent: float | None
    trigger_percent: float | None


class Distribution(Contract):
    """One gap type over the dataset. Shares are of `measured`, the images where it could be measured."""

    type: str
    title: str
    measured: int
    targets: list[TargetShare]


class NotMeasured(Contract):
    """A gap type that is unknown for the whole dataset, which is not the same as 0 %."""

    type: str
    why: str


class ImageRecord(Contract):
    """One input file. null is not measured; `values` has every gap type, null where it could not be measured.

    A picture without a face has what needs none: size, light, sharpness, hands.
    """

    file: str  # relative to the dataset's folder, forward slashes
    status: Status
    reason: str = ""
    size_wh: tuple[int, int] | None = None  # pixels
    faces: int | None = None
    face_box_xyxy: tuple[float, float, float, float] | None = None  # pixels, the largest face
    det_score: float | None = None
    second_face_share: float | None = None  # its area by the largest's; null: no second face
    yaw_deg: float | None = None  # > 0: the nose points to the picture's right
    pitch_deg: float | None = None  # > 0: the face looks up
    roll_deg: float | None = None  # > 0: tilted clockwise
    eyes: int | None = None  # visible eyes of the largest face
    hands: int | None = None  # visible hands
    face_height_percent: float | None = None  # of the picture's height
    sharpness: float | None = None  # variance of the Laplacian at mirror.dataset.pixels.SHARPNESS_SIDE
    brightness: float | None = None  # mean grey level, 0-255
    exposure: Literal["under", "normal", "over"] | None = None
    unusable: str | None = None  # black, one grey, blown: a picture that shows nothing, see mirror/dataset/pixels.py
    picture_hash: str | None = None  # 32 hexadecimal digits, see mirror/dataset/pixels.py
    values: dict[str, str | None] = {}


class NearDuplicate(Contract):
    """Two files that show nearly the same picture."""

    first: str
    second: str
    differing_bits: int  # of 128


class GapReport(Contract):
    """`gaps.json`: what a dataset holds, what it lacks, and how many images would fix that."""

    schema_version: Literal[1] = 1
    script: Literal["gap_analysis.py"] = "gap_analysis.py"
    created: str
    dataset: str  # folder, absolute
    recommendations: list[Recommendation]
    distributions: list[Distribution]
    not_measured: list[NotMeasured]
    sensors: GapSensors
    settings: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    synthetic_images: int  # files of the dataset that were generated
    synthetic_room: int  # images that may still be added under the synthetic cap
    sharpness: Spread
    brightness: Spread
    near_duplicates: list[NearDuplicate]
    ignored_files: dict[str, int]  # suffix -> number of files in the folder that are not images
    warnings: list[str]
    images: list[ImageRecord]
