"""`gaps.json`: what gap_analysis.py measured and found missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from mirror.contracts.contract import Contract, Spread, checked, read_contract
from utils.files import Status


class GapKey(NamedTuple):
    """What a gap is known by: a gap type and one of its targets; None for an image that was made for no gap."""

    type: str | None
    target: str | None

    def __str__(self) -> str:
        return f"{self.type} {self.target}" if self.type else "no target"


# Other spellings, which are read and never written: those of earlier versions, and a word as people write it.
_SPELLINGS = {
    GapKey("hands", "visible"): GapKey("composition", "hands_visible"),
    GapKey("hands", "hidden"): GapKey("composition", "hands_hidden"),
    GapKey("face_angle", "three-quarter"): GapKey("face_angle", "three_quarter"),
}
_TYPE_SPELLINGS = {other.type: one.type for other, one in _SPELLINGS.items()}


def documented(gap_type: str | None, target: str | None) -> GapKey:
    """A gap in the documented spelling."""
    return _SPELLINGS.get(GapKey(gap_type, target), GapKey(gap_type, target))


def documented_type(gap_type: str) -> str:
    """A gap type in the documented spelling, where its targets stand elsewhere."""
    return _TYPE_SPELLINGS.get(gap_type, gap_type)


def _respelled(given: object, type_field: str) -> object:
    """What is to be read, with its gap in the documented spelling."""
    if not isinstance(given, dict) or not isinstance(given.get(type_field), str):
        return given
    target = given.get("target")
    if not isinstance(target, str):
        return given
    key = documented(given[type_field], target)
    return given | {type_field: key.type, "target": key.target}


class NamedGap(Contract):
    """What names a gap by its fields `type` and `target`."""

    @model_validator(mode="before")
    @classmethod
    def _spell(cls, given: object) -> object:
        return _respelled(given, "type")

    @property
    def key(self) -> GapKey:
        return GapKey(self.type, self.target)


class MadeForGap(Contract):
    """What an image that may have been made for a gap has beside its fields `gap_type` and `target`."""

    @property
    def key(self) -> GapKey:
        return GapKey(self.gap_type, self.target)


class AskedForGap(MadeForGap):
    """The same, in files that are read in any spelling."""

    @model_validator(mode="before")
    @classmethod
    def _spell(cls, given: object) -> object:
        return _respelled(given, "gap_type")


class AngleSensor(Contract):
    """What measured faces and angles. Angles of two identities are not compared: each errs in its own way."""

    kind: Literal["pack", "detector"]
    identity: str  # name@hash of the model files
    source: Literal["landmark_3d_68", "keypoints"]


class GapSensors(Contract):
    """Who measured, by identity; null where there was no such model."""

    angle: AngleSensor
    hands: str | None = None
    eyes: str | None = None
    expression: str | None = None


class Recommendation(NamedGap):
    """One gap: `count` images that show `target` are to be added. 0 where the synthetic cap leaves no room.

    Type, target, count and reason are documented; the rest is null in a gap file of somebody else.
    """

    type: str = Field(min_length=1)  # of mirror/dataset/gaps.py, of a table of prompts, or of one's own
    target: str = Field(min_length=1)
    count: int = Field(ge=0)
    reason: Annotated[str, BeforeValidator(lambda given: "" if given is None else given)] = ""
    share_percent: float | None = None
    goal_percent: float | None = None
    wanted: int | None = Field(None, ge=0)  # before the synthetic cap


def own_recommendations(entries: list[object], where: str) -> list[Recommendation]:
    """Entries of a user's own code as gaps; of two for one target the later. Raises UserError naming the entry."""
    found = [checked(entry, Recommendation, where) for entry in entries]
    return list({gap.key: gap for gap in found}.values())


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

    @model_validator(mode="before")
    @classmethod
    def _spell(cls, given: object) -> object:
        if not isinstance(given, dict) or given.get("type") not in _TYPE_SPELLINGS:
            return given
        kind = given["type"]
        targets = [
            one | {"target": documented(kind, one.get("target")).target} if isinstance(one, dict) else one
            for one in given.get("targets") or ()
        ]
        return given | {"type": documented_type(kind), "targets": targets}


class NotMeasured(Contract):
    """A gap type, or some of its targets, unknown for the whole dataset, which is not the same as 0 %."""

    type: str
    why: str
    targets: list[str] = []  # empty: all of them


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
    measured_by: str | None = None  # what ran the pack's networks; null without a face, or with a face detector
    second_face_share: float | None = None  # its area by the largest's; null: no second face
    yaw_deg: float | None = None  # > 0: the nose points to the picture's right
    pitch_deg: float | None = None  # > 0: the face looks up
    roll_deg: float | None = None  # > 0: tilted clockwise
    turned_deg: int = 0  # clockwise: how the picture was turned to measure the face upright
    eyes: int | None = None  # visible eyes of the largest face
    hands: int | None = None  # visible hands
    expression: str | None = None  # of the largest face; null also where the model is not sure
    face_height_percent: float | None = None  # of the height of the upright picture
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
    """`gaps.json`: what a dataset holds, what it lacks, and how many images would fix that.

    People write such files too, and programs of theirs: all that must be there is `recommendations`.
    """

    people_write_it: ClassVar[bool] = True

    schema_version: Literal[1] = 1
    script: Literal["gap_analysis.py", "export_expressions.py"] = "gap_analysis.py"
    created: str = ""
    dataset: str | None = None  # folder, absolute or relative to the file's own
    recommendations: list[Recommendation]
    distributions: list[Distribution] = []
    not_measured: list[NotMeasured] = []
    sensors: GapSensors | None = None
    settings: dict[str, str | int | float | bool | None] = {}
    versions: dict[str, str] = {}
    providers: dict[str, int] = {}  # what ran the pack's networks -> images with a face, now or before
    synthetic_images: int | None = None  # files of the dataset that were generated
    synthetic_room: int | None = None  # images that may still be added under the synthetic cap
    sharpness: Spread = Spread(count=0)
    brightness: Spread = Spread(count=0)
    near_duplicates: list[NearDuplicate] = []
    ignored_files: dict[str, int] = {}  # suffix -> number of files in the folder that are not images
    warnings: list[str] = []
    images: list[ImageRecord] = []


def providers_of(measured_by: Iterable[str | None]) -> dict[str, int]:
    """What ran the pack's networks -> images, most first, from what measured each; None counts nowhere."""
    return dict(Counter(filter(None, measured_by)).most_common())


def read_gaps(path: Path) -> GapReport:
    """A gap file, with the dataset's folder as seen from here. Raises ContractError."""
    gaps = read_contract(path, GapReport, "gap_analysis.py")
    if gaps.dataset is not None:
        gaps.dataset = str(path.parent.resolve() / Path(gaps.dataset).expanduser())
    return gaps
