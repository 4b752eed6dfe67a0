"""Which of the pictures that show the same is kept, and why, in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mirror.vault.eyes import is_closed_beside
from mirror.vault.store import Face, StoredPicture

# Sides of photos that one camera took at one moment, cut a little; the contrast of eyes falls where a copy is smaller.
_SAME_SIZE = 1.10


@dataclass(frozen=True)
class Candidate:
    """One of them."""

    picture: StoredPicture
    face: Face | None  # the largest in it
    eyes_closed: bool = False  # beside another one of them

    def has_closed_eyes_beside(self, others: Iterable[Candidate]) -> bool:
        """Whether the person's eyes are closed here and open in one of the others."""
        return self.face is not None and any(
            other.face is not None
            and _is_as_large(self.picture, other.picture)
            and other.face.person == self.face.person
            and is_closed_beside(self.face.eyes, self.face.sharpness, other.face.eyes, other.face.sharpness)
            for other in others
        )


def _is_as_large(one: StoredPicture, other: StoredPicture) -> bool:
    low, high = sorted((max(one.size_wh), max(other.size_wh)))
    return high <= _SAME_SIZE * low


@dataclass(frozen=True)
class _Measure:
    """A value that may decide: from `ratio` on, the larger one wins."""

    value: float
    ratio: float
    words: str  # of the winner; {} is the other one's `shown`
    shown: str = ""


def _measures(one: Candidate) -> list[_Measure]:
    """What decides, the first thing first."""
    picture, face = one.picture, 0.0 if one.face is None else one.face.size
    eyes = "better" if one.face is None or one.face.eyes is None else "open-eyed"
    width, height = picture.size_wh
    # a brightened copy has stronger edges: the variance of the Laplacian grows with the square of the gain
    sharp = picture.sharpness / max(picture.brightness / 128, 0.1) ** 2
    return [
        # before all else, as no other fault of a photo is as plain
        _Measure(float(not one.eyes_closed), 1.0, f"{eyes}: the eyes are closed here"),
        _Measure(width * height, 1.10, f"larger: {width} x {height} against {{}} pixels", f"{width} x {height}"),
        # before sharpness, as the noise of strong compression looks sharp; a blurred photo has fewer bytes, too
        _Measure(picture.bytes, 1.15, f"less compressed: {picture.bytes:,} against {{}} bytes", f"{picture.bytes:,}"),
        _Measure(sharp, 1.15, f"sharper: {sharp:.0f} against {{}}", f"{sharp:.0f}"),
        _Measure(face, 1.0, f"larger in the face: {face:.0f} against {{}} pixels", f"{face:.0f}"),
    ]


def better_one(one: Candidate, other: Candidate) -> int:
    """1, 0 or -1 as `one` is better, as good or worse."""
    return _deciding(one, other)[0]


def why_kept(kept: Candidate, other: Candidate) -> str:
    """Why `kept` is the better one, in words."""
    better, nth = _deciding(kept, other)
    return _measures(kept)[nth].words.format(_measures(other)[nth].shown) if better > 0 else "as good"


def _deciding(one: Candidate, other: Candidate) -> tuple[int, int]:
    """(as `better_one` says, which of `_measures` decides)"""
    for nth, (own, its) in enumerate(zip(_measures(one), _measures(other), strict=True)):
        low, high = sorted((own.value, its.value))
        if high > own.ratio * low:
            return (1 if own.value == high else -1), nth
    return 0, 0
