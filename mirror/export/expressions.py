"""Which pictures of a dataset show an expression best, for a VTuber model: seen from the front, sharp, whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mirror.contracts.exports import NotUsed
from mirror.dataset.limits import SECOND_FACE_SHARE
from mirror.dataset.pixels import SHARPNESS_LIMIT
from mirror.detectors.expressions import CONFIDENCE
from mirror.export.aligned import Eyes, canvas_of, covered_share, exact_eyes
from mirror.export.dataset import Candidate, ExportDataset, same_picture
from utils.images import natural_key

# Faces of VTuber models are drawn from the front and turned by the program. At 20 degrees the far eye is 6 % nearer to
# the nose than the near one (cosine), about what a pack errs by in yaw (mirror/export/did_rules.py). --max-yaw changes
# it. Pitch is measured less well, so its limit is wider. Both our choice.
MOST_YAW_DEG, MOST_PITCH_DEG = 20.0, 25.0
SMALLEST_CANVAS = 256  # pixels; a face that fills less is left out, as all pictures would have to be as small

# Weights of the score. Our choice: what the picture shows and from where goes before how well it shows it.
WEIGHTS = {"confidence": 3.0, "frontality": 3.0, "sharpness": 2.0, "identity": 2.0, "size": 1.0, "whole": 1.0}
_YAW_WEIGHT = 0.7  # of frontality, the rest is pitch


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    expressions: tuple[str, ...]
    count: int  # pictures of each at most
    canvas: int = 1024  # pixels
    most_yaw_deg: float = MOST_YAW_DEG
    smallest_canvas: int = SMALLEST_CANVAS


@dataclass(frozen=True)
class Ranked:
    """A picture that shows a wanted expression and may be taken."""

    candidate: Candidate
    expression: str
    parts: dict[str, float]  # 0 to 1, by WEIGHTS; what no picture has is not in it

    @property
    def confidence(self) -> float:
        return self.candidate.reading.scores[self.expression]

    @cached_property
    def eyes(self) -> Eyes:
        """Where they are, as exactly as the picture shows. Raises UserError where it can no longer be read."""
        return exact_eyes(self.candidate)

    @cached_property
    def score(self) -> float:
        """0 to 1."""
        return round(
            sum(WEIGHTS[name] * value for name, value in self.parts.items())
            / sum(WEIGHTS[name] for name in self.parts),
            4,
        )


@dataclass
class Shown:
    """What the dataset has of one expression."""

    expression: str
    told: bool  # by the model
    shown_by: int = 0
    usable: int = 0
    chosen: list[Ranked] = field(default_factory=list)
    synthetic: int = 0  # generated pictures that show it and were left out


@dataclass
class Choice:
    """What became of all candidates."""

    shown: list[Shown]
    not_used: list[NotUsed]

    @property
    def chosen(self) -> list[Ranked]:
        return [one for shown in self.shown for one in shown.chosen]


def choose(dataset: ExportDataset, wanted: Wanted) -> Choice:
    """The best pictures of each expression; the reading of a face is one expression, so no picture is taken twice."""
    tells = dataset.expressions.tells
    shown = {name: Shown(name, name in tells) for name in wanted.expressions}
    not_used, fit = [], {name: [] for name in wanted.expressions}
    most_alike = max((one.likeness for one in dataset.candidates if one.likeness is not None), default=None)
    for candidate in dataset.candidates:
        expression = expression_of(candidate)
        if expression in shown:
            shown[expression].shown_by += 1
        reason = _reason_against(candidate, wanted)
        if reason:
            not_used.append(NotUsed(file=candidate.file, reason=reason))
        else:
            fit[expression].append(Ranked(candidate, expression, _parts(candidate, expression, wanted, most_alike)))
    for name, ranked in fit.items():
        fits = _Fits(ranked, wanted)
        shown[name].chosen, shown[name].usable = fits.chosen, len(ranked) - fits.too_small
        not_used += fits.left
    for candidate in dataset.synthetic_left_out:
        name = expression_of(candidate)
        if name in shown and not _reason_against(candidate, wanted):
            shown[name].synthetic += 1
    return Choice(list(shown.values()), not_used)


def expression_of(candidate: Candidate) -> str | None:
    """What the face shows; None where it was not read, or the model is not sure."""
    return None if candidate.reading is None else candidate.reading.expression


def in_order(ranked: list[Ranked]) -> list[Ranked]:
    """The best first; equal ones by natural order of their names."""
    return sorted(ranked, key=lambda one: (-one.score, natural_key(one.candidate.file), one.candidate.file))


class _Fits:
    """Of pictures that fit, the best, no two of them nearly the same, and why the others are left."""

    def __init__(self, ranked: list[Ranked], wanted: Wanted):
        self.chosen: list[Ranked] = []
        self.left: list[NotUsed] = []
        self.too_small = 0
        for one in in_order(ranked):
            reason = self._against(one, wanted)
            if reason:
                self.left.append(NotUsed(file=one.candidate.file, reason=reason))
            else:
                self.chosen.append(one)

    def _against(self, one: Ranked, wanted: Wanted) -> str:
        """One sentence; empty where it is chosen."""
        for other in self.chosen:
            if how := same_picture(one.candidate, other.candidate):
                return f"It shows {one.expression}, but is {how} as {other.candidate.file}."
        if len(self.chosen) == wanted.count:
            return f"It shows {one.expression} (score {one.score:.2f}), but {wanted.count} better one(s) were enough."
        # The irises may lie nearer to each other than the pack's points, by which the picture seemed large enough.
        small = _small(one.eyes.canvas, wanted)
        self.too_small += bool(small)
        return f"It shows {one.expression}, but {small}." if small else ""


def _reason_against(candidate: Candidate, wanted: Wanted) -> str:
    """One sentence with all that speaks against a picture; empty where nothing does."""
    reading, expression = candidate.reading, expression_of(candidate)
    if reading is None:
        return "Its face is too small for the expression model to read."
    if expression is None:
        share = reading.scores[reading.best]
        return f"What it shows is not certain: {reading.best} by {share:.0%}, and more than {CONFIDENCE:.0%} is needed."
    if expression not in wanted.expressions:
        return f"It shows {expression}, which was not asked for."
    lacks = "; ".join(_lacks(candidate, wanted))
    return f"It shows {expression}, but {lacks}." if lacks else ""


def _lacks(candidate: Candidate, wanted: Wanted) -> Iterator[str]:
    face = candidate.face
    if abs(face.yaw_deg) > wanted.most_yaw_deg:
        yield f"the head is turned to a side by {abs(face.yaw_deg):.0f} degrees (at most {wanted.most_yaw_deg:g})"
    if abs(face.pitch_deg) > MOST_PITCH_DEG:
        yield f"the head looks up or down by {abs(face.pitch_deg):.0f} degrees (at most {MOST_PITCH_DEG:g})"
    if (face.second_face_share or 0.0) >= SECOND_FACE_SHARE:
        yield f"a second face has {face.second_face_share:.0%} of the first one's area"
    if small := _small(canvas_of(face), wanted):
        yield small


def _small(canvas: int, wanted: Wanted) -> str:
    """What speaks against a face that fills no more than `canvas` pixels; empty where that is enough."""
    smallest = min(wanted.smallest_canvas, wanted.canvas)
    if canvas >= smallest:
        return ""
    return f"the face is small: it fills a canvas of {canvas} pixels (at least {smallest}), and is never enlarged"


def _parts(candidate: Candidate, expression: str, wanted: Wanted, most_alike: float | None) -> dict[str, float]:
    """What the score is made of, 0 to 1 each."""
    face = candidate.face
    turned = abs(face.yaw_deg) / max(wanted.most_yaw_deg, 1e-6)
    found = {
        "confidence": (candidate.reading.scores[expression] - CONFIDENCE) / (1 - CONFIDENCE),
        "frontality": 1 - _YAW_WEIGHT * turned - (1 - _YAW_WEIGHT) * abs(face.pitch_deg) / MOST_PITCH_DEG,
        "sharpness": candidate.pixels.sharpness / (4 * SHARPNESS_LIMIT),
        "size": canvas_of(face) / wanted.canvas,
        "whole": covered_share(face),
    }
    if most_alike is not None:
        found["identity"] = 0.0 if candidate.likeness is None else candidate.likeness / max(most_alike, 1e-6)
    return {name: round(float(np.clip(value, 0.0, 1.0)), 4) for name, value in found.items()}
