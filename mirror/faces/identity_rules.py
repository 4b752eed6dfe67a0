"""Verdicts on who is in the pictures: wrong person, mixed, identity drift, undertrained.

All of them compare faces with those references that are turned alike (mirror.faces.alike).
"""

from __future__ import annotations

import numpy as np

from mirror.faces import metrics
from mirror.faces.alike import Alike, between, cohesion, split
from mirror.faces.group import LIMITS, Faces, lost_per_30_degrees

Finding = tuple[str, dict[str, float | int | str]]  # the sentence, and the numbers that made it


def wrong_person(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    """Unlike the person, but alike among themselves: somebody, not a blend of many."""
    alike = group.alike(references)
    if alike is None or alike.identity >= LIMITS.other or not alike.surely_below(LIMITS.unlike, LIMITS.errors):
        return None
    sound = references.sound
    together = cohesion(group.vectors, group.yaw_deg, references.vectors[sound], references.yaw_deg[sound])
    if not together >= alike.identity + LIMITS.together:
        return None
    sentence = (
        f"The faces are somebody else's: {alike.identity:.2f} like the person, but {together:.2f} like each other "
        "(1 is as alike as the references are)."
    )
    return sentence, {"identity": alike.identity, "cohesion": together}


def undertrained(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    """Less like the person than other pictures of her are."""
    alike = group.alike(references)
    if alike is None or alike.resemblance >= LIMITS.unlike or not alike.surely_below(1.0, LIMITS.errors):
        return None
    sentence = (
        f"The faces resemble the person at {alike.resemblance:.2f} only, where 1 is as much as the references "
        f"resemble each other (below {LIMITS.unlike:.2f})."
    )
    return sentence, _numbers(alike)


def _numbers(alike: Alike) -> dict[str, float | int | str]:
    return {"resemblance": alike.resemblance, "error": alike.error, "identity": alike.identity}


def drift(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    """Turned heads are less like the person than heads near the front."""
    near_floor = _near_floor(group, floor)
    if near_floor:
        return near_floor
    turned = np.abs(group.yaw_deg)
    kinds = (turned < LIMITS.front_deg, turned >= LIMITS.turned_deg)
    front, side = (group.alike(references, which) for which in kinds)
    if not front or not side or min(front.matched, side.matched) < LIMITS.fewest_turned:
        return None
    if front.resemblance < LIMITS.drift_front:
        return None
    kept, error = side.resemblance / front.resemblance, np.hypot(front.error, side.error)
    if kept >= LIMITS.drift or side.resemblance + LIMITS.errors * error >= front.resemblance:
        return None
    sentence = (
        f"Heads turned by {LIMITS.turned_deg:.0f} degrees or more resemble the person at {side.resemblance:.2f}, those "
        f"near the front at {front.resemblance:.2f} (1 is as much as the references do at the same angles)."
    )
    numbers = {"turned": side.resemblance, "front": front.resemblance, "error": float(error)}
    lost = lost_per_30_degrees(group)
    return sentence, numbers if lost is None else numbers | {"lost_per_30_deg": lost}


def _near_floor(group: Faces, floor: Faces | None) -> Finding | None:
    """As like the person as images made without the LoRA. What lies below them is somebody else, another verdict."""
    if floor is None or len(floor) < LIMITS.fewest_faces:
        return None
    (low, high), (bottom, top) = (metrics.median_interval(one.likeness) for one in (group, floor))
    if low > top or high < bottom:
        return None
    sentence = f"Likeness {group.level:.2f} cannot be told from images without the LoRA ({floor.level:.2f})."
    return sentence, {"likeness": group.level, "floor": floor.level}


def mixed(group: Faces, references: Faces, floor: Faces | None) -> Finding | None:
    """The person in one part of the pictures, somebody else in the other."""
    order = np.argsort(group.likeness)
    cut, apart = _two_kinds(group.likeness[order])
    is_person = np.ones(len(group), bool)
    is_person[order[:cut]] = False
    is_person = split(group.vectors, is_person)
    least = min(is_person.sum(), (~is_person).sum())
    if least < max(3, LIMITS.mixed_least * len(group)) or apart < LIMITS.mixed_apart:
        return None
    turned = np.abs(group.yaw_deg)
    if np.mean(turned[~is_person][:, None] > turned[is_person][None]) >= LIMITS.mixed_by_yaw:
        return None  # the turn of the head tells them apart already, which is identity drift
    person, others = group.alike(references, is_person), group.alike(references, ~is_person)
    if not person or not others or person.identity < LIMITS.unlike or others.identity >= LIMITS.other:
        return None
    across = between(
        group.vectors[is_person], group.yaw_deg[is_person], group.vectors[~is_person], group.yaw_deg[~is_person]
    )
    if not across < LIMITS.mixed_across:
        return None
    sentence = (
        f"{is_person.sum()} faces are the person ({person.identity:.2f}, where 1 is as like as the references), "
        f"{(~is_person).sum()} are somebody else ({others.identity:.2f})."
    )
    numbers = {"person": int(is_person.sum()), "others": int((~is_person).sum()), "identity": person.identity}
    return sentence, numbers | {"identity_others": others.identity, "across": across}


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
