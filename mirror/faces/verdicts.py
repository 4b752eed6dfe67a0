"""What the numbers of one group say in words: overtrained, rigid, wrong person, good ..., or too few images to tell.

`RULES` holds every verdict: what it means, where that comes from, what to do next, and the pure function that judges.
`LIMITS` holds every threshold. What counts as usual comes from the references themselves: how like the others each
photo is (leave-one-out), and how like the nearest other one, so that it fits the pack, the person and the number of
photos. Where a LoRA is compared, likeness is pose-corrected (`metrics.pose_corrected`), because similarity falls with
the turn of the head. Medians and MADs throughout: a few photos of somebody else must not move a limit.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import Verdict
from mirror.faces import metrics
from mirror.faces.pose import BIN_LIMITS_DEG
from utils.files import Status

TOO_FEW, GOOD = "too few images to tell", "good"
COLLAPSED_FRAME = "a black or uniform frame"  # in the reason of such rows, see mirror.faces.table


RESAMPLES, MOST_PAIRED = 400, 60  # of the slopes of identity drift
_SCORES = (columns.SIMILARITY, columns.YAW, columns.ASPECT_RATIO, columns.AGE)
_OF_COPIES = (columns.YAW, columns.ASPECT_RATIO, columns.NEAREST_SIMILARITY)


class Limits(NamedTuple):
    """Every threshold; chosen on the demo worlds of the seeds 301 to 303 with both packs, or as the comment says."""

    fewest_faces: int = 8  # our choice: the interval of a median of fewer reaches from end to end
    fewest_references: int = 5  # our choice: a spread needs some
    low_mads: float = 1.0  # of normal photos 84 % lie above median - 1 MAD
    low_share: float = 0.90  # ... but never above this share of the median: photos of one shoot are very alike
    copy_share: float = 0.40  # a near copy is nearer to a photo than this share of what lies between two photos
    copy_mads: float = 2.0  # ... and by so many MADs of the logarithm
    copies_wilson: float = 0.05  # copycat: the share of near copies is surely above
    copies_most: float = 0.4  # overtrained: this share are near copies
    narrow: float = 0.5  # overtrained: spread of face ratio or yaw, whichever is less, by the references'
    rigid: float = 0.4  # spread of the yaw, by the references'
    rigid_surely: float = 0.7  # ... and its interval ends below
    least_yaw_mad_deg: float = 8.0  # references that all look one way cannot show that a LoRA is rigid
    drift: float = 0.10  # similarity lost per 30 degrees beyond the references', by their level
    mixed_least: float = 0.20  # share of the smaller of two kinds of pictures
    mixed_gap: float = 0.35  # between their likeness, by the references' level
    mixed_apart: float = 3.6  # Ashman's D; one normal cloud cut in two gives 2.6, a uniform one 3.5
    mixed_by_yaw: float = 0.85  # chance that a head of one kind is turned further than one of the other
    hits_least: float = 0.25  # black hole: share of the images that one reference takes
    hits_near: float = 0.5  # ... and are nearer to it than this share of what lies between two photos
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
    all_yaw_deg: np.ndarray
    all_ratio: np.ndarray
    all_nearest: np.ndarray  # similarity to the nearest reference
    all_nearest_name: tuple[str, ...]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Faces:
        """From the table's rows of one group."""
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
            all_yaw_deg=all_yaw,
            all_ratio=all_ratio,
            all_nearest=nearest,
            all_nearest_name=tuple(measured[columns.NEAREST_REFERENCE]),
        )

    def __len__(self) -> int:
        return len(self.likeness)

    @property
    def level(self) -> float:
        """Median likeness."""
        return float(np.median(self.likeness))

    @property
    def low(self) -> float:
        """Likeness below which a photo would be unusual, if these are the references."""
        return min(self.level - LIMITS.low_mads * mad(self.likeness), LIMITS.low_share * self.level)

    @property
    def copy_limit(self) -> float:
        """Similarity to the nearest reference from which an image is a near copy, if these are the references.

        Never inside the documented bands below the Danger Zone. Distances (1 - cosine) spread evenly as logarithms.
        """
        logs = np.log(np.maximum(1 - self.all_nearest, 1e-6))
        limit = np.median(logs) - max(-np.log(LIMITS.copy_share), LIMITS.copy_mads * mad(logs))
        return float(max(metrics.BANDS["Danger Zone"].low, 1 - np.exp(limit)))


