"""Which pictures become sources for a talking head, how they differ from each other, and how they are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from mirror.contracts.did import DidFigure, DidLimit, DidSource
from mirror.contracts.exports import NotUsed
from mirror.dataset.limits import COPY_ANGLES_DEG, COPY_SIMILARITY
from mirror.export.dataset import same_picture
from mirror.export.did_limits import LONGEST_SIDE, LOOKED_UP, MOST_BYTES, SERVICE_LIMITS
from mirror.export.did_rules import Figure, Judged
from mirror.vault.crops import upright, upright_box
from utils.console import UserError
from utils.images import natural_key

# The cut, by the height of the face's box (chin to forehead): a square with hair and shoulders in it, as D-ID's own
# presenters are framed. Our choice. Where the picture ends sooner, so does the cut.
FRAME, FRAME_ABOVE = 2.75, 0.75

LOOKED_AT = 30  # good pictures, the best first, that are compared for how they differ: each is decoded once more
# What a wholly different picture is worth beside the score. At 0.3 it outweighs a score lower by 0.3: our choice.
DIFFERENCE_WEIGHT = 0.3
# Difference of colours (CIE Lab, mean over GRID x GRID cells) from where two pictures count as wholly different. Pairs
# of 16 rendered everyday photos of one person (light, place and clothes at random) differ by 30 in the median, by 17 to
# 39 in 90 %, and by 43 at most.
WHOLLY_DIFFERENT = 40.0
GRID = 8
OTHER_LIGHT = 20.0  # grey levels between two faces from where the light is called another one; our choice
NEAR_LIMIT = 0.25  # goodness below which a figure is said to limit a picture; our choice

QUALITIES = (95, 90, 85, 75, 60)  # JPEG, the first that keeps to the service's size


@dataclass
class Cut:
    """A picture's cut, ready to be written."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    xyxy: tuple[int, int, int, int]  # pixels of the upright picture
    scale: float  # at most 1

    @cached_property
    def colours(self) -> np.ndarray:
        """(GRID * GRID, 3) mean CIE Lab colours."""
        small = cv2.resize(self.image.astype(np.float32) / 255, (GRID, GRID), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(small, cv2.COLOR_BGR2Lab).reshape(-1, 3)

    def difference(self, other: Cut) -> float:
        """Root mean square of the distances of their colours, in Lab units."""
        return float(np.sqrt(((self.colours - other.colours) ** 2).sum(axis=1).mean()))


@dataclass
class Chosen:
    """One source picture."""

    judged: Judged
    cut: Cut
    differs: str


@dataclass
class Choice:
    """What became of all candidates."""

    chosen: list[Chosen]
    good: int
    not_used: list[NotUsed]


def in_order(judged: list[Judged]) -> list[Judged]:
    """The best first; equal ones by natural order of their names."""
    return sorted(judged, key=lambda one: (-one.score, natural_key(one.candidate.file), one.candidate.file))


def closest(judged: list[Judged], count: int = 3) -> list[Judged]:
    """Those of pictures that all lack something which lack least."""
    return sorted(in_order(judged), key=lambda one: (len(one.broken), one.excess))[:count]


def choose(judged: list[Judged], count: int) -> Choice:
    """The best picture, and up to `count` - 1 good ones that differ from it and from each other."""
    good = in_order([one for one in judged if not one.broken])
    lacking = [NotUsed(file=one.candidate.file, reason=reason_against(one)) for one in judged if one.broken]
    pool, chosen, repeats = good[:LOOKED_AT], [], []
    cuts = {one.candidate.file: cut_of(one) for one in pool}
    while pool and len(chosen) < count:
        best = max(pool, key=lambda one: one.score + DIFFERENCE_WEIGHT * _distance(cuts, one, chosen))
        chosen.append(Chosen(best, cuts[best.candidate.file], _differs(best, cuts, chosen)))
        pool.remove(best)
        new = {id(one): how for one in pool if (how := repeated(best, one))}
        name = source_name(len(chosen))
        repeats += [
            NotUsed(file=one.candidate.file, reason=f"Good, but {new[id(one)]} as {name}.")
            for one in pool
            if id(one) in new
        ]
        pool = [one for one in pool if id(one) not in new]
    rest = [NotUsed(file=one.candidate.file, reason=_not_needed(one)) for one in [*pool, *good[LOOKED_AT:]]]
    return Choice(chosen, len(good), [*lacking, *repeats, *rest])


def source_name(number: int) -> str:
    return f"source_{number:02d}.jpg"


def reason_against(one: Judged) -> str:
    """One sentence with all that a picture lacks."""
    text = "; ".join(figure.lacks for figure in one.broken)
    return f"{text[:1].upper()}{text[1:]}."


def _not_needed(one: Judged) -> str:
    return f"Good (score {one.score:.2f}), but better or more different ones were enough."


def repeated(one: Judged, other: Judged) -> str:
    """How two pictures show the same, in words; empty where they do not."""
    first, second = one.candidate, other.candidate
    if how := same_picture(first, second):
        return how
    turned = max(abs(first.face.yaw_deg - second.face.yaw_deg), abs(first.face.pitch_deg - second.face.pitch_deg))
    is_same = float(first.face.embedding @ second.face.embedding) >= COPY_SIMILARITY and turned <= COPY_ANGLES_DEG
    return "the same face at the same angle" if is_same else ""


def _distance(cuts: dict[str, Cut], one: Judged, chosen: list[Chosen]) -> float:
    """0 to 1: how unlike the most alike of the chosen ones; 0 for the first picture."""
    found = [cuts[one.candidate.file].difference(other.cut) for other in chosen]
    return min(1.0, min(found) / WHOLLY_DIFFERENT) if found else 0.0


def _differs(one: Judged, cuts: dict[str, Cut], chosen: list[Chosen]) -> str:
    """In words, from the one that is most alike; empty for the first."""
    if not chosen:
        return ""
    distances = [cuts[one.candidate.file].difference(other.cut) for other in chosen]
    index = int(np.argmin(distances))
    other = chosen[index].judged.candidate
    said = [f"most alike is {source_name(index + 1)}: colours differ by {distances[index]:.0f} (Lab)"]
    lighter = one.candidate.pixels.brightness - other.pixels.brightness
    if abs(lighter) >= OTHER_LIGHT:
        said.append(f"the face is {abs(lighter):.0f} grey levels {'lighter' if lighter > 0 else 'darker'}")
    shows = [None if each is None else each.expression for each in (one.candidate.reading, other.reading)]
    if None not in shows and shows[0] != shows[1]:
        said.append(f"it shows {shows[0]}, that one {shows[1]}")
    return "; ".join(said)


def cut_of(one: Judged) -> Cut:
    """The picture upright, cut around its head, shrunk where it is larger than the service can show."""
    face = one.candidate.face
    image = upright(one.candidate.image(), face.turned_deg)
    left, top, right, bottom = upright_box(face.box_xyxy, face.size_wh, face.turned_deg)
    side = FRAME * (bottom - top)
    x, y = (left + right - side) / 2, top - FRAME_ABOVE * (bottom - top)
    height, width = image.shape[:2]
    x0, y0 = max(0, round(x)), max(0, round(y))
    x1, y1 = min(width, round(x + side)), min(height, round(y + side))
    part = image[y0:y1, x0:x1]
    scale = min(1.0, LONGEST_SIDE / max(part.shape[:2]))
    if scale < 1:
        size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    return Cut(np.ascontiguousarray(part), (x0, y0, x1, y1), scale)


def as_jpeg(image: np.ndarray) -> tuple[bytes, int]:
    """(file, quality) without any metadata, not larger than the service takes. Raises UserError."""
    for quality in QUALITIES:
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= MOST_BYTES:
            return data, quality
    raise UserError(f"A picture takes more than {MOST_BYTES:,} bytes even at quality {QUALITIES[-1]}.")


def source_of(number: int, chosen: Chosen, good: int) -> tuple[DidSource, bytes]:
    """What the record says of one picture, and its file."""
    data, quality = as_jpeg(chosen.cut.image)
    one, cut = chosen.judged, chosen.cut
    source = DidSource(
        file=source_name(number),
        picture=one.candidate.file,
        is_synthetic=one.candidate.is_synthetic,
        score=one.score,
        why=_why(number, one, good),
        limited_by=list(_limits(one, cut)),
        differs=chosen.differs,
        size_wh=(cut.image.shape[1], cut.image.shape[0]),
        crop_xyxy=cut.xyxy,
        turned_deg=one.candidate.face.turned_deg,
        scale=round(cut.scale, 4),
        face_pixels=round(one.candidate.face_side * cut.scale, 1),
        bytes=len(data),
        jpeg_quality=quality,
        figures=[_told(figure) for figure in one.figures],
    )
    return source, data


def _why(number: int, one: Judged, good: int) -> str:
    rule = "no rule but what was ignored" if any(each.is_ignored for each in one.figures) else "no rule"
    of = f"of {good} pictures that break {rule}"
    first = f"The best {of}" if number == 1 else f"Good, and unlike the ones before; one {of}"
    first = f"The only picture that breaks {rule}" if good == 1 else first
    ranked = sorted((each for each in one.figures if each.goodness is not None and each.rule.weight), key=_gain)
    return f"{first}. Its strongest: {', '.join(f'{each.rule.name} {each.shown}' for each in ranked[:4])}."


def _gain(figure: Figure) -> float:
    return -figure.rule.weight * figure.goodness


def _limits(one: Judged, cut: Cut) -> Iterator[str]:
    """What keeps a good picture from being better, in sentences."""
    unknown = [figure.rule.name for figure in one.figures if figure.goodness is None]
    if unknown:
        yield f"not measured: {', '.join(unknown)}"
    for figure in one.figures:
        if figure.goodness is None:
            continue
        if figure.goodness < 0:
            yield f"{figure.lacks}; ignored as asked"
        elif figure.goodness < NEAR_LIMIT and figure.rule.weight:
            yield f"{figure.rule.name} {figure.shown} is near its limit ({figure.rule.shown_limit})"
    if max(cut.image.shape[:2]) < LONGEST_SIDE:
        wide, high = cut.image.shape[1], cut.image.shape[0]
        yield f"{wide} x {high} pixels; up to {LONGEST_SIDE} can be shown (never enlarged)"
    yield from one.candidate.faults


def _told(figure: Figure) -> DidFigure:
    value, goodness = figure.value, figure.goodness
    return DidFigure(
        rule=figure.rule.name,
        value=None if value is None else round(float(value), 4),
        shown=figure.shown,
        limit=round(figure.rule.limit, 4),
        shown_limit=figure.rule.shown_limit,
        passed=None if goodness is None else goodness >= 0,
        ignored=figure.is_ignored,
        goodness=None if goodness is None else round(goodness, 4),
        measured_by=figure.rule.how,
    )


def service_limits() -> list[DidLimit]:
    """D-ID's own limits as the record carries them."""
    return [DidLimit(what=one.what, value=one.value, source=one.source, looked_up=LOOKED_UP) for one in SERVICE_LIMITS]
