"""Light on surfaces, per visible pixel: linear RGB from normals, paint and lamps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from demo.canvas import noise
from demo.hair import grey_share, hair_colour
from demo.scene import Light, Scene
from demo.skin import Paint, skin_tone

WRAP = np.array([0.26, 0.16, 0.12], np.float32)  # light bleeds through skin, red most


@dataclass(frozen=True)
class Lamps:
    """Directions are unit vectors towards the lamp; colours are linear RGB."""

    key: np.ndarray
    key_colour: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    rim: np.ndarray
    rim_colour: np.ndarray


def direction(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    a, e = np.radians([azimuth_deg, elevation_deg])
    return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], np.float32)


def lamps(light: Light) -> Lamps:
    warm = np.array([1 + 0.22 * light.warmth, 1.0, 1 - 0.38 * light.warmth], np.float32)
    return Lamps(
        direction(light.azimuth_deg, light.elevation_deg),
        warm * light.key * 2.35,
        np.array([0.94, 0.98, 1.06], np.float32) * light.fill * 1.05,
        np.array([0.80, 0.66, 0.54], np.float32) * light.fill * 0.55,
        direction(180 - 0.75 * light.azimuth_deg + (40 if light.azimuth_deg < 0 else -40), 22),
        np.array([0.95, 0.97, 1.05], np.float32) * light.rim * 1.3,
    )


@dataclass
class Pixels:
    """What a material needs to know about its visible pixels (N of them)."""

    normal: np.ndarray  # (N, 3)
    view: np.ndarray  # (N, 3) towards the camera
    extra: np.ndarray  # (N, K)
    lit: np.ndarray  # (N,) 0 in the key light's shadow .. 1
    open_: np.ndarray  # (N,) 0 in a corner .. 1 in the open


def unit(v: np.ndarray) -> np.ndarray:
    length = np.einsum("ij,ij->i", v, v)
    return v * (1 / np.sqrt(np.maximum(length, 1e-12)))[:, None]


def diffuse(px: Pixels, lamp: Lamps, wrap: np.ndarray | float = 0.0) -> np.ndarray:
    """(N, 3) light that arrives."""
    wrap = np.broadcast_to(np.asarray(wrap, np.float32), (3,))
    facing = px.normal @ lamp.key
    rim = np.clip(px.normal @ lamp.rim, 0, 1)
    sky = 0.5 + 0.5 * px.normal[:, 1]
    out = np.empty((len(facing), 3), np.float32)
    for k in range(3):
        out[:, k] = np.clip((facing + wrap[k]) / (1 + wrap[k]), 0, None) * px.lit * (lamp.key_colour[k] * 0.62)
        out[:, k] += (sky * (lamp.sky[k] - lamp.ground[k]) + lamp.ground[k]) * px.open_ + rim * lamp.rim_colour[k] * 0.5
    return out


def shine(px: Pixels, lamp: Lamps, power: float) -> np.ndarray:
    """(N,) Blinn-Phong of the key light with Fresnel."""
    half = unit(px.view + lamp.key)
    spread = np.clip(np.einsum("ij,ij->i", px.normal, half), 0, 1)
    return spread**power * (power + 8) / 60 * px.lit


def edge(px: Pixels, power: float = 3.0) -> np.ndarray:
    """(N,) how far the surface turns away from the camera."""
    return np.clip(1 - np.einsum("ij,ij->i", px.normal, px.view), 0, 1) ** power


def sample(image: np.ndarray, x: np.ndarray, y: np.ndarray, wrap: bool = False) -> np.ndarray:
    """Bilinear values (N, C) of a map at pixel centres (x, y)."""
    count, cols = len(x), 1024
    rows = -(-count // cols)
    mx, my = np.zeros((2, rows * cols), np.float32)
    mx[:count], my[:count] = x, y
    if wrap:
        mx -= np.floor(mx * (1 / image.shape[1])) * image.shape[1]
        my -= np.floor(my * (1 / image.shape[0])) * image.shape[0]
    else:
        np.clip(my, 0, image.shape[0] - 1, out=my)  # sideways the map is mirrored, upwards its edge goes on
    out = cv2.remap(
        image,
        mx.reshape(rows, cols),
        my.reshape(rows, cols),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP if wrap else cv2.BORDER_REFLECT,
    )
    return out.reshape(rows * cols, -1)[:count]


def shade_skin(px: Pixels, paint: Paint, up: np.ndarray, lamp: Lamps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(colour, light that arrives, shine): kept apart so that the light can be scattered under the skin."""
    x, y = paint.columns(px.extra[:, 0]) - 0.5, paint.rows(px.extra[:, 1]) - 0.5
    colour = sample(paint.colour, x, y)
    relief = sample(paint.relief, x, y)
    tangent_v = up - px.normal * (px.normal @ up)[:, None]
    tangent_u = np.cross(tangent_v, px.normal)
    px.normal = unit(px.normal - tangent_u * relief[:, :1] - tangent_v * relief[:, 1:2])
    arrived = diffuse(px, lamp, WRAP)
    gloss = relief[:, 2]
    bright = (0.055 * shine(px, lamp, 14.0) + 0.065 * shine(px, lamp, 48.0)) * gloss
    sheen = 0.10 * edge(px, 4.0) * px.open_
    return colour, arrived, bright[:, None] * lamp.key_colour + sheen[:, None] * (lamp.sky + lamp.rim_colour * 0.5)


