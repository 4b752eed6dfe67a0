"""The JSON files that scripts hand to each other, as typed models.

Every contract that a script writes carries `schema_version`; reading another version, a broken file or a wrong type
raises `ContractError` with the file, the field and the script to run again. Writing is atomic (see `utils.files`).
"""

from __future__ import annotations

import json
import random
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from utils.console import UserError
from utils.files import Status, write_text_atomic


class ContractError(ValueError):
    """A JSON file between scripts cannot be used; the message names file, field and cure."""


REFERENCE, CANDIDATE = "Reference", "Candidate"  # types of a group
HELD_OUT = "Held-out"  # name of the group of real photos that no training saw; its type is REFERENCE


def group_label(kind: str, name: str) -> str:
    """What people read: a LoRA that is itself called Reference or Held-out must not be taken for real photos."""
    taken = (REFERENCE.casefold(), HELD_OUT.casefold())
    return f"{name} (LoRA)" if kind == CANDIDATE and name.casefold() in taken else name


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
    similarity_interval: tuple[float, float] | None = None  # 95 %, of the median; null for too few faces
    identity: float | None = None  # median similarity corrected for pose, see utils.metrics.pose_corrected
    identity_interval: tuple[float, float] | None = None  # 95 %
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

    type: str  # name of a gap type, see utils/gaps.py
    target: str
    count: int = Field(ge=0)
    reason: str
    share_percent: float
    goal_percent: float
    wanted: int = Field(ge=0)  # before the synthetic cap


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
    face_confidence: float | None = None
    second_face_share: float | None = None  # its area by the largest's; null: no second face
    yaw_deg: float | None = None  # > 0: the nose points to the picture's right
    pitch_deg: float | None = None  # > 0: the face looks up
    roll_deg: float | None = None  # > 0: tilted clockwise
    eyes: int | None = None  # visible eyes of the largest face
    hands: int | None = None  # visible hands
    face_height_percent: float | None = None  # of the picture's height
    sharpness: float | None = None  # variance of the Laplacian at utils.pixels.SHARPNESS_SIDE
    brightness: float | None = None  # mean grey level, 0-255
    exposure: Literal["under", "normal", "over"] | None = None
    spoiled: str | None = None  # black, one grey, blown: a picture that shows nothing, see utils/pixels.py
    picture_hash: str | None = None  # 32 hexadecimal digits, see utils/pixels.py
    values: dict[str, str | None] = {}


class NearDuplicate(Contract):
    """Two files that show nearly the same picture."""

    first: str
    second: str
    differing_bits: int  # of 128


class GapReport(Contract):
    """`gaps.json`: what a dataset holds, what it lacks, and how many images would mend that."""

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


class GeneratedImage(Contract):
    """One image that a generator wrote, and what it was asked to show."""

    file: str  # its name; it lies beside generation_metadata.json
    gap_type: str | None = None  # name of a gap type, see utils/gaps.py; null: made for no gap
    target: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    size_wh: tuple[int, int] | None = None  # pixels
    created: str | None = None


class FailedImage(Contract):
    """One planned image that came out black, blown or not a number, twice; no file was written."""

    name: str
    gap_type: str | None
    target: str | None
    prompt: str
    seeds: list[int]
    reason: str


MAX_SEED = 2**32 - 1  # what A1111 and ComfyUI take too


class PlannedPrompt(Contract):
    """One image of a fixed plan; its file gets `name`, or its number in the plan."""

    prompt: str = Field(min_length=1)
    seed: int = Field(ge=0, le=MAX_SEED)
    name: str | None = None
    negative_prompt: str | None = None


class PromptPlan(Contract):
    """A JSON file for `generate_synthetic.py --prompts-file`: the same pictures with every model and LoRA.

    People write it, so it has no `schema_version`.
    """

    images: list[PlannedPrompt]


def retry_seed(seed: int) -> int:
    """The seed of the second try for an image that came out black; metadata of a plan may name it instead of the first.

    The same every time: 0 to MAX_SEED.
    """
    return random.Random(f"{seed}/again").randint(0, MAX_SEED)


class GenerationMetadata(Contract):
    """`generation_metadata.json`: who made the images of a folder, for which gaps of which dataset.

    Another generator may write it too: all that validation needs is `images` with their targets, and either `gaps_file`
    or `dataset` and `sensors`. Paths are absolute, or relative to the file's own folder. generate_synthetic.py writes
    it after every image; `planned` says how many there will be.
    """

    schema_version: Literal[1] = 1
    script: str = "generate_synthetic.py"  # or the program that took its place
    created: str = ""
    gaps_file: str | None = None
    dataset: str | None = None  # the folder that the gaps were found in
    sensors: GapSensors | None = None  # who found them
    base_model: str | None = None  # name@hash
    lora: str | None = None  # name@hash
    lora_scale: float | None = None
    lora_keys: int | None = None  # of the LoRA's file
    lora_unmatched: list[str] = []  # those of them that the base model has no place for
    family: str | None = None  # name of utils/families.py
    settings: dict[str, str | int | float | bool | None] = {}
    versions: dict[str, str] = {}
    plan: str | None = None  # hash of all prompts, seeds and names
    planned: int | None = None
    images: list[GeneratedImage]
    failed: list[FailedImage] = []


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

    check: str  # a name of utils/checks.py
    value: float | str | None
    limit: float | str | tuple[float, float] | None  # a number to reach or stay below, a range, or the target
    outcome: Outcome
    reason: str = ""


