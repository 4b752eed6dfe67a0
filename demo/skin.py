"""The skin's paint: colour and fine relief over surface coordinates (u, v), drawn stroke by stroke."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from demo.canvas import U_RANGE, V_RANGE, Canvas, noise
from demo.expressions import Expression
from demo.facial_hair import beard, eyebrows, lashes, lid_curve
from demo.hair import STYLES, grey_share, hair_colour, hairline
from demo.head import Layout, layout, mouth_line
from demo.identity import Identity

# how long the arc of one radian from the middle of the face is (cm), at heights v (cm): a mean head
_ARC_V, _ARC_RADIUS = [-1.0, 0.5, 2.0, 3.5, 5.0, 6.5, 8.0, 9.5], [8.75, 9.3, 9.9, 9.95, 9.5, 8.75, 7.7, 6.5]


@dataclass(frozen=True)
class Paint:
    """Maps (H, W): colour (3, linear RGB), relief's slope along u and v plus gloss (3); `scale` is pixels per cm."""

    colour: np.ndarray
    relief: np.ndarray
    scale: float

    def columns(self, u: np.ndarray) -> np.ndarray:
        beyond = np.maximum(np.abs(u) - 10.9, 0)  # ears and nape repeat the last strip to and fro
        u = np.where(beyond > 0, np.sign(u) * (10.9 - (1.0 - np.abs(np.mod(beyond, 2.0) - 1.0))), u)
        return (u - U_RANGE[0]) * self.scale

    def rows(self, v: np.ndarray) -> np.ndarray:
        below = np.maximum(-13.0 - v, 0)  # the neck repeats the last strip to and fro
        v = np.where(below > 0, -13.0 - (0.9 - np.abs(np.mod(below, 1.8) - 0.9)), v)
        return (V_RANGE[1] - v) * self.scale


def skin_tone(who: Identity) -> np.ndarray:
    """Linear RGB."""
    stops = np.array(
        [[0.89, 0.75, 0.67], [0.85, 0.67, 0.56], [0.78, 0.60, 0.48], [0.58, 0.42, 0.33], [0.38, 0.27, 0.21]]
    )
    place = who.skin_tone * 4
    tone = np.array([np.interp(place, range(5), stops[:, k]) for k in range(3)])
    tone = tone * (1 + np.array([0.010, 0.018, -0.035]) * who.skin_warm)
    return np.clip(tone, 0, 1) ** 2.2


def _wrinkles(
    c: Canvas, lay: Layout, who: Identity, age: float, face: Expression, rng: np.random.Generator
) -> np.ndarray:
    """Depth of the folds (cm), soft-edged."""
    old = float(np.clip((age - 26) / 45, 0, 1.2))
    depth = np.zeros((c.height, c.width), np.float32)

    def fold(lines: np.ndarray, strength: float, width: float) -> None:
        nonlocal depth
        if strength > 0.01:
            layer = c.layer()
            c.strokes(layer, lines, 255, width)
            depth += strength * c.soft(layer, width * 0.8)

    t = np.linspace(0, 1, 12)
    u = np.linspace(-4.6, 4.6, 25)
    forehead = [
        np.stack(
            [
                u,
                lay.brow_v
                + h
                + 0.28 * np.cos(u * 0.62) * np.sign(0.5 - rng.uniform())
                + 0.12 * np.sin(u * 1.7 + rng.uniform(0, 6)) * np.ones_like(u),
            ],
            -1,
        )
        for h in (1.5, 2.5, 3.5, 4.3)
    ]
    fold(np.array(forehead), 0.75 * old + 0.30 * face.raised, 0.11)
    crow, under, naso, marionette, glabella = [], [], [], [], []
    for side in (-1, 1):
        m = np.array([side, 1.0])
        outer = np.array([lay.eye_u + lay.eye_half + 0.25, lay.eye_v])
        for a in (-0.75, -0.35, 0.05, 0.42, 0.75):
            reach = rng.uniform(0.9, 1.7)
            crow.append((outer + np.stack([t * reach, np.sin(a) * t * reach - 0.12 * t**2], -1)) * m)
        for k in (0.55, 0.95, 1.35):
            under.append(
                np.stack(
                    [lay.eye_u - 1.35 + 2.5 * t, lay.eye_v - 0.45 - k * (0.35 + 0.75 * np.sin(np.pi * t * 0.85))], -1
                )
                * m
            )
        low = np.array([lay.mouth_half + 0.75, lay.mouth_v - 0.1])
        top = np.array([lay.nose_half + 0.20, lay.tip_v + 0.15])
        naso.append((top + (low - top) * t[:, None] + np.stack([0.45 * np.sin(np.pi * t), 0 * t], -1)) * m)
        marionette.append(np.stack([lay.mouth_half + 0.15 + 0.35 * t, lay.mouth_v - 0.25 - 2.0 * t], -1) * m)
        glabella.append(np.stack([0.55 - 0.12 * t, lay.brow_v - 0.45 + 1.5 * t], -1) * m)
    fold(np.array(crow), 0.75 * old + 0.16 * max(face.smile, 0), 0.07)
    fold(np.array(under), 0.50 * old + 0.03, 0.09)
    fold(np.array(naso), 0.10 + 0.95 * old + 0.65 * max(face.smile, 0), 0.26)
    fold(np.array(marionette), 0.95 * max(old - 0.15, 0), 0.18)
    fold(np.array(glabella), 0.55 * max(old - 0.15, 0) + 0.45 * face.frown, 0.09)
    lip_lines = [
        np.stack([x + 0.05 * t, lay.mouth_v + lay.upper_lip + 0.05 + 0.55 * t], -1) for x in np.linspace(-1.9, 1.9, 13)
    ]
    fold(np.array(lip_lines), 0.7 * max(old - 0.45, 0), 0.05)
    return depth


