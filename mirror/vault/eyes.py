"""Whether the eyes of a face are closed, told beside another photo of the same moment and never by itself.

Closed lids are lines that run from side to side. Open eyes show iris and white, whose edges stand upright too. How many
upright edges there are hangs on the person, the light and the lens, so only photos of one moment can be compared.

The usual measure is the eye aspect ratio of 68 landmarks (Soukupová and Čech 2016). It needs points that follow the
lids, and those of the pack at hand do not: `python -m benchmarks.eyes_bench` measures both. The edges need nothing but
the places of the eyes, which every pack finds.
"""

from __future__ import annotations

import cv2
import numpy as np

from mirror.faces.pose import angle_bin

Point = tuple[float, float]

# Eyes are compared where both are seen from the front and large enough: below, an iris is a few pixels. Our choice.
_VIEW, LEAST_APART = "front", 28.0  # pixels between the eyes
# `python -m benchmarks.eyes_bench --people 20`: beside an open photo of the same moment closed eyes have 0.37 of its
# contrast (median), open ones 0.86 and more, laughing ones 0.65. Blur takes contrast away as lids do, and the sharpness
# of the whole face with it.
CLOSED, AS_SHARP = 0.60, 0.50

_APART = 64  # pixels between the eyes of the face as it is compared
_SIZE_WH, _MIDDLE = (112, 96), (56.0, 40.0)  # of that picture, and of the line between its eyes
_ROWS, _HALF_WIDTH = slice(24, 60), 8  # where an eye may be
_LINES = 5  # one above the other: half an iris, and higher than most lashes
_LIDS, _NOSE = (slice(14, 60), slice(8, 104)), (slice(56, 92), slice(36, 76))  # what the contrast is compared with


def eye_contrast(image: np.ndarray, eyes_xy: tuple[Point, Point], yaw_deg: float) -> float | None:
    """Upright edges in the eyes by all edges of lids, brows and nose; None where it cannot be measured.

    `image` (H, W, 3) uint8 BGR, `eyes_xy` the eyes in its pixels, as they follow each other on an upright face.
    """
    if angle_bin(yaw_deg) != _VIEW or np.linalg.norm(np.subtract(*eyes_xy)) < LEAST_APART:
        return None
    grey = _upright(image, np.array(eyes_xy)).astype(np.float32)
    upright, lying = (np.abs(cv2.Sobel(grey, cv2.CV_32F, *way, ksize=3)) for way in ((1, 0), (0, 1)))
    # of an eye the place where `_LINES` lines all have most: detectors miss closed eyes by some pixels
    lines = cv2.erode(cv2.blur(upright, (21, 1)), np.ones((_LINES, 1), np.uint8))
    places = (round(_MIDDLE[0] + side * _APART / 2) for side in (-1, 1))
    eyes = [float(lines[_ROWS, x - _HALF_WIDTH : x + _HALF_WIDTH + 1].max()) for x in places]
    around = float(lying[_LIDS].mean() + (upright + lying)[_NOSE].mean())
    return round(sum(eyes) / 2 / around, 3) if around > 0 else None


def _upright(image: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the middle of the face, its eyes level and `_APART` pixels from each other."""
    apart = float(np.linalg.norm(eyes[1] - eyes[0]))
    height, width = image.shape[:2]
    middle, reach = eyes.mean(axis=0), 2 * apart
    left, top = np.clip(middle - reach, 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(middle + reach, 1, (width, height)).astype(int)
    part, scale = image[top : max(bottom, top + 1), left : max(right, left + 1)], _APART / apart
    if scale < 1:
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    shrunk = min(scale, 1.0)
    (x, y), along = (middle - (left, top)) * shrunk, (eyes[1] - eyes[0]) / apart * scale / shrunk
    turn = np.array([[along[0], along[1]], [-along[1], along[0]]])
    shift = np.array(_MIDDLE) - turn @ (x, y)
    placed = cv2.warpAffine(part, np.column_stack([turn, shift]), _SIZE_WH, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(placed, cv2.COLOR_BGR2GRAY)


def is_closed_beside(contrast: float | None, sharpness: float, open_one: float | None, its_sharpness: float) -> bool:
    """Whether eyes of this contrast are closed, beside those of another photo of the moment; False: not known.

    A face that is much less sharp than the other may be blurred, which says nothing of its eyes.
    """
    if contrast is None or open_one is None or sharpness < AS_SHARP * its_sharpness:
        return False
    return contrast < CLOSED * open_one
