"""The edges of the lids and the line of the brows, and the short hairs of a face: brows, lashes, beard."""

from __future__ import annotations

import numpy as np

from demo.canvas import Canvas
from demo.head import Layout, mouth_line
from demo.identity import Identity


def brow_curve(lay: Layout, who: Identity, t: np.ndarray) -> np.ndarray:
    """The middle of the eyebrow at the image's right, from the inner end (t 0) to the outer end (t 1): (..., 2) cm."""
    u = who.brow_gap + t * (who.brow_long - who.brow_gap)
    v = lay.brow_v + 0.25 + who.brow_arch * np.sin(np.pi * np.clip(t, 0, 1) ** 1.3) * 0.9
    return np.stack([u, v + who.brow_tilt * (t - 0.5) * 1.4 - 0.35 * t**3], -1)


def lid_curve(lay: Layout, side: int, upper: bool, blink: float, count: int = 21) -> np.ndarray:
    """The edge of the eye's opening from its image-left to its image-right corner (count, 2) cm."""
    t = np.linspace(-1, 1, count)
    inner = -t * side  # 1 at the inner corner
    rise = np.clip(1 - np.abs(t) ** 2.3, 0, 1) ** 0.85
    height = lay.lid_up * (1 + 0.10 * inner * rise) if upper else -lay.lid_down * (1 - 0.12 * inner * rise)
    closed = -0.30 * lay.lid_down
    v = rise * (height * (1 - blink) + closed * blink)
    u = t * lay.eye_half
    tilt = lay.eye_tilt * side
    return np.stack(
        [side * lay.eye_u + u * np.cos(tilt) - v * np.sin(tilt), lay.eye_v + u * np.sin(tilt) + v * np.cos(tilt)], -1
    )


def eye_opening(u: np.ndarray, v: np.ndarray, lay: Layout, blink: float) -> np.ndarray:
    """(N,) how far (cm) below the upper lid's edge (u, v) lies in the opening between the lids (the same curves as
    `lid_curve`); 0 on the skin."""
    gap = np.zeros(len(u), np.float32)
    near = np.flatnonzero(np.abs(v - lay.eye_v) < 1.6)
    un, vn = u[near], v[near]
    side = np.sign(un)
    du, dv = un - side * lay.eye_u, vn - lay.eye_v
    c, s = np.cos(lay.eye_tilt), np.sin(lay.eye_tilt) * side
    t, height = (du * c + dv * s) / lay.eye_half, -du * s + dv * c
    rise = np.clip(1 - np.abs(t) ** 2.3, 0, 1) ** 0.85
    inner = -t * side
    shut = -0.30 * lay.lid_down * blink
    top = rise * (lay.lid_up * (1 + 0.10 * inner * rise) * (1 - blink) + shut)
    low = rise * (-lay.lid_down * (1 - 0.12 * inner * rise) * (1 - blink) + shut)
    gap[near] = np.where((np.abs(t) < 1) & (height > low), np.maximum(top - height, 0), 0)
    return gap


def _hairs(
    rng: np.random.Generator, roots: np.ndarray, angle: np.ndarray, length: np.ndarray, bend: float
) -> np.ndarray:
    """Short curved strokes (N, 3, 2) from roots (N, 2)."""
    step = length[:, None] / 2
    first = roots + np.stack([np.cos(angle), np.sin(angle)], -1) * step
    angle = angle + bend * rng.normal(1.0, 0.5, len(angle))
    return np.stack([roots, first, first + np.stack([np.cos(angle), np.sin(angle)], -1) * step], 1)


def eyebrows(c: Canvas, lay: Layout, who: Identity, rng: np.random.Generator) -> np.ndarray:
    layer = c.layer()
    for side in (-1, 1):
        count = int(220 + 380 * who.brow_dense * who.brow_thick)
        t = rng.uniform(0, 1, count)
        thick = 0.52 * who.brow_thick * np.clip(1.12 - t**1.8, 0.12, 1) * (0.45 + 0.55 * np.minimum(t * 4, 1))
        roots = brow_curve(lay, who, t) + np.stack(
            [np.zeros(count), np.clip(rng.normal(-0.1, 0.33, count), -0.75, 0.7) * thick * 1.25], -1
        )
        angle = np.radians(48 - 56 * t**0.8) + rng.normal(0, 0.17, count)
        length = 0.62 * rng.uniform(0.55, 1.1, count) * (0.8 + 0.4 * who.brow_thick)
        lines = _hairs(rng, roots, angle, length, -0.35) * np.array([side, 1.0])
        for k, value in enumerate((120, 180, 240)):
            c.strokes(layer, lines[k::3], value, 0.04)
    return np.maximum(0.95 * c.soft(layer, 0.02), 0.75 * who.brow_dense * c.soft(layer, 0.12))