def _lip_mask(c: Canvas, lay: Layout, who: Identity) -> np.ndarray:
    layer = c.layer()
    u = np.linspace(-lay.mouth_half, lay.mouth_half, 41)
    t = u / lay.mouth_half
    taper = np.clip(1 - np.abs(t) ** 2.0, 0, 1) ** 0.75
    line = mouth_line(u, lay, who)
    bow = (
        1
        - 0.30 * who.lip_bow * np.exp(-((t / 0.13) ** 2))
        + 0.16 * who.lip_bow * np.exp(-(((np.abs(t) - 0.24) / 0.15) ** 2))
    )
    upper = np.stack([u, line + lay.upper_lip * taper * bow * 1.05], -1)
    lower = np.stack([u, line - lay.lower_lip * taper * 1.05], -1)
    c.area(layer, np.concatenate([upper, lower[::-1]]), 255)
    return c.soft(layer, 0.05)


@lru_cache(maxsize=64)
def paint_skin(who: Identity, age: float, face: Expression, scale: float, hair_name: str) -> Paint:
    """All of it. Costs about 20 ms at 20 pixels per cm; kept for the next picture of the same head."""
    c = Canvas(scale)
    skin = _Skin(who, age, c, layout(who, age), np.random.default_rng([int(who.moles), 11]))
    colour = _complexion(skin)
    _paint_spots(skin, colour)
    lips = _paint_mouth_and_nose(skin, colour)
    folds, lid_fold = _paint_creases(skin, face, colour)
    strokes, shadow = _paint_facial_hair(skin, face, colour)
    _paint_scalp(skin, hair_name, colour)
    height = -0.14 * folds - 0.05 * lid_fold + 0.006 * skin.fine / max(scale / 20, 0.5) + 0.020 * strokes
    height += lips * 0.012 * cv2.resize(noise(5, 256, 0.5), (c.width, c.height))
    du = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) * (scale / 8)
    dv = -cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) * (scale / 8)
    gloss = 0.55 + 0.45 * c.spot((0, 0.0), (1.3, 6.0)) + 0.30 * c.spot((3.6, -2.2), (1.6, 1.1)) + 0.75 * lips
    gloss = gloss * (1 - 0.8 * np.clip(shadow * 1.5, 0, 1)) * (1 - 0.25 * skin.old) + 0.10 * skin.fine
    relief = np.stack([du, dv, np.clip(gloss, 0.05, 2.0)], -1).astype(np.float32)
    return Paint(np.clip(colour, 0.002, 1).astype(np.float32), relief, scale)


