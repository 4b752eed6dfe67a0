"""The skin's paint: colour and fine relief over surface coordinates (u, v), drawn stroke by stroke."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from demo.expressions import Expression
from demo.hair import grey_share, hair_colour
from demo.head import Layout, layout, mouth_line
from demo.identity import Identity

U_RANGE, V_RANGE = (-11.2, 11.2), (-14.0, 9.5)  # cm covered by the paint


@dataclass(frozen=True)
class Paint:
    """Maps (H, W): colour (3, linear RGB), relief's slope along u and v plus gloss (3); `scale` is pixels per cm."""

    colour: np.ndarray
    relief: np.ndarray
    scale: float

    def columns(self, u: np.ndarray) -> np.ndarray:
        beyond = np.maximum(np.abs(u) - 10.9, 0)  # ears and nape repeat the last strip to and fro
        u = np.where(beyond > 0, np.sign(u) * (10.9 - (0.8 - np.abs(np.mod(beyond, 1.6) - 0.8))), u)
        return (u - U_RANGE[0]) * self.scale

    def rows(self, v: np.ndarray) -> np.ndarray:
        below = np.maximum(-13.0 - v, 0)  # the neck repeats the last strip to and fro
        v = np.where(below > 0, -13.0 - (0.9 - np.abs(np.mod(below, 1.8) - 0.9)), v)
        return (V_RANGE[1] - v) * self.scale


@lru_cache(maxsize=8)
def noise(seed: int, size: int, rough: float) -> np.ndarray:
    """Tileable noise (size, size) float32, zero mean, unit deviation; `rough` is the spectrum's falling exponent."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    f[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / f**rough
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(size, size))
    return np.ascontiguousarray(field / field.std(), dtype=np.float32)


def skin_tone(who: Identity) -> np.ndarray:
    """Linear RGB."""
    stops = np.array(
        [[0.89, 0.75, 0.67], [0.85, 0.67, 0.56], [0.78, 0.60, 0.48], [0.58, 0.42, 0.33], [0.38, 0.27, 0.21]]
    )
    place = who.skin_tone * 4
    tone = np.array([np.interp(place, range(5), stops[:, k]) for k in range(3)])
    tone = tone * (1 + np.array([0.010, 0.018, -0.035]) * who.skin_warm)
    return np.clip(tone, 0, 1) ** 2.2


class _Canvas:
    """Draws in centimetres on single-channel 8-bit layers."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.width = round((U_RANGE[1] - U_RANGE[0]) * scale)
        self.height = round((V_RANGE[1] - V_RANGE[0]) * scale)
        self.u = (np.arange(self.width, dtype=np.float32)[None] + 0.5) / scale + U_RANGE[0]
        self.v = V_RANGE[1] - (np.arange(self.height, dtype=np.float32)[:, None] + 0.5) / scale

    def layer(self) -> np.ndarray:
        return np.zeros((self.height, self.width), np.uint8)

    def points(self, uv: np.ndarray) -> np.ndarray:
        """(..., 2) cm -> fixed-point pixels with 4 fractional bits."""
        uv = np.asarray(uv, float)
        xy = np.stack([(uv[..., 0] - U_RANGE[0]) * self.scale - 0.5, (V_RANGE[1] - uv[..., 1]) * self.scale - 0.5], -1)
        return np.round(xy * 16).astype(np.int32)

    def strokes(self, layer: np.ndarray, lines: np.ndarray, value: int, width_cm: float) -> None:
        """Polylines (N, K, 2); thinner than a pixel means fainter."""
        pixels = width_cm * self.scale
        value = int(np.clip(value * min(pixels, 1.0), 0, 255))
        cv2.polylines(layer, list(self.points(lines)), False, value, max(round(pixels), 1), cv2.LINE_AA, 4)

    def area(self, layer: np.ndarray, outline: np.ndarray, value: int) -> None:
        cv2.fillPoly(layer, [self.points(outline)], value, cv2.LINE_AA, 4)

    def dots(self, layer: np.ndarray, uv: np.ndarray, radius_cm: np.ndarray, value: int) -> None:
        for p, r in zip(self.points(uv), np.atleast_1d(radius_cm) + np.zeros(len(uv)), strict=True):
            pixels = r * self.scale
            shade = int(value * min(pixels / 0.7, 1.0))
            cv2.circle(layer, (int(p[0]), int(p[1])), max(int(pixels * 16), 8), shade, -1, cv2.LINE_AA, 4)

    def soft(self, layer: np.ndarray, sigma_cm: float) -> np.ndarray:
        """Blurred, as float32 in 0..1."""
        sigma = sigma_cm * self.scale
        wide = layer.astype(np.float32) / 255
        return cv2.GaussianBlur(wide, (0, 0), sigma) if sigma > 0.3 else wide

    def spot(self, at: tuple[float, float], width: tuple[float, float]) -> np.ndarray:
        """A Gaussian on both sides of the face."""
        gu = np.exp(-(((np.abs(self.u) - at[0]) / width[0]) ** 2))
        return gu * np.exp(-(((self.v - at[1]) / width[1]) ** 2))


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


