"""What is painted on in centimetres: single-channel layers over the head's surface coordinates, and tileable noise."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

U_RANGE, V_RANGE = (-11.2, 11.2), (-14.0, 9.5)  # cm covered by the paint


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


class Canvas:
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
