"""The buckets (width, height) in which trainers take pictures, and the part of a picture that one of them shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels of the picture


@dataclass(frozen=True)
class Placement:
    """Which part of a picture is trained: scaled to `scaled_wh`, then the bucket's rectangle from `crop_xy` on."""

    bucket_wh: tuple[int, int]
    scaled_wh: tuple[int, int]
    crop_xy: tuple[int, int]


def bucket_step(resolution: int) -> int:
    """Sides are multiples of this: 64 pixels as in kohya's trainers, the least the VAE allows below 512 pixels."""
    return 64 if resolution >= 512 else 8


def buckets(resolution: int) -> list[tuple[int, int]]:
    """(width, height) of every bucket: at most the area of the square, sides from half to twice the resolution."""
    step = bucket_step(resolution)
    found = set()
    for width in range(max(step, resolution // 2 // step * step), 2 * resolution + 1, step):
        height = min(resolution**2 // width // step * step, 2 * resolution)
        if height >= step:
            found |= {(width, height), (height, width)}
    return sorted(found)


def place(size_wh: tuple[int, int], face: Box | None, resolution: int) -> Placement | None:
    """The bucket nearest in shape in which the face is whole, cut as near to the centre as it allows; None: no such.

    `face` is in pixels of the picture; the part of it that lies outside the picture does not count.
    """
    width, height = size_wh

    def aspect_mismatch(bucket: tuple[int, int]) -> tuple[float, int]:
        return abs(math.log(bucket[0] / bucket[1] * height / width)), -bucket[0] * bucket[1]

    for bucket in sorted(buckets(resolution), key=aspect_mismatch):
        scale = max(bucket[0] / width, bucket[1] / height)
        scaled = max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))
        box = face or (0.0, 0.0, 0.0, 0.0)
        starts = [
            _start(bucket[axis], scaled[axis], None if face is None else (box[axis], box[axis + 2]), size_wh[axis])
            for axis in (0, 1)
        ]
        if None not in starts:
            return Placement(bucket, scaled, (starts[0], starts[1]))
    return None


def _start(window: int, scaled: int, span: tuple[float, float] | None, side: int) -> int | None:
    """Where a window of a scaled side begins: at the centre, moved as far as the face's span (original pixels) asks."""
    centre = (scaled - window) // 2
    if span is None:
        return centre
    first, last = (min(max(edge, 0.0), side) * scaled / side for edge in span)
    earliest, latest = max(0, math.ceil(last) - window), min(scaled - window, math.floor(first))
    return min(max(centre, earliest), latest) if earliest <= latest else None
