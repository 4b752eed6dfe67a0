"""Which group is more like the person, and which groups the data cannot tell apart.

Groups are ordered by their median similarity. Two groups that hold the same pictures (prompt and seed, as the files
themselves or else their names say) are compared picture by picture (Student's paired t), which takes what a prompt does
to both out of the comparison. Others are compared by a percentile bootstrap of the difference of their medians (Wilcox
2012, Introduction to Robust Estimation, section 5.4). All pairs are corrected together (Holm 1979, Scandinavian Journal
of Statistics 6, 65-70).
From the best median down, a group shares the rank above it unless one that has this rank is proven better. Groups that
share a rank are not proven equal: there are too few pictures to tell.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePosixPath

import numpy as np

from mirror.contracts.generation import prompt_key
from mirror.faces import metrics

# Chance, over all pairs together, of telling groups apart that do not differ: below 5 %, as both tests are approximate.
LEVEL = 0.04
DRAWS, SEED = 4000, 20240607  # resamples; a fixed seed, so that the same pictures give the same ranks
PAIRED_SHARE = 0.8  # of the larger group's pictures that the other has too, from which pairs alone are compared
FEWEST_TO_COMPARE = 6  # faces in each group: fewer give a median no interval of 95 % (metrics.median_interval)
_TAIL = 10  # draws: a chance that rests on fewer is taken from the normal tail instead
# What a program adds to the names of samples and what says nothing of the prompt: time stamps of kohya and ai-toolkit.
_TIME_STAMP = re.compile(r"(?<!\d)(\d{13,14})(?!\d)")


@dataclass(frozen=True)
class Sample:
    """The scores of one group: `keys` (N,) say which pictures of two groups belong together, `scores` (N,)."""

    name: str
    keys: tuple[str, ...]
    scores: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(self.scores)) if len(self.scores) else math.nan


@dataclass(frozen=True)
class Ranked:
    """One line of the ranking; `median` is None without faces, `interval` for too few."""

    name: str
    rank: int | None
    median: float | None
    interval: tuple[float, float] | None
    faces: int
    better: tuple[str, ...]  # groups proven better


def picture_keys(group: str, filenames: Iterable[str], tokens: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What the names of pictures say of prompt and seed: without the group's own name, `tokens` and time stamps.

    img_001.png in every group, or lora-000002_001.png in the group lora-000002, belong together.
    """
    parts = sorted({group.casefold(), *map(str.casefold, tokens)}, key=len, reverse=True)
    own = [re.compile(rf"(?<![a-z\d]){re.escape(part)}(?![a-z\d])") for part in parts if part]  # whole words alone
    keys = []
    for name in filenames:
        stem = PurePosixPath(name).with_suffix("").as_posix().casefold()
        for part in own:
            stem = part.sub("", stem)
        keys.append(_TIME_STAMP.sub("", stem).strip("_- ."))
    return _numbered(keys)


def known_keys(prompts: Iterable[object], seeds: Iterable[object]) -> list[str | None]:
    """Prompt and seed of pictures as one text, without the tags that load a LoRA; None where either is not known."""
    return [
        f"{prompt_key(prompt)} seed {seed}" if isinstance(prompt, str) and isinstance(seed, str) else None
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]


def are_known(keys: list[str | None]) -> bool:
    """Whether prompts and seeds say which pictures of a group belong to those of others; of no pictures they do."""
    return sum(key is not None for key in keys) >= PAIRED_SHARE * len(keys)


