"""How far two pictures are apart as pictures, in bits of a perceptual hash, wherever the face lies in them.

A hash of the whole frame (pHash, Zauner 2010; the library imagehash) does not survive a crop or a quarter turn. But of
each picture a face was measured: it says where the other picture lies on this one. So the two are laid over each other
first (quarter turn, mirroring, scale, shift), and only the part that both show is hashed.

    way        the face of one as a 16 x 16 tile in 8 ways (4 quarter turns, each also mirrored), against the other's
    placement  the face of one is slid over that of the other, then what both show over each other, at finer scales
    bits       pHash of that part, 16 x 16 frequencies: 256 bits, of which about 128 differ in pictures without relation

All of it works on the thumbnails that are kept anyway (176 pixels): nothing new is measured, and pictures that were
measured long ago are compared as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

HASH_SIDE = 16  # 256 bits: with 64, copies and other pictures of the person overlap (10 bits in both)
HASH_BITS = HASH_SIDE**2

# (quarter turns clockwise, mirrored)
WAYS = tuple((quarters, mirrored) for mirrored in (False, True) for quarters in range(4))
_TILE, _TILE_FACES = 16, 1.2  # pixels a side, and what they show in face sizes
# The face's size in pixels when it is looked for, and in which sizes: the boxes of copies differ by up to 10 %. Then
# twice more at finer steps. With one step, 540 copies of photos differed by up to 38 bits instead of 26.
_FACE, _FACE_SCALES = 24, (0.9, 1.0, 1.11)
_WINDOW, _STEPS = 48, ((0.95, 1.0, 1.05), (0.975, 1.0, 1.025))
# Correlation of the faces below which the finer steps are spared: copies have 0.67 and more, three quarters of the
# pairs of different photos less.
_FACE_FITS = 0.6
_REACH = 3.0  # face sizes around its centre: what lies further out depends on the scale too much
_HASHED = 4 * HASH_SIDE  # pixels of a side of what is hashed, pHash's own size
_LEAST = 4.0  # pixels of a side that both pictures must show


@dataclass(frozen=True)
class Look:
    """One picture, ready to be laid over others."""

    grey: np.ndarray  # (H, W) uint8
    centre_xy: np.ndarray  # (2,) of the face box, in pixels of `grey`
    side: float  # pixels, of a square as large as the face box
    tiles: np.ndarray  # (8, 256) float32: the face in each of WAYS, zero mean, unit norm


class _Placement(NamedTuple):
    """Where a point of the first picture lies in the second: scale * point + offset."""

    scale: float
    offset: np.ndarray  # (2,)

    def of(self, point: np.ndarray) -> np.ndarray:
        return self.scale * point + self.offset


def look_of(thumbnail: bytes, box_xyxy: tuple[float, float, float, float], size_wh: tuple[int, int]) -> Look | None:
    """From a small JPEG of a picture of `size_wh` pixels, and its face box in these; None where it is no JPEG."""
    grey = cv2.imdecode(np.frombuffer(thumbnail, np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        return None
    left, top, right, bottom = np.array(box_xyxy, float) * (grey.shape[1] / size_wh[0])
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    side = max(float(np.sqrt(max(right - left, 0) * max(bottom - top, 0))), 1.0)
    fine = _cut(grey, centre - side * _TILE_FACES / 2, (3 * _TILE / (side * _TILE_FACES),) * 2, (3 * _TILE,) * 2)
    tile = _unit(cv2.resize(fine, (_TILE, _TILE), interpolation=cv2.INTER_AREA))
    return Look(grey, centre, side, np.stack([_way(tile, way).ravel() for way in WAYS]))


def hash_distance(first: Look, second: Look) -> int:
    """Bits of HASH_BITS that differ in what both pictures show, laid over each other as well as possible."""
    way = WAYS[int((second.tiles @ first.tiles[0]).argmax())]
    second = _turned(second, way)
    fit, placement = _face_over_face(first, second)
    for scales in _STEPS if fit >= _FACE_FITS else ():
        placement = _refined(first, second, placement, scales)
    low, high = _shared(first, second, placement)
    if (high - low).min() < _LEAST:
        return HASH_BITS // 2
    zoom = 2 * _HASHED / (high - low)
    mine = _cut(first.grey, low, zoom, (2 * _HASHED,) * 2)
    other = _cut(second.grey, placement.of(low), zoom / placement.scale, (2 * _HASHED,) * 2)
    return int(_hash(mine) - _hash(other))


def _hash(grey: np.ndarray) -> object:
    """imagehash's pHash of a square; the difference of two is the number of bits."""
    import imagehash
    from PIL import Image

    # shrunk here, as Pillow's own filter would take as long as all the rest
    small = cv2.resize(grey, (_HASHED, _HASHED), interpolation=cv2.INTER_AREA)
    return imagehash.phash(Image.fromarray(small), HASH_SIDE)


def _way(grey: np.ndarray, way: tuple[int, bool]) -> np.ndarray:
    quarters, mirrored = way
    return np.rot90(grey[:, ::-1] if mirrored else grey, -quarters)