def shade_plain_skin(px: Pixels, scene: Scene, lamp: Lamps, flush: float) -> np.ndarray:
    """Ears and hands."""
    tone = skin_tone(scene.who).astype(np.float32)
    red = np.array([1.0, 1 - 0.30 * flush, 1 - 0.32 * flush], np.float32)
    dots = sample(noise(4, 512, 0.35), px.extra[:, 0] * 24, px.extra[:, 1] * 24, True)
    colour = tone * red * (1 + 0.06 * dots)
    return colour * diffuse(px, lamp, WRAP * 1.2) + (0.05 * shine(px, lamp, 16.0))[:, None] * lamp.key_colour


def shade_ear(px: Pixels, scene: Scene, lamp: Lamps) -> np.ndarray:
    hollow = np.clip(px.extra[:, 2], 0, 1)
    px.open_ = px.open_ * (1 - 0.5 * hollow)
    px.lit = px.lit * (1 - 0.6 * hollow)
    return shade_plain_skin(px, scene, lamp, 0.30)


_IRIS = np.array([[0.20, 0.10, 0.05], [0.36, 0.23, 0.10], [0.27, 0.33, 0.17], [0.34, 0.38, 0.40], [0.22, 0.38, 0.58]])


def shade_eye(px: Pixels, scene: Scene, lamp: Lamps, below_lid: np.ndarray) -> np.ndarray:
    """`below_lid` (N,): cm below the edge of the upper lid, which shades the ball."""
    right, up, ahead = px.extra.T
    r = np.hypot(right, up) + np.where(ahead < 0, 9.0, 0.0)
    angle = np.arctan2(up, right)
    place = scene.who.iris_hue * 4
    iris = np.array([np.interp(place, range(5), _IRIS[:, k]) for k in range(3)], np.float32) ** 1.7
    fibre = sample(noise(6, 256, 0.4), angle * 40.74, r * 30, True)[:, 0]
    inside = np.clip((0.60 - r) / 0.035, 0, 1)
    pupil = np.clip((0.245 - r) / 0.03, 0, 1)
    ring = np.clip((r - 0.47) / 0.12, 0, 1)
    ring_glow = np.exp(-(((r - 0.27) / 0.07) ** 2))
    colour = iris * (1.15 + 0.40 * fibre - 1.05 * ring + 0.55 * ring_glow)[:, None]
    colour = np.clip(colour, 0.002, 1) * (1 - pupil)[:, None]
    blood = sample(noise(7, 256, 1.0), px.extra[:, 0] * 60 + 40, px.extra[:, 1] * 60, True)[:, 0]
    red = np.clip((r - 0.72) / 0.55, 0, 1)
    white = np.array([0.54, 0.50, 0.475], np.float32) * (1 - red[:, None] * np.array([0.10, 0.32, 0.32]))
    white = white * (1 + 0.03 * blood)[:, None]
    colour = white * (1 - inside)[:, None] + colour * inside[:, None]
    lid = 1 - 0.80 * np.exp(-below_lid / 0.15) - 0.30 * np.clip((np.abs(right) - 0.75) / 0.6, 0, 1)
    light = diffuse(px, lamp, 0.25) * np.clip(lid, 0.1, 1)[:, None]
    # the lamp shows in the cornea as a small window; the cornea bulges, so it sits nearer to the middle than on a ball
    half = unit(px.view + lamp.key * 0.42)
    spark = np.clip(np.einsum("ij,ij->i", px.normal, half), 0, 1)
    window = 2.2 * np.clip((spark - 0.9945) / 0.003, 0, 1) + 0.22 * spark**60
    return colour * light + (window * np.clip(lid + 0.3, 0, 1))[:, None] * lamp.key_colour * 0.6


