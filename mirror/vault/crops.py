"""The part of a photo that a dataset gets: in a trainer's bucket, with the whole face and without other people's.

The picture stays as wide as it can, because a dataset wants full figures too. It is narrowed where somebody else's face
would be in it, and where the face would otherwise be lost in it. All coordinates are pixels of the upright picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mirror.dataset.buckets import Box, place

# All our choice. A face's box ends at brow and chin, so a head needs some room around it; where there is none the box
# alone must be whole.
HEAD_ROOM = 0.35  # of the box's longer side, on each side
OTHERS_FROM = 1 / 3  # of the face's own size: smaller ones are people in the background
SMALLEST_SHARE = 0.10  # height of the face by the picture's: a figure from head to foot (mirror.dataset.gaps)
MOST_ASPECT = 2.0  # longer side by the shorter one: buckets go to 4, in which a square face is a fifth of the picture


@dataclass(frozen=True)
class Window:
    """What is cut out, whole pixels, and the size (width, height) at which it is saved."""

    box_xyxy: tuple[int, int, int, int]
    size_wh: tuple[int, int]

    @property
    def wh(self) -> tuple[int, int]:
        return self.box_xyxy[2] - self.box_xyxy[0], self.box_xyxy[3] - self.box_xyxy[1]


def upright_box(box_xyxy: Box, size_wh: tuple[int, int], turned_deg: int) -> Box:
    """A box of a picture of `size_wh` after the picture was turned clockwise by `turned_deg`, a multiple of 90."""
    left, top, right, bottom = box_xyxy
    width, height = size_wh
    for _ in range(turned_deg // 90 % 4):
        left, top, right, bottom = height - bottom, left, height - top, right
        width, height = height, width
    return left, top, right, bottom


def upright_size(size_wh: tuple[int, int], turned_deg: int) -> tuple[int, int]:
    return size_wh[::-1] if turned_deg % 180 else size_wh


def upright(image: np.ndarray, turned_deg: int) -> np.ndarray:
    """The picture (H, W, 3) turned clockwise by `turned_deg`."""
    return np.ascontiguousarray(np.rot90(image, -(turned_deg // 90)))


def choose_window(size_wh: tuple[int, int], face: Box, others: Sequence[Box], resolution: int) -> Window | None:
    """The part to train on; None where somebody else's face cannot be kept out of it."""
    uncut = None
    least = OTHERS_FROM * _size(face)
    others = [one for one in others if _size(one) >= least]
    heads = [_grown(one, HEAD_ROOM, size_wh) for one in others]
    head, face_alone = _grown(face, HEAD_ROOM, size_wh), _inside(face, size_wh)
    for wanted, kept_out in ((head, heads), (head, others), (face_alone, others)):
        area = _without(kept_out, wanted, size_wh)
        if area is None:
            continue
        area = _shaped(_tightened(area, face), wanted)
        window = _in_bucket(area, wanted, resolution)
        if window is not None:
            return window
        uncut = area
    return None if uncut is None else _as_it_is(uncut)  # a face that fills the picture: no bucket holds all of it


def cut(image: np.ndarray, window: Window) -> np.ndarray:
    """(H, W, 3) uint8 of the window's size; never enlarged."""
    left, top, right, bottom = window.box_xyxy
    part = image[top:bottom, left:right]
    return part if window.wh == window.size_wh else cv2.resize(part, window.size_wh, interpolation=cv2.INTER_AREA)


def in_window(box: Box, window: Window) -> Box:
    """A box of the picture in pixels of what was cut out, before scaling."""
    left, top = window.box_xyxy[:2]
    return box[0] - left, box[1] - top, box[2] - left, box[3] - top


def _grown(box: Box, share: float, size_wh: tuple[int, int]) -> Box:
    room = share * max(box[2] - box[0], box[3] - box[1])
    return _inside((box[0] - room, box[1] - room, box[2] + room, box[3] + room), size_wh)


def _inside(box: Box, size_wh: tuple[int, int]) -> Box:
    width, height = size_wh
    return max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3])


def _without(others: Sequence[Box], wanted: Box, size_wh: tuple[int, int]) -> Box | None:
    """The largest part of the picture that holds `wanted` and none of the others."""
    area: Box = (0.0, 0.0, float(size_wh[0]), float(size_wh[1]))
    for other in sorted(others, key=_size, reverse=True):
        if not _touch(area, other):
            continue
        left, top, right, bottom = area
        parts = [
            (left, top, other[0], bottom),
            (other[2], top, right, bottom),
            (left, top, right, other[1]),
            (left, other[3], right, bottom),
        ]
        parts = [one for one in parts if _holds(one, wanted)]
        if not parts:
            return None
        area = max(parts, key=lambda one: (one[2] - one[0]) * (one[3] - one[1]))
    return area


def _tightened(area: Box, face: Box) -> Box:
    """Narrowed until the face has its SMALLEST_SHARE, its place in the picture kept."""
    factor = (face[3] - face[1]) / (SMALLEST_SHARE * (area[3] - area[1]))
    if factor >= 1:
        return area
    x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
    return (
        x - (x - area[0]) * factor,
        y - (y - area[1]) * factor,
        x + (area[2] - x) * factor,
        y + (area[3] - y) * factor,
    )


def _shaped(area: Box, wanted: Box) -> Box:
    """Its longer side cut to MOST_ASPECT, as evenly from both ends as what must stay in it allows."""
    left, top, right, bottom = (min(area[i], wanted[i]) if i < 2 else max(area[i], wanted[i]) for i in range(4))
    width, height = right - left, bottom - top
    if width > MOST_ASPECT * height:
        left, right = _shortened(left, right, MOST_ASPECT * height, wanted[0], wanted[2])
    elif height > MOST_ASPECT * width:
        top, bottom = _shortened(top, bottom, MOST_ASPECT * width, wanted[1], wanted[3])
    return left, top, right, bottom


def _shortened(start: float, end: float, length: float, first: float, last: float) -> tuple[float, float]:
    length = max(length, last - first)
    begin = min(max((start + end - length) / 2, last - length), first)
    return begin, begin + length


def _as_it_is(area: Box) -> Window:
    left, top = math.ceil(area[0]), math.ceil(area[1])
    right, bottom = max(left + 1, math.floor(area[2])), max(top + 1, math.floor(area[3]))
    return Window((left, top, right, bottom), (right - left, bottom - top))


def _in_bucket(area: Box, wanted: Box, resolution: int) -> Window | None:
    """The bucket's part of the area, None where no bucket holds all that is wanted.

    Where the bucket has more pixels than the area, the area's own are kept.
    """
    whole = _as_it_is(area)
    left, top = whole.box_xyxy[:2]
    width, height = whole.wh
    placement = place((width, height), in_window(wanted, whole), resolution)
    if placement is None:
        return None
    (scaled_width, scaled_height), (x, y) = placement.scaled_wh, placement.crop_xy
    across, down = width / scaled_width, height / scaled_height
    box = (
        left + math.floor(x * across),
        top + math.floor(y * down),
        left + min(width, math.ceil((x + placement.bucket_wh[0]) * across)),
        top + min(height, math.ceil((y + placement.bucket_wh[1]) * down)),
    )
    own = box[2] - box[0], box[3] - box[1]
    is_shrunk = scaled_width <= width and scaled_height <= height
    return Window(box, placement.bucket_wh if is_shrunk else own)


def _size(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _holds(outer: Box, inner: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]
