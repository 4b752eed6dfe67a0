"""Which picture of a dataset shows a head from an asked side best.

Left and right are the person's own. With the signs of mirror.faces.pose, a nose that points to the picture's left (yaw
below 0) shows the left side of the face: the camera stands at the person's left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mirror.contracts.exports import NotUsed
from mirror.dataset.pixels import SHARPNESS_LIMIT
from mirror.dataset.soundness import BLURRED, BRIGHT, DARK, GREY, SEVERAL
from mirror.export.dataset import Candidate, ExportDataset
from mirror.export.heads import PROFILE_FROM, QUARTER_FROM, Placement, is_sure, place, turn_deg
from mirror.faces.engine import FaceMeasurement
from utils.console import UserError, shell_line
from utils.images import natural_key

# Degrees. Of the front our choice: up to 15 both cheeks show alike. The others are the bins of the project.
FRONT_YAW = 15.0
QUARTER_YAW, PROFILE_YAW = 40.0, 90.0
LEVEL_PITCH = 20.0  # heads that are pitched further are none of a row of level heads; our choice
UP_PITCH, UP_FROM, UP_YAW = 25.0, 12.0, 25.0

# What a picture's qualities are worth, in degrees of angle: one that has nothing of a quality is as good as one that
# has all of it and is this much further off. Small on purpose: a sheet is asked for by angles.
# benchmarks/facesheet_bench.py measures how far from the best angle the choice then is.
WORTH_DEG = {"sharpness": 2.0, "size": 1.5, "neutral": 3.0, "identity": 1.5, "whole head": 3.0}
# What each of these faults costs. The others that mirror.dataset.soundness knows are counted by the worth of size and
# identity, or do not matter in a sheet.
FAULT_DEG, SPOILING = 10.0, (SEVERAL, BLURRED, DARK, BRIGHT, GREY)
PITCH_SHARE = 0.3  # of the pitch, beside the yaw: it shows less, and is read less exactly
FULL_SHARPNESS = 3 * SHARPNESS_LIMIT  # from here on sharper is not better; of good photos see mirror.dataset.references


@dataclass(frozen=True)
class Angle:
    """One angle that can be asked for. `off` is how far a face is from it, in degrees; None: it shows another one."""

    name: str
    shows: str
    off: Callable[[FaceMeasurement], float | None]
    target: str | None  # of the gap type face_angle; None: none of its targets
    by: str = "yaw"  # what it is told by, yaw or pitch

    def fits(self, candidate: Candidate) -> bool:
        return is_sure(candidate.face) and self.off(candidate.face) is not None


def _level(face: FaceMeasurement, off_deg: float) -> float | None:
    pitch = abs(face.pitch_deg)
    return off_deg + PITCH_SHARE * pitch if pitch <= LEVEL_PITCH else None


def _front(face: FaceMeasurement) -> float | None:
    return _level(face, turn_deg(face)) if abs(face.yaw_deg) <= FRONT_YAW else None


def _turned(side: int, wanted: float, low: float, high: float) -> Callable[[FaceMeasurement], float | None]:
    """`side` -1: the person's left, 1: the right, 0: either."""

    def off(face: FaceMeasurement) -> float | None:
        yaw = face.yaw_deg * side if side else abs(face.yaw_deg)
        if not low <= yaw < high:
            return None
        off_deg = abs(turn_deg(face) - wanted)
        # Seen from the side, pitch and roll are the same turn: levelling undoes both.
        return off_deg if low >= PROFILE_FROM else _level(face, off_deg)

    return off


def _pitched(way: int) -> Callable[[FaceMeasurement], float | None]:
    def off(face: FaceMeasurement) -> float | None:
        pitch, yaw = face.pitch_deg * way, abs(face.yaw_deg)
        return math.hypot(pitch - UP_PITCH, yaw) if pitch >= UP_FROM and yaw <= UP_YAW else None

    return off


def _sides(name: str, what: str, wanted: float, low: float, high: float) -> list[Angle]:
    words = (
        ("", 0, f"a {what} of either side"),
        ("_left", -1, f"a {what} of the person's own left side: the nose points to the left of the picture"),
        ("_right", 1, f"a {what} of the person's own right side: the nose points to the right of the picture"),
    )
    return [Angle(name + end, shows, _turned(side, wanted, low, high), name) for end, side, shows in words]


ANGLES = {
    angle.name: angle
    for angle in (
        Angle("front", "the face from the front", _front, "front"),
        *_sides("three_quarter", "three-quarter view", QUARTER_YAW, QUARTER_FROM, PROFILE_FROM),
        *_sides("profile", "profile", PROFILE_YAW, PROFILE_FROM, math.inf),
        Angle("up", "the face from the front, looking up", _pitched(1), None, "pitch"),
        Angle("down", "the face from the front, looking down", _pitched(-1), None, "pitch"),
    )
}


