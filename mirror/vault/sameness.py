"""Whether a person wears one outfit, or stands in one room, in nearly all photos: told by the colours of thumbnails.

The outfit is looked for below the face, the room beside and above the head. Two photos are alike there where their
histograms of hue, saturation and brightness overlap. A LoRA that sees one outfit throughout draws it for ever.
"""

from __future__ import annotations

import cv2
import numpy as np

OUTFIT, ROOM = "outfit", "room"
# Overlap of two histograms (histogram intersection: Swain and Ballard 1991). Of rendered photos of one person, nine in
# ten pairs in different clothes lay below 0.15, pairs in the same clothes and any light at 0.64 (median); rooms 0.44
# and 0.75.
ALIKE = 0.45
SAME_SHARE, FEWEST_PHOTOS = 0.8, 5  # our choice: share of the photos, and how many it takes to say anything
_BINS = (12, 4, 4)  # hue, saturation, brightness
_FEWEST_PIXELS = 60  # of a region in a thumbnail of 176 pixels


def histograms(small: np.ndarray, face_xyxy: tuple[float, float, float, float]) -> dict[str, np.ndarray | None]:
    """Per region (192,) float32, sum 1, of an upright thumbnail (H, W, 3) BGR; None where it is not in the picture."""
    left, top, right, bottom = face_xyxy
    width, height = right - left, bottom - top
    below = _mask(small, left - 0.4 * width, bottom + 0.35 * height, right + 0.4 * width, bottom + 1.6 * height)
    around = _mask(small, 0, 0, small.shape[1], bottom)
    around &= ~_mask(small, left - 0.6 * width, top - 0.7 * height, right + 0.6 * width, small.shape[0])
    return {OUTFIT: _histogram(small, below), ROOM: _histogram(small, around)}


def _mask(image: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    mask = np.zeros(image.shape[:2], bool)
    mask[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
    return mask


def _histogram(image: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    if mask.sum() < _FEWEST_PIXELS:
        return None
    hsv = cv2.cvtColor(cv2.GaussianBlur(image, (3, 3), 0), cv2.COLOR_BGR2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], mask.astype(np.uint8), _BINS, [0, 180, 0, 256, 0, 256]).ravel()
    return counts / counts.sum()


def largest_share(found: list[np.ndarray]) -> float:
    """Of the photos (their histograms), the share that is like the one that most are like."""
    if len(found) < FEWEST_PHOTOS:
        return 0.0
    stacked = np.stack(found)
    alike = np.array([np.minimum(one, stacked).sum(axis=1) >= ALIKE for one in stacked])
    return float(alike.mean(axis=1).max())


def same_throughout(regions: list[dict[str, np.ndarray | None]]) -> dict[str, float]:
    """Region -> share of the photos, of those regions that are alike in nearly all photos that show them."""
    shares = {}
    for name in (OUTFIT, ROOM):
        shares[name] = largest_share([one[name] for one in regions if one[name] is not None])
    return {name: share for name, share in shares.items() if share >= SAME_SHARE}
