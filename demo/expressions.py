"""The expressions of a head: how far each muscle pulls, and how the skin moves with it.

Features lie in the surface coordinates of demo/head.py: u to the image's right, v upwards, centimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from demo.surfaces import bump, smoothstep

if TYPE_CHECKING:
    from demo.head import Layout


@dataclass(frozen=True)
class Expression:
    """Shares in 0..1; below 0 `smile` pulls the corners of the mouth down and `blink` opens the eyes wide."""

    smile: float = 0.0
    open: float = 0.0  # the jaw drops
    blink: float = 0.0
    frown: float = 0.0  # brows down and together
    raised: float = 0.0  # brows up
    sorrow: float = 0.0  # inner ends of the brows up, outer ends down
    press: float = 0.0  # lips tight and thin
    snarl: float = 0.0  # upper lip up, lower lip down: both rows of teeth show, the jaw stays

    @property
    def parted(self) -> float:
        """How far the lips are apart, in shares of the jaw's way."""
        return max(self.open, 0.35 * self.snarl)


EXPRESSIONS = {
    "neutral": Expression(),
    "smile": Expression(smile=0.9, open=0.0, blink=0.10),
    "serious": Expression(smile=-0.45, frown=1.0, blink=0.4, press=1.0),
    "laughing": Expression(smile=1.0, open=0.62, blink=0.32, raised=0.15),
    "surprised": Expression(smile=-0.15, open=0.7, raised=1.0, blink=-0.25),
    "angry": Expression(smile=-0.2, frown=1.0, blink=0.1, snarl=1.0),
    "sad": Expression(smile=-1.0, sorrow=1.0, blink=0.4),
}


def express(points: np.ndarray, u: np.ndarray, v: np.ndarray, row: int, lay: Layout, face: Expression) -> np.ndarray:
    """Skin (R, C, 3) moved by an expression; rows from `row` + 1 on belong to the lower lip."""
    out = points.copy()
    lower = np.zeros_like(v)
    lower[row + 1 :] = 1
    _pull_mouth(out, u, v, lower, lay, face)
    _tighten_lips(out, u, v, lower, lay, face)
    _move_brows(out, u, v, lay, face)
    return out


def _pull_mouth(
    out: np.ndarray, u: np.ndarray, v: np.ndarray, lower: np.ndarray, lay: Layout, face: Expression
) -> None:
    """Corners up or down, cheeks, the dropping jaw."""
    side = np.sign(u)
    corner = bump(u, v, (lay.mouth_half, lay.mouth_v), (1.35, 1.25)) * face.smile
    out += np.stack([side * 0.82 * corner, 0.88 * corner, -0.50 * corner], -1)
    cheek = bump(u, v, (3.9, -3.4), (1.6, 1.3)) * max(face.smile, 0)
    out += np.stack([side * 0.14 * cheek, 0.36 * cheek, 0.52 * cheek], -1)
    taper = np.sqrt(np.clip(1 - (u / (lay.mouth_half * 0.97)) ** 2, 0, 1))
    far = np.abs(v - lay.mouth_v)
    lift = face.open * 0.45 * taper * np.exp(-far / 0.9) * (1 - lower)
    drop = face.open * taper * 1.45 * np.exp(-far / 1.6) * lower
    jaw = face.open * 1.1 * smoothstep(lay.mouth_v + 0.2, lay.mouth_v - 2.0, v) * smoothstep(7.5, 3.5, np.abs(u))
    jaw = jaw * smoothstep(-19.0, -14.0, v)
    out[..., 1] += lift - drop - jaw
    out[..., 2] -= 0.30 * jaw + 0.15 * drop


def _tighten_lips(
    out: np.ndarray, u: np.ndarray, v: np.ndarray, lower: np.ndarray, lay: Layout, face: Expression
) -> None:
    """Lips pressed together, or drawn apart over the teeth with square corners."""
    if face.press:
        pressed = face.press * bump(u, v, (0.0, lay.mouth_v), (lay.mouth_half * 1.1, 1.1))
        out[..., 1] += 0.62 * pressed * (lay.mouth_v - v)
        out[..., 2] -= 0.28 * pressed
    if face.snarl:
        square = np.clip(1 - (u / (lay.mouth_half * 0.97)) ** 6, 0, 1) ** 0.5
        far = np.abs(v - lay.mouth_v)
        out[..., 1] += face.snarl * square * np.exp(-far / 1.3) * np.where(lower > 0, -0.85, 0.42)
        wing = bump(u, v, (lay.nose_half, lay.base_v + 0.5), (0.9, 0.9)) * face.snarl
        out[..., 1] += 0.22 * wing


def _move_brows(out: np.ndarray, u: np.ndarray, v: np.ndarray, lay: Layout, face: Expression) -> None:
    side = np.sign(u)
    brow = bump(u, v, (2.6, lay.brow_v), (2.6, 1.0))
    inner = bump(u, v, (1.3, lay.brow_v - 0.1), (1.1, 0.8))
    out[..., 1] += 0.65 * face.raised * brow - 0.72 * face.frown * inner - 0.20 * face.frown * brow
    out[..., 0] -= side * 0.30 * face.frown * inner
    out[..., 2] += 0.12 * face.frown * inner
    if face.sorrow:
        ends = bump(u, v, (4.4, lay.brow_v), (1.5, 1.0))
        out[..., 1] += face.sorrow * (1.0 * inner - 0.55 * ends)
        out[..., 0] -= side * 0.22 * face.sorrow * inner
