"""The measures themselves: pure NumPy, no files, no networks.

Embeddings are `(N, D) float32` or float64, one row a face, unit norm. Cosine similarity is their dot product.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Band(NamedTuple):
    """A range of the similarity between a generated image and its nearest reference."""

    low: float | None
    high: float | None
    meaning: str
    is_above_low: bool = False  # whether its lower limit itself still belongs to the band below


# As documented for the Copycat report, from the lowest to the highest; "above 0.85" is the Danger Zone.
BANDS = {
    "LOW": Band(None, 0.50, "may not be the person"),
    "OK": Band(0.50, 0.70, "the same person in a new picture"),
    "Watch Out": Band(0.70, 0.85, "very close to one reference"),
    "Danger Zone": Band(0.85, None, "nearly a copy of one reference", is_above_low=True),
}

# Identity depends on pose: how alike a picture must be to the person, as a share of how alike the references are to
# each other, by |yaw| in degrees. Between what other people score and what the person scores there; the table in
# `identity_limit` has the numbers, benchmarks/identity_by_yaw.py measures them.
IDENTITY_SHARES = {0: 0.68, 15: 0.68, 30: 0.64, 45: 0.55, 60: 0.44, 75: 0.32, 90: 0.26}
# What the person usually scores, as the same share: the medians of that table, at most 1, carried on to 90 degrees.
USUAL_SHARES = {0: 1.0, 15: 1.0, 30: 0.96, 45: 0.84, 60: 0.68, 75: 0.49, 90: 0.40}
# Whatever the share: on photos 95 % of other people stay below 0.14 (cosine of two pictures; 300 labelled pairs of
# photos with a MobileFaceNet), which is 0.16 against a centroid of ten pictures that score 0.75 among each other.
IDENTITY_FLOOR = 0.20
FEWEST_REFERENCES = 3  # our choice; with two, one bad picture is half of the person

# Intervals: 95 %; where they are bootstrapped, from this many resamples (Efron & Tibshirani 1993, chapter 13, ask for
# 1,000 and more), drawn with a fixed seed, so that the same scores give the same interval.
INTERVAL_LEVEL, INTERVAL_DRAWS, INTERVAL_SEED = 0.95, 2000, 20240607
FEWEST_FOR_INTERVAL = 3  # our choice: below that resampling knows nothing that the values themselves do not say


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` (..., D) scaled to unit Euclidean norm, float64. Raises ValueError for a zero vector."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(norms > 0):
        raise ValueError("a zero vector has no direction")
    return vectors / norms


def centroid(embeddings: np.ndarray) -> np.ndarray:
    """Unit-norm mean direction (D,) of unit embeddings (N, D), N >= 1."""
    return unit(np.asarray(embeddings, dtype=np.float64).mean(axis=0))


def similarity_to_centroid(candidates: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Cosine (M,) of each candidate (M, D) to the centroid of all references (N, D)."""
    return np.asarray(candidates, dtype=np.float64) @ centroid(references)


def leave_one_out(references: np.ndarray) -> np.ndarray:
    """Cosine (N,) of each reference to the centroid of the *others*; NaN where there is no other.

    Against the full centroid a reference would be compared with itself as well, which flatters it: with N references
    of mutual cosine c by about (1 - c) / N. The sum of the others is the sum of all minus the row: O(N D).
    """
    rows = np.asarray(references, dtype=np.float64)
    if len(rows) < 2:
        return np.full(len(rows), np.nan)
    others = rows.sum(axis=0) - rows
    norms = np.linalg.norm(others, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, (rows * others).sum(axis=1) / norms, np.nan)