Judge = Callable[[Faces, Faces, Faces | None], Verdict | None]  # the group, the references, images without the LoRA


@dataclass(frozen=True)
class Rule:
    """One verdict: `judge` gives it, or None where it does not hold."""

    meaning: str
    source: str
    advice: str
    judge: Judge
    hides: tuple[str, ...] = ()  # verdicts that this one explains


def judge(group: Faces, references: Faces, floor: Faces | None = None) -> list[Verdict]:
    """All verdicts of a group, the gravest first; never none. `floor` are images that were made without the LoRA."""
    names = list(WITHOUT_FACES)
    enough = len(references) >= LIMITS.fewest_references
    if enough and len(group.all_nearest) >= LIMITS.fewest_faces:
        names += OF_COPIES
    clear = enough and len(group) >= LIMITS.fewest_faces
    if clear:
        names = list(RULES)
    found = [verdict for name in names if (verdict := RULES[name].judge(group, references, floor))]
    hidden = {name for verdict in found for name in RULES[verdict.name].hides}
    found = [verdict for verdict in found if verdict.name not in hidden]
    if not clear:
        return [*found, _too_few(group, references)]
    return found or [_good_or_unsure(group, references)]


def _verdict(name: str, sentence: str, **numbers: float | int | str) -> Verdict:
    return Verdict(name=name, sentence=sentence, numbers=numbers, advice=RULES[name].advice if name in RULES else "")


def _too_few(group: Faces, references: Faces) -> Verdict:
    few_photos = len(references) < LIMITS.fewest_references
    what, count, least = (
        ("reference photos", len(references), LIMITS.fewest_references)
        if few_photos
        else ("clear faces", len(group), LIMITS.fewest_faces)
    )
    advice = "Add reference photos." if few_photos else "Generate more images with it: 10 prompts, 3 seeds each."
    sentence = f"{count} {what}; at least {least} are needed for a verdict."
    return Verdict(name=TOO_FEW, sentence=sentence, numbers={"count": count, "needed": least}, advice=advice)


def _good_or_unsure(group: Faces, references: Faces) -> Verdict:
    numbers = {"likeness": group.level, "references": references.level, "low": references.low}
    if group.level >= references.low:
        sentence = (
            f"As like the person ({group.level:.2f}) as the references are ({references.level:.2f}), no fault seen."
        )
        return Verdict(name=GOOD, sentence=sentence, numbers=numbers, advice="Keep it.")
    sentence = f"Likeness {group.level:.2f} is below {references.low:.2f}, but that may be chance."
    return Verdict(name=TOO_FEW, sentence=sentence, numbers=numbers, advice="Generate more images with it.")


# The rules, one function each.