class ValidatedImage(Contract):
    """One image with every check. null is not measured."""

    file: str  # relative to `folder`, forward slashes
    sha256: str | None  # of the file; null where it could not be read
    verdict: Verdict
    gap_type: str | None
    target: str | None
    quality: float | None  # 0-1, see utils/checks.py
    relative_sharpness: float | None  # by the median of the real photos: 1 is as sharp as they are
    yaw_deg: float | None
    similarity: float | None  # to the centroid of the references
    nearest_reference: str | None
    nearest_similarity: float | None
    checks: list[Check]
    copied_to: str | None = None  # where its copy lies; null with --no-auto-filter


class ReferenceFacts(Contract):
    """The real photos that the images were held against."""

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
    approved: int
    rejected: int
    unverified: int
    approved_percent: float | None
    mean_quality: float | None  # of the approved images
    failures: dict[str, int]  # check -> images that failed it
    ignored_files: dict[str, int]
    warnings: list[str]
    images: list[ValidatedImage]


class RealPhoto(Contract):
    """One photo of the user's dataset, as it was when the loop copied it."""

    file: str  # name in the dataset folder and of the copy; bytes that are no UTF-8 are written as \xNN
    sha256: str
    caption_sha256: str | None  # of the text file beside it
    picture_hash: str | None = None  # 32 hexadecimal digits, see utils/pixels.py; null: not needed, or not readable
    held_out: bool = False  # never trained on: likeness is measured against it


class MergedImage(Contract):
    """One generated image that entered the working dataset."""

    file: str  # in the working dataset
    source: str  # the approved file, relative to the loop's output folder
    sha256: str
    caption: str
    iteration: int
    gap_type: str | None
    target: str | None
    seed: int | None
    quality: float | None
    lora: str  # name of the LoRA that made it
    lora_sha256: str


class MergeManifest(Contract):
    """`merge_manifest.json`: what the working dataset consists of. The folders follow this file."""

    schema_version: Literal[1] = 1
    script: Literal["bootstrap_loop.py"] = "bootstrap_loop.py"
    dataset_dir: str  # where the real photos come from, as it was at the last start; nothing is ever written there
    seed: int
    real: list[RealPhoto]
    control_is_made: bool = False  # from then on generated files that lie among the real photos are trained on too
    merged: list[MergedImage] = []
    taken_out: list[MergedImage] = []  # by --undo
    undone: list[int] = []  # iterations
    retired: dict[str, str] = {}  # copies that are to go: place in the output folder -> hash of its content


class LoraRecord(Contract):
    """One LoRA of the loop and what its samples measured. null is not measured."""

    name: str  # v1 is the control, trained on real photos alone unless it was adopted
    file: str  # relative to the LoRA folder
    sha256: str
    iteration: int  # 0 for v1
    adopted: bool = False  # it was there before the loop
    real_images: int | None = None  # that it was trained on; null for an adopted one
    synthetic_images: int | None = None
    learned_from: list[int] = []  # iterations whose merged images it was trained on
    samples: int = 0
    faces: int = 0  # samples in which a face was measured
    similarity: float | None = None  # median, to the held-out photos (without them: to the real photos)
    identity: float | None = None  # the same corrected for pose, see utils.metrics.pose_corrected
    identity_interval: tuple[float, float] | None = None  # 95 %
    scores: dict[str, float] = {}  # sample -> its similarity, corrected for pose
    level: float | None = None  # the identity of the real photos themselves
    variety: float | None = None  # of head angles, 0-1, see utils.metrics.variety
    variety_interval: tuple[float, float] | None = None


class GapOutcome(Contract):
    """One gap of an iteration, and what became of it."""

    type: str
    target: str
    count: int
    reason: str
    generated: int = 0
    approved: int = 0


class StepRecord(Contract):
    """A step that ended well. With other inputs, or where an output is no longer what it was, it is done again."""

    step: str
    inputs: str  # hash of the command and of what it reads
    outputs: dict[str, str]  # file or folder -> hash of its content, time stamps aside
    started: str
    finished: str


class RunningStep(Contract):
    """A step that was started, and did not end if this is still here."""

    step: str
    inputs: str


class StopDecision(Contract):
    """What followed from an iteration."""

    stop: bool
    rule: str  # a name of utils/stopping.py
    words: str
    best: str  # name of the LoRA that is kept
    improvement_percent: float | None = None  # of the score, against the best round before
    noise_percent: float | None = None  # what measuring it again could change about that, 95 %