def shade_mouth(px: Pixels, lamp: Lamps) -> np.ndarray:
    """Teeth above, a row below when wide open, tongue and dark behind."""
    u, v, open_ = px.extra.T
    tooth = np.abs(np.mod(u * (1.18 - 0.03 * np.abs(u)), 1.0) - 0.5)
    bottom = -0.88 + 0.07 * np.cos(2 * np.pi * u * 1.18) + 0.05 * u * u * 0.3
    upper = np.clip((v - bottom) / 0.06, 0, 1) * np.clip((0.95 - v) / 0.1, 0, 1)
    low_edge = -1.15 - 1.9 * open_
    lower = np.clip((low_edge - v) / 0.06, 0, 1) * 0.85
    ivory = np.array([0.72, 0.68, 0.58], np.float32) * (1 - 0.22 * np.clip((tooth - 0.42) / 0.06, 0, 1))[:, None]
    ivory = ivory * np.clip(1.05 - 0.13 * np.abs(u) ** 1.4, 0.1, 1)[:, None]
    tongue = np.exp(-((u / 1.3) ** 2) - ((v - low_edge - 0.35) / 0.5) ** 2)[:, None] * np.array(
        [0.30, 0.08, 0.08], np.float32
    )
    dark = np.array([0.020, 0.006, 0.006], np.float32) + tongue
    share = np.maximum(upper, lower)[:, None]
    light = (0.35 + 0.40 * share) * diffuse(px, lamp, 0.5) + (0.10 + 0.35 * share) * lamp.sky
    gleam = 0.10 * shine(px, lamp, 40.0) * share[:, 0]
    return (ivory * share + dark * (1 - share)) * light + gleam[:, None] * lamp.key_colour


def hair_gaps(extra: np.ndarray, ragged: float) -> np.ndarray:
    """True where the shell is hair: strands thin out towards the edge."""
    strand = sample(noise(8, 512, 0.25), extra[:, 0] * 26, extra[:, 1] * 1.6, True)[:, 0]
    coarse = sample(noise(9, 256, 0.9), extra[:, 0] * 9, extra[:, 1] * 0.8, True)[:, 0]
    return extra[:, 2] > 0.05 + ragged * (0.16 * strand + 0.20 * coarse)


@lru_cache(maxsize=1)
def _locks() -> np.ndarray:
    """(256, 256, 3) tileable: how far a lock stands out, and its slope along both axes."""
    height = noise(9, 256, 1.0)
    slopes = [(np.roll(height, -1, axis) - np.roll(height, 1, axis)) / 2 for axis in (1, 0)]
    return np.ascontiguousarray(np.stack([height, *(s / s.std() for s in slopes)], -1), np.float32)


def shade_hair(px: Pixels, scene: Scene, lamp: Lamps, up: np.ndarray) -> np.ndarray:
    """Locks that catch light on their sides, two highlights along the strands (after Kajiya and Kay 1989), grey hairs
    one by one."""
    across, along, cover, _ = px.extra.T
    inner = np.einsum("ij,ij->i", px.normal, px.view) < 0  # the inside of hanging hair
    px.normal = np.where(inner[:, None], -px.normal, px.normal)
    curly = scene.hair_name == "curly"
    scale = (14, 12.0, 11, 9.0) if curly else (26, 1.6, 9, 0.9)
    fine = sample(noise(8, 512, 0.25), across * scale[0], along * scale[1], True)[:, 0]
    lock, slope, slope_along = sample(_locks(), across * scale[2], along * scale[3], True).T
    strand = unit(up - px.normal * (px.normal @ up)[:, None])
    sideways = np.cross(strand, px.normal)
    tilt = 0.30 * slope + 0.12 * fine
    px.normal = px.normal + sideways * tilt[:, None]
    if curly:
        px.normal = px.normal + strand * (0.35 * slope_along)[:, None]
    px.normal = unit(px.normal)
    strand = unit(strand + px.normal * (0.08 * fine + 0.12 * lock)[:, None])
    colour = hair_colour(scene.who, scene.age).astype(np.float32)
    grey = grey_share(scene.age)
    white = np.clip((fine * 0.5 + lock * 0.35 + (grey - 0.5) * 3.2) / 3.0 + 0.5, 0, 1)[:, None] * min(grey * 2.2, 1)
    colour = colour * (1 - white) + np.array([0.47, 0.46, 0.45], np.float32) * white
    depth = np.clip(1 + 0.16 * fine + 0.22 * lock, 0.3, 1.7) * np.clip(0.62 + 0.35 * cover, 0.62, 1.0)
    along_key = strand @ lamp.key
    sine = np.sqrt(np.clip(1 - along_key**2, 0, 1))
    soft = np.clip(0.35 + 0.65 * (px.normal @ lamp.key), 0, 1) * px.lit
    arrived = 0.55 * diffuse(px, lamp, 0.2) + (0.45 * 0.62 * sine * soft)[:, None] * lamp.key_colour
    half = unit(px.view + lamp.key)
    along_half = np.einsum("ij,ij->i", strand, half)
    glint = np.sqrt(np.clip(1 - along_half**2, 0, 1))
    first = ((0.012 if curly else 0.028) * glint**40 * (1 + 0.4 * fine)) * soft
    second = (0.30 * glint**14) * soft
    rim = np.clip(px.normal @ lamp.rim, 0, 1) * edge(px, 2.0) * 0.6
    depth = depth * np.where(inner, 0.45, 1.0)
    out = (
        colour
        * depth[:, None]
        * (arrived * 1.15 + second[:, None] * lamp.key_colour * 0.9 + rim[:, None] * lamp.rim_colour)
    )
    return out + np.clip(first, 0, 1)[:, None] * lamp.key_colour * np.clip(depth, 0, 1.3)[:, None]


