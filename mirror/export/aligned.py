"""Pictures laid over each other: one square canvas, the eyes of all of them on the same pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mirror.detectors.matting import MattingModel
from mirror.export.dataset import Candidate
from mirror.export.geometry import eyes, moved, similarity, warp
from mirror.export.irises import find_irises
from mirror.faces.engine import FaceMeasurement

# Where the eyes lie, as shares of the canvas, left and right as seen. Our choice: hair and shoulders have room, as a
# head from crown to chin is about four times as high as its eyes are apart.
EYES_XY = ((0.425, 0.42), (0.575, 0.42))
APART = EYES_XY[1][0] - EYES_XY[0][0]
_HEAD_XYXY = (0.25, 0.12, 0.75, 0.75)  # of the canvas: the head with its hair
_GRID = 24  # points of the canvas by side, by which its part inside the picture is told


IRISES, LANDMARKS, KEYPOINTS = "irises", "keypoints and landmarks", "keypoints"  # what tells where eyes are


@dataclass(frozen=True)
class Eyes:
    """Where they are in a picture, and what told it."""

    points: np.ndarray  # (2, 2) float64, left and right as seen, pixels
    told_by: str

    @property
    def canvas(self) -> int:
        """Largest even side of a canvas in pixels for which the picture need not be enlarged."""
        return int(np.linalg.norm(self.points[1] - self.points[0]) / APART) // 2 * 2


@dataclass(frozen=True)
class Aligned:
    """One picture on the canvas."""

    bgra: np.ndarray  # (S, S, 4) uint8, not multiplied; where it is transparent the colour is 0
    matrix: np.ndarray  # (2, 3) pixels of the picture to pixels of the canvas
    beyond_share: float  # of the canvas, where the picture ends

    def png(self) -> bytes:
        """The file: with alpha where anything is transparent, else without."""
        pixels = self.bgra if (self.bgra[..., 3] < 255).any() else self.bgra[..., :3]
        return cv2.imencode(".png", pixels)[1].tobytes()


def exact_eyes(candidate: Candidate) -> Eyes:
    """The irises where both are seen, else what the pack measured. Raises UserError."""
    measured = eyes_of(candidate.face)
    irises = find_irises(candidate.image(), measured.points)
    return measured if irises is None else Eyes(irises, IRISES)


def eyes_of(face: FaceMeasurement) -> Eyes:
    """The eyes as the pack measured them.

    Keypoints and landmarks each err in their own way; where the pack has both, their mean errs less than either
    (benchmarks/expressions_export_bench.py).
    """
    keypoints = np.array(face.keypoints[:2])
    return Eyes(keypoints, KEYPOINTS) if face.landmarks is None else Eyes((keypoints + eyes(face)) / 2, LANDMARKS)


def canvas_of(face: FaceMeasurement) -> int:
    """Largest even side of a canvas in pixels for which the picture need not be enlarged."""
    return eyes_of(face).canvas


def matrix_of(points: np.ndarray, canvas: int) -> np.ndarray:
    """(2, 3) from pixels of the picture, with its eyes at `points`, to those of the canvas; turns a head upright."""
    return similarity(points, np.array(EYES_XY) * canvas)


def covered_share(face: FaceMeasurement) -> float:
    """How much of the canvas lies inside the picture, 0 to 1; the place of the head counts as much as all of it."""
    left, top, right, bottom = _HEAD_XYXY
    head = _inside(face, np.linspace(left, right, _GRID), np.linspace(top, bottom, _GRID))
    return (head + _inside(face, np.linspace(0, 1, _GRID), np.linspace(0, 1, _GRID))) / 2


def _inside(face: FaceMeasurement, across: np.ndarray, down: np.ndarray) -> float:
    back = cv2.invertAffineTransform(matrix_of(eyes_of(face).points, 1))
    points = moved(np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2), back)
    return float(((points >= 0) & (points <= np.array(face.size_wh) - 1)).all(axis=1).mean())


def align(candidate: Candidate, found: Eyes, canvas: int, matting: MattingModel | None) -> Aligned:
    """The picture on the canvas; without `matting` only what lies outside of it is transparent. Raises UserError."""
    image, matrix = candidate.image(), matrix_of(found.points, canvas)
    pixels = warp(image, matrix, (canvas, canvas))
    covered = warp(np.full(image.shape[:2], 255, np.uint8), matrix, (canvas, canvas), (0,))
    alpha = covered
    if matting is not None:
        alpha = np.rint(covered * matting.alpha(pixels)).astype(np.uint8)
    bgra = np.dstack([pixels, alpha])
    bgra[alpha == 0] = 0  # what cannot be seen is not in the file either
    return Aligned(bgra, matrix, round(float((covered < 128).mean()), 4))