def known_first(known: list[str | None], otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Keys of pictures by prompt and seed, or where they are not known by name."""
    return _numbered([name if key is None else key for key, name in zip(known, otherwise, strict=True)])


def _numbered(keys: list[str]) -> tuple[str, ...]:
    """The same key again is another picture: the next of a batch, or the same stem with another suffix."""
    seen: Counter[str] = Counter()
    for index, key in enumerate(keys):
        seen[key] += 1
        keys[index] = key if seen[key] == 1 else f"{key} ({seen[key]})"
    return tuple(keys)


def shared_pictures(samples: list[Sample]) -> float | None:
    """The smallest share of pictures that two groups have in common; None below two groups."""
    pairs = list(combinations([set(one.keys) for one in samples if one.keys], 2))
    return min(len(a & b) / min(len(a), len(b)) for a, b in pairs) if pairs else None


def true_interval(scores: np.ndarray) -> tuple[float, float] | None:
    """`metrics.median_interval` where it covers 95 %: below FEWEST_TO_COMPARE even the whole range does not."""
    return metrics.median_interval(scores) if np.sum(~np.isnan(scores)) >= FEWEST_TO_COMPARE else None


def rank(samples: list[Sample]) -> list[Ranked]:
    """All groups, the best median first; those without faces last."""
    better = proven_better(samples)
    order = sorted(samples, key=lambda one: (-one.median if len(one.scores) else math.inf, one.name))
    ranks = _ranks([one.name for one in order if len(one.scores)], better)
    return [
        Ranked(
            one.name,
            ranks.get(one.name),
            one.median if len(one.scores) else None,
            true_interval(one.scores),
            len(one.scores),
            tuple(better[one.name]),
        )
        for one in order
    ]


def _ranks(order: list[str], better: dict[str, list[str]]) -> dict[str, int]:
    """Rank of each name, the best first: no two that share one are told apart."""
    ranks: dict[str, int] = {}
    block: list[str] = []
    for place, name in enumerate(order, 1):
        if not block or set(block) & set(better[name]):
            block, first = [], place
        block.append(name)
        ranks[name] = first
    return ranks


def proven_better(samples: list[Sample]) -> dict[str, list[str]]:
    """For every group those whose median is higher beyond what chance gives, Holm-corrected over all pairs."""
    large = [one for one in samples if len(one.scores) >= FEWEST_TO_COMPARE]
    pairs = list(combinations(range(len(large)), 2))
    chances = [_paired_chance(large[i], large[j]) for i, j in pairs]
    if None in chances:
        medians = _resampled_medians(large)
        unpaired = [difference_by_chance(large[i].median - large[j].median, medians[i] - medians[j]) for i, j in pairs]
        chances = [other if one is None else one for one, other in zip(chances, unpaired, strict=True)]
    better: dict[str, list[str]] = {one.name: [] for one in samples}
    for (i, j), is_told_apart in zip(pairs, holm(chances), strict=True):
        if is_told_apart:
            higher, lower = (i, j) if large[i].median > large[j].median else (j, i)
            better[large[lower].name].append(large[higher].name)
    return {name: sorted(names) for name, names in better.items()}


def _paired_chance(one: Sample, other: Sample) -> float | None:
    """p-value that two groups are equal, picture by picture; None where they do not hold the same pictures.

    1 where picture by picture the group with the lower median is better.
    """
    difference = one.median - other.median
    keys = set(one.keys) & set(other.keys)
    if len(keys) < max(FEWEST_TO_COMPARE, PAIRED_SHARE * max(len(one.keys), len(other.keys))):
        return None
    scores = [dict(zip(group.keys, group.scores, strict=True)) for group in (one, other)]
    chance, shift = paired_chance(np.array([scores[0][key] - scores[1][key] for key in sorted(keys)]))
    return chance if shift * difference > 0 else 1.0


def paired_chance(differences: np.ndarray) -> tuple[float, float]:
    """(two-sided p-value, mean) of paired differences (N,), N >= 2: Student's t test.

    The t is made a normal deviate by the formula of Wallace 1959 (Annals of Mathematical Statistics 30, 1121-1130).
    Unlike signed ranks it can prove something of 12 pictures where 16 groups make 120 pairs.
    """
    mean, free = float(differences.mean()), len(differences) - 1
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    if error == 0:
        return float(mean == 0), mean
    z = (8 * free + 1) / (8 * free + 3) * math.sqrt(free * math.log1p((mean / error) ** 2 / free))
    return math.erfc(z / math.sqrt(2)), mean


def difference_by_chance(difference: float, draws: np.ndarray) -> float:
    """Two-sided p-value that two medians are equal, from bootstrapped differences (DRAWS,); ties count half.

    p = 2 min(share below 0, share above 0) (Liu & Singh 1997, JASA 92, 266-277). A share of less than _TAIL draws is
    too coarse for many pairs: there the normal tail of the same draws tells how rare it is.
    """
    across = min(float(np.sum(draws < 0)), float(np.sum(draws > 0))) + 0.5 * float(np.sum(draws == 0))
    if across >= _TAIL:
        return min(1.0, 2 * across / len(draws))
    deviation = float(draws.std())
    if deviation == 0:
        return 1.0 if difference == 0 else 0.0
    return min(2 * _TAIL / len(draws), math.erfc(abs(difference) / deviation / math.sqrt(2)))


def holm(chances: list[float], level: float = LEVEL) -> list[bool]:
    """Which p-values are below `level` when corrected for their number, step by step from the smallest."""
    order = np.argsort(chances, kind="stable")
    rejected = [False] * len(chances)
    for step, index in enumerate(order):
        if chances[index] > level / (len(chances) - step):
            break
        rejected[index] = True
    return rejected


def _resampled_medians(samples: list[Sample]) -> np.ndarray:
    """(groups, DRAWS) medians of resampled groups; a picture is drawn as often in every group that has its key.

    How often is Poisson(1) for each picture by itself (Hanley & MacGibbon 2006, Computer Methods and Programs in
    Biomedicine 83, 57-62), so that a face that one group lacks does not change what the others draw.
    """
    names = sorted({key for one in samples for key in one.keys})
    rng = np.random.default_rng(SEED)
    times = {name: rng.poisson(1.0, DRAWS).astype(np.int16) for name in names}
    return np.array([_weighted_medians(one.scores, np.stack([times[key] for key in one.keys])) for one in samples])


def _weighted_medians(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(draws,) medians of `values` (N,), each taken `times` (N, draws) times; their plain median where none is."""
    order = np.argsort(values, kind="stable")
    ranked, reached = values[order], times[order].cumsum(axis=0, dtype=np.int64)
    total = reached[-1]
    low, high = (ranked[np.argmax(reached >= place, axis=0)] for place in ((total + 1) // 2, total // 2 + 1))
    return np.where(total > 0, (low + high) / 2, np.median(values))
