"""Where a face's features are, and how a picture is turned and scaled by them. Points are x, y in pixels.

Left and right of points are as seen in the picture of the upright face, not the person's own.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from mirror.faces.engine import FaceMeasurement
from mirror.vault.crops import upright_box, upright_size

# Rows of the 68 points of iBUG 300-W (Sagonas et al. 2013).
_LEFT_EYE, _RIGHT_EYE = slice(36, 42), slice(42, 48)
_MOUTH_CORNERS, _UPPER_LIP, _LOWER_LIP = (60, 64), (61, 62, 63), (67, 66, 65)  # of the inner lips


def eyes(face: FaceMeasurement) -> np.ndarray:
    """(2, 2) float64: centres of the left and the right eye; of 68 landmarks where there are some, else keypoints."""
    if face.landmarks is not None:
        points = np.array(face.landmarks)
        return np.stack([points[_LEFT_EYE].mean(axis=0), points[_RIGHT_EYE].mean(axis=0)])
    return np.array(face.keypoints[:2])


def mouth_opening(face: FaceMeasurement) -> float | None:
    """Height of the gap between the lips by the width of the mouth; None without landmarks."""
    if face.landmarks is None:
        return None
    points = np.array(face.landmarks)
    left, right = points[list(_MOUTH_CORNERS)]
    gap = np.linalg.norm(points[list(_UPPER_LIP)] - points[list(_LOWER_LIP)], axis=1).mean()
    return float(gap / max(1e-6, np.linalg.norm(right - left)))


def eye_opening(face: FaceMeasurement) -> float | None:
    """Eye aspect ratio (Soukupova and Cech 2016), mean of both eyes: height of the opening by its width."""
    if face.landmarks is None:
        return None
    points = np.array(face.landmarks)
    ratios = []
    for rows in (_LEFT_EYE, _RIGHT_EYE):
        outer, top_1, top_2, inner, bottom_2, bottom_1 = points[rows]
        height = np.linalg.norm(top_1 - bottom_1) + np.linalg.norm(top_2 - bottom_2)
        ratios.append(height / max(1e-6, 2 * np.linalg.norm(outer - inner)))
    return float(np.mean(ratios))


class Room(NamedTuple):
    """How much of the picture lies around a face, by the height (beside: the width) of its box."""

    above: float
    below: float
    beside: float  # on the narrower side


def room_around(face: FaceMeasurement) -> Room:
    """Of the picture as the face is upright in it; 0 where the face leaves the picture."""
    left, top, right, bottom = upright_box(face.box_xyxy, face.size_wh, face.turned_deg)
    width, height = upright_size(face.size_wh, face.turned_deg)
    high, wide = max(1e-6, bottom - top), max(1e-6, right - left)
    beside = max(0.0, min(left, width - right))
    return Room(max(0.0, top) / high, max(0.0, height - bottom) / high, beside / wide)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) matrix that turns, scales and moves two points (2, 2) onto two others; no mirroring."""
    (sx, sy), (tx, ty) = source[1] - source[0], target[1] - target[0]
    norm = sx * sx + sy * sy
    a, b = (sx * tx + sy * ty) / norm, (sx * ty - sy * tx) / norm
    turn = np.array([[a, -b], [b, a]])
    return np.column_stack([turn, target[0] - turn @ source[0]])


def scale_of(matrix: np.ndarray) -> float:
    """By how much a similarity (2, 3) enlarges; below 1 it shrinks."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (N, 2) after the similarity (2, 3)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def warp(
    image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], border: tuple[int, ...] | None = None
) -> np.ndarray:
    """The picture (H, W, C) after the similarity, `size_wh` large.

    What lies outside of it gets the colour `border`, or where that is None the colours of its edge. A picture that is
    shrunk is averaged first, as a warp alone takes single pixels and flickers.
    """
    scale = scale_of(matrix)
    if scale < 0.5:
        small = max(scale, 1 / min(image.shape[:2]))
        width, height = max(1, round(image.shape[1] * small)), max(1, round(image.shape[0] * small))
        across, down = image.shape[1] / width, image.shape[0] / height
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        # a point of the small picture is one of the large one: centres of pixels lie half a pixel from their corner
        back = np.array([[across, 0, across / 2 - 0.5], [0, down, down / 2 - 0.5], [0, 0, 1]])
        matrix = matrix @ back
    mode = cv2.BORDER_REPLICATE if border is None else cv2.BORDER_CONSTANT
    flags = cv2.INTER_LINEAR if scale < 1 else cv2.INTER_CUBIC
    return cv2.warpAffine(image, matrix, size_wh, flags=flags, borderMode=mode, borderValue=border or 0)