def nearest(queries: np.ndarray, references: np.ndarray, exclude_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Index (M,) and cosine (M,) of the nearest reference of each query; ties go to the first.

    `exclude_self`: queries *are* the references, and a row is not its own neighbour. Where no neighbour exists the
    index is -1 and the cosine NaN.
    """
    queries = np.asarray(queries, dtype=np.float64)
    references = np.asarray(references, dtype=np.float64)
    if len(references) < (2 if exclude_self else 1):
        return np.full(len(queries), -1), np.full(len(queries), np.nan)
    cosines = queries @ references.T
    if exclude_self:
        np.fill_diagonal(cosines, -np.inf)
    index = cosines.argmax(axis=1)
    return index, cosines[np.arange(len(queries)), index]


def copy_band(similarity: float) -> str:
    """Name of the band of a similarity to the nearest reference."""
    name = next(iter(BANDS))
    for name_above, band in BANDS.items():
        if band.low is not None and (similarity > band.low if band.is_above_low else similarity >= band.low):
            name = name_above
    return name


def reference_level(references: np.ndarray, yaws_deg: np.ndarray) -> float | None:
    """What the person scores near the front, from reference embeddings (N, D) and their yaw angles (N,).

    The median of the leave-one-out cosines, each divided by USUAL_SHARES at its yaw: photos in profile score less, and
    must not lower the limit for all others. None below FEWEST_REFERENCES. The median, because a dataset may hold a few
    pictures of somebody else.
    """
    if len(references) < FEWEST_REFERENCES:
        return None
    usual = np.array([_share_at(yaw, USUAL_SHARES) for yaw in yaws_deg])
    return min(1.0, float(np.median(leave_one_out(references) / usual)))


def median_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Where the median of more such values lies, at INTERVAL_LEVEL; None for too few.

    Between two order statistics, interpolated (Hettmansperger & Sheather 1986, Statistics & Probability Letters 4,
    75-79): it asks nothing of how the values are spread. Covered the truth in 94.5 to 95.5 % of 4,000 simulated groups
    of 12, 30 and 60 (normal, skewed, heavy tails, 15 % strangers), where a percentile bootstrap gave 92 to 95 %. Three
    to five values can only give their range, which covers 75 to 94 %.
    """
    values = np.sort(np.asarray(values, dtype=np.float64))
    values = values[~np.isnan(values)]
    if len(values) < FEWEST_FOR_INTERVAL:
        return None
    depth, share = _depth_of_median(len(values))
    low = (1 - share) * values[depth - 1] + share * values[depth]
    high = (1 - share) * values[-depth] + share * values[-depth - 1]
    return float(low), float(high)


@lru_cache(maxsize=1024)
def _depth_of_median(count: int) -> tuple[int, float]:
    """(d, share): the interval's ends lie `share` of the way from the d-th to the next value, from either side."""
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(count // 2 + 1)]
    below = np.cumsum(np.exp(np.array(logs) - count * math.log(2)))  # chance of at most k values below the median
    levels = 1 - 2 * below  # levels[d - 1] is what the interval from the d-th to the d-th last value covers
    enough = np.flatnonzero(levels >= INTERVAL_LEVEL)
    if not len(enough):
        return 1, 0.0
    depth = int(enough[-1]) + 1
    part = (levels[depth - 1] - INTERVAL_LEVEL) / (levels[depth - 1] - levels[depth])
    return depth, float((count - depth) * part / (depth + (count - 2 * depth) * part))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, JASA 22, 209-212); (0, 1) of nothing."""
    if not count:
        return 0.0, 1.0
    z = 1.959964
    share, z2 = hits / count, z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def binomial_tail(hits: int, count: int, share: float) -> float:
    """Chance of at least `hits` of `count` where each has the chance `share`."""
    if hits <= 0:
        return 1.0
    if not 0 < share < 1:
        return float(share >= 1)
    logs = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(share)
        + (count - k) * math.log(1 - share)
        for k in range(hits, count + 1)
    ]
    return float(min(1.0, np.exp(logs).sum()))


def pose_diversity(counts: np.ndarray) -> float | None:
    """How evenly faces spread over the bins of head angles, 0 (all in one) to 1 (as many in each); None without faces.

    Gini-Simpson index (Simpson 1949, Nature 163): the chance that two faces lie in different bins, by the largest one.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.sum() < 1 or len(counts) < 2:
        return None
    return float(_gini_simpson(counts[None, :])[0])


def pose_diversity_interval(counts: np.ndarray) -> tuple[float, float] | None:
    """Percentile bootstrap interval of `pose_diversity` (Efron 1979, Annals of Statistics 7, 1-26)."""
    counts = np.asarray(counts, dtype=np.int64)
    total = int(counts.sum())
    if total < FEWEST_FOR_INTERVAL or len(counts) < 2:
        return None
    draws = np.random.default_rng(INTERVAL_SEED).multinomial(total, counts / total, size=INTERVAL_DRAWS)
    low, high = np.quantile(_gini_simpson(draws), [(1 - INTERVAL_LEVEL) / 2, (1 + INTERVAL_LEVEL) / 2])
    return float(low), float(high)


def _gini_simpson(counts: np.ndarray) -> np.ndarray:
    """(M,) of counts (M, bins)."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    return (1 - (shares**2).sum(axis=1)) / (1 - 1 / counts.shape[1])


def identity_limit(yaw_deg: float, level: float) -> float:
    """Cosine to the references' centroid below which a head turned by `yaw_deg` is not taken for the person.

    IDENTITY_SHARES, straight lines between them, times the references' own `level` (`reference_level`): packs and kinds
    of pictures differ in how high they score, a share of the person's own level carries over. Measured with pack_mini
    on 20 rendered people, each with 10 references of 0 +- 15 degrees of yaw (level 0.84 to 0.91), 4 pictures at each
    angle; scores as shares of the level, "kept" and "let in" with this limit at the yaw that the pack itself measured
    (python -m benchmarks.identity_by_yaw --pack DIR):

    | yaw | yaw measured | the person, 5 / 50 / 95 % | others, 50 / 95 % | limit | kept | let in |
    |---|---|---|---|---|---|---|
    | 0 | 3 | 0.92 / 1.02 / 1.08 | 0.52 / 0.72 | 0.68 | 100% | 9% |
    | 15 | 15 | 0.92 / 1.01 / 1.08 | 0.53 / 0.73 | 0.68 | 100% | 13% |
    | 30 | 31 | 0.79 / 0.95 / 1.04 | 0.49 / 0.71 | 0.63 | 100% | 16% |
    | 45 | 46 | 0.67 / 0.84 / 0.93 | 0.46 / 0.66 | 0.55 | 100% | 25% |
    | 60 | 60 | 0.28 / 0.68 / 0.84 | 0.39 / 0.59 | 0.44 | 90% | 39% |
    | 75 | 72 | 0.13 / 0.48 / 0.67 | 0.27 / 0.49 | 0.35 | 64% | 30% |

    With references turned as the goals of gap_analysis.py want them (`--references goals`, 16 people, level 0.79 to
    0.92), the centroid is nearer to profiles, the person's own and other people's:

    | yaw | yaw measured | the person, 5 / 50 / 95 % | others, 50 / 95 % | limit | kept | let in |
    |---|---|---|---|---|---|---|
    | 0 | 2 | 0.86 / 1.01 / 1.09 | 0.51 / 0.74 | 0.68 | 100% | 11% |
    | 15 | 16 | 0.85 / 1.01 / 1.06 | 0.52 / 0.75 | 0.68 | 98% | 14% |
    | 30 | 31 | 0.87 / 0.99 / 1.06 | 0.51 / 0.73 | 0.63 | 100% | 20% |
    | 45 | 46 | 0.75 / 0.94 / 1.01 | 0.49 / 0.69 | 0.55 | 100% | 36% |
    | 60 | 59 | 0.41 / 0.82 / 0.94 | 0.44 / 0.66 | 0.45 | 92% | 50% |
    | 75 | 72 | 0.16 / 0.55 / 0.82 | 0.33 / 0.55 | 0.34 | 84% | 44% |

    On photos others score far less than rendered heads do, which all come from one renderer: -0.17 / -0.02 / 0.14 (5th,
    50th, 95th percentile of the cosine of two pictures) against 0.52 / 0.75 / 0.86 for the same person. So the limits
    err towards keeping; beyond 60 degrees a small network can hardly tell people apart, and no limit can fix that.
    """
    return max(IDENTITY_FLOOR, level * _share_at(yaw_deg, IDENTITY_SHARES))


def usual_similarity(yaw_deg: float, level: float) -> float:
    """Cosine to the references' centroid that the person usually has with a head turned by `yaw_deg`."""
    return level * _share_at(yaw_deg, USUAL_SHARES)


def likeness_for_angle(similarity: float | None, yaw_deg: float | None, level: float | None) -> float | None:
    """Cosine to the references' centroid by what the person usually has at this yaw: 1 is usual. None where unknown."""
    if similarity is None or yaw_deg is None or level is None or level <= 0:
        return None
    return similarity / usual_similarity(yaw_deg, level)


def pose_corrected(similarity: np.ndarray, yaw_deg: np.ndarray) -> np.ndarray:
    """Similarities (N,) as the same heads would score from the front: by the share that is usual with their yaw.

    Without it a LoRA that cannot turn heads would seem more like the person than one that can.
    """
    shares = np.interp(np.abs(yaw_deg), list(USUAL_SHARES), list(USUAL_SHARES.values()))
    return np.asarray(similarity, dtype=np.float64) / shares


def _share_at(yaw_deg: float, shares: dict[int, float]) -> float:
    return float(np.interp(abs(yaw_deg), list(shares), list(shares.values())))


def safe_perplexity(count: int) -> float:
    """t-SNE perplexity for `count` points: 30 (van der Maaten & Hinton 2008 advise 5-50), less for small sets.

    scikit-learn demands perplexity < count; a third of the neighbours keeps the map from collapsing to a ring.
    """
    return float(min(30.0, max(1.0, (count - 1) / 3.0)))
