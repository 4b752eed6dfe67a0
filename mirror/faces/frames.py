"""Frames that hold nothing: near-black or of one colour, as collapsed checkpoints give. Not the same as "no face"."""

from __future__ import annotations

import cv2
import numpy as np

from mirror.faces.group import COLLAPSED_FRAME
from mirror.faces.measurer import Picture
from utils.files import Status

# Our choice, in grey values of 255: of two photos without a face the emptier one, of a wall, has a deviation of 12.
UNIFORM_DEVIATION = 4.0
BLACK, BLACK_SHARE = 16, 0.99  # nearly all pixels are darker


def say_collapsed(pictures: list[Picture]) -> None:
    """Into the reason of every picture without a face that holds nothing at all; its thumbnail tells."""
    for picture in pictures:
        if picture.status == Status.NO_FACE and picture.thumbnail and is_empty_frame(picture.thumbnail):
            picture.reason = "; ".join(filter(None, (picture.reason, COLLAPSED_FRAME)))


def is_empty_frame(thumbnail: bytes) -> bool:
    """Whether a JPEG is near-black or uniform; False where it cannot be decoded."""
    grey = cv2.imdecode(np.frombuffer(thumbnail, np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        return False
    return bool(grey.std() < UNIFORM_DEVIATION or (grey < BLACK).mean() >= BLACK_SHARE)