def angles_of(text: str) -> list[Angle]:
    """The angles of `--angles`, in their order. Raises UserError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = ", ".join(ANGLES)
    unknown = [name for name in names if name not in ANGLES]
    if unknown or not names:
        said = f"knows no {', '.join(unknown)}" if unknown else "names no angle"
        raise UserError(f"--angles {said}. It takes these, with commas between: {known}.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"--angles names {twice} twice.")
    return [ANGLES[name] for name in names]


@dataclass(frozen=True)
class Pick:
    """A candidate for one angle; the lowest sum of `cost_deg` is the best."""

    candidate: Candidate
    placement: Placement
    off_deg: float
    cost_deg: dict[str, float]

    @property
    def total_deg(self) -> float:
        return sum(self.cost_deg.values())


@dataclass(frozen=True)
class Choice:
    """What was found for one angle, the best first; photos before generated pictures."""

    angle: Angle
    ranked: list[Pick]

    @property
    def best(self) -> Pick | None:
        return self.ranked[0] if self.ranked else None


def choose(dataset: ExportDataset, angles: list[Angle], cell: int) -> list[Choice]:
    """For each angle the pictures that fit. `cell` is its side in pixels."""
    known = [one.likeness for one in dataset.candidates if one.likeness is not None]
    usual = float(np.median(known)) if known else None
    choices = []
    for angle in angles:
        picks = [_pick(one, angle, cell, usual) for one in dataset.candidates if angle.fits(one)]
        picks.sort(key=lambda pick: (pick.candidate.is_synthetic, round(pick.total_deg, 6)))  # then by name, as listed
        choices.append(Choice(angle, picks))
    return choices


def _pick(candidate: Candidate, angle: Angle, cell: int, usual_likeness: float | None) -> Pick:
    placement, off = place(candidate.face, cell), angle.off(candidate.face)
    has = {
        "sharpness": (candidate.pixels.sharpness or 0.0) / FULL_SHARPNESS,
        "size": 1 / placement.scale,
        "neutral": neutral_share(candidate),
        "whole head": 1 - placement.outside,
    }
    if candidate.likeness is not None and usual_likeness:
        has["identity"] = candidate.likeness / usual_likeness
    known = {name: min(1.0, max(0.0, share)) for name, share in has.items() if share is not None}
    costs = {"angle": off} | {name: WORTH_DEG[name] * (1 - share) for name, share in known.items()}
    costs["faults"] = FAULT_DEG * sum(kind in SPOILING for kind in candidate.fault_kinds)
    return Pick(candidate, placement, off, {name: round(cost, 2) for name, cost in costs.items()})


def neutral_share(candidate: Candidate) -> float | None:
    """How neutral the face is, 0 to 1; None where it was not measured."""
    return None if candidate.reading is None else candidate.reading.scores.get("neutral")


def left_over(dataset: ExportDataset, choices: list[Choice]) -> list[NotUsed]:
    """Every picture that is not in the sheet, with its reason, in natural order of their names."""
    taken = {choice.best.candidate.file for choice in choices if choice.best}
    others = [one for one in dataset.candidates if one.file not in taken]
    rest = [NotUsed(file=one.file, reason=_why_not(one, choices)) for one in others]
    return sorted([*dataset.not_used, *rest], key=lambda one: (natural_key(one.file), one.file))


def _why_not(candidate: Candidate, choices: list[Choice]) -> str:
    said = [_lost_to(candidate, choice) for choice in choices if choice.angle.fits(candidate)]
    if said:
        return " ".join(said)
    face = candidate.face
    if not is_sure(face):
        return f"Where its face is, or to which side it turns, is unsure (detection score {face.det_score:.2f})."
    return f"It shows none of the asked angles: yaw {round(face.yaw_deg)}, pitch {round(face.pitch_deg)} degrees."


def _lost_to(candidate: Candidate, choice: Choice) -> str:
    own = next(pick for pick in choice.ranked if pick.candidate is candidate)
    best = choice.best
    if candidate.is_synthetic and not best.candidate.is_synthetic:
        return f"{choice.angle.name}: it is generated, and the photo {best.candidate.file} shows it too."
    against = max(own.cost_deg, key=lambda name: own.cost_deg[name] - best.cost_deg.get(name, 0.0))
    return (
        f"{choice.angle.name}: {best.candidate.file} is better by {own.total_deg - best.total_deg:.1f} degrees' worth, "
        f"most of it by {against}."
    )


def how_to_get(dataset: ExportDataset, angle: Angle) -> str:
    """What fills an angle that is missing."""
    generated = sum(angle.fits(one) for one in dataset.synthetic_left_out)
    if generated:
        return f"{generated} generated picture(s) show it: --allow-synthetic takes one."
    photos = f"Add photos that show {angle.shows}"
    if angle.target is None:
        return f"{photos}; generate_synthetic.py makes no such pictures."
    command = shell_line(["python", "gap_analysis.py", str(dataset.folder), "--output", "gaps.json"])
    return (
        f"{photos}; or let generate_synthetic.py make pictures for face_angle: {angle.target} from the gap file of "
        f"{command}, put those that validate_synthetic.py approves "
        f"into the dataset, and give --allow-synthetic."
    )
