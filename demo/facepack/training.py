"""What the four trainings share: how long they run, the loop itself, and the file at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from demo.facepack.networks import device
from utils.console import UserError, say
from utils.files import reason_of, write_bytes_atomic

_REPORT_S = 20.0
_WARM_UP = 0.05  # share of the training over which the learning rate rises


@dataclass(frozen=True)
class RunSettings:
    """How long to train, on what, from which seed. With `steps` the same plan gives the same network; minutes vary."""

    minutes: float = 12.0
    steps: int | None = None  # takes the place of the minutes
    seed: int = 1
    people: int = 600
    each: int = 8  # pictures of a person
    oddities: int = 1200
    scratch: Path = Path("scratch")
    workers: int | None = None  # processes that render; one a core by default
    resume: bool = False  # go on from the file of an earlier training

    def share(self, step: int, seconds: float) -> float:
        """How much of the training is done, 0 to 1."""
        return step / self.steps if self.steps else seconds / (60 * self.minutes)


def begin(plan: RunSettings) -> np.random.Generator:
    """Seeds everything; the generator that the batches draw from."""
    torch.manual_seed(plan.seed)
    cv2.setNumThreads(1)  # crops are small: threads would cost more than they give
    return np.random.default_rng(plan.seed)


def fit(network: nn.Module, loss_of_batch: Callable[[], Tensor], plan: RunSettings, rate: float) -> list[float]:
    """Losses of all steps. `loss_of_batch` is given the share of the training that is done.

    The learning rate rises for a moment, then falls along a cosine to nothing (Loshchilov and Hutter 2017).
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    network.to(device()).train()
    if plan.resume:
        rate /= 2
        for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)):
            norm.eval()  # the file holds convolutions that their batch norms are folded into
    losses: list[float] = []
    started = reported = time.monotonic()
    while (share := plan.share(len(losses), time.monotonic() - started)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (share + 1e-3) / _WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * share))
        loss = loss_of_batch()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
        if time.monotonic() - reported > _REPORT_S:
            reported = time.monotonic()
            say(f"  {share:4.0%}  step {len(losses)}  loss {np.mean(losses[-100:]):.4f}")
    network.eval()
    say(f"  {len(losses)} steps in {(time.monotonic() - started) / 60:.1f} minutes, loss {np.mean(losses[-100:]):.4f}")
    return losses


def to_device(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device())


def images_to_device(images: np.ndarray, std: float) -> Tensor:
    """(N, H, W, 3) uint8 BGR as (N, 3, H, W) RGB around 0, as InsightFace scales them; kept channels last."""
    raw = torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).to(device())
    return ((raw.float() - 127.5) / std).permute(0, 3, 1, 2)


def write_model(data: bytes, path: Path) -> None:
    """Raises UserError where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason_of(error)}.") from error
    say(f"  {path}: {len(data) / 1e6:.2f} MB")