def clothes_colour(seed: int) -> tuple[np.ndarray, str]:
    rng = np.random.default_rng([seed, 21])
    palette = np.array(
        [
            [0.20, 0.26, 0.38],
            [0.58, 0.18, 0.18],
            [0.25, 0.36, 0.28],
            [0.82, 0.80, 0.76],
            [0.16, 0.16, 0.18],
            [0.72, 0.56, 0.34],
            [0.44, 0.30, 0.44],
            [0.30, 0.48, 0.56],
            [0.50, 0.50, 0.52],
        ]
    )
    return palette[rng.integers(len(palette))] ** 2.2, str(rng.choice(["plain", "plain", "knit", "stripes", "heather"]))


def shade_cloth(px: Pixels, scene: Scene, lamp: Lamps, kind: str) -> np.ndarray:
    colour, pattern = clothes_colour(scene.clothes_seed)
    if kind == "trousers":
        colour, pattern = np.array([0.05, 0.06, 0.09]), "plain"
    elif kind == "shoe":
        colour, pattern = np.array([0.03, 0.02, 0.02]), "plain"
    elif kind == "mask":
        colour, pattern = np.array([0.45, 0.62, 0.70]), "plain"
    u, v = px.extra[:, 0], px.extra[:, 1]
    weave = sample(noise(4, 512, 0.35), u * 22, v * 22, True)[:, 0]
    fold = sample(noise(9, 256, 0.9), u * 3.2, v * 1.6, True)[:, 0]
    tint = 1 + 0.10 * weave + 0.08 * fold
    colour = np.broadcast_to(colour.astype(np.float32), (len(u), 3))
    if pattern == "knit":
        tint = tint * (1 + 0.20 * np.sin(u * 9.0) * np.cos(v * 7.0 + 1.5 * np.sin(u * 9.0)))
    elif pattern == "stripes":
        band = (np.mod(v, 4.4) < 2.0)[:, None]
        colour = np.where(band, np.array([0.72, 0.70, 0.66], np.float32), colour)
    elif pattern == "heather":
        tint = tint * (1 + 0.20 * weave)
    if kind == "cloth" and px.extra.shape[1] > 2:
        colour = np.where((v < -77.0)[:, None], np.array([0.05, 0.06, 0.09], np.float32), colour)
    if kind == "cloth" and px.extra.shape[1] > 2:  # a ribbed collar
        collar = np.clip(1.9 - px.extra[:, 2], 0, 1)
        tint = tint * (1 - 0.25 * collar * (0.6 + 0.4 * np.sin(u * 16)))
    return colour * tint[:, None] * diffuse(px, lamp, 0.08) + (0.06 * edge(px, 3.0))[:, None] * colour * lamp.sky


def shade_frame(px: Pixels, scene: Scene, lamp: Lamps) -> np.ndarray:
    rng = np.random.default_rng([scene.clothes_seed, 33])
    colour = np.array([[0.012, 0.012, 0.013], [0.10, 0.045, 0.02], [0.25, 0.22, 0.16]], np.float32)[rng.integers(3)]
    return colour * diffuse(px, lamp) + (0.35 * shine(px, lamp, 50.0) + 0.05 * edge(px))[:, None] * lamp.key_colour


def shade_lens(px: Pixels, lamp: Lamps) -> np.ndarray:
    mirror = 0.5 + 0.5 * np.clip(px.normal[:, 1] * 3 + px.normal[:, 0], -1, 1)
    return (0.012 + 0.05 * mirror[:, None] * lamp.sky) + (0.5 * shine(px, lamp, 90.0))[:, None] * lamp.key_colour