class IterationRecord(Contract):
    """One round of the loop. null is not known, or not yet."""

    number: int  # 0 makes the control
    generator: str | None = None  # the LoRA that generated
    steps: list[StepRecord] = []
    running: RunningStep | None = None
    gaps: list[GapOutcome] | None = None
    coverage_before: float | None = None  # 0-1, see utils.stopping.coverage
    coverage: float | None = None  # after the merge
    generated: int | None = None
    approved: int | None = None
    rejected: int | None = None
    unverified: int | None = None
    approval: float | None = None  # 0-1
    quality: float | None = None  # mean of the approved images
    failures: dict[str, int] = {}  # check -> images that failed it
    merged: int | None = None
    merged_entries: str | None = None  # hash of what stands in the manifest about them; null: nothing
    left_out: dict[str, int] = {}  # reason -> approved images that were not merged
    synthetic_share: float | None = None  # of the working dataset after the merge
    lora: str | None = None  # that this iteration trained
    score: float | None = None
    needs_real_photos: list[str] = []
    photos: str | None = None  # hash of the real photos that could be trained on when it was decided
    decision: StopDecision | None = None  # null: the iteration has not ended


class IterationHistory(Contract):
    """`iteration_history.json`: all that the loop did and knows. Written whole after every step."""

    schema_version: Literal[1] = 1
    script: Literal["bootstrap_loop.py"] = "bootstrap_loop.py"
    created: str
    updated: str
    person: str
    base_model: str
    dataset_dir: str  # as base_model and lora_output_dir relative to the configuration where it lies below that folder
    lora_output_dir: str
    seed: int
    held_out: int  # photos, as the manifest counts them
    adopted: str | None = None  # hash of the LoRA that was there before the loop and became v1
    settings: dict[str, str | int | float | bool | None]
    simulated: str | None = None  # what a program that took a step's place said of its images, shown wherever they are
    warnings: list[str] = []
    loras: list[LoraRecord] = []
    iterations: list[IterationRecord] = []
    best: str | None = None


class EpochLog(Contract):
    """One epoch of a training. `losses` has one value a step, as it was minimised (weighted)."""

    epoch: int  # from 1
    losses: list[float]
    loss: float  # their mean
    learning_rate: float  # of the last step
    validation_loss: float | None = None  # unweighted, see train_lora.py; null: no held-out pictures
    seconds: float
    checkpoint: str  # file, relative to the log
    samples: str | None = None  # folder, relative to the log; null: no --sample-prompts


class TrainingLog(Contract):
    """`training_log.json`: what a LoRA learned from, on which base model, how, and how the loss went."""

    schema_version: Literal[1] = 1
    script: Literal["train_lora.py"] = "train_lora.py"
    created: str
    finished: bool
    lora: str | None  # file, relative to the log; null until it is finished
    trainer: str  # train_lora.py, or the program that it started
    trigger: str
    dataset: str  # folder, absolute
    dataset_hash: str  # SHA-256 over pictures, captions and repeats
    images: int
    samples_per_epoch: int  # pictures seen, repeats counted
    buckets: dict[str, int]  # width x height -> pictures
    base_model: str  # name@hash
    settings: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    steps: int  # made so far
    gpu_memory_bytes: int | None = None  # the most that PyTorch reserved; null on the CPU
    validation_loss_before: float | None = None  # of the base model without the LoRA
    epochs: list[EpochLog] = []  # none where another program trained
    warnings: list[str] = []


Model = TypeVar("Model", bound=Contract)

_VERSION = "schema_version"
_PAGE_MARK = "MirrorMetrics"  # stands at the head of every page of ours


def write_contract(path: Path, contract: Contract) -> None:
    """Write `contract` as indented UTF-8 JSON, whole or not at all."""
    write_text_atomic(path, contract.model_dump_json(indent=2) + "\n")


def demand_own(path: Path, script: str) -> None:
    """Raise UserError where results would overwrite a file that `script` has not written: `path`, or its page.

    A damaged file is taken for the script's own: nobody else's lies under its name.
    """
    page = path.with_suffix(".html")
    try:
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            strange = None if isinstance(found, dict) and found.get("script") == script else path
        else:
            strange = page if page.is_file() and _PAGE_MARK not in page.read_text(encoding="utf-8") else None
    except (OSError, ValueError):
        return
    if strange is not None:
        raise UserError(f"{strange} is there already and was not written by {script}. Choose another name.")


def read_contract(path: Path, model: type[Model], made_by: str = "", cure: str = "") -> Model:
    """Read `path` as `model`; `made_by` names the script to run again, `cure` what else helps. Raises ContractError."""
    again = cure or f"run {made_by} again to write it anew"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{path} cannot be read ({error}); {again}.") from error
    try:
        contract = model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ContractError(f"{path}: field {field}: {first['msg']}; {again}.") from error
    if _VERSION in model.model_fields and _VERSION not in contract.model_fields_set:
        raise ContractError(f"{path}: field {_VERSION} is missing; {again}.")
    return contract
