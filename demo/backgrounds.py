"""Places behind the person, and plain backdrops; painted small, blurred as a lens would, then enlarged."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

_BASE = 160  # pixels of the short side while painting


def _linear(colour: np.ndarray) -> np.ndarray:
    return np.asarray(colour, np.float32) ** 2.2


def _studio(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    hue = rng.choice(["grey", "blue", "warm", "green", "white", "dark"])
    colour = {
        "grey": (0.55, 0.56, 0.58),
        "blue": (0.36, 0.45, 0.58),
        "warm": (0.66, 0.55, 0.45),
        "green": (0.42, 0.50, 0.44),
        "white": (0.86, 0.86, 0.85),
        "dark": (0.22, 0.22, 0.25),
    }[str(hue)]
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    cx, cy = w * rng.uniform(0.3, 0.7), h * rng.uniform(0.3, 0.55)
    glow = np.exp(-(((x - cx) / (0.62 * w)) ** 2 + ((y - cy) / (0.62 * h)) ** 2))
    cloth = cv2.GaussianBlur(rng.standard_normal((h, w)).astype(np.float32), (0, 0), 9) * 1.2
    return _linear(np.array(colour))[None, None] * (0.42 + 0.85 * glow + 0.25 * cloth)[..., None]


def _indoor(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    wall = np.array([[0.78, 0.74, 0.67], [0.62, 0.66, 0.66], [0.70, 0.60, 0.52], [0.52, 0.56, 0.62]][rng.integers(4)])
    image = np.empty((h, w, 3), np.float32)
    image[:] = wall * np.linspace(1.02, 0.82, w)[None, :, None]
    floor = int(h * rng.uniform(0.80, 0.92))
    image[floor:] = np.array([0.46, 0.35, 0.26]) * np.linspace(0.8, 1.1, h - floor)[:, None, None]
    left = bool(rng.integers(2))
    x0 = int(w * (rng.uniform(0.02, 0.12) if left else rng.uniform(0.60, 0.70)))
    x1, y0, y1 = x0 + int(w * 0.28), int(h * 0.08), int(h * 0.60)
    cv2.rectangle(image, (x0 - 4, y0 - 4), (x1 + 4, y1 + 4), (0.88, 0.87, 0.85), -1)
    image[y0:y1, x0:x1] = np.array([0.95, 1.02, 1.10]) * np.linspace(1.25, 0.95, y1 - y0)[:, None, None]
    cv2.line(image, ((x0 + x1) // 2, y0), ((x0 + x1) // 2, y1), (0.80, 0.80, 0.79), 3)
    cv2.line(image, (x0, (y0 + y1) // 2), (x1, (y0 + y1) // 2), (0.80, 0.80, 0.79), 3)
    shelf = int(w * (0.62 if left else 0.05))
    for row in range(3):
        y = int(h * (0.22 + 0.20 * row))
        cv2.rectangle(image, (shelf, y), (shelf + int(w * 0.32), y + 3), (0.36, 0.25, 0.17), -1)
        x = shelf + 2
        while x < shelf + int(w * 0.30):
            wide, tall = int(rng.integers(3, 8)), int(rng.integers(10, 22))
            colour = [float(v) for v in rng.uniform(0.15, 0.75, 3) * np.array([1.0, 0.85, 0.75])]
            cv2.rectangle(image, (x, y - tall), (x + wide, y - 1), colour, -1)
            x += wide + int(rng.integers(0, 5))
    lamp = (int(w * rng.uniform(0.42, 0.58)), int(h * rng.uniform(0.10, 0.25)))
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    glow = np.exp(-((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2) / (0.10 * w * w))
    return _linear(np.clip(image, 0, 1.6)) * 0.75 + glow[..., None] * np.array([0.32, 0.22, 0.10], np.float32)


def _outdoor(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    sky_top, sky_low = (
        ((0.40, 0.60, 0.86), (0.80, 0.88, 0.95)) if rng.uniform() < 0.65 else ((0.60, 0.52, 0.62), (0.98, 0.78, 0.56))
    )
    horizon = int(h * rng.uniform(0.45, 0.68))
    image = np.empty((h, w, 3), np.float32)
    t = np.linspace(0, 1, h)[:, None, None]
    image[:] = np.array(sky_top) * (1 - t) + np.array(sky_low) * t
    cloud = cv2.GaussianBlur(rng.standard_normal((h, w)).astype(np.float32), (0, 0), 12)
    image += np.clip(cloud * 2.2, 0, 0.25)[..., None]
    image[horizon:] = np.array([0.38, 0.47, 0.24]) * np.linspace(1.0, 0.7, h - horizon)[:, None, None]
    for _ in range(240):
        x, y = int(rng.uniform(0, w)), int(horizon - abs(rng.normal(0, 0.13)) * h + 6)
        green = np.array([0.18, 0.33, 0.12]) * rng.uniform(0.5, 1.9) + np.array([0.06, 0.04, 0.0])
        cv2.circle(image, (x, y), int(rng.integers(3, 11)), [float(v) for v in green], -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(12, 30))):  # light between the leaves
        x, y = int(rng.uniform(0, w)), int(rng.uniform(0.1, 0.95) * horizon)
        cv2.circle(image, (x, y), int(rng.integers(2, 5)), (1.25, 1.2, 0.95), -1, cv2.LINE_AA)
    return _linear(np.clip(image, 0, 1.4)) * 0.9


def _plain(colour: tuple[float, float, float], rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    """A backdrop of paper that is lit evenly."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    falls = ((x / w - rng.uniform(0.3, 0.7)) ** 2 + (y / h - rng.uniform(0.3, 0.7)) ** 2) * rng.uniform(0.05, 0.25)
    return _linear(np.array(colour))[None, None] * (1 - falls)[..., None]


_PAINTERS = {
    "studio": (_studio, 1.0),
    "indoor": (_indoor, 2.6),
    "outdoor": (_outdoor, 3.0),
    "white": (partial(_plain, (0.97, 0.97, 0.96)), 1.0),
    "dark": (partial(_plain, (0.10, 0.10, 0.11)), 1.0),
}


def paint_background(kind: str, seed: int, size_wh: tuple[int, int], focus: float = 1.0) -> np.ndarray:
    """(H, W, 3) float32 linear RGB; `focus` < 1 makes the background sharper (far cameras see more of it)."""
    w, h = size_wh
    scale = _BASE / min(w, h)
    small = max(round(w * scale), 8), max(round(h * scale), 8)
    painter, sigma = _PAINTERS[kind]
    image = painter(np.random.default_rng([seed, 5]), *small)
    image = cv2.GaussianBlur(np.ascontiguousarray(image, np.float32), (0, 0), max(sigma * focus, 0.6))
    return np.clip(cv2.resize(image, (w, h), interpolation=cv2.INTER_CUBIC), 0, 4)