def _turned(look: Look, way: tuple[int, bool]) -> Look:
    """The picture mirrored and turned; its tiles stay as they were."""
    quarters, mirrored = way
    (height, width), (x, y) = look.grey.shape, look.centre_xy
    x = width - x if mirrored else x
    for _ in range(quarters):
        x, y, width, height = height - y, x, height, width
    return replace(look, grey=np.ascontiguousarray(_way(look.grey, way)), centre_xy=np.array([x, y]))


def _face_over_face(first: Look, second: Look) -> tuple[float, _Placement]:
    """By the boxes, corrected by where the face of the first fits best on that of the second, in which size, and how
    well (correlation)."""
    inner, outer = 0.55, 0.85  # face sizes from the centre: the face, and the room in which it is looked for
    size, room = round(2 * inner * _FACE), round(2 * outer * _FACE)
    corner = first.centre_xy - inner * first.side
    face = _cut(first.grey, corner, (_FACE / first.side,) * 2, (size, size))
    tried = []
    for wanted in _FACE_SCALES:
        side = second.side * wanted
        around = second.centre_xy - outer * side
        fits = _fits(_cut(second.grey, around, (_FACE / side,) * 2, (room, room)), face)
        tried.append((fits, around, side / first.side, side / _FACE))
    return _best_of(tried, corner)


def _refined(first: Look, second: Look, placement: _Placement, scales: tuple[float, ...]) -> _Placement:
    """The inner four fifths of what both show, slid over each other once more at some scales."""
    low, high = _shared(first, second, placement)
    if (high - low).min() < _LEAST:
        return placement
    middle, half = (low + high) / 2, 0.4 * (high - low)
    zoom = _WINDOW / (2 * half.max())
    size = np.maximum(8, np.round(2 * half * zoom)).astype(int)
    margin = np.maximum(3, np.round(0.1 * size)).astype(int)
    part = _cut(first.grey, middle - half, (zoom, zoom), size)
    tried = []
    for factor in scales:
        scale = placement.scale * factor
        around = placement.of(middle) - scale * half - margin * scale / zoom
        fits = _fits(_cut(second.grey, around, (zoom / scale,) * 2, size + 2 * margin), part)
        tried.append((fits, around, scale, scale / zoom))
    return _best_of(tried, middle - half)[1]


def _best_of(tried: list[tuple[np.ndarray, np.ndarray, float, float]], corner: np.ndarray) -> tuple[float, _Placement]:
    """The best fit and its placement. `tried` are the fits, the corner of the room in which they were looked for, the
    scale, and how many pixels of the second picture one step of the fits is; `corner` is the part's in the first."""
    fits, around, scale, step = max(tried, key=lambda one: one[0].max())
    _, fit, _, (x, y) = cv2.minMaxLoc(fits)
    at = np.array([x + _peak(fits[y], x), y + _peak(fits[:, x], y)])  # between pixels too
    return fit, _Placement(scale, around + at * step - scale * corner)


def _shared(first: Look, second: Look, placement: _Placement) -> tuple[np.ndarray, np.ndarray]:
    """Corners (low, high) of what both pictures show, in pixels of the first, at most _REACH faces from the face."""
    sizes = [np.array(look.grey.shape[::-1], float) for look in (first, second)]
    begin = -placement.offset / placement.scale
    end = (sizes[1] - placement.offset) / placement.scale
    reach = _REACH * first.side
    low = np.maximum.reduce([np.zeros(2), begin, first.centre_xy - reach])
    return low, np.minimum.reduce([sizes[0], end, first.centre_xy + reach])


def _cut(grey: np.ndarray, corner_xy: np.ndarray, zoom_xy: tuple[float, float], size_wh: np.ndarray) -> np.ndarray:
    """The part of `size_wh` pixels from `corner_xy` on, enlarged by `zoom_xy`; the edge goes on beyond the picture."""
    (x, y), (zoom_x, zoom_y) = corner_xy, zoom_xy
    matrix = np.array([[zoom_x, 0, -x * zoom_x], [0, zoom_y, -y * zoom_y]])
    size = int(size_wh[0]), int(size_wh[1])
    return cv2.warpAffine(grey, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _fits(room: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Correlation of `part` with each place in `room`."""
    return cv2.matchTemplate(room, part, cv2.TM_CCOEFF_NORMED)


def _peak(values: np.ndarray, at: int) -> float:
    """How far beside `at` the top of the parabola through it and its neighbours lies, -0.5 to 0.5."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2].tolist()
    bend = before - 2 * here + after
    return min(max(0.5 * (before - after) / bend, -0.5), 0.5) if bend < 0 else 0.0


def _unit(tile: np.ndarray) -> np.ndarray:
    """A tile as float32 with zero mean and unit norm; zeros where it is of one grey."""
    values = tile.astype(np.float32) - tile.mean(dtype=np.float32)
    norm = float(np.linalg.norm(values))
    return values / norm if norm > 0 else values
