"""How alike two sets of faces are where their heads are turned alike: identity without the pose.

A single face says little: light, expression and angle move its similarity as much as a half-trained LoRA does. What a
whole group has in common says much more. So faces are compared in pairs of nearly the same yaw, and the mean of all
pairs between two sets is set against the means within each set (Spearman 1904, American Journal of Psychology 15,
72-101, the correction for attenuation): two sets of pictures of one person give 1, however much single pictures vary.
The doubt is the jackknife's (Efron & Stein 1981, Annals of Statistics 9, 586-596), over the faces of both sets.

Embeddings are (N, D), unit norm; angles (N,) in degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# As wide as the front bin: of 10 to 35 degrees it scattered least on the tuning worlds and still hid the pose.
YAW_WINDOW_DEG = 25.0  # heads this near in yaw count as turned alike; our choice, one angle bin wide
MOST_FACES = 400  # of a set, evenly taken: all pairs are compared, and more change no figure by 0.01
LOW_PAIRS = 0.15  # quantile that tells somebody else's faces from blends; of 0.1 to 0.5 best on the tuning worlds
_LEAST_WITHIN = 0.1  # share of the references' own: faces of nobody have nothing in common to divide by


@dataclass(frozen=True)
class Alike:
    """What pairs of faces say; every figure is 1 for other pictures of the same person."""

    likeness: float  # mean cosine between both sets, by the mean within the references
    identity: float  # ... corrected for how alike the faces of each set are among themselves
    resemblance: float  # geometric mean of both: lower too where only single faces are unlike the person
    error: float  # standard error of resemblance
    matched: int  # faces of the group whose angle the references have

    def surely_below(self, limit: float, errors: float) -> bool:
        """Whether resemblance is below `limit` by so many standard errors."""
        return self.resemblance + errors * self.error < limit


@dataclass(frozen=True)
class _Pairs:
    """Weighted mean of the cosines of pairs, and the same without each face in turn."""

    mean: float
    without: np.ndarray  # (N,), of the rows


def compare(group: np.ndarray, yaw_deg: np.ndarray, references: np.ndarray, yaws_deg: np.ndarray) -> Alike | None:
    """How alike `group` (N, D) and `references` (M, D) are at the same angles; None where too few share one."""
    group, yaw_deg = _thinned(group, yaw_deg)
    references, yaws_deg = _thinned(references, yaws_deg)
    near = _near(yaw_deg, yaws_deg)
    is_matched = near.any(axis=1)
    group, yaw_deg, near = group[is_matched], yaw_deg[is_matched], near[is_matched]
    if len(group) < 2:
        return None
    share = near / near.sum(axis=1, keepdims=True)  # every face of the group counts alike
    used = share.sum(axis=0)  # how much each reference is compared with
    cosines = group @ references.T
    own = _within(group, _near(yaw_deg, yaw_deg))
    usual = _within(references, _near(yaws_deg, yaws_deg) * np.outer(used, used))
    if own is None or usual is None:
        return None
    by_group, by_reference = _mean(cosines, share), _mean(cosines.T, share.T)
    errors = [
        _jackknife(_figures(by_group.without, own.without, usual.mean)[2]),
        _jackknife(_figures(by_reference.without, own.mean, usual.without)[2]),
    ]
    figures = (float(one) for one in _figures(by_group.mean, own.mean, usual.mean))
    return Alike(*figures, error=math.hypot(*errors), matched=len(group))


def cohesion(group: np.ndarray, yaw_deg: np.ndarray, references: np.ndarray, yaws_deg: np.ndarray) -> float:
    """How alike the faces of a group are among themselves, by the references: a low quantile of pairs at one angle.

    Low, because half of the pictures of a half-trained LoRA may show one and the same average face. NaN without pairs.
    """
    own, usual = _low_quantile(group, yaw_deg), _low_quantile(references, yaws_deg)
    return own / usual if usual > 0 else math.nan


def between(one: np.ndarray, yaw_deg: np.ndarray, other: np.ndarray, yaws_deg: np.ndarray) -> float:
    """Identity of two sets, as `Alike.identity`, of which none is the standard; NaN where no pair is turned alike."""
    one, yaw_deg = _thinned(one, yaw_deg)
    other, yaws_deg = _thinned(other, yaws_deg)
    near = _near(yaw_deg, yaws_deg)
    first, second = _within(one, _near(yaw_deg, yaw_deg)), _within(other, _near(yaws_deg, yaws_deg))
    if first is None or second is None or not near.any():
        return math.nan
    usual = max(first.mean, second.mean, 1e-6)
    within = max(first.mean, _LEAST_WITHIN * usual) * max(second.mean, _LEAST_WITHIN * usual)
    return float(_mean(one @ other.T, near).mean / math.sqrt(within))


def split(group: np.ndarray, start: np.ndarray, rounds: int = 50) -> np.ndarray:
    """(N,) bool: the better cut of the faces in two, from the cut `start` on (k-means, Lloyd 1982)."""
    is_first = start
    for _ in range(rounds):
        if is_first.all() or not is_first.any():
            return start
        first, second = group[is_first].mean(axis=0), group[~is_first].mean(axis=0)
        again = ((group - first) ** 2).sum(axis=1) < ((group - second) ** 2).sum(axis=1)
        if np.array_equal(again, is_first):
            break
        is_first = again
    return is_first


def _thinned(vectors: np.ndarray, yaw_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(vectors) <= MOST_FACES:
        return vectors, yaw_deg
    kept = np.linspace(0, len(vectors) - 1, MOST_FACES).astype(int)
    return vectors[kept], yaw_deg[kept]


def _near(yaw_deg: np.ndarray, yaws_deg: np.ndarray) -> np.ndarray:
    """(N, M) float: 1 where two heads are turned alike."""
    return (np.abs(yaw_deg[:, None] - yaws_deg[None, :]) <= YAW_WINDOW_DEG).astype(float)


def _mean(cosines: np.ndarray, weights: np.ndarray) -> _Pairs:
    """Of two different sets; cosines and weights (N, M), the rows being left out in turn."""
    sums, totals = (cosines * weights).sum(axis=1), weights.sum(axis=1)
    left = np.maximum(totals.sum() - totals, 1e-9)
    return _Pairs(float(sums.sum() / totals.sum()), (sums.sum() - sums) / left)


def _within(vectors: np.ndarray, weights: np.ndarray) -> _Pairs | None:
    """Of one set, no face with itself; weights (N, N) symmetric. None where no pair is left."""
    weights = weights * (1 - np.eye(len(vectors)))
    if not weights.any():
        return None
    sums, totals = ((vectors @ vectors.T) * weights).sum(axis=1), weights.sum(axis=1)
    left = np.maximum(totals.sum() - 2 * totals, 1e-9)  # a pair is counted from both ends
    return _Pairs(float(sums.sum() / totals.sum()), (sums.sum() - 2 * sums) / left)


def _figures(across: np.ndarray | float, own: np.ndarray | float, usual: np.ndarray | float) -> tuple:
    """(likeness, identity, resemblance) of mean cosines between two sets, within the group, within the references."""
    usual = np.maximum(usual, 1e-6)
    likeness = across / usual
    identity = across / np.sqrt(np.maximum(own, _LEAST_WITHIN * usual) * usual)
    return likeness, identity, np.sqrt(np.maximum(likeness, 0) * np.maximum(identity, 0))


def _jackknife(values: np.ndarray) -> float:
    """Standard error of a figure from its values (N,) without each face in turn."""
    values = np.asarray(values)
    return float(np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()))


def _low_quantile(vectors: np.ndarray, yaw_deg: np.ndarray) -> float:
    vectors, yaw_deg = _thinned(vectors, yaw_deg)
    first, second = np.triu_indices(len(vectors), 1)
    is_near = np.abs(yaw_deg[first] - yaw_deg[second]) <= YAW_WINDOW_DEG
    return float(np.quantile((vectors @ vectors.T)[first, second][is_near], LOW_PAIRS)) if is_near.any() else math.nan
