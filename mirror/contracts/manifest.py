"""`merge_manifest.json`: what the loop's working dataset consists of."""

from __future__ import annotations

from typing import Literal

from mirror.contracts.contract import Contract
from mirror.contracts.gaps import MadeForGap


class RealPhoto(Contract):
    """One photo of the user's dataset, as it was when the loop copied it."""

    file: str  # name in the dataset folder and of the copy; bytes that are no UTF-8 are written as \xNN
    sha256: str
    caption_sha256: str | None  # of its caption as UTF-8, whichever file holds it
    picture_hash: str | None = None  # as in gaps.json; null: not needed, or not readable
    held_out: bool = False  # never trained on: similarity is measured against it


class MergedImage(MadeForGap):
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
    baseline_is_made: bool = False  # from then on generated files that lie among the real photos are trained on too
    merged: list[MergedImage] = []
    taken_out: list[MergedImage] = []  # by --undo
    undone: list[int] = []  # iterations
    retired: dict[str, str] = {}  # copies that are to go: place in the output folder -> hash of its content
