"""Everything that a training works with, as its loop, its saved state and its samples share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror.contracts.training import TrainingLog
from mirror.training.base import Example
from mirror.training.files import LoraFormat, OutputFolder
from mirror.training.samples import Sampler

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from diffusers import DDPMScheduler


@dataclass
class Job:
    """One training in one process."""

    settings: dict[str, Any]
    accelerator: Accelerator
    unet: Any  # with the LoRA, as accelerate wrapped it
    trained: dict[str, Any]  # name -> parameter of the LoRA
    optimizer: Any
    schedule: DDPMScheduler
    examples: list[Example]  # one a picture
    samples: list[int]  # the pictures of an epoch, repeats included: indices of examples
    held_out: list[Example]
    dtype: torch.dtype  # of the frozen weights
    sampler: Sampler | None
    output: OutputFolder
    overwrite: bool  # delete an earlier training when this one begins
    log: TrainingLog
    how: LoraFormat

    @property
    def bare_unet(self) -> Any:
        return self.accelerator.unwrap_model(self.unet)
