"""`iteration_history.json`: what the bootstrap loop did."""

from __future__ import annotations

from typing import Literal

from mirror.contracts.contract import Contract
from mirror.contracts.gaps import NamedGap

# Why an approved image is not merged, with the words that follow "approved images left out".
CAP, DOUBLE, VANISHED, SPARE = "synthetic_cap", "duplicate", "changed_since_validation", "enough_better_ones"
WHY_LEFT_OUT = {
    SPARE: "because better ones were approved for the same gaps",
    CAP: "because no more of the dataset may be synthetic (max_synthetic_share)",
    DOUBLE: "because the dataset already contains them",
    VANISHED: "because the copy changed after validation",
}


class LoraRecord(Contract):
    """One LoRA of the loop and what its samples measured. null is not measured."""

    name: str  # v1 is the baseline, trained on real photos alone unless it was adopted
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
    identity: float | None = None  # the same corrected for pose, see mirror.faces.metrics.pose_corrected
    identity_interval: tuple[float, float] | None = None  # 95 %
    scores: dict[str, float] = {}  # sample -> its similarity, corrected for pose
    level: float | None = None  # the identity of the real photos themselves
    pose_diversity: float | None = None  # of head angles, 0-1, see mirror.faces.metrics.pose_diversity
    pose_diversity_interval: tuple[float, float] | None = None


class GapOutcome(NamedGap):
    """One gap of an iteration, and what became of it."""

    type: str
    target: str
    count: int
    reason: str
    wanted: int | None = None  # images to merge at most; null: nothing was generated, or not noted yet
    generated: int = 0
    approved: int = 0
    unverified: int = 0


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
    rule: str  # a name of mirror/loop/stopping.py
    words: str
    best: str  # name of the LoRA that is kept
    improvement_percent: float | None = None  # of the score, against the best iteration before
    noise_percent: float | None = None  # what measuring it again could change about that, 95 %


class IterationRecord(Contract):
    """One iteration of the loop. null is not known, or not yet."""

    number: int  # 0 makes the baseline
    generator: str | None = None  # the LoRA that generated
    steps: list[StepRecord] = []
    running: RunningStep | None = None
    gaps: list[GapOutcome] | None = None
    coverage_before: float | None = None  # 0-1, see mirror.loop.stopping.coverage
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
