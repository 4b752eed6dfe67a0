"""One group of pictures as the verdicts see it, and every threshold that they have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.faces import metrics
from mirror.faces.alike import Alike, compare
from utils.files import Status

COLLAPSED_FRAME = "a black or uniform frame"  # in the reason of such rows, see mirror.faces.frames
SAME_PICTURE = "same picture"  # in the column COPY, see mirror.faces.copies
OUTLIER_MADS = 3.5  # modified z-score from which a photo is an outlier (Iglewicz & Hoaglin 1993)
OUTLIER_SHARE = 0.9  # ... and below this share of the median, which photos of one shoot never are
_SCORES = (columns.SIMILARITY, columns.YAW, columns.ASPECT_RATIO, columns.AGE)
_OF_COPIES = (columns.YAW, columns.ASPECT_RATIO, columns.NEAREST_SIMILARITY)


class Limits(NamedTuple):
    """Every threshold; chosen on the demo worlds that docs/how-to-read-the-verdicts.md names, with both packs, or as
    the comment says. What is alike is told as mirror.faces.alike tells it: 1 is another picture of the person."""

    fewest_faces: int = 8  # our choice: the interval of a median of fewer reaches from end to end
    fewest_for_copies: int = 3  # our choice: a near copy is one by itself, and Wilson's interval minds the number
    fewest_references: int = 5  # our choice: a spread needs some
    errors: float = 1.645  # standard errors by which a resemblance is surely low: 95 %, one-sided
    unlike: float = 0.93  # undertrained: resemblance below this
    other: float = 0.78  # somebody else: identity below this
    together: float = 0.24  # ... and the faces are more alike among themselves than like the person by this
    drift: float = 0.84  # resemblance of turned heads, by that of heads near the front
    drift_front: float = 0.85  # ... which are the person: resemblance at least
    front_deg: float = 25.0  # near the front, as the bins of the pages
    turned_deg: float = 30.0
    fewest_turned: int = 4  # our choice, as for the front
    mixed_least: float = 0.20  # share of the smaller of two kinds of pictures
    mixed_apart: float = 3.5  # Ashman's D of their likeness; one normal cloud cut in two gives 2.6, a uniform one 3.5
    mixed_across: float = 0.75  # identity of both kinds with each other
    mixed_by_yaw: float = 0.85  # chance that a head of one kind is turned further than one of the other
    copy_share: float = 0.33  # a near copy is nearer to a photo than this share of what lies between two photos
    copy_mads: float = 2.0  # ... and by so many MADs of the logarithm
    copies_wilson: float = 0.10  # copycat: the share of near copies is surely above
    copies_most: float = 0.4  # overtrained: this share are near copies
    narrow: float = 0.5  # overtrained: spread of face ratio or yaw, whichever is less, by the references'
    rigid: float = 0.4  # spread of the yaw, by the references'
    rigid_surely: float = 0.7  # ... and its interval ends below
    least_yaw_mad_deg: float = 8.0  # references that all look one way cannot show that a LoRA is rigid
    hits_least: float = 0.25  # black hole: share of the images that one reference takes
    hits_near: float = 0.35  # ... and are nearer to it than this share of what lies between two photos
    hits_chance: float = 0.01  # ... which chance gives more rarely than this, over all references
    years: float = 4.0  # our choice; the age networks are off by about 6 years on a single picture
    failed: float = 0.25  # share of images without a face, or with one that only a second look found
    failed_wilson: float = 0.10  # ... and surely above
    collapsed: float = 0.10  # share of black or uniform frames


LIMITS = Limits()


@dataclass(frozen=True)
class Faces:
    """One group as the rules see it. Arrays are (N,), one value a face that was found at first look.

    Those with `all_` are (M,), one value a measured face: of one that only a second look found, a low similarity says
    little, but nothing is as near as a copy by accident.
    """

    images: int
    failed: int  # without a measured face
    rescued: int
    collapsed: int
    similarity: np.ndarray
    likeness: np.ndarray  # pose-corrected similarity
    yaw_deg: np.ndarray
    ratio: np.ndarray
    age: np.ndarray  # NaN where the pack has no age network
    vectors: np.ndarray  # (N, D) embeddings
    all_yaw_deg: np.ndarray
    all_ratio: np.ndarray
    all_nearest: np.ndarray  # similarity to the nearest reference
    all_repeated: np.ndarray  # bool: as a picture too that reference again, see mirror.faces.copies
    all_nearest_name: tuple[str, ...]

    @classmethod
    def of(cls, rows: pd.DataFrame, embeddings: np.ndarray) -> Faces:
        """From the table's rows of one group and their embeddings (rows, D), NaN without a face."""
        statuses = rows[columns.STATUS]
        is_clear = statuses.isin([str(Status.OK), str(Status.ROTATED)])
        whole = rows[[columns.SIMILARITY, columns.YAW, columns.NEAREST_SIMILARITY]].notna().all(axis=1)
        seen, measured = rows[is_clear & whole], rows[whole]
        similarity, yaw, ratio, age = (seen[column].to_numpy(dtype=float) for column in _SCORES)
        all_yaw, all_ratio, nearest = (measured[column].to_numpy(dtype=float) for column in _OF_COPIES)
        return cls(
            images=len(rows),
            failed=int(rows[columns.SIMILARITY].isna().sum()),
            rescued=int((statuses == str(Status.RESCUED)).sum()),
            collapsed=int(rows[columns.REASON].str.contains(COLLAPSED_FRAME, na=False, regex=False).sum()),
            similarity=similarity,
            likeness=likeness_of(seen),
            yaw_deg=yaw,
            ratio=ratio,
            age=age,
            vectors=np.asarray(embeddings, dtype=np.float64)[(is_clear & whole).to_numpy()],
            all_yaw_deg=all_yaw,
            all_ratio=all_ratio,
            all_nearest=nearest,
            all_repeated=(measured[columns.COPY] == SAME_PICTURE).to_numpy(dtype=bool),
            all_nearest_name=tuple(measured[columns.NEAREST_REFERENCE]),
        )

    def __len__(self) -> int:
        return len(self.likeness)

    @property
    def level(self) -> float:
        """Median likeness."""
        return float(np.median(self.likeness))

    @cached_property
    def sound(self) -> np.ndarray:
        """(N,) bool: neither unlike all the others nor a near copy of an earlier one, if these are the references."""
        if not len(self):
            return np.zeros(0, bool)
        is_copy = np.triu(self.vectors @ self.vectors.T > self.copy_limit, 1).any(axis=0)
        return ~is_copy & (self.likeness >= outlier_limit(self.likeness))

    @property
    def copy_limit(self) -> float:
        """Similarity to the nearest reference from which an image is a near copy, if these are the references."""
        return near_copy_limit(self.all_nearest)

    def alike(self, references: Faces, which: np.ndarray | slice = slice(None)) -> Alike | None:
        """How alike these faces, or some `which` of them, are to the references that are turned as they are."""
        vectors, yaw_deg = self.vectors[which], self.yaw_deg[which]
        return compare(vectors, yaw_deg, references.vectors[references.sound], references.yaw_deg[references.sound])