def eye_hole(u: np.ndarray, v: np.ndarray, lay: Layout, blink: float) -> np.ndarray:
    """True where (u, v) lies in the opening between the lids (the same curves as `lid_curve`)."""
    hole = np.zeros(len(u), bool)
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
    hole[near] = (np.abs(t) < 1) & (height < top) & (height > low)
    return hole


def _hairs(
    rng: np.random.Generator, roots: np.ndarray, angle: np.ndarray, length: np.ndarray, bend: float
) -> np.ndarray:
    """Short curved strokes (N, 3, 2) from roots (N, 2)."""
    step = length[:, None] / 2
    first = roots + np.stack([np.cos(angle), np.sin(angle)], -1) * step
    angle = angle + bend * rng.normal(1.0, 0.5, len(angle))
    return np.stack([roots, first, first + np.stack([np.cos(angle), np.sin(angle)], -1) * step], 1)


def _eyebrows(c: _Canvas, lay: Layout, who: Identity, rng: np.random.Generator) -> np.ndarray:
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
    return np.maximum(0.9 * c.soft(layer, 0.02), 0.62 * who.brow_dense * c.soft(layer, 0.12))


def _lashes(c: _Canvas, lay: Layout, blink: float, rng: np.random.Generator) -> np.ndarray:
    layer = c.layer()
    for side in (-1, 1):
        for upper, count, reach in ((True, 46, 0.34), (False, 26, 0.16)):
            edge = lid_curve(lay, side, upper, blink, count)
            out = (np.linspace(-1, 1, count) * side * 0.5 + 0.5) if side > 0 else np.linspace(1, 0, count)
            angle = np.pi / 2 - side * (0.9 * out - 0.15) if upper else -np.pi / 2 + side * (0.9 * out - 0.15)
            lines = _hairs(rng, edge, angle + rng.normal(0, 0.12, count), reach * (0.5 + 0.6 * out), 0.2)
            c.strokes(layer, lines, 230 if upper else 90, 0.035)
            c.strokes(layer, edge[None], 235 if upper else 110, 0.10 if upper else 0.06)
    return c.soft(layer, 0.0)