def _collapsed(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    if group.collapsed < 2 or group.collapsed < LIMITS.collapsed * group.images:
        return None
    sentence = f"{group.collapsed} of {group.images} images are black or uniform frames."
    return _verdict("collapsed", sentence, collapsed=group.collapsed, images=group.images)


def _many_failures(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    unclear = group.failed + group.rescued
    if not group.images or unclear < LIMITS.failed * group.images:
        return None
    if metrics.wilson(unclear, group.images)[0] < LIMITS.failed_wilson:
        return None
    sentence = (
        f"{group.failed} of {group.images} images show no face, {group.rescued} one that only a second look found."
    )
    return _verdict("many failures", sentence, failed=group.failed, rescued=group.rescued, images=group.images)


def copies_of(group: Faces, references: Faces) -> int:
    """How many faces are near copies of a reference; 0 where there are too few references to say what is near."""
    if len(references) < LIMITS.fewest_references:
        return 0
    return int(np.sum(group.all_nearest > references.copy_limit))


def _overtrained(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    copies, faces, limit = copies_of(group, references), len(group.all_nearest), references.copy_limit
    spreads = _spread_by(group.all_ratio, references.all_ratio), _spread_by(group.all_yaw_deg, references.all_yaw_deg)
    narrow = min(spreads)
    if copies < LIMITS.copies_most * faces or narrow > LIMITS.narrow:
        return None
    sentence = (
        f"{copies} of {faces} faces are near copies of a reference (above {limit:.2f}), and face "
        f"ratio or yaw vary only {narrow:.0%} as much as in the references."
    )
    return _verdict("overtrained", sentence, copies=copies, faces=faces, copy_limit=limit, spread=narrow)


def _copycat(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    copies, faces, limit = copies_of(group, references), len(group.all_nearest), references.copy_limit
    if metrics.wilson(copies, faces)[0] <= LIMITS.copies_wilson:
        return None
    sentence = f"{copies} of {faces} faces are near copies of a reference (above {limit:.2f})."
    return _verdict("copycat", sentence, copies=copies, faces=faces, copy_limit=limit)


def _black_hole(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    """One reference takes many images, more than of the other references, and they are unusually near to it."""
    name, hits = Counter(group.all_nearest_name).most_common(1)[0]
    known, count, faces = Counter(references.all_nearest_name), len(references.all_nearest), len(group.all_nearest)
    share = (1 + known[name]) / (2 * count)  # of the references' own neighbours, one added for each
    chance = count * metrics.binomial_tail(hits, faces, share)
    near = float(np.median(group.all_nearest[[one == name for one in group.all_nearest_name]]))
    usual = float(np.median(references.all_nearest))
    is_near = 1 - near < LIMITS.hits_near * (1 - usual)
    if hits < LIMITS.hits_least * faces or chance > LIMITS.hits_chance or not is_near:
        return None
    sentence = (
        f"{hits} of {faces} faces are nearest to {name}, at {near:.2f} (references among themselves {usual:.2f})."
    )
    return _verdict("black hole", sentence, reference=name, hits=hits, faces=faces, nearest=near, usual=usual)


def _rigid(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    yaw, ratio = _spread_by(group.yaw_deg, references.yaw_deg), _spread_by(group.ratio, references.ratio)
    varied = mad(references.yaw_deg) >= LIMITS.least_yaw_mad_deg
    if not varied or yaw > LIMITS.rigid:
        return None
    surely = resampled(group.yaw_deg, mad_of_rows, 0.95) / mad(references.yaw_deg)
    if surely > LIMITS.rigid_surely:
        return None
    sentence = (
        f"Heads turn {yaw:.0%} as much as in the references (yaw spread {mad(group.yaw_deg):.0f} against "
        f"{mad(references.yaw_deg):.0f} degrees), the face ratio varies {ratio:.0%} as much."
    )
    return _verdict("rigid", sentence, yaw_spread=yaw, at_most=float(surely), ratio_spread=ratio)


def lost_per_30_degrees(faces: Faces) -> float | None:
    """Similarity lost for each 30 degrees of |yaw|; the median of all slopes (Theil 1950, Sen 1968), so that a few
    strangers do not matter. None where heads hardly turn."""
    turned = np.abs(faces.yaw_deg)
    if len(faces) < LIMITS.fewest_references or np.ptp(turned) < 25:
        return None
    return float(_lost(turned[None], faces.similarity[None])[0])


def _drift(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    near_floor = _near_floor(group, floor)
    if near_floor:
        return near_floor
    own, usual = lost_per_30_degrees(group), lost_per_30_degrees(references)
    if own is None or usual is None or own - usual < LIMITS.drift * references.level:
        return None
    least = float(np.nanquantile(_lost_again(group, 1) - _lost_again(references, 2), 0.025))
    if least <= 0:
        return None
    sentence = f"Similarity falls by {own:.2f} for each 30 degrees of yaw, in the references by {usual:.2f}."
    return _verdict("identity drift", sentence, lost=own, references=usual, more_by_at_least=least)


def _near_floor(group: Faces, floor: Faces | None) -> Verdict | None:
    """No more like the person than images made without the LoRA."""
    if floor is None or len(floor) < LIMITS.fewest_faces:
        return None
    low, top = metrics.median_interval(group.likeness)[0], metrics.median_interval(floor.likeness)[1]
    if low > top:
        return None
    sentence = f"Likeness {group.level:.2f} cannot be told from images without the LoRA ({floor.level:.2f})."
    return _verdict("identity drift", sentence, likeness=group.level, floor=floor.level)


def _others_limit(references: Faces) -> float:
    """Likeness below which other people lie, as in `metrics.identity_limit` from the front."""
    return max(metrics.IDENTITY_FLOOR, metrics.IDENTITY_SHARES[0] * references.level)


def _wrong_person(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    limit = _others_limit(references)
    if group.level >= limit or float(np.quantile(group.likeness, 0.75)) >= references.low:
        return None
    sentence = f"Half of the faces are below {limit:.2f}, where other people lie (median {group.level:.2f})."
    return _verdict("wrong person", sentence, likeness=group.level, limit=limit, references=references.level)


def _undertrained(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    if group.level >= references.low or metrics.median_interval(group.likeness)[1] >= references.level:
        return None
    front = group.likeness[np.abs(group.yaw_deg) < BIN_LIMITS_DEG["front"][1]]
    if len(front) >= LIMITS.fewest_references and float(np.median(front)) >= references.low:
        return None  # only turned heads are unlike the person, which is another fault
    sentence = (
        f"Half of the faces are less like the person ({group.level:.2f}) than most references are "
        f"({references.low:.2f}; their median {references.level:.2f})."
    )
    numbers = {"likeness": group.level, "low": references.low, "references": references.level}
    return _verdict("undertrained", sentence, **numbers, front=float(np.median(front)) if len(front) else group.level)


def _mixed(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    order = np.argsort(group.likeness)
    ordered, turned_deg = group.likeness[order], np.abs(group.yaw_deg)[order]
    cut, apart = _two_kinds(ordered)
    if np.mean(turned_deg[:cut, None] > turned_deg[None, cut:]) >= LIMITS.mixed_by_yaw:
        return None  # the turn of the head tells them apart already, which is identity drift
    others, person = ordered[:cut], ordered[cut:]
    least = min(len(others), len(person))
    if least < max(2, LIMITS.mixed_least * len(group)) or apart < LIMITS.mixed_apart:
        return None
    low, high = float(np.median(others)), float(np.median(person))
    if high - low < LIMITS.mixed_gap * references.level or high < references.low or low > _others_limit(references):
        return None
    sentence = (
        f"{len(person)} faces are like the person ({high:.2f}), {len(others)} are like somebody else ({low:.2f})."
    )
    return _verdict("mixed", sentence, person=len(person), others=len(others), likeness=high, likeness_others=low)


def _ages(group: Faces, references: Faces, floor: Faces | None) -> Verdict | None:
    own, usual = group.age[~np.isnan(group.age)], references.age[~np.isnan(references.age)]
    if min(len(own), len(usual)) < LIMITS.fewest_references:
        return None
    years = float(np.median(own) - np.median(usual))
    ranges = metrics.median_interval(own), metrics.median_interval(usual)
    apart = ranges[0][0] > ranges[1][1] or ranges[0][1] < ranges[1][0]
    if abs(years) < LIMITS.years or not apart:
        return None
    way = "older" if years > 0 else "younger"
    sentence = f"Faces look {abs(years):.0f} years {way} ({np.median(own):.0f} against {np.median(usual):.0f})."
    return _verdict(
        "ages the person", sentence, years=years, age=float(np.median(own)), references=float(np.median(usual))
    )


# What they count with.


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


def resampled(values: np.ndarray, figure: Callable[[np.ndarray], np.ndarray], quantile: float) -> float:
    """Quantile of `figure` of the rows of values drawn again with replacement (Efron 1979)."""
    rng = np.random.default_rng(metrics.INTERVAL_SEED)
    draws = rng.integers(len(values), size=(metrics.INTERVAL_DRAWS, len(values)))
    return float(np.quantile(figure(values[draws]), quantile))


def _spread_by(values: np.ndarray, of_references: np.ndarray) -> float:
    """MAD by the references' own; infinite where theirs is nothing."""
    usual = mad(of_references)
    return mad(values) / usual if usual > 0 else np.inf


def _lost(turned_deg: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """(M,) medians of the slopes of all pairs, as similarity lost per 30 degrees, of rows (M, N)."""
    first, second = np.triu_indices(turned_deg.shape[1], 1)
    run = turned_deg[:, second] - turned_deg[:, first]
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row in which no two heads are turned differently: NaN
        slopes = (similarity[:, second] - similarity[:, first]) / run
        slopes[np.abs(run) < 1] = np.nan  # as far as yaw can be measured
        return -30 * np.nanmedian(slopes, axis=1)


def _lost_again(faces: Faces, seed: int) -> np.ndarray:
    """(RESAMPLES,) `lost_per_30_degrees` of faces drawn again (Efron 1979); at most MOST_PAIRED, as all pairs count."""
    rng = np.random.default_rng([metrics.INTERVAL_SEED, seed])
    draws = rng.integers(len(faces), size=(RESAMPLES, min(len(faces), MOST_PAIRED)))
    return _lost(np.abs(faces.yaw_deg)[draws], faces.similarity[draws])


def _two_kinds(ordered: np.ndarray) -> tuple[int, float]:
    """Where ascending values are best cut in two (Otsu 1979), and how far apart both are: Ashman's D.

    D = sqrt(2) |m1 - m2| / sqrt(s1^2 + s2^2) (Ashman, Bird & Zepf 1994, Astronomical Journal 108, 2348).
    """
    count = len(ordered)
    left = np.arange(1, count)
    sums = np.cumsum(ordered)[:-1]
    gap = sums / left - (ordered.sum() - sums) / (count - left)
    cut = int(np.argmax(left * (count - left) * gap**2)) + 1
    spread = np.sqrt(ordered[:cut].var() + ordered[cut:].var())
    return cut, float(np.sqrt(2) * abs(gap[cut - 1]) / spread) if spread > 0 else np.inf


_README = "README of MirrorMetrics"
RULES: dict[str, Rule] = {
    "collapsed": Rule(
        "images are near-black or uniform frames, not pictures without a face",
        "late checkpoints of Flux.2 give such frames (atomantic/PortOS#1241)",
        "Take an earlier checkpoint; lower the learning rate.",
        _collapsed,
    ),
    "many failures": Rule(
        "many images show no face, or one that the detector found only at a second look",
        "our choice: what was not measured must not vanish from a median",
        "Look at these images: cut-off heads, backs of heads, masks. Change the prompts, or take another checkpoint.",
        _many_failures,
        hides=("mixed",),
    ),
    "overtrained": Rule(
        "most faces are near copies of references, and the face ratio hardly varies",
        f"{_README}: similarity extremely high on all images and a Face Ratio variance near zero",
        "Take an earlier checkpoint, lower the steps or the learning rate, or use fewer repeats.",
        _overtrained,
        hides=("copycat", "rigid", "identity drift"),
    ),
    "copycat": Rule(
        "more faces than chance gives are near copies of a reference",
        f"{_README}: the Copycat report; the limit from the references' leave-one-out nearest neighbours",
        "Look at the pairs in the Copycat report. Use fewer repeats, vary the captions, or take an earlier checkpoint.",
        _copycat,
    ),
    "black hole": Rule(
        "one reference attracts far more images than it attracts references, and they are unusually near to it",
        f"{_README}: the Black Hole Ranking",
        "Remove that reference or lower its repeats; add photos that are unlike it.",
        _black_hole,
    ),
    "wrong person": Rule(
        "half of the faces are as unlike the references as other people are",
        "the share at which other people lie, mirror.faces.metrics.identity_limit",
        "Check trigger word and LoRA strength, and that the LoRA belongs to this person.",
        _wrong_person,
        hides=("undertrained", "identity drift"),
    ),
    "mixed": Rule(
        "the person in some pictures, somebody else in the others",
        "two separate groups of likeness (Ashman, Bird & Zepf 1994)",
        "Check the dataset for other people, the captions for other names, and prompts for several people.",
        _mixed,
        hides=("undertrained", "wrong person", "identity drift"),
    ),
    "identity drift": Rule(
        "similarity falls with the turn of the head faster than the references' does, or lies at the no-LoRA floor",
        f"{_README}: Profile Stability",
        "Add photos in three-quarter view and profile; train a little longer.",
        _drift,
    ),
    "undertrained": Rule(
        "half of the faces are less like the person than five in six of the references are",
        "the references' leave-one-out distribution, pose-corrected",
        "Train longer, or take a later checkpoint; check strength and trigger word.",
        _undertrained,
    ),
    "rigid": Rule(
        "heads turn far less than in the references (the face ratio is told as well)",
        f"{_README}: Face Ratio a flat line and Pose Variety clustered at the center",
        "Ask for other angles in the prompts first; then lower the steps, and add three-quarter views and profiles.",
        _rigid,
    ),
    "ages the person": Rule(
        "the apparent age differs from the references'",
        f"{_README}: Age Distribution",
        "Check light and skin texture of the dataset; name the age in prompts and captions.",
        _ages,
    ),
}
WITHOUT_FACES = ("collapsed", "many failures")  # what can be said though hardly a face was measured
OF_COPIES = ("overtrained", "copycat", "black hole")  # what faces of a second look can show as well
COPYING = ("overtrained", "copycat")  # a checkpoint that does is not the best one, however alike
