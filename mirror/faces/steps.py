"""Checkpoints of one training run: step or epoch from the names of groups, and the best of them.

Names as trainers write them: kohya's sd-scripts `name-000012` (an epoch) and `name-step00000500`, ai-toolkit
`name_000001500`, OneTrainer `name2024-05-01_12-00-00-save-500-10-0` (step, epoch, step of the epoch), diffusers
`checkpoint-500`; and as people shorten them: `step01500`, `e10`, `epoch_10`, `1500`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mirror.faces.ranking import Ranked, Sample, rank

Unit = Literal["step", "epoch"]

# The first that fits counts; the number is the group "number".
_HABITS: tuple[tuple[Unit, re.Pattern[str]], ...] = tuple(
    (unit, re.compile(pattern, re.IGNORECASE))
    for unit, pattern in (
        ("step", r"(?:\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)?-?save-(?P<number>\d+)-\d+-\d+"),  # OneTrainer
        ("step", r"(?<![a-z])(?:global_?)?steps?[-_ =]?(?P<number>\d+)"),
        ("step", r"(?<![a-z])(?P<number>\d+)[-_ ]?steps?(?![a-z])"),
        ("step", r"(?<![a-z])(?:checkpoint|ckpt)[-_ ]?(?P<number>\d+)"),  # diffusers
        ("epoch", r"(?<![a-z\d])(?:(?:epochs?|ep)[-_ =]?|e)(?P<number>\d+)(?![a-z\d])"),
        ("step", r"_(?P<number>\d{9})(?!\d)"),  # ai-toolkit
        ("epoch", r"-(?P<number>\d{6})(?!\d)"),  # kohya
        ("step", r"[-_](?P<number>\d{4,9})$"),
        ("step", r"^(?P<number>\d+)$"),
    )
)


@dataclass(frozen=True)
class Mark:
    """What a name says: 'lora-000012' is epoch 12 of 'lora'; `token` is the part that says so."""

    series: str
    unit: Unit
    number: int
    token: str


def mark_of(name: str) -> Mark | None:
    """Step or epoch of a group's name; None where it says neither."""
    for unit, pattern in _HABITS:
        found = pattern.search(name)
        if found:
            rest = f"{name[: found.start()]} {name[found.end() :]}".strip("-_ .=")
            return Mark(re.sub(r"[-_ .=]* [-_ .=]*", " ", rest), unit, int(found["number"]), found[0])
    return None


def series_of(names: Collection[str]) -> dict[tuple[str, Unit], list[tuple[int, str]]]:
    """(number, name) in ascending order for each run of at least two checkpoints, by what their names share."""
    runs: dict[tuple[str, Unit], list[tuple[int, str]]] = {}
    for name in names:
        mark = mark_of(name)
        if mark is not None:
            runs.setdefault((mark.series, mark.unit), []).append((mark.number, name))
    return {key: sorted(run) for key, run in runs.items() if len({number for number, _ in run}) > 1}


def best_checkpoint(samples: list[Sample]) -> tuple[str | None, str | None]:
    """(best, highest) of checkpoints in the order of training: the earliest not proven worse than the highest median.

    `samples` leave out those that copy references: a copy is more like the person than any new picture can be.
    (None, None) where nothing was measured.
    """
    measured = [one for one in samples if len(one.scores)]
    if not measured:
        return None, None
    ranked = {one.name: one for one in rank(measured)}
    highest = max(measured, key=lambda one: one.median).name
    return next(one.name for one in measured if _within_noise(ranked[one.name], ranked[highest])), highest


def _within_noise(one: Ranked, highest: Ranked) -> bool:
    """Not proven worse than the highest, and, where too few pictures prove anything, not below its interval."""
    low = highest.interval[0] if highest.interval else np.inf
    return one.name == highest.name or (highest.name not in one.better and one.median >= low)
