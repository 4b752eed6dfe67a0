"""What the trainings share: how long they run, the loop itself, and the file at the end."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from demo.facepack.networks import device
from utils.console import UserError, say
from utils.files import reason_of, write_bytes_atomic

_REPORT_S, _KEEP_S = 20.0, 180.0
_WARM_UP = 0.05  # share of the training over which the learning rate rises


@dataclass(frozen=True)
class RunSettings:
    """How long to train, on what, from which seed. With `steps` the same plan gives the same network; minutes vary."""

    minutes: float = 12.0
    steps: int | None = None  # takes the place of the minutes
    seed: int = 1
    people: int = 2000
    each: int = 8  # pictures of a person
    oddities: int = 2400
    scratch: Path = Path("scratch")
    workers: int | None = None  # processes that render; one a core by default
    resume: bool = False  # go on with a training that was killed, else from the file of an earlier one

    def share(self, step: int, seconds: float) -> float:
        """How much of the training is done, 0 to 1."""
        return step / self.steps if self.steps else seconds / (60 * self.minutes)


def begin(plan: RunSettings) -> np.random.Generator:
    """Seeds everything; the generator that the batches draw from."""
    torch.manual_seed(plan.seed)
    cv2.setNumThreads(1)  # crops are small: threads would cost more than they give
    return np.random.default_rng(plan.seed)


def fit(
    network: nn.Module,
    loss_of_batch: Callable[[], Tensor],
    plan: RunSettings,
    rate: float,
    path: Path,
    settled: bool = False,
) -> list[float]:
    """Losses of all steps. What is needed to go on is kept beside `path`: see `unfinished`.

    The learning rate rises for a moment, then falls along a cosine to nothing (Loshchilov and Hutter 2017). A network
    that is `settled` came from a file: means and spreads of its batch norms stay as they are.
    """
    network.to(device(), memory_format=torch.channels_last).train()
    if not settled and goes_on_from_file(plan, path):
        rate /= 2
        settled = True
    if settled:
        for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)):
            norm.eval()  # the file holds convolutions that their batch norms are folded into
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02, fused=True)
    losses, before_s = _taken_up(network, optimiser, path) if plan.resume else ([], 0.0)
    started = reported = kept = time.monotonic()
    while (share := plan.share(len(losses), before_s + time.monotonic() - started)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (share + 1e-3) / _WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * share))
        loss = loss_of_batch()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
        now = time.monotonic()
        if now - reported > _REPORT_S:
            reported = now
            say(f"  {share:4.0%}  step {len(losses)}  loss {np.mean(losses[-100:]):.4f}")
        if now - kept > _KEEP_S:
            kept = now
            _keep(network, optimiser, path, losses, before_s + now - started)
    network.eval()
    minutes = (before_s + time.monotonic() - started) / 60
    say(f"  {len(losses)} steps in {minutes:.1f} minutes, loss {np.mean(losses[-100:]):.4f}")
    return losses


def unfinished(path: Path) -> Path:
    """Where a training that was killed left what it had reached; gone once `path` is written."""
    return path.with_suffix(".unfinished")


def goes_on_from_file(plan: RunSettings, path: Path) -> bool:
    """Whether the network starts as `path` holds it: an unfinished training comes first, for it holds everything."""
    return plan.resume and not unfinished(path).exists()


def _keep(
    network: nn.Module, optimiser: torch.optim.Optimizer, path: Path, losses: list[float], seconds: float
) -> None:
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "losses": losses, "seconds": seconds}
    file = io.BytesIO()
    torch.save(state, file)
    _write(file.getvalue(), unfinished(path))


def _taken_up(network: nn.Module, optimiser: torch.optim.Optimizer, path: Path) -> tuple[list[float], float]:
    """Losses and seconds of the training that was killed, if one was; network and optimiser as it left them.

    Raises UserError where it trained another network.
    """
    kept = unfinished(path)
    if not kept.exists():
        return [], 0.0
    try:
        state = torch.load(kept, map_location=device(), weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
    except (OSError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        raise UserError(f"{kept} cannot be trained further ({error}). Delete it to begin anew.") from error
    return list(state["losses"]), float(state["seconds"])


def to_device(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device())


def images_to_device(images: np.ndarray, std: float) -> Tensor:
    """(N, H, W, 3) uint8 BGR as (N, 3, H, W) RGB around 0, as InsightFace scales them; kept channels last."""
    raw = torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).to(device())
    return ((raw.float() - 127.5) / std).permute(0, 3, 1, 2)


def write_model(data: bytes, path: Path) -> None:
    """The finished file. Raises UserError where it cannot be written."""
    _write(data, path)
    unfinished(path).unlink(missing_ok=True)
    say(f"  {path}: {len(data) / 1e6:.2f} MB")


def _write(data: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason_of(error)}.") from error
