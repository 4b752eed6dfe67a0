"""`training_log.json`: what a LoRA learned from, and how."""

from __future__ import annotations

from typing import Literal

from mirror.contracts.contract import Contract


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
