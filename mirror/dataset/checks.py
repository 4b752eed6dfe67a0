"""Which generated image may enter a dataset: the checks, their limits, and what follows from them. Nothing is measured
here; an image comes as `Measurements`, the real photos as `Thresholds`.

Checks (`CHECKS`, at the end) run in stages. Where one stage fails the later ones are not judged: what a network says of
a picture that is black, blurred or without a face means nothing, and a rejection must name its cause, not its
consequences.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from mirror.contracts.gaps import ImageRecord
from mirror.contracts.validation import Check, Outcome, Verdict
from mirror.dataset.gaps import GAP_TYPES, GapType, Target, measured_type
from mirror.dataset.limits import COPY_ANGLES_DEG, COPY_SIMILARITY, SECOND_FACE_SHARE
from mirror.dataset.pixels import BRIGHTNESS_LIMITS, DUPLICATE_BITS, SHARPNESS_LIMIT, SHARPNESS_SIDE
from mirror.detectors.detectors import CONFIDENCE
from mirror.faces.metrics import IDENTITY_FLOOR, identity_limit, usual_similarity
from utils.files import Status

INTACT, SHARPNESS, BRIGHTNESS, DUPLICATE = "intact", "sharpness", "brightness", "near_duplicate"
FACE, ONE_FACE, TARGET, IDENTITY, COPY = "face_confidence", "one_face", "target", "identity", "copy"

SOFTEST_SHARE = 0.5  # of the real photos' median sharpness; our choice
REFERENCES = "references"  # the photos themselves, without which near duplicates of them cannot be found


@dataclass(frozen=True)
class Nearest:
    """The reference most like a face, and how far its head is turned from it, in degrees (the largest of three)."""

    file: str
    similarity: float
    turn_deg: float


@dataclass(frozen=True)
class Duplicate:
    """The picture that looks most alike as a whole."""

    name: str
    differing_bits: int  # of 128


@dataclass(frozen=True)
class Measurements:
    """One image as it was measured. `similarity` is to the centroid of the references."""

    record: ImageRecord
    gap_type: str | None
    target: str | None
    similarity: float | None = None
    nearest: Nearest | None = None
    duplicate: Duplicate | None = None


@dataclass(frozen=True)
class Thresholds:
    """What the images are compared with.

    `level` is `metrics.reference_level`, `sharpness` the median, of the real photos; None where there are none. What
    is in `missing` cannot be measured in any image, and why.
    """

    types: Mapping[str, GapType]
    level: float | None = None
    sharpness: float | None = None
    missing: Mapping[str, str] = field(default_factory=dict)  # what a gap type needs, IDENTITY or REFERENCES


def judge(measurements: Measurements, thresholds: Thresholds) -> list[Check]:
    """Every check of one image, in the order of CHECKS."""
    checks: list[Check] = []
    barrier = ""
    for _, stage in groupby(CHECKS, key=lambda kind: kind.stage):
        found = [one for one in (kind.judge(measurements, thresholds) for kind in stage) if one is not None]
        if barrier:
            found = [_unknown(one.check, one.limit, f"not judged, because {barrier}") for one in found]
        checks += found
        barrier = barrier or next((text for text in map(_barrier, found) if text), "")
    return checks


def _barrier(check: Check) -> str:
    """Why nothing after this check is judged; empty where it goes on."""
    if check.outcome == Outcome.FAILED:
        return f"{CHECK_NAMES[check.check]} failed"
    return "nothing was measured" if (check.check, check.outcome) == (INTACT, Outcome.NOT_MEASURED) else ""


def verdict(checks: Iterable[Check], target_words: Collection[str], allowed: Iterable[str]) -> Verdict:
    """REJECTED where a check failed; UNVERIFIED where one was not measured that nothing in `allowed` lets pass.

    `target_words`, see `words_for_target`, do so for the target.
    """
    checks = list(checks)
    if any(check.outcome == Outcome.FAILED for check in checks):
        return Verdict.REJECTED
    open_gates = [check for check in checks if check.outcome == Outcome.NOT_MEASURED]
    # identity stands for all that needs photos of the person, the search for near duplicates of them included
    words = {TARGET: set(target_words)} | {name: {IDENTITY} for name in NEEDS_PHOTOS}
    passes = all(words.get(check.check, set()) & set(allowed) for check in open_gates)
    return Verdict.APPROVED if passes else Verdict.UNVERIFIED


def words_for_target(measurements: Measurements, types: Mapping[str, GapType]) -> set[str]:
    """The words of --allow-unverified that let an image's target pass unmeasured.

    That is the sensor that measures it; `target` where none does, and then also the sensor that some model would be.
    """
    measured = measured_type(measurements.gap_type, measurements.target, types)
    if measured is not None:
        return {measured.needs or TARGET}
    known = measured_type(measurements.gap_type, measurements.target)
    return {TARGET, known.needs or TARGET} if known is not None else {TARGET}


def quality(measurements: Measurements, thresholds: Thresholds) -> float | None:
    """0 to 1, the mean of what could be measured of four shares, each clipped to 0..1; None where none could.

        sharpness    sharpness / median sharpness of the real photos (without them: / twice the limit of 100)
        exposure     1 where the mean grey level is 80 to 175, falling in a straight line to 0 at 30 and at 225
        face         (confidence - 0.5) / 0.5
        identity     (similarity - limit) / (usual - limit), with the limit and the usual score of a head with this yaw
                     (metrics.identity_limit, metrics.usual_similarity)

    Our choice. It orders images, worst first; it decides nothing.
    """
    record = measurements.record
    if record.size_wh is None or record.unusable:
        return None
    shares = [_clipped(record.sharpness / (thresholds.sharpness or 2 * SHARPNESS_LIMIT)), _exposure(record.brightness)]
    if record.det_score is not None:
        shares.append(_clipped((record.det_score - CONFIDENCE) / (1 - CONFIDENCE)))
    if None not in (measurements.similarity, thresholds.level, record.yaw_deg):
        shares.append(_likeness(measurements.similarity, record.yaw_deg, thresholds.level))
    return round(sum(shares) / len(shares), 4)


def _exposure(mean_grey: float) -> float:
    darkest, brightest = BRIGHTNESS_LIMITS
    return _clipped(min((mean_grey - darkest) / (80 - darkest), (brightest - mean_grey) / (brightest - 175)))


def _likeness(similarity: float, yaw_deg: float, level: float) -> float:
    limit = identity_limit(yaw_deg, level)
    room = usual_similarity(yaw_deg, level) - limit
    return _clipped((similarity - limit) / room) if room > 0 else float(similarity >= limit)


def _clipped(share: float) -> float:
    return min(1.0, max(0.0, share))


def _intact(measurements: Measurements, thresholds: Thresholds) -> Check:
    record = measurements.record
    if record.status == Status.ERROR:  # our networks' fault, which says nothing about the picture
        return _unknown(INTACT, None, record.reason)
    if record.size_wh is None:
        return _failed(INTACT, str(record.status), None, f"the picture could not be measured: {record.reason}")
    if record.unusable:
        what = {"black": "all black", "blown": "all white"}.get(record.unusable, "one flat grey")
        return _failed(INTACT, record.unusable, None, f"the picture is {what}: the model's decoder spoiled it")
    return _passed(INTACT, "a picture", None)


def _sharpness(measurements: Measurements, thresholds: Thresholds) -> Check:
    limit = sharpness_limit(thresholds.sharpness)
    reason = f"blurred: variance of the Laplacian at {SHARPNESS_SIDE} pixels not above {limit:g}"
    sharpness = measurements.record.sharpness
    good = sharpness is not None and sharpness > limit
    return _measured(SHARPNESS, sharpness, limit, good, reason)


def sharpness_limit(real: float | None) -> float:
    """Below it a picture counts as blurred: SHARPNESS_LIMIT, or a share of the real photos' median where that is less.

    Small photos, and those before smooth backgrounds, lie below SHARPNESS_LIMIT themselves: images like them are good.
    """
    return SHARPNESS_LIMIT if real is None else round(min(SHARPNESS_LIMIT, SOFTEST_SHARE * real), 2)


def _brightness(measurements: Measurements, thresholds: Thresholds) -> Check:
    value, (darkest, brightest) = measurements.record.brightness, BRIGHTNESS_LIMITS
    good = value is not None and darkest <= value <= brightest
    reason = "too dark" if value is not None and value < darkest else "too bright"
    return _measured(BRIGHTNESS, value, BRIGHTNESS_LIMITS, good, f"{reason}: mean grey level")


def _duplicate(measurements: Measurements, thresholds: Thresholds) -> Check:
    duplicate, limit = measurements.duplicate, float(DUPLICATE_BITS + 1)
    value = None if duplicate is None else float(duplicate.differing_bits)
    if duplicate is not None and duplicate.differing_bits <= DUPLICATE_BITS:
        return _failed(DUPLICATE, value, limit, f"nearly the same picture as {duplicate.name}")
    if REFERENCES in thresholds.missing:
        return _unknown(DUPLICATE, limit, thresholds.missing[REFERENCES])
    return _passed(DUPLICATE, value, limit)


def _face(measurements: Measurements, thresholds: Thresholds) -> Check:
    value = measurements.record.det_score
    if value is None:
        return _failed(FACE, None, CONFIDENCE, "no face was found")
    return _measured(FACE, value, CONFIDENCE, value > CONFIDENCE, "the face is hard to recognise as one")


def _one_face(measurements: Measurements, thresholds: Thresholds) -> Check:
    share, limit = measurements.record.second_face_share, round(SECOND_FACE_SHARE, 4)
    if share is None or share < SECOND_FACE_SHARE:
        return _passed(ONE_FACE, share, limit)
    return _failed(ONE_FACE, share, limit, f"a second face has {share:.0%} of the main face's area")


def _target(measurements: Measurements, thresholds: Thresholds) -> Check | None:
    """None where the image was made for no gap."""
    if measurements.gap_type is None or measurements.target is None:
        return None
    gap, wanted = thresholds.types.get(measurements.gap_type), measurements.target
    target = next((one for one in gap.targets if one.name == wanted), None) if gap is not None else None
    if target is None:
        return _unknown(TARGET, wanted, _nothing_measures(measurements, gap, thresholds.missing))
    return _target_of(gap, target, measurements.record.values.get(gap.name), thresholds)


def _nothing_measures(measurements: Measurements, gap: GapType | None, missing: Mapping[str, str]) -> str:
    known = f"; it is told apart as {', '.join(one.name for one in gap.targets)}" if gap is not None else ""
    registered = GAP_TYPES.get(measurements.gap_type)
    why = missing.get(registered.needs) if registered is not None else None
    what = f"no sensor measures {measurements.gap_type} {measurements.target}{known}"
    return f"{what}: look at the image yourself{f' ({why})' if why else ''}"


def _target_of(gap: GapType, target: Target, seen: str | None, thresholds: Thresholds) -> Check:
    if gap.needs in thresholds.missing:
        return _unknown(TARGET, target.name, thresholds.missing[gap.needs])
    if seen is None:
        return _unknown(TARGET, target.name, f"{gap.title} could not be measured")
    reason = f"{target.label} were asked for, not {seen}"
    return _measured(TARGET, seen, target.name, seen == target.name, reason)


def _identity(measurements: Measurements, thresholds: Thresholds) -> Check:
    if IDENTITY in thresholds.missing:
        return _unknown(IDENTITY, None, thresholds.missing[IDENTITY])
    yaw, value = measurements.record.yaw_deg, measurements.similarity
    if value is None or yaw is None:
        return _unknown(IDENTITY, None, "the pack that compares faces found none")
    limit = round(identity_limit(yaw, thresholds.level), 4)
    reason = f"not like the person, for a head turned by {abs(yaw):.0f}°"
    return _measured(IDENTITY, value, limit, value >= limit, reason)


def _copy(measurements: Measurements, thresholds: Thresholds) -> Check:
    if IDENTITY in thresholds.missing:
        return _unknown(COPY, COPY_SIMILARITY, thresholds.missing[IDENTITY])
    nearest = measurements.nearest
    if nearest is None:
        return _unknown(COPY, COPY_SIMILARITY, "the pack that compares faces found none")
    is_copy = nearest.similarity > COPY_SIMILARITY and nearest.turn_deg <= COPY_ANGLES_DEG
    reason = f"the face of {nearest.file} again, turned by {nearest.turn_deg:.0f}° at most"
    return _measured(COPY, nearest.similarity, COPY_SIMILARITY, not is_copy, reason)


def _measured(check: str, value: float | str | None, limit: object, good: bool, reason: str) -> Check:
    return _passed(check, value, limit) if good else _failed(check, value, limit, reason)


def _passed(check: str, value: float | str | None, limit: object) -> Check:
    return Check(check=check, value=value, limit=limit, outcome=Outcome.PASSED)


def _failed(check: str, value: float | str | None, limit: object, reason: str) -> Check:
    return Check(check=check, value=value, limit=limit, outcome=Outcome.FAILED, reason=reason)


def _unknown(check: str, limit: object, reason: str) -> Check:
    return Check(check=check, value=None, limit=limit, outcome=Outcome.NOT_MEASURED, reason=reason)


@dataclass(frozen=True)
class CheckKind:
    """One check: what it is called in the report and on the page, and how it is judged."""

    name: str
    title: str
    stage: int
    judge: Callable[[Measurements, Thresholds], Check | None]
    limits: Mapping[str, float] = field(default_factory=dict)  # for the report, which says them all
    needs_photos: bool = False  # of the person


CHECKS = (  # in the order in which they are judged
    CheckKind(INTACT, "picture", 1, _intact),
    CheckKind(
        BRIGHTNESS, "brightness", 2, _brightness, {"darkest": BRIGHTNESS_LIMITS[0], "brightest": BRIGHTNESS_LIMITS[1]}
    ),
    CheckKind(DUPLICATE, "near duplicate", 2, _duplicate, {"duplicate_bits": DUPLICATE_BITS}, needs_photos=True),
    # after brightness, as darkness and too much light lower it too
    CheckKind(
        SHARPNESS,
        "sharpness",
        3,
        _sharpness,
        {"sharpness": SHARPNESS_LIMIT, "sharpness_share": SOFTEST_SHARE, "sharpness_side": SHARPNESS_SIDE},
    ),
    CheckKind(FACE, "face confidence", 4, _face, {"face_confidence": CONFIDENCE}),
    CheckKind(ONE_FACE, "one face", 5, _one_face, {"second_face_share": SECOND_FACE_SHARE}),
    CheckKind(TARGET, "target", 6, _target),
    CheckKind(IDENTITY, "identity", 6, _identity, {"identity_floor": IDENTITY_FLOOR}, needs_photos=True),
    CheckKind(
        COPY,
        "copied face",
        6,
        _copy,
        {"copy_similarity": COPY_SIMILARITY, "copy_angles_deg": COPY_ANGLES_DEG},
        needs_photos=True,
    ),
)
CHECK_NAMES = {kind.name: kind.title for kind in CHECKS}  # as people read them
NEEDS_PHOTOS = tuple(kind.name for kind in CHECKS if kind.needs_photos)
LIMITS = {name: limit for kind in CHECKS for name, limit in kind.limits.items()}