def _beard(c: _Canvas, lay: Layout, who: Identity, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(strokes, shadow): single hairs and the darkening under them."""
    kind = who.facial_hair
    layer = c.layer()
    if kind == "none":
        return c.soft(layer, 0), c.soft(layer, 0)
    count = 18000
    u, v = rng.uniform(-9.8, 9.8, count), rng.uniform(-13.2, lay.base_v + 0.1, count)
    jaw = -6.4 + 0.55 * np.maximum(np.abs(u) - 4.2, 0) ** 1.25 + 0.25 * np.sin(u * 3)
    cheek = np.clip((jaw - v) / 1.0, 0, 1)
    lip_top = lay.mouth_v + lay.upper_lip * 1.02
    tash = ((v > lip_top - 0.48 * np.abs(u)) & (np.abs(u) < lay.mouth_half + 1.1) & (v < lay.base_v - 0.12)).astype(
        float
    )
    corner = (np.abs(np.abs(u) - lay.mouth_half - 0.55) < 0.55) & (v < lip_top)
    under = lay.mouth_v - lay.lower_lip - 0.35
    chin = np.clip(
        (1.25 - np.hypot(u / 2.0, (v - (under + lay.chin_v) / 2 + 0.3) / (0.65 * (under - lay.chin_v) + 0.8))) * 3, 0, 1
    )
    tash = (
        tash
        * np.clip((lay.mouth_half + 0.95 - np.abs(u)) / 0.8, 0, 1)
        * np.clip((lay.base_v - 0.10 - 0.10 * np.abs(u) - 0.11 * u**2 - v) / 0.3, 0, 1)
    )
    want = {
        "stubble": np.maximum(0.8 * cheek, tash),
        "moustache": tash,
        "full": np.maximum(cheek, tash),
        "goatee": np.maximum(tash, np.maximum(corner & (v > lay.chin_v), chin)),
    }[kind]
    lips = np.abs(u) < lay.mouth_half * 1.03
    line = mouth_line(u, lay, who)
    taper = np.sqrt(np.clip(1 - (u / (lay.mouth_half * 1.05)) ** 2, 0, 1))
    lips &= (v < line + lay.upper_lip * taper * 1.15) & (v > line - lay.lower_lip * taper * 1.2 - 0.1)
    want = np.where(lips, 0, want) * np.clip((9.7 - np.abs(u)) / 1.2, 0, 1) * np.clip((12.7 + v) / 1.2, 0, 1)
    chosen = rng.uniform(0, 1, count) < want
    u, v = u[chosen], v[chosen]
    angle = -np.pi / 2 + np.clip(u, -1.5, 1.5) * np.where(v > lip_top - 0.3, 0.55, 0.12) + rng.normal(0, 0.25, len(u))
    length = (0.09 if kind == "stubble" else 0.52) * rng.uniform(0.6, 1.2, len(u))
    c.strokes(layer, _hairs(rng, np.stack([u, v], -1), angle, length, 0.1), 190 if kind == "stubble" else 225, 0.045)
    return c.soft(layer, 0), c.soft(layer, 0.22)


def _wrinkles(
    c: _Canvas, lay: Layout, who: Identity, age: float, face: Expression, rng: np.random.Generator
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


def _lip_mask(c: _Canvas, lay: Layout, who: Identity) -> np.ndarray:
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
def paint_skin(who: Identity, age: float, face: Expression, scale: float) -> Paint:
    """All of it. Costs about 20 ms at 20 pixels per cm; kept for the next picture of the same head."""
    c = _Canvas(scale)
    skin = _Skin(who, age, c, layout(who, age), np.random.default_rng([int(who.moles), 11]))
    colour = _complexion(skin)
    _paint_spots(skin, colour)
    lips = _paint_mouth_and_nose(skin, colour)
    folds, lid_fold = _paint_creases(skin, face, colour)
    strokes, shadow = _paint_facial_hair(skin, face, colour)
    height = -0.14 * folds - 0.05 * lid_fold + 0.010 * skin.fine / max(scale / 20, 0.5) + 0.020 * strokes
    height += lips * 0.012 * cv2.resize(noise(5, 256, 0.5), (c.width, c.height))
    du = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) * (scale / 8)
    dv = -cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) * (scale / 8)
    gloss = 0.55 + 0.45 * c.spot((0, 0.0), (1.3, 6.0)) + 0.30 * c.spot((3.6, -2.2), (1.6, 1.1)) + 0.75 * lips
    gloss = gloss * (1 - 0.8 * np.clip(shadow * 1.5, 0, 1)) * (1 - 0.25 * skin.old) + 0.10 * skin.fine
    relief = np.stack([du, dv, np.clip(gloss, 0.05, 2.0)], -1).astype(np.float32)
    return Paint(np.clip(colour, 0.002, 1).astype(np.float32), relief, scale)


class _Skin:
    """Whose skin is painted, on what, and what all layers of the paint share."""

    def __init__(self, who: Identity, age: float, canvas: _Canvas, lay: Layout, rng: np.random.Generator):
        self.who, self.age, self.canvas, self.layout, self.rng = who, age, canvas, lay, rng
        self.old = float(np.clip((age - 30) / 45, 0, 1.1))
        self.light = 1 - 0.65 * who.skin_tone
        height, width = canvas.height, canvas.width
        self.blotch = cv2.resize(noise(3, 128, 1.3), (width, height), interpolation=cv2.INTER_CUBIC)
        times = (height // 512 + 1, width // 512 + 1)
        self.fine = np.tile(noise(4, 512, 0.35), times)[:height, :width]
        self.tone = skin_tone(who).astype(np.float32)


def _over(colour: np.ndarray, mask: np.ndarray, target: np.ndarray) -> None:
    """Paint `target` over `colour` (H, W, 3) in place, as far as `mask` (H, W) says."""
    colour += (target - colour) * mask[..., None]


def _complexion(skin: _Skin) -> np.ndarray:
    """Colour (H, W, 3) of bare skin: blotches, red cheeks, nose and chin, tired eyes."""
    who, c, lay, old = skin.who, skin.canvas, skin.layout, skin.old
    shade = (1 + (0.035 + 0.03 * old) * skin.blotch + 0.045 * skin.fine)[..., None]
    colour = skin.tone * shade.astype(np.float32)
    warm = who.ruddy * skin.light
    red = (0.10 + 0.50 * warm) * (c.spot((4.2, -2.9), (1.7, 1.4)) + 0.8 * c.spot((0, lay.tip_v), (1.2, 0.9)))
    red += 0.25 * warm * c.spot((0, lay.chin_v), (1.4, 0.8)) + 0.12 * skin.blotch * warm
    colour *= 1 - np.clip(red, 0, 1)[..., None] * np.array([0.03, 0.36, 0.34], np.float32)
    tired = (0.16 + 0.30 * old) * c.spot((lay.eye_u - 0.4, lay.eye_v - 1.0), (1.4, 0.5))
    tired += 0.22 * c.spot((lay.eye_u, lay.eye_v + 0.75), (1.6, 0.45))
    colour *= 1 - np.clip(tired, 0, 0.8)[..., None] * np.array([0.30, 0.42, 0.38], np.float32)
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
    n = int(rng.integers(0, 6))
    c.dots(layer, np.stack([rng.uniform(-6, 6, n), rng.uniform(-9, 5, n)], -1), rng.uniform(0.09, 0.17, n), 225)
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
    _over(colour, 0.92 * lips, (lip * (1 + 0.05 * skin.fine[..., None])).astype(np.float32))
    seam = c.layer()
    u = np.linspace(-lay.mouth_half * 1.04, lay.mouth_half * 1.04, 31)
    c.strokes(seam, np.stack([u, mouth_line(u, lay, who)], -1)[None], 255, 0.10)
    _over(colour, 0.85 * c.soft(seam, 0.035), tone * np.array([0.16, 0.07, 0.07], np.float32))
    nostril = 1.25 * c.spot((lay.nose_half * 0.47, lay.base_v + 0.22), (0.30, 0.17))
    _over(colour, np.clip(nostril, 0, 0.93), tone * np.array([0.07, 0.035, 0.03], np.float32))
    return lips


def _paint_creases(skin: _Skin, face: Expression, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrinkles and the folds of the lids; their depths (H, W)."""
    who, c, lay = skin.who, skin.canvas, skin.layout
    folds = _wrinkles(c, lay, who, skin.age, face, skin.rng)
    colour *= 1 - np.clip(folds, 0, 1)[..., None] * np.array([0.22, 0.34, 0.36], np.float32)
    crease = c.layer()
    for side in (-1, 1):
        edge = lid_curve(lay, side, True, 0.0)
        c.strokes(crease, (edge + np.array([0.0, 0.16 + 0.26 * who.lid_fold]))[None, 2:-1], 255, 0.09)
    lid_fold = c.soft(crease, 0.05) * (0.25 + 0.6 * min(who.lid_fold * 3, 1))
    colour *= 1 - np.clip(lid_fold, 0, 1)[..., None] * np.array([0.40, 0.52, 0.52], np.float32)
    return folds, lid_fold


def _paint_facial_hair(skin: _Skin, face: Expression, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Beard, eyebrows, lashes; the beard's strokes and its shadow (H, W)."""
    who, age, c, lay, rng = skin.who, skin.age, skin.canvas, skin.layout, skin.rng
    grey = grey_share(age)
    brow_colour = (hair_colour(who, age) * 0.55 * (1 - 0.7 * grey) + 0.32 * 0.7 * grey).astype(np.float32)
    strokes, shadow = _beard(c, lay, who, rng)
    beard_colour = (hair_colour(who, age) * 0.7 * (1 - grey) + 0.42 * grey).astype(np.float32)
    dense = 0.55 if who.facial_hair == "stubble" else 0.85
    _over(colour, np.clip(shadow * 0.9, 0, dense * 0.8), (0.45 * beard_colour + 0.14 * skin.tone))
    _over(colour, strokes * dense, beard_colour * (1 + 0.35 * skin.fine[..., None]))
    _over(colour, _eyebrows(c, lay, who, rng) * 0.93, brow_colour * (1 + 0.3 * skin.fine[..., None]))
    _over(colour, _lashes(c, lay, face.blink, rng) * 0.95, np.array([0.012, 0.009, 0.008], np.float32))
    return strokes, shadow
