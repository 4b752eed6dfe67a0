"""The stages of a training, each of which can be stopped at any time and goes on from what it kept."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.console import UserError, say
from utils.files import write_bytes_atomic

_REPORT_S, _KEEP_S = 30.0, 120.0
_WARM_UP_STEPS = 200


@dataclass(frozen=True)
class Course:
    """How long a stage lasts, and where its file lies. Minutes are those that were worked, over all starts."""

    file: Path
    minutes: float
    rate: float  # the highest learning rate
    falls_over: float = 0.45  # the last share of the minutes, in which the rate falls to nothing
    decay: float = 0.0  # of the weights
    averaged: float = 0.0  # how much of the running mean of the weights stays at each step; 0 keeps none
    faster: tuple[str, float] = ("$^", 1.0)  # names of weights (a pattern) that learn at so many times the rate


class Stage:
    """A training of some networks: steps, learning rate, running mean of the weights, and the file to go on from."""

    def __init__(self, course: Course, networks: dict[str, nn.Module], beside: dict[str, Any] | None = None) -> None:
        """`beside` is kept, too, but not trained here. Raises UserError for a file of something else."""
        self.course, self.networks, self.beside = course, networks, beside or {}
        self.trained = weights_in_training(networks)
        weights = [*self.trained.values()]
        names, times = course.faster
        fast = [one for name, one in self.trained.items() if re.search(names, name)]
        slow = [one for name, one in self.trained.items() if not re.search(names, name)]
        groups = [{"params": group, "factor": by} for group, by in ((slow, 1.0), (fast, times)) if group]
        self.optimiser = torch.optim.AdamW(
            groups, lr=course.rate, weight_decay=course.decay, betas=(0.9, 0.99), fused=True
        )
        self.weights = weights
        self.steps, self.seconds = 0, 0.0
        self.means = [one.detach().clone() for one in weights] if course.averaged else []
        if course.file.exists():
            self._take_up()

    @property
    def is_over(self) -> bool:
        """Whether its minutes were worked already."""
        return self.seconds >= 60 * self.course.minutes

    def random(self, seed: int) -> np.random.Generator:
        """Seeds everything, for each start anew: one that goes on does not see again what it has seen."""
        torch.manual_seed(seed + self.steps)
        return np.random.default_rng([seed, self.steps])

    def run(self, loss_of_batch: Callable[[], dict[str, Tensor]]) -> None:
        """Until the minutes are over. `loss_of_batch` gives named losses, of which the first is what is trained on.

        Raises UserError where that is no number any more.
        """
        seen: dict[str, list[float]] = {}
        began = last = reported = kept = time.monotonic()
        while (share := self.seconds / (60 * self.course.minutes)) < 1:
            for group in self.optimiser.param_groups:
                group["lr"] = self.course.rate * group.get("factor", 1.0) * self._rate(share)
            losses = loss_of_batch()
            loss = next(iter(losses.values()))
            if not torch.isfinite(loss):
                raise UserError(f"The loss is not a number after step {self.steps}; {self.course.file} is from before.")
            loss.backward()
            nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.steps += 1
            self._average()
            for name, one in losses.items():
                seen.setdefault(name, []).append(float(one.detach()))
            now = time.monotonic()
            self.seconds += min(now - last, 10.0)  # a machine that slept did not work
            last = now
            if now - reported > _REPORT_S:
                told = ", ".join(f"{name} {np.mean(values[-200:]):.4f}" for name, values in seen.items())
                pace = (now - began) / len(next(iter(seen.values())))
                say(f"  {share:4.0%}  step {self.steps}  {pace:.2f} s a step  {told}")
                reported = now
            if now - kept > _KEEP_S:
                self.keep()
                kept = now
        self.keep()

    def _rate(self, share: float) -> float:
        rising = min(1.0, (self.steps + 1) / _WARM_UP_STEPS)
        return rising * min(1.0, (1 - share) / max(self.course.falls_over, 1e-6))

    @torch.no_grad()
    def _average(self) -> None:
        if self.means:
            kept = min(self.course.averaged, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self.means, [one.detach() for one in self.weights], 1 - kept)

    def keep(self) -> None:
        """What is needed to go on, in one file."""
        means = dict(zip(self.trained, self.means, strict=True)) if self.means else {}
        more = {"means": means, "steps": self.steps, "seconds": self.seconds}
        more |= {name: one.state_dict() for name, one in self.beside.items()}
        keep_networks(self.course.file, self.networks, optimiser=self.optimiser.state_dict(), **more)

    def _take_up(self) -> None:
        state = torch.load(self.course.file, weights_only=True)
        try:
            for name, network in self.networks.items():
                network.load_state_dict(state["networks"][name])
            if state["optimiser"] and _groups(state["optimiser"]) == _groups(self.optimiser.state_dict()):
                # where other weights learned, it begins anew
                self.optimiser.load_state_dict(state["optimiser"])
                for name, one in self.beside.items():
                    one.load_state_dict(state[name])
            means = dict(state["means"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.course.file} cannot be trained further ({error}); delete it to begin anew."
            ) from error
        self.steps, self.seconds = state["steps"], state["seconds"]
        if self.means:
            self.means = [means.get(name, one.detach().clone()) for name, one in self.trained.items()]


def _groups(optimiser: dict[str, Any]) -> list[tuple[int, float]]:
    """How many weights each group of an optimiser's state has, and how fast they learn."""
    return [(len(group["params"]), group.get("factor", 1.0)) for group in optimiser["param_groups"]]


def discard(*files: Path) -> None:
    """Deletes what went on from weights that are about to change, and says so."""
    for file in files:
        if file.exists():
            file.unlink()
            say(f"{file} is deleted: it went on from what is trained further now.")


def keep_networks(file: Path, networks: dict[str, nn.Module], **more: object) -> None:
    """Weights as a stage keeps them; without `more` a training begins anew from them."""
    state = {"networks": {name: network.state_dict() for name, network in networks.items()}}
    written = io.BytesIO()
    torch.save(state | {"optimiser": None, "means": {}, "steps": 0, "seconds": 0.0} | more, written)
    write_bytes_atomic(file, written.getvalue())


def load_networks(file: Path, networks: dict[str, nn.Module], means: bool = False) -> None:
    """Weights as a stage kept them; with `means` the running means of those that it trained."""
    state = torch.load(file, weights_only=True)
    for name, network in networks.items():
        network.load_state_dict(state["networks"][name])
    if means:
        weights = weights_in_training(networks)
        with torch.no_grad():
            for name, mean in state["means"].items():
                weights[name].copy_(mean)


def weights_in_training(networks: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Every weight that learns, by the names of its network and its own."""
    named = ((f"{name}.{place}", one) for name, net in networks.items() for place, one in net.named_parameters())
    return {name: one for name, one in named if one.requires_grad}


def batches(count: int, size: int, random: np.random.Generator) -> Iterable[np.ndarray]:
    """Indices of 0 to count - 1, `size` at a time, each once before any comes again; without end."""
    order = np.empty(0, int)
    while True:
        while len(order) < size:
            order = np.concatenate([order, random.permutation(count)])
        yield order[:size]
        order = order[size:]