def lashes(c: Canvas, lay: Layout, blink: float, rng: np.random.Generator) -> np.ndarray:
    layer = c.layer()
    for side in (-1, 1):
        for upper, count, reach in ((True, 46, 0.34), (False, 26, 0.16)):
            edge = lid_curve(lay, side, upper, blink, count)
            out = (np.linspace(-1, 1, count) * side * 0.5 + 0.5) if side > 0 else np.linspace(1, 0, count)
            angle = np.pi / 2 - side * (0.9 * out - 0.15) if upper else -np.pi / 2 + side * (0.9 * out - 0.15)
            lines = _hairs(rng, edge, angle + rng.normal(0, 0.12, count), reach * (0.5 + 0.6 * out), 0.2)
            c.strokes(layer, lines, 230 if upper else 90, 0.035)
            c.strokes(layer, edge[None], 240 if upper else 100, 0.13 if upper else 0.06)
    return c.soft(layer, 0.0)


def _beard_density(u: np.ndarray, v: np.ndarray, lay: Layout, who: Identity) -> np.ndarray:
    """(N,) share of the roots at (u, v) from which a hair of the person's kind of beard grows."""
    side = np.abs(u)
    lip_top = lay.mouth_v + lay.upper_lip * 1.02
    cheek = np.clip((-5.9 + 0.5 * np.maximum(side - 4.2, 0) ** 1.25 + 0.12 * np.sin(u * 3) - v) / 1.2, 0, 1)
    tash = np.clip((v - lip_top + 0.48 * side) / 0.15, 0, 1) * np.clip((lay.mouth_half + 0.95 - side) / 0.8, 0, 1)
    tash = tash * np.clip((lay.base_v - 0.10 - 0.10 * side - 0.11 * u**2 - v) / 0.3, 0, 1)
    corner = np.clip((0.75 - np.abs(side - lay.mouth_half - 0.25)) / 0.5, 0, 1) * (v < lip_top)
    corner = corner * np.clip((v - lay.chin_v) / 1.0, 0, 1)
    under = lay.mouth_v - lay.lower_lip - 0.35
    low = (v - (under + lay.chin_v) / 2 + 0.3) / (0.65 * (under - lay.chin_v) + 0.8)
    chin = np.clip((1.3 - np.hypot(u / 2.6, low)) * 1.8, 0, 1)
    want = {
        "stubble": np.maximum(0.8 * cheek, tash),
        "moustache": tash,
        "full": np.maximum(cheek, tash),
        "goatee": np.maximum(tash, np.maximum(corner, chin)),
    }[who.facial_hair]
    line = mouth_line(u, lay, who)
    taper = np.sqrt(np.clip(1 - (u / (lay.mouth_half * 1.05)) ** 2, 0, 1))
    lips = (v < line + lay.upper_lip * taper * 1.15) & (v > line - lay.lower_lip * taper * 1.2 - 0.1)
    lips &= side < lay.mouth_half * 1.03
    jaw_edge = -11.9 + 0.5 * np.maximum(side - 2.5, 0)
    return np.where(lips, 0, want) * np.clip((9.7 - side) / 1.2, 0, 1) * np.clip(v - jaw_edge, 0, 1)


def beard(c: Canvas, lay: Layout, who: Identity, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(strokes, shadow): single hairs and the darkening under them."""
    kind = who.facial_hair
    layer = c.layer()
    if kind == "none":
        return c.soft(layer, 0), c.soft(layer, 0)
    count = 18000
    u, v = rng.uniform(-9.8, 9.8, count), rng.uniform(-13.2, lay.base_v + 0.1, count)
    lip_top = lay.mouth_v + lay.upper_lip * 1.02
    want = _beard_density(u, v, lay, who)
    chosen = rng.uniform(0, 1, count) < want
    u, v = u[chosen], v[chosen]
    angle = -np.pi / 2 + np.clip(u, -1.5, 1.5) * np.where(v > lip_top - 0.3, 0.55, 0.12) + rng.normal(0, 0.25, len(u))
    length = (0.09 if kind == "stubble" else 0.52) * rng.uniform(0.6, 1.2, len(u))
    c.strokes(layer, _hairs(rng, np.stack([u, v], -1), angle, length, 0.1), 190 if kind == "stubble" else 225, 0.045)
    return c.soft(layer, 0), c.soft(layer, 0.22)
