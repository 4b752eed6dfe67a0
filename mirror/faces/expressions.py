"""What a measured face shows: cut out for an expression model, read, and kept in the cache of measurements."""

from __future__ import annotations

import json
from typing import Protocol

import cv2
import numpy as np

from mirror.detectors.expressions import ExpressionModel, Reading
from mirror.faces.cache import FaceCache
from mirror.faces.measurer import Beside

# Raise when a crop or a reading changes for the same face and model: kept readings are then made anew.
EXPRESSION_VERSION = 1

# Pixels of the face box, its longer side: FER+ learned from faces of 48, and below half of that a mouth is two or three
# pixels high. Our choice.
SMALLEST_FACE = 24


class PlacedFace(Protocol):
    """What is needed of a face: a FaceMeasurement has it, and a face of a photo library."""

    box_xyxy: tuple[float, float, float, float] | None  # pixels of the original picture; None: no face
    roll_deg: float | None  # of the original picture, see mirror/faces/pose.py


class ExpressionSensor:
    """Reads faces with one model. Without a cache nothing is kept."""

    def __init__(self, model: ExpressionModel, cache: FaceCache | None = None):
        self.model = model
        self._cache = cache

    @property
    def identity(self) -> str:
        """File name, "@" and 12 hex digits of the content's SHA-256."""
        return self.model.identity

    @property
    def tells(self) -> tuple[str, ...]:
        """The expressions that the model can tell; of any other it says nothing."""
        return self.model.tells

    def read(self, content: str, image: np.ndarray, face: PlacedFace) -> Reading | None:
        """What a face of `image` (H, W, 3) uint8 BGR, whose bytes have the hash `content`, shows.

        None: there is no face, or it is too small. What was read before is not read again: box and tilt stand in the
        key, so that another pack's box is another reading.
        """
        key = f"{content} {face.box_xyxy} {face.roll_deg} {self.identity}"
        kept = self._cache.get_blob(self._kind, key) if self._cache else None
        if kept is not None:
            return reading_of(kept)
        reading = self._read(image, face)
        if self._cache:
            self._cache.put_blob(self._kind, key, _kept(reading))
        return reading

    def beside(self) -> Beside:
        """The same for `Measurer.measure`, which keeps it itself; `reading_of` reads what a picture then has."""
        return Beside(f"{self._kind} {self.identity}", lambda image, face: _kept(self._read(image, face)))

    @property
    def _kind(self) -> str:
        return f"expression{EXPRESSION_VERSION}"

    def _read(self, image: np.ndarray, face: PlacedFace) -> Reading | None:
        crop = face_crop(image, face, self.model.growth)
        return None if crop is None else self.model.read(crop)


def reading_of(kept: bytes | None) -> Reading | None:
    """A reading as it was kept; None where there was nothing to read."""
    scores = json.loads(kept) if kept else None
    return None if scores is None else Reading(scores)


def _kept(reading: Reading | None) -> bytes:
    return json.dumps(None if reading is None else reading.scores).encode()


def face_crop(image: np.ndarray, face: PlacedFace, growth: float) -> np.ndarray | None:
    """The face alone, (S, S, 3) uint8 BGR, levelled by its roll, which holds the turn of a picture on its side too.

    S is the longer side of the box times `growth`, in pixels of the original; outside the picture its edge goes on.
    None where there is no face, or one smaller than SMALLEST_FACE.
    """
    if face.box_xyxy is None:
        return None
    left, top, right, bottom = face.box_xyxy
    longer = max(right - left, bottom - top)
    if longer < SMALLEST_FACE:
        return None
    side = round(longer * growth)
    # a head tilted clockwise by its roll is turned back: in OpenCV positive angles turn counterclockwise
    turn = cv2.getRotationMatrix2D(((left + right) / 2, (top + bottom) / 2), face.roll_deg or 0.0, 1.0)
    turn[:, 2] += (side - 1) / 2 - np.array([(left + right) / 2, (top + bottom) / 2])
    return cv2.warpAffine(image, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
