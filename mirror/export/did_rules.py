"""What makes a picture a good source for a talking head: one rule a line of `RULES`, which is all there is to change.

A rule measures one number of a picture. `limit` is the worst that passes and `ideal` what no picture need exceed; the
larger of the two says which way is better. What no sensor measured is None: it neither passes nor fails, it is told.
How well the sensors tell is measured by benchmarks/did_bench.py on rendered heads (docs/exports.md has the figures).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mirror.dataset.limits import SECOND_FACE_SHARE
from mirror.dataset.pixels import SHARPNESS_LIMIT
from mirror.dataset.soundness import LIMITS
from mirror.detectors.expressions import CONFIDENCE
from mirror.export.dataset import Candidate, ExportDataset
from mirror.export.did_limits import SMALLEST_FACE
from mirror.export.geometry import eye_opening, mouth_opening, room_around
from utils.defaults import DEMO_PACK

NEUTRAL = "neutral"
MOUTH, EYES, EXPRESSION = "mouth", "eyes", "expression"

# Degrees within which 9 of 10 rendered heads up to 22 degrees lie, by where angles come from: (yaw, pitch).
# benchmarks/did_bench.py, demo pack.
POSE_ERROR_DEG = {"landmarks": (6.4, 7.9), "keypoints": (6.6, 15.1)}


# What measures.
ANGLES, LANDMARKS, MODEL, PIXELS, DETECTOR = (
    "head angles",
    "68 landmarks",
    "expression model",
    "pixels",
    "face detector",
)


@dataclass(frozen=True)
class Rule:
    """One line of the table."""

    name: str  # as --ignore takes it
    value: Callable[[Candidate], float | None]
    limit: float  # the worst that passes
    ideal: float  # as good as it need be
    weight: float  # share in the score by which good pictures are ranked; 0: it only decides
    shown: str  # a number in words
    how: str  # what measures it
    lacks: str  # what a picture lacks that breaks it

    def goodness(self, value: float) -> float:
        """1 at the ideal and beyond, 0 at the limit, below 0 where the rule is broken."""
        return min(1.0, (value - self.limit) / (self.ideal - self.limit))

    @property
    def shown_limit(self) -> str:
        side = "least" if self.ideal > self.limit else "most"
        return f"at {side} {self.shown.format(self.limit)}"


def _second_face(one: Candidate) -> float:
    return one.face.second_face_share or 0.0


def _yaw(one: Candidate) -> float:
    return abs(one.face.yaw_deg)


def _pitch(one: Candidate) -> float:
    return abs(one.face.pitch_deg)


def _tilt(one: Candidate) -> float:
    """Degrees off upright, once the picture is turned as the face was measured."""
    return abs((one.face.roll_deg + one.face.turned_deg + 180) % 360 - 180)


def _mouth(one: Candidate) -> float | None:
    return mouth_opening(one.face)


def _eyes(one: Candidate) -> float | None:
    return eye_opening(one.face)


def _neutral(one: Candidate) -> float | None:
    return None if one.reading is None else one.reading.scores.get(NEUTRAL)


def _sharpness(one: Candidate) -> float | None:
    return one.pixels.sharpness


def _sides(one: Candidate) -> float:
    return one.light.sides


def _burnt(one: Candidate) -> float:
    return one.light.burnt


def _grey(one: Candidate) -> float:
    return one.pixels.brightness


def _face(one: Candidate) -> float:
    return one.face_side


def _above(one: Candidate) -> float:
    return room_around(one.face).above


def _beside(one: Candidate) -> float:
    return room_around(one.face).beside


def _below(one: Candidate) -> float:
    return room_around(one.face).below


# Where no source is named the number is our choice. Sides of 0.6 in grey levels are about 3 : 1 in light (0.6 to the
# power of 2.2), from where on portraits are called dramatic. The eye aspect ratio (Soukupova and Cech 2016) is 0.2 to
# 0.35 of open eyes and below 0.15 of closed ones. Lips that speak are a tenth of the mouth's width apart, and more.
# Room is that around the face's box, chin to forehead: hair ends about a quarter of its height above it.
_MOST_TWO, _SHARP, _DARK, _BRIGHT = SECOND_FACE_SHARE, SHARPNESS_LIMIT, LIMITS.darkest_face, LIMITS.brightest_face
# name, value, limit, ideal, weight, as shown, how measured, what is lacking
RULES = (
    Rule("second-face", _second_face, _MOST_TWO, 0.0, 0, "{:.0%}", DETECTOR, "a second face has {} of its area"),
    Rule("yaw", _yaw, 10.0, 0.0, 3, "{:.1f}°", ANGLES, "the head is turned to a side by {}"),
    Rule("pitch", _pitch, 10.0, 0.0, 2, "{:.1f}°", ANGLES, "the head looks up or down by {}"),
    Rule("tilt", _tilt, 15.0, 0.0, 1, "{:.1f}°", ANGLES, "the head is tilted by {}"),
    Rule(MOUTH, _mouth, 0.10, 0.0, 2, "{:.2f}", LANDMARKS, "the mouth is open by {} of its width"),
    Rule(EYES, _eyes, 0.18, 0.25, 2, "{:.2f}", LANDMARKS, "the eyes are closed: they open by {} of their width"),
    Rule(EXPRESSION, _neutral, CONFIDENCE, 1.0, 3, "{:.0%}", MODEL, "the expression is neutral by {} only"),
    Rule("sharpness", _sharpness, _SHARP, 4 * _SHARP, 2, "{:.0f}", PIXELS, "the face is blurred: sharpness {}"),
    Rule("light", _sides, 0.60, 0.95, 2, "{:.2f}", PIXELS, "one half of the face has {} of the other's light"),
    Rule("highlights", _burnt, 0.02, 0.0, 1, "{:.1%}", PIXELS, "{} of the face is burnt out"),
    Rule("dark", _grey, _DARK, 2 * _DARK, 0.5, "{:.0f}", PIXELS, "the face is dark: grey level {} of 255"),
    Rule("bright", _grey, _BRIGHT, _BRIGHT - 50, 0.5, "{:.0f}", PIXELS, "the face is too bright: grey level {} of 255"),
    Rule("face-size", _face, SMALLEST_FACE, 2 * SMALLEST_FACE, 1, "{:.0f} px", DETECTOR, "the face is only {} across"),
    Rule("room-above", _above, 0.25, 0.7, 1, "{:.0%}", DETECTOR, "the hair is cut off: room above {} of the face"),
    Rule("room-beside", _beside, 0.15, 0.6, 0.5, "{:.0%}", DETECTOR, "the head is cut off: room beside {} of the face"),
    Rule("room-below", _below, 0.15, 0.9, 0.5, "{:.0%}", DETECTOR, "the neck is cut off: room below {} of the face"),
)
RULE_NAMES = tuple(rule.name for rule in RULES)


@dataclass(frozen=True)
class Figure:
    """One rule, measured on one picture."""

    rule: Rule
    value: float | None  # None: not measured
    is_ignored: bool = False  # broken or not, it does not decide
    is_told: bool = True  # False: no sensor at hand tells it for any picture

    @property
    def goodness(self) -> float | None:
        return None if self.value is None else self.rule.goodness(self.value)

    @property
    def is_broken(self) -> bool:
        return self.value is not None and self.goodness < 0 and not self.is_ignored

    @property
    def shown(self) -> str:
        return "not measured" if self.value is None else self.rule.shown.format(self.value)

    @property
    def lacks(self) -> str:
        """What breaks the rule, in words, with value and limit."""
        return f"{self.rule.lacks.format(self.shown)} ({self.rule.shown_limit})"


@dataclass(frozen=True)
class Judged:
    """A picture with all its figures, in the order of RULES."""

    candidate: Candidate
    figures: tuple[Figure, ...]

    @property
    def broken(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.is_broken]

    @property
    def score(self) -> float:
        """0 to 1: how far all figures are from their limits, by weight. One that this picture alone lacks is 0.

        A broken rule that is ignored still counts against the picture, so that with --ignore yaw a profile comes last.
        """
        told = [figure for figure in self.figures if figure.is_told]
        gained = sum(
            figure.rule.weight * max(-1.0 if figure.is_ignored else 0.0, figure.goodness or 0.0) for figure in told
        )
        return round(max(0.0, gained) / sum(figure.rule.weight for figure in told), 4)

    @property
    def excess(self) -> float:
        """By how much the broken rules are broken, for those that come closest."""
        return -sum(figure.goodness for figure in self.broken)


def judge(candidate: Candidate, untold: dict[str, str], ignored: tuple[str, ...] = ()) -> Judged:
    """All figures of a picture. `untold`: rules that no sensor at hand can tell, see `untold_rules`."""
    figures = []
    for rule in RULES:
        is_told = rule.name not in untold
        figures.append(Figure(rule, rule.value(candidate) if is_told else None, rule.name in ignored, is_told))
    return Judged(candidate, tuple(figures))


def untold_rules(dataset: ExportDataset) -> dict[str, str]:
    """Rules that cannot be told for any picture of the dataset, and why."""
    why = {}
    if all(one.face.landmarks is None for one in dataset.candidates):
        why = dict.fromkeys((MOUTH, EYES), "the pack has no 68 landmarks")
    elif dataset.pack.partition("@")[0] == DEMO_PACK:
        why = dict.fromkeys((MOUTH, EYES), "the demo pack's landmarks do not tell it (measured on rendered heads)")
    if dataset.expressions is None:
        why[EXPRESSION] = "there is no expression model (--expression-model takes one)"
    elif NEUTRAL not in dataset.expressions.tells:
        why[EXPRESSION] = f"{dataset.expressions.identity} knows no neutral face"
    return why


def what_sensors_tell(dataset: ExportDataset, untold: dict[str, str]) -> list[str]:
    """How far the figures can be trusted, a sentence each."""
    has_landmarks = any(one.face.landmarks is not None for one in dataset.candidates)
    source = "landmarks" if has_landmarks else "keypoints"
    yaw, pitch = POSE_ERROR_DEG[source]
    whose = "" if dataset.pack.partition("@")[0] == DEMO_PACK else ", with the demo pack; this pack's own is not known"
    told = [
        f"Head angles come from {source}. On rendered heads nearly from the front, 9 of 10 are within {yaw:g} degrees "
        f"of the true yaw and {pitch:g} of the true pitch{whose}."
    ]
    told += [f"Not measured: {', '.join(names)}, as {why}." for why, names in _by_reason(untold).items()]
    return [
        *told,
        "Hands, masks, dark glasses and hair over a face are not seen by any of these sensors: look for them.",
    ]


def _by_reason(untold: dict[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, why in untold.items():
        reasons.setdefault(why, []).append(name)
    return reasons
