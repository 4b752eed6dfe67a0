"""Checkpoints of one training run: step or epoch from the names of groups, and the best of them.

Names as trainers write them: kohya's sd-scripts `name-000012` (an epoch) and `name-step00000500`, ai-toolkit
`name_000001500`, OneTrainer `name2024-05-01_12-00-00-save-500-10-0` (step, epoch, step of the epoch), diffusers
`checkpoint-500`; and as people shorten them: `step01500`, `e10`, `epoch_10`, `1500`.

And from the names of sample images, which trainers put into one folder for all steps: see `_SAMPLES`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from mirror.faces.ranking import Ranked, Sample, rank

Unit = Literal["step", "epoch"]

# Sides of pictures that people train and generate at, and years: numbers at the end of a name that are no steps.
_NO_STEPS = "1024|1152|1216|1280|1344|1408|1536|1664|1792|1920|2048|4096|20[12][0-9]"

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
        ("step", rf"[-_](?!(?:{_NO_STEPS})$)(?P<number>\d{{4,9}})$"),
        ("step", r"^(?P<number>\d+)$"),
    )
)

ONETRAINER = "-training-sample-"  # in the names of its sample images
# Whole names of sample images, without suffix. Names of generators hold seeds and counters of any length
# (00012-123456.png, ComfyUI_00012_.png), so a number alone never counts here.
_SAMPLES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # kohya's sd-scripts (sample_image_inference) and musubi-tuner: <output name>_e000010_00_20240101120000_42, or
        # 000500 for steps; earlier versions had the time first
        r"(?:(?P<series>.+)_)?(?P<token>(?:e(?P<epoch>\d{6})|(?P<step>\d{6,9}))(?=_\d\d+_\d{14}(?:_\d+){0,2}$))",
        r"(?:(?P<series>.+)_)?(?P<token>\d{14}_(?:e(?P<epoch>\d{6})|(?P<step>\d{6,9}))(?=_\d\d+(?:_\d+)?$))",
        # ai-toolkit: <milliseconds>__000000500_0
        r"(?:rank\d+_sample\d+_)?(?P<token>\d{13}__(?P<step>\d{9,}))(?=_\d+$)",
        # OneTrainer: <time>-training-sample-<step>-<epoch>-<step of the epoch>
        r"(?P<token>\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d" + ONETRAINER + r"(?P<step>\d+)-\d+-\d+)$",
        # in words; steps of two digits are those of a sampler
        r".*?(?<![a-z])(?P<token>(?:global_?)?step[-_ =]?(?P<step>\d{3,9}))(?!\d)",
        r".*?(?<![a-z])(?P<token>(?:checkpoint|ckpt)[-_ ]?(?P<step>\d{2,9}))(?!\d)",
        r".*?(?<![a-z])(?P<token>epoch[-_ =]?(?P<epoch>\d{1,6}))(?!\d)",
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


def sample_mark_of(filename: str) -> Mark | None:
    """Step or epoch of a sample image's file name, in whatever folder; None where a trainer did not write it."""
    stem = PurePosixPath(filename).stem
    for pattern in _SAMPLES:
        if found := pattern.match(stem):
            groups = found.groupdict()
            unit: Unit = "epoch" if groups.get("epoch") else "step"
            return Mark(groups.get("series") or "", unit, int(groups[unit]), found["token"])
    return None


def without_step(filename: str) -> str:
    """The name of a sample image without what says its step: the same for one prompt and seed at every step."""
    mark = sample_mark_of(filename)
    return filename.replace(mark.token, "") if mark else filename


def by_step(marks: Collection[Mark | None]) -> list[Mark | None] | None:
    """The marks alone, in the order of training, each once; None where they tell of fewer than two steps of a run."""
    told = {(mark.series, mark.unit, mark.number): mark for mark in marks if mark}
    runs = [key[:2] for key in told]
    return [told[key] for key in sorted(told)] if len(runs) > len(set(runs)) else None


def group_name(folder: str, mark: Mark, with_series: bool) -> str:
    """Name of the group of one step, of which `mark_of` reads just this step, whatever the folder is called."""
    while (own := mark_of(folder)) is not None:
        folder = own.series
    series = mark.series
    while with_series and (own := mark_of(series)) is not None:
        series = own.series
    return " ".join(filter(None, (folder, series if with_series else "", mark.unit, str(mark.number))))


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