class _Skin:
    """Whose skin is painted, on what, and what all layers of the paint share."""

    def __init__(self, who: Identity, age: float, canvas: Canvas, lay: Layout, rng: np.random.Generator):
        self.who, self.age, self.canvas, self.layout, self.rng = who, age, canvas, lay, rng
        self.old = float(np.clip((age - 30) / 45, 0, 1.1))
        self.light = 1 - 0.65 * who.skin_tone
        height, width = canvas.height, canvas.width
        self.blotch = cv2.resize(noise(3, 128, 1.3), (width, height), interpolation=cv2.INTER_CUBIC)
        times = (height // 512 + 1, width // 512 + 1)
        self.fine = np.tile(noise(4, 512, 0.35), times)[:height, :width]
        self.tone = skin_tone(who).astype(np.float32)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns in which a mask (H, W) has something to say."""
    rows = np.flatnonzero(mask.max(axis=1) > 0.002)
    if not len(rows):
        return slice(0), slice(0)
    down = slice(rows[0], rows[-1] + 1)
    cols = np.flatnonzero(mask[down].max(axis=0) > 0.002)
    return down, slice(cols[0], cols[-1] + 1)


def _over(colour: np.ndarray, mask: np.ndarray, target: np.ndarray, grain: np.ndarray | None = None) -> None:
    """Paint `target` (3,) over `colour` (H, W, 3) in place, as far as `mask` (H, W) says; `grain` (H, W) varies it."""
    at = _window(mask)
    target = np.asarray(target, np.float32)
    if grain is not None:
        target = target * (1 + grain[at])[..., None]
    colour[at] += (target - colour[at]) * mask[at].astype(np.float32)[..., None]


def _darken(colour: np.ndarray, mask: np.ndarray, share: tuple[float, float, float], most: float = 1.0) -> None:
    """Take away `share` of each channel of `colour` (H, W, 3) in place, as far as `mask` (H, W) says."""
    at = _window(mask)
    colour[at] *= 1 - np.clip(mask[at], 0, most).astype(np.float32)[..., None] * np.array(share, np.float32)


def _complexion(skin: _Skin) -> np.ndarray:
    """Colour (H, W, 3) of bare skin: blotches, red cheeks, nose and chin, tired eyes."""
    who, c, lay, old = skin.who, skin.canvas, skin.layout, skin.old
    shade = (1 + (0.035 + 0.03 * old) * skin.blotch + 0.022 * skin.fine)[..., None]
    colour = skin.tone * shade.astype(np.float32)
    warm = who.ruddy * skin.light
    red = (0.10 + 0.50 * warm) * (c.spot((4.2, -2.9), (1.7, 1.4)) + 0.8 * c.spot((0, lay.tip_v), (1.2, 0.9)))
    red += 0.25 * warm * c.spot((0, lay.chin_v), (1.4, 0.8)) + 0.12 * skin.blotch * warm
    _darken(colour, red, (0.03, 0.36, 0.34))
    tired = (0.10 + 0.30 * old) * c.spot((lay.eye_u - 0.4, lay.eye_v - 1.0), (1.4, 0.5))
    tired += 0.13 * c.spot((lay.eye_u, lay.eye_v + 0.75), (1.6, 0.45))
    _darken(colour, tired, (0.30, 0.42, 0.38), 0.8)
    return colour


def _paint_spots(skin: _Skin, colour: np.ndarray) -> None:
    """Freckles, moles, age spots."""
    who, c, rng, tone = skin.who, skin.canvas, skin.rng, skin.tone
    if who.freckles > 0:
        layer = c.layer()
        n = int(340 * who.freckles)
        at = np.stack([rng.normal(0, 3.4, n), rng.normal(-2.0, 1.6, n)], -1)
        c.dots(layer, at, rng.uniform(0.03, 0.085, n), 150)
        _over(colour, c.soft(layer, 0.02) * skin.light, tone * np.array([0.55, 0.36, 0.25], np.float32))
    layer = c.layer()
    n = int(rng.integers(0, 6)) // 2
    c.dots(layer, np.stack([rng.uniform(-6, 6, n), rng.uniform(-9, 5, n)], -1), rng.uniform(0.07, 0.14, n), 190)
    n = int(26 * max(skin.old - 0.35, 0))
    age_rng = np.random.default_rng([int(who.moles), 12])
    at = np.stack([age_rng.uniform(-7.5, 7.5, n), age_rng.uniform(-6, 7, n)], -1)
    c.dots(layer, at, age_rng.uniform(0.10, 0.32, n), 75)
    _over(colour, c.soft(layer, 0.04), tone * np.array([0.32, 0.20, 0.15], np.float32))


def _paint_mouth_and_nose(skin: _Skin, colour: np.ndarray) -> np.ndarray:
    """Lips, the line between them, nostrils; the mask (H, W) of the lips."""
    who, c, lay, tone = skin.who, skin.canvas, skin.layout, skin.tone
    lips = _lip_mask(c, lay, who)
    red_lip = np.array([0.56, 0.20, 0.19]) * (1 - 0.65 * who.skin_tone) + np.array([0.05, 0.0, 0.01])
    lip = tone * np.array([0.82, 0.56, 0.55]) * (1 - who.lip_red * 0.75) + red_lip * who.lip_red * 0.75
    lip = lip * (1 - 0.15 * skin.old)
    _over(colour, 0.92 * lips, lip, 0.05 * skin.fine)
    seam = c.layer()
    u = np.linspace(-lay.mouth_half * 1.04, lay.mouth_half * 1.04, 31)
    c.strokes(seam, np.stack([u, mouth_line(u, lay, who)], -1)[None], 255, 0.10)
    _over(colour, 0.85 * c.soft(seam, 0.035), tone * np.array([0.16, 0.07, 0.07], np.float32))
    nostril = 1.1 * c.spot((lay.nose_half * 0.45, lay.base_v + 0.20), (0.27, 0.12))
    _over(colour, np.clip(nostril, 0, 0.93), tone * np.array([0.07, 0.035, 0.03], np.float32))
    return lips


def _paint_creases(skin: _Skin, face: Expression, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrinkles and the folds of the lids; their depths (H, W)."""
    who, c, lay = skin.who, skin.canvas, skin.layout
    folds = _wrinkles(c, lay, who, skin.age, face, skin.rng)
    _darken(colour, folds, (0.22, 0.34, 0.36))
    crease, rim = c.layer(), c.layer()
    for side in (-1, 1):
        edge = lid_curve(lay, side, True, 0.0)
        arch = np.stack([0 * edge[:, 0], (0.14 + 0.26 * who.lid_fold) * np.sin(np.linspace(0.25, np.pi, 21))], -1)
        c.strokes(crease, (edge + arch)[None, 1:-1], 255, 0.07)
        low = lid_curve(lay, side, False, face.blink) + np.array([0.0, -0.05])
        c.strokes(rim, low[None, 1:-1], 255, 0.09)
    lid_fold = c.soft(crease, 0.04) * (0.35 + 0.6 * min(who.lid_fold * 3, 1))
    _darken(colour, lid_fold, (0.50, 0.62, 0.62))
    _over(colour, 0.55 * c.soft(rim, 0.02), skin.tone * np.array([1.0, 0.74, 0.70], np.float32))
    return folds, lid_fold


def _paint_scalp(skin: _Skin, hair_name: str, colour: np.ndarray) -> None:
    """Roots and down ahead of the hairline, so that the hair does not begin at an edge."""
    if hair_name == "bald":
        return
    c, style = skin.canvas, STYLES[hair_name]
    plain = STYLES["short"] if style.fall else style
    u, v = c.u[:, ::4], c.v[: round((V_RANGE[1] + 1.5) * c.scale) : 4]
    line = hairline(u / np.interp(v, _ARC_V, _ARC_RADIUS), skin.who, plain, skin.age)
    behind = (v - line) / np.hypot(1, np.gradient(line, axis=1) * c.scale / 4)
    near = (np.clip((behind + 0.75) / 1.2, 0, 1) ** 2 * (np.abs(u) < 9.8)).astype(np.float32)
    mask = np.zeros((c.height, c.width), np.float32)
    rows = min(4 * len(v), c.height)
    mask[:rows] = cv2.resize(near, (c.width, rows))
    grey = grey_share(skin.age)
    tint = (0.4 * hair_colour(skin.who, skin.age) + 0.12 * skin.tone) * (1 - grey) + 0.35 * skin.tone * grey
    _over(colour, 0.75 * mask, tint, 0.3 * skin.fine)


def _paint_facial_hair(skin: _Skin, face: Expression, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Beard, eyebrows, lashes; the beard's strokes and its shadow (H, W)."""
    who, age, c, lay, rng = skin.who, skin.age, skin.canvas, skin.layout, skin.rng
    grey = grey_share(age)
    brow_colour = (hair_colour(who, age) * 0.42 * (1 - 0.7 * grey) + 0.32 * 0.7 * grey).astype(np.float32)
    strokes, shadow = beard(c, lay, who, rng)
    beard_colour = (hair_colour(who, age) * 0.7 * (1 - grey) + 0.42 * grey).astype(np.float32)
    dense = 0.55 if who.facial_hair == "stubble" else 0.85
    _over(colour, np.clip(shadow * 0.9, 0, dense * 0.8), (0.45 * beard_colour + 0.14 * skin.tone))
    _over(colour, strokes * dense, beard_colour, 0.35 * skin.fine)
    _over(colour, eyebrows(c, lay, who, rng) * 0.93, brow_colour, 0.3 * skin.fine)
    _over(colour, lashes(c, lay, face.blink, rng) * 0.95, np.array([0.012, 0.009, 0.008], np.float32))
    return strokes, shadow
