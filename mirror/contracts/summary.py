"""`Summary_<timestamp>.json`: one run of mirror_metrics.py."""

from __future__ import annotations

from typing import Literal

from mirror.contracts.contract import Contract, Spread
from utils.files import Status

REFERENCE, CANDIDATE = "Reference", "Candidate"  # types of a group


HELD_OUT = "Held-out"  # name of the group of real photos that no training saw; its type is REFERENCE

BASELINE = "_baseline"  # name of the group of images that were made without a LoRA; its type is CANDIDATE


def group_label(kind: str, name: str) -> str:
    """What people read: a LoRA that is itself called Reference or Held-out must not be taken for real photos."""
    taken = (REFERENCE.casefold(), HELD_OUT.casefold())
    return f"{name} (LoRA)" if kind == CANDIDATE and name.casefold() in taken else name


RESULT_FILES = {  # of one run, with its time stamp
    "dashboard": "Dashboard_{}.html",
    "copycat": "CopycatReport_{}.html",
    "data": "Data_{}.csv",
    "summary": "Summary_{}.json",
}


class PackInfo(Contract):
    """The model pack that measured. `identity` is name@hash of the model files: scores of two identities do not mix."""

    name: str
    identity: str
    tasks: list[str]
    licence: str
    pose_source: Literal["landmark_3d_68", "keypoints"]
    has_age: bool


class Verdict(Contract):
    """One thing that the numbers say of a group, see mirror.faces.verdicts.RULES."""

    name: str
    sentence: str  # with the numbers that made it
    numbers: dict[str, int | float | str]
    advice: str  # what to do next


class RankedGroup(Contract):
    """One line of the ranking; groups that the data cannot tell apart share a rank."""

    name: str
    rank: int | None  # from 1; null without faces
    median: float | None  # similarity
    interval: tuple[float, float] | None  # 95 %, of the median; null for too few faces
    to_references: float | None = None  # with held-out photos: the median similarity to the references' centre
    better: list[str]  # the groups proven better
    spread: float | None = None  # of similarity: MAD, scaled to a standard deviation
    lost_per_30_deg: float | None = None  # similarity lost for each 30 degrees of yaw
    pose_coverage: float | None = None  # how far heads turn, as a share of the references' spread of yaw
    age_shift_years: float | None = None  # median age less the references'
    copies: int = 0  # near copies of a reference


class Checkpoint(Contract):
    """One group as a point of a checkpoint curve."""

    group: str
    number: int  # of the step or epoch
    median: float | None
    interval: tuple[float, float] | None
    faces: int
    images: int
    copies: int  # near copies of a reference
    verdicts: list[str]


class Curve(Contract):
    """The checkpoints of one training run, by step or epoch."""

    series: str  # what their names have in common
    unit: Literal["step", "epoch"]
    checkpoints: list[Checkpoint]
    best: str | None  # the earliest checkpoint not proven worse than the best one that copies nothing
    highest: str | None  # the one with the highest median of those that copy nothing


class Answer(Contract):
    """One sentence that answers one of the questions that the README begins with."""

    question: Literal["best checkpoint", "overtrained", "rigid", "dataset"]
    headline: str  # in a few words
    tone: Literal["good", "bad", "unknown"]
    sentence: str  # what it rests on
    numbers: dict[str, int | float | str]
    panel: str  # where to look

    @property
    def text(self) -> str:
        """All of it, for a console."""
        return f"{self.headline}. {self.sentence}"


class DatasetFault(Contract):
    """One thing that is wrong with one reference photo."""

    file: str
    fault: str  # in the field's words: outlier, near duplicate, blurred, dark ..., see mirror.dataset.soundness
    sentence: str  # with the numbers that show it
    advice: str
    keep: bool  # whether the photo is good enough to train on all the same
    like: str | None = None  # of near duplicates: the photo that it repeats
    numbers: dict[str, int | float | str] = {}


class DatasetCheck(Contract):
    """What the references hold and lack as a training set; data, not orders."""

    photos: int
    keep: list[str]  # file names that it would keep
    faults: list[DatasetFault]  # the worst first
    coverage: dict[str, dict[str, int]]  # of angles, ages, light: number of photos in each bin
    missing: list[str]  # one sentence for each hole in the coverage


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
    similarity_interval: tuple[float, float] | None = None  # 95 %, of the median; null for too few faces
    identity: float | None = None  # median similarity corrected for pose, see mirror.faces.metrics.pose_corrected
    identity_interval: tuple[float, float] | None = None  # 95 %
    nearest_similarity: Spread
    age: Spread
    yaw_abs_deg: Spread
    det_score: Spread
    aspect_ratio: Spread
    angle_bins: dict[str, int]
    copy_bands: dict[str, int]
    verdicts: list[Verdict] = []  # of generated images; the gravest first


class Summary(Contract):
    """`Summary_<timestamp>.json`: one run of mirror_metrics.py in numbers."""

    schema_version: Literal[2] = 2
    script: Literal["mirror_metrics.py"] = "mirror_metrics.py"
    created: str
    fingerprint: str | None = None  # of files, options, pack and program; the same one would give the same results
    pack: PackInfo
    providers: dict[str, int]  # execution provider -> faces that it measured, now or when they entered the cache
    versions: dict[str, str]
    settings: dict[str, str | int | float | bool | None]
    reference_folder: str
    candidates_folder: str | None
    groups: list[GroupSummary]
    compared: str = ""  # in a sentence: what the similarity is taken against, and how groups were compared
    ranking: list[RankedGroup] = []
    curves: list[Curve] = []
    answers: list[Answer] = []
    dataset: DatasetCheck | None = None
    ignored_files: dict[str, int]  # suffix -> number of files in the folders that are not images
    warnings: list[str]
    seconds: dict[str, float]  # spent on loading networks, measuring, prompts, the map, copies and the pages
    results: dict[str, str]  # kind -> file name