def near_copy_limit(nearest: np.ndarray) -> float:
    """Similarity from which a face is a near copy, from that of each reference to its nearest other one (N,).

    Never inside the documented bands below the Danger Zone. Distances (1 - cosine) spread evenly as logarithms.
    """
    logs = np.log(np.maximum(1 - nearest, 1e-6))
    limit = np.median(logs) - max(-np.log(LIMITS.copy_share), LIMITS.copy_mads * mad(logs))
    return float(max(metrics.BANDS["Danger Zone"].low, 1 - np.exp(limit)))


def outlier_limit(likeness: np.ndarray) -> float:
    """Likeness (N,) below which a photo is unlike the others."""
    middle = float(np.median(likeness))
    return min(middle - OUTLIER_MADS * mad(likeness), OUTLIER_SHARE * middle)


def likeness_of(rows: pd.DataFrame) -> np.ndarray:
    """(N,) pose-corrected similarity of the table's rows."""
    similarity, yaw = (rows[column].to_numpy(dtype=float) for column in (columns.SIMILARITY, columns.YAW))
    return metrics.pose_corrected(similarity, yaw)


def mad(values: np.ndarray) -> float:
    """Median absolute deviation, scaled to the standard deviation of normal values (Hampel 1974)."""
    return float(mad_of_rows(np.asarray(values, dtype=float)[None])[0])


def mad_of_rows(values: np.ndarray) -> np.ndarray:
    """`mad` of each row of (M, N)."""
    return 1.4826 * np.median(np.abs(values - np.median(values, axis=1, keepdims=True)), axis=1)


def lost_per_30_degrees(faces: Faces) -> float | None:
    """Similarity lost for each 30 degrees of |yaw|; the median of all slopes (Theil 1950, Sen 1968), so that a few
    strangers do not matter. None where heads hardly turn."""
    turned = np.abs(faces.yaw_deg)
    if len(faces) < LIMITS.fewest_references or np.ptp(turned) < 25:
        return None
    first, second = np.triu_indices(len(faces), 1)
    run = turned[second] - turned[first]
    is_apart = np.abs(run) >= 1  # as far as yaw can be measured
    return float(-30 * np.median((faces.similarity[second] - faces.similarity[first])[is_apart] / run[is_apart]))


def resampled(values: np.ndarray, figure: Callable[[np.ndarray], np.ndarray], quantile: float) -> float:
    """Quantile of `figure` of the rows of values drawn again with replacement (Efron 1979)."""
    rng = np.random.default_rng(metrics.INTERVAL_SEED)
    draws = rng.integers(len(values), size=(metrics.INTERVAL_DRAWS, len(values)))
    return float(np.quantile(figure(values[draws]), quantile))


def spread_by(values: np.ndarray, of_references: np.ndarray) -> float:
    """MAD by the references' own; infinite where theirs is nothing."""
    usual = mad(of_references)
    return mad(values) / usual if usual > 0 else np.inf
