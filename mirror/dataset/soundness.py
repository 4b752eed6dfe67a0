"""What is wrong with the reference photos as a training set, what they cover and what they lack. Pure: numbers in,
`DatasetCheck` out. It advises and decides nothing: photos that are merely imperfect are kept, with advice.

`FAULTS` holds every fault, the gravest first; thresholds stand there and in LIMITS, or where they are used already:
near duplicates and second faces in mirror.dataset, angle bins in mirror.faces.pose, goals in GAP_TYPES.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from mirror.contracts.summary import DatasetCheck, DatasetFault
from mirror.dataset.gaps import GAP_TYPES
from mirror.dataset.limits import SECOND_FACE_SHARE
from mirror.dataset.pixels import SHARPNESS_LIMIT
from mirror.dataset.references import CUT, FACE_SIDE, MIRRORED, SAME, Photo, Repeat
from mirror.faces.group import mad, outlier_limit
from mirror.faces.metrics import IDENTITY_FLOOR, IDENTITY_SHARES, leave_one_out, pose_corrected
from mirror.faces.pose import angle_bin
from utils.decoding import BLACK_AND_WHITE
from utils.files import Status

ANGLES, AGES, LIGHT = "angles", "ages", "light"  # of the coverage
_COVERED_BY = {ANGLES: "face_angle", LIGHT: "lighting"}  # the gap types whose goals say how much there should be


class Limits(NamedTuple):
    """Thresholds that stand nowhere else."""

    fewest_faces: int = 5  # our choice: a spread needs some
    # What is an outlier says mirror.faces.group.outlier_limit; it is left out only beyond doubt. On three rendered
    # worlds with two strangers each, and two packs, 10 of the 12 strangers lie beyond 4, two within 3.5; of 160 good
    # photos one reaches 3.5, none 4.
    dropped_mads: float = 4.0
    # Mean grey level of the face. On 30 photos it is 101 to 189, and 61 in one that is dark; 25 to 47 at a quarter of
    # their light, 214 to 243 once they are overexposed (2.2 times the grey level and 40 more).
    darkest_face: float = 50.0
    brightest_face: float = 210.0
    # Our choice: the shorter side of the face box in pixels, in the picture shrunk to a megapixel, which SDXL is
    # trained on; an eye then takes about 16 of them, which are two of its latent image.
    smallest_face: float = 80.0
    training_pixels: int = 1024 * 1024
    fewest_photos: int = 10  # as documented: 10 to 30 photos
    years_in_a_bin: int = 10


LIMITS = Limits()


class _Found(NamedTuple):
    """One fault of one photo; the larger `weight`, the worse among faults of its kind."""

    sentence: str
    numbers: dict[str, int | float | str]
    weight: float = 0.0
    drops: bool = False  # whether the photo should not be trained on
    like: int | None = None  # index of the photo that it repeats


@dataclass(frozen=True)
class Kind:
    """One kind of fault: what to do about it, and who finds it in a photo of its own."""

    advice: str
    find: Callable[[Photo], _Found | None] | None = None  # None: found among the photos together


def check(photos: list[Photo], repeats: list[Repeat]) -> DatasetCheck:
    """Every fault of the photos, the worst first; what they cover, of those that are to be kept; what is missing."""
    found: dict[tuple[str, int], _Found] = {}
    for index, photo in enumerate(photos):
        for name, kind in FAULTS.items():
            one = kind.find(photo) if kind.find else None
            if one is not None:
                found[name, index] = one
        if (DARK, index) in found:
            found.pop((BLURRED, index), None)  # darkness lowers sharpness too
    found |= {(OUTLIER, index): one for index, one in _outliers(photos)}
    dropped = {index for (_, index), one in found.items() if one.drops}
    found |= {(DUPLICATE, index): one for index, one in _duplicates(photos, repeats, found, dropped)}
    dropped |= {index for (_, index), one in found.items() if one.drops}
    order = list(FAULTS)
    worst_first = sorted(found, key=lambda key: (order.index(key[0]), -found[key].weight, key[1]))
    kept = [photo for index, photo in enumerate(photos) if index not in dropped]
    coverage = _coverage(kept)
    return DatasetCheck(
        photos=len(photos),
        keep=[photo.file for photo in kept],
        faults=[_fault(photos, name, index, found[name, index], index not in dropped) for name, index in worst_first],
        coverage=coverage,
        missing=[*_too_few(photos, kept), *_missing(coverage)],
    )


def _fault(photos: list[Photo], name: str, index: int, one: _Found, keep: bool) -> DatasetFault:
    return DatasetFault(
        file=photos[index].file,
        fault=name,
        sentence=one.sentence,
        advice=FAULTS[name].advice,
        keep=keep,
        like=None if one.like is None else photos[one.like].file,
        numbers=one.numbers,
    )


# What one photo tells by itself.


def _unreadable(photo: Photo) -> _Found | None:
    if photo.status != Status.UNREADABLE:
        return None
    return _Found(f"It cannot be read: {photo.reason}.", {}, drops=True)


def _no_face(photo: Photo) -> _Found | None:
    if photo.status != Status.NO_FACE:
        return None
    return _Found("No face was found in it.", {}, drops=True)


def _not_measured(photo: Photo) -> _Found | None:
    """Too large, or our own fault: which says nothing about the photo."""
    if photo.status not in (Status.TOO_LARGE, Status.ERROR):
        return None
    return _Found(f"It was not looked at: {photo.reason}.", {"status": str(photo.status)})


def _several(photo: Photo) -> _Found | None:
    share = photo.face.second_face_share if photo.measured else None
    if share is None or share < SECOND_FACE_SHARE:
        return None
    sentence = f"{photo.face.faces} faces; the second has {share:.0%} of the largest one's area."
    return _Found(sentence, {"faces": photo.face.faces, "second_face_share": round(share, 3)}, share)


def _blurred(photo: Photo) -> _Found | None:
    value = photo.pixels.sharpness if photo.measured else None
    if value is None or value > SHARPNESS_LIMIT:
        return None
    sentence = f"The face is blurred: sharpness {value:.0f}, and {SHARPNESS_LIMIT:.0f} is the least."
    return _Found(sentence, {"sharpness": value, "limit": SHARPNESS_LIMIT, "pixels": FACE_SIDE}, -value)


def _dark(photo: Photo) -> _Found | None:
    if not photo.measured or photo.pixels.brightness >= LIMITS.darkest_face:
        return None
    sentence = f"The face is dark: mean grey level {photo.pixels.brightness:.0f} of 255."
    numbers = {"brightness": photo.pixels.brightness, "limit": LIMITS.darkest_face}
    return _Found(sentence, numbers, -photo.pixels.brightness)


def _bright(photo: Photo) -> _Found | None:
    if not photo.measured or photo.pixels.brightness <= LIMITS.brightest_face:
        return None
    sentence = f"The face is overexposed: mean grey level {photo.pixels.brightness:.0f} of 255."
    numbers = {"brightness": photo.pixels.brightness, "limit": LIMITS.brightest_face}
    return _Found(sentence, numbers, photo.pixels.brightness)


def _small(photo: Photo) -> _Found | None:
    if not photo.measured:
        return None
    side = face_pixels(photo)
    if side >= LIMITS.smallest_face:
        return None
    sentence = f"The face is small: {side:.0f} pixels at training size, and {LIMITS.smallest_face:.0f} is the least."
    return _Found(sentence, {"face_pixels": round(side, 1), "limit": LIMITS.smallest_face}, -side)


def _turned(photo: Photo) -> _Found | None:
    if not photo.measured or not photo.face.turned_deg:
        return None
    way = {90: "a quarter clockwise", 180: "upside down", 270: "a quarter counterclockwise"}[photo.face.turned_deg]
    lies = "It lies on its side" if photo.face.turned_deg != 180 else "It stands on its head"
    return _Found(f"{lies}: turn the file {way}.", {"turn_by_deg": photo.face.turned_deg})


def _grey(photo: Photo) -> _Found | None:
    return _Found("It is black-and-white.", {}) if photo.measured and BLACK_AND_WHITE in photo.reason else None


def face_pixels(photo: Photo) -> float:
    """Shorter side of the face box, in pixels, of the picture shrunk to LIMITS.training_pixels (never enlarged)."""
    left, top, right, bottom = photo.face.box_xyxy
    width, height = photo.face.size_wh
    return min(right - left, bottom - top) * min(1.0, math.sqrt(LIMITS.training_pixels / (width * height)))


# What takes all photos together.


def _outliers(photos: list[Photo]) -> Iterator[tuple[int, _Found]]:
    """(index, fault) of photos that are unlike the others, leave-one-out; none below LIMITS.fewest_faces."""
    rows = [index for index, photo in enumerate(photos) if photo.measured]
    if len(rows) < LIMITS.fewest_faces:
        return
    faces = [photos[index].face for index in rows]
    similarity = leave_one_out(np.stack([face.embedding for face in faces]))
    likeness = pose_corrected(similarity, np.array([face.yaw_deg for face in faces]))
    middle, spread = float(np.median(likeness)), mad(likeness)
    limit = outlier_limit(likeness)
    other_people = max(IDENTITY_FLOOR, IDENTITY_SHARES[0] * middle)
    beyond_doubt = min(middle - LIMITS.dropped_mads * spread, other_people)
    for index, value in zip(rows, map(float, likeness), strict=True):
        if value < limit:
            sentence = f"Unlike the other photos: likeness {value:.2f}, theirs is {middle:.2f}."
            numbers = {"likeness": round(value, 4), "others": round(middle, 4), "limit": round(limit, 4)}
            yield index, _Found(sentence, numbers, -value, drops=value < beyond_doubt)


def _duplicates(
    photos: list[Photo], repeats: list[Repeat], found: dict[tuple[str, int], _Found], dropped: set[int]
) -> Iterator[tuple[int, _Found]]:
    """(index, fault) of every photo that repeats a better one, which is kept."""
    faults = Counter(index for _, index in found)

    def worse(index: int) -> tuple[int, int, int]:
        return faults[index], -math.prod(photos[index].face.size_wh), index

    partners: dict[int, list[tuple[int, Repeat]]] = {}
    for one in repeats:
        for index, other in ((one.first, one.second), (one.second, one.first)):
            partners.setdefault(index, []).append((other, one))
    kept: set[int] = set()
    for index in sorted((index for index in partners if index not in dropped), key=worse):
        better = [(other, one) for other, one in partners[index] if other in kept]
        if not better:
            kept.add(index)
            continue
        other, one = max(better, key=lambda pair: pair[1].similarity)
        numbers = {"how": one.how, "similarity": one.similarity, "differing_bits": one.differing_bits}
        sentence = _how(one, photos[other].file)
        yield index, _Found(sentence, numbers, one.similarity, drops=True, like=other)


def _how(one: Repeat, file: str) -> str:
    if one.how == SAME:
        return f"The same picture as {file}: {one.differing_bits} of 128 bits differ."
    if one.how == MIRRORED:
        return f"The mirror image of {file}: {one.differing_bits} of 128 bits differ."
    if one.how == CUT:
        return f"{file} shows the same with more or less around it (similarity {one.similarity:.2f})."
    return f"The face of {file} again, at the same angle (similarity {one.similarity:.2f})."


# What they cover.


def _coverage(photos: list[Photo]) -> dict[str, dict[str, int]]:
    seen = [photo for photo in photos if photo.measured]
    ages = [photo.face.age for photo in seen if photo.face.age is not None]
    decades = Counter(math.floor(age / LIMITS.years_in_a_bin) for age in ages)
    angles = Counter(angle_bin(photo.face.yaw_deg) for photo in seen)
    light = Counter(photo.pixels.lighting for photo in seen)
    years = range(min(decades), max(decades) + 1) if decades else ()
    return {
        ANGLES: {target.name: angles[target.name] for target in GAP_TYPES[_COVERED_BY[ANGLES]].targets},
        AGES: {_decade(number): decades[number] for number in years},
        LIGHT: {target.name: light[target.name] for target in GAP_TYPES[_COVERED_BY[LIGHT]].targets},
    }


def _decade(number: int) -> str:
    begin = number * LIMITS.years_in_a_bin
    return f"{begin}-{begin + LIMITS.years_in_a_bin - 1}"


def _too_few(photos: list[Photo], kept: list[Photo]) -> list[str]:
    sentences = []
    if len(kept) < LIMITS.fewest_photos:
        sentences.append(f"{len(kept)} photo(s) to train on; {LIMITS.fewest_photos} to 30 are usual for a face LoRA.")
    faces = sum(photo.measured for photo in photos)
    if faces < LIMITS.fewest_faces:
        sentences.append(f"Outliers cannot be told: {faces} face(s), and at least {LIMITS.fewest_faces} are needed.")
    return sentences


def _missing(coverage: dict[str, dict[str, int]]) -> list[str]:
    """One sentence for each bin below its trigger (GAP_TYPES), and for ages that are left out."""
    sentences = []
    for what, gap in _COVERED_BY.items():
        total = sum(coverage[what].values())
        for target in GAP_TYPES[gap].targets if total else ():
            least = Fraction(str(target.trigger_percent or 0)) / 100
            count = coverage[what][target.name]
            if count < least * total:
                to_add = math.ceil((least * total - count) / (1 - least))
                sentences.append(
                    f"{target.label} are {count} of {total}, and at least {float(least):.0%} are advised: add {to_add}."
                )
    holes = [name for name, count in coverage[AGES].items() if not count]
    if holes:
        sentences.append(
            f"Nobody looks {', '.join(holes)} years old, though both younger and older: if years lie between the "
            "photos, name the age in the captions or keep to one time."
        )
    return sentences


# The gravest first; the names are what people read.
UNREADABLE, NO_FACE, NOT_MEASURED, OUTLIER, DUPLICATE = (
    "unreadable",
    "no face",
    "not measured",
    "outlier",
    "near duplicate",
)
SEVERAL, BLURRED, DARK, BRIGHT = "several faces", "blurred", "dark", "bright"
SMALL, TURNED, GREY = "small face", "turned", "black-and-white"
FAULTS: dict[str, Kind] = {
    UNREADABLE: Kind("Leave it out, or fetch the file again.", _unreadable),
    NO_FACE: Kind("Leave it out, or crop it so that the face is seen.", _no_face),
    NOT_MEASURED: Kind("Look at it yourself; shrink it if it is too large.", _not_measured),
    OUTLIER: Kind("Check that it is the same person; leave it out if not."),
    DUPLICATE: Kind("Keep one of them: twice the same picture is learned twice as much."),
    SEVERAL: Kind("Crop it to the person.", _several),
    BLURRED: Kind("Replace it by a sharp photo if you can.", _blurred),
    DARK: Kind("Lighten it, or replace it.", _dark),
    BRIGHT: Kind("Replace it: burnt-out skin has no detail left.", _bright),
    SMALL: Kind("Crop it closer from a larger original.", _small),
    TURNED: Kind("Turn the file itself: trainers take it as it lies.", _turned),
    GREY: Kind('Say "black and white photo" in its caption, or leave it out.', _grey),
}
