"""A triangle rasteriser in NumPy: triangles become rows, rows become pixels, the nearest pixel stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Fragments:
    """The visible pixels of one part: flat pixel index, depth (cm from the camera), values (N, K)."""

    pixel: np.ndarray
    depth: np.ndarray
    values: np.ndarray

    def keep(self, mask: np.ndarray) -> Fragments:
        chosen = np.flatnonzero(mask)
        if len(chosen) == len(mask):
            return self
        return Fragments(self.pixel[chosen], self.depth[chosen], np.take(self.values, chosen, axis=0))


def _runs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts [2, 3]: owner [0, 0, 1, 1, 1] and place in the run [0, 1, 0, 1, 2]."""
    owner = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    starts = np.cumsum(counts, dtype=np.int32) - counts.astype(np.int32)
    return owner, np.arange(len(owner), dtype=np.int32) - np.repeat(starts, counts)


def rasterise(
    xy: np.ndarray,
    depth: np.ndarray,
    values: np.ndarray | None,
    triangles: np.ndarray,
    size_wh: tuple[int, int],
    both_sides: bool = False,
) -> Fragments:
    """Draw triangles (T, 3) whose corners lie at `xy` (N, 2) pixels and `depth` (N,) > 0; y points down.

    A triangle that turns its back (clockwise corners in the image) is skipped unless `both_sides`.
    """
    corners, top, bottom = _visible(xy, depth, triangles, size_wh, both_sides)
    owner, line, first, count = _rows(corners, top, bottom, size_wh[0])
    pixel, depths, triangle = _nearest_pixels(corners, owner, line, first, count, size_wh)
    if values is None:
        return Fragments(pixel, depths, np.zeros((len(pixel), 0), np.float32))
    return Fragments(pixel, depths, _interpolated(corners, values, pixel, triangle, size_wh[0]))


@dataclass
class _Corners:
    """Triangles (T,) by their three corners: row of the point, x, y in pixels, depth; twice their signed area."""

    index: list[np.ndarray]
    x: list[np.ndarray]
    y: list[np.ndarray]
    z: list[np.ndarray]
    area: np.ndarray


def _visible(
    xy: np.ndarray, depth: np.ndarray, triangles: np.ndarray, size_wh: tuple[int, int], both_sides: bool
) -> tuple[_Corners, np.ndarray, np.ndarray]:
    """The triangles that face the camera, reach into the picture and lie ahead; their top and bottom rows (T,) int."""
    width, height = size_wh
    points = [np.ascontiguousarray(column, np.float32) for column in (xy[:, 0], xy[:, 1], depth)]
    corners = [np.ascontiguousarray(triangles[:, k]) for k in range(3)]
    (x0, x1, x2), (y0, y1, y2), z = ([column[corner] for corner in corners] for column in points)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    front = np.abs(area) > 1e-6 if both_sides else area < -1e-6
    top = np.maximum(np.ceil(np.minimum(np.minimum(y0, y1), y2) - 0.5), 0)
    bottom = np.minimum(np.ceil(np.maximum(np.maximum(y0, y1), y2) - 0.5), height)
    inside = (np.maximum(np.maximum(x0, x1), x2) > 0) & (np.minimum(np.minimum(x0, x1), x2) < width)
    ahead = (z[0] > 1.0) & (z[1] > 1.0) & (z[2] > 1.0)
    chosen = np.flatnonzero(front & (bottom > top) & inside & ahead)
    x, y, z, index = ([one[chosen] for one in group] for group in ((x0, x1, x2), (y0, y1, y2), z, corners))
    return _Corners(index, x, y, z, area[chosen]), top[chosen].astype(np.int32), bottom[chosen].astype(np.int32)


def _rows(
    corners: _Corners, top: np.ndarray, bottom: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of pixels (R,) that triangles cover: whose, which line, the first pixel, how many.

    The long edge (top to bottom corner) is on one side, one of the two short edges on the other.
    """
    owner, step = _runs(bottom - top)
    x, y = corners.x, corners.y
    ya, xa, yb, xb = _ordered(y[0], x[0], y[1], x[1])
    yb, xb, yc, xc = _ordered(yb, xb, y[2], x[2])
    ya, xa, yb, xb = _ordered(ya, xa, yb, xb)
    line = (top[owner] + step).astype(np.float32)
    start, slope = _edge(ya, xa, yc, xc)
    long_side = start[owner] + slope[owner] * line
    upper, lower = _edge(ya, xa, yb, xb), _edge(yb, xb, yc, xc)
    which = owner + np.int32(len(top)) * (line + np.float32(0.5) >= yb[owner])
    short_side = np.concatenate([upper[0], lower[0]])[which] + np.concatenate([upper[1], lower[1]])[which] * line
    left, right = np.minimum(long_side, short_side), np.maximum(long_side, short_side)
    first = np.maximum(np.ceil(left - 0.5), 0)
    last = np.minimum(np.ceil(right - 0.5), width)
    full = np.flatnonzero(last > first)
    return owner[full], line[full], first[full], (last - first)[full].astype(np.int32)


def _ordered(ya: np.ndarray, xa: np.ndarray, yb: np.ndarray, xb: np.ndarray) -> tuple[np.ndarray, ...]:
    """Two corners of each triangle, the upper one first."""
    swap = yb < ya
    return np.where(swap, yb, ya), np.where(swap, xb, xa), np.where(swap, ya, yb), np.where(swap, xa, xb)


def _edge(ys: np.ndarray, xs: np.ndarray, ye: np.ndarray, xe: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x of an edge at the middle of line 0, and by how much it grows from line to line."""
    slope = (xe - xs) / np.maximum(ye - ys, np.float32(1e-6))
    return xs + slope * (np.float32(0.5) - ys), slope


def _nearest_pixels(
    corners: _Corners,
    owner: np.ndarray,
    line: np.ndarray,
    first: np.ndarray,
    count: np.ndarray,
    size_wh: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(flat pixel, depth, triangle) of what is nearest in each pixel; depth is a plane over each triangle."""
    width, height = size_wh
    row, step = _runs(count)
    half, inverse = np.float32(0.5), 1.0 / corners.area
    (xu, yu, zu), (xw, yw, zw) = _sides(corners)
    zx, zy = (zu * yw - zw * yu) * inverse, (zw * xu - zu * xw) * inverse
    base = corners.z[0] + zx * (half - corners.x[0]) + zy * (half - corners.y[0])
    along = zx[owner]
    depth_of_row = base[owner] + along * first + zy[owner] * line
    pixel = (line.astype(np.int32) * width + first.astype(np.int32))[row] + step
    depth = depth_of_row[row] + along[row] * step.astype(np.float32)
    nearest = np.full(width * height, np.inf, np.float32)
    np.minimum.at(nearest, pixel, depth)
    won = np.flatnonzero(depth <= nearest[pixel])
    pixel, depth, triangle = pixel[won], depth[won], owner[row[won]]
    # two triangles of equal depth: the later one stays
    slot = np.empty(width * height, np.int32)
    slot[pixel] = np.arange(len(pixel), dtype=np.int32)
    only = np.flatnonzero(slot[pixel] == np.arange(len(pixel), dtype=np.int32))
    return (pixel, depth, triangle) if len(only) == len(pixel) else (pixel[only], depth[only], triangle[only])


def _sides(corners: _Corners) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """(x, y, z) from the first corner to the second, and to the third."""
    columns = (corners.x, corners.y, corners.z)
    return tuple(one[1] - one[0] for one in columns), tuple(one[2] - one[0] for one in columns)


def _interpolated(
    corners: _Corners, values: np.ndarray, pixel: np.ndarray, triangle: np.ndarray, width: int
) -> np.ndarray:
    """`values` (N, K) of the corners, at the middle of each pixel."""
    half, inverse = np.float32(0.5), 1.0 / corners.area
    (xu, yu, _), (xw, yw, _) = _sides(corners)
    line = pixel // width
    dx = (pixel - line * width).astype(np.float32) + (half - corners.x[0])[triangle]
    dy = line.astype(np.float32) + (half - corners.y[0])[triangle]
    b1 = (yw * inverse)[triangle] * dx - (xw * inverse)[triangle] * dy
    b2 = (xu * inverse)[triangle] * dy - (yu * inverse)[triangle] * dx
    out = np.take(values, corners.index[0][triangle], axis=0)
    out *= (1 - b1 - b2)[:, None]
    out += np.take(values, corners.index[1][triangle], axis=0) * b1[:, None]
    out += np.take(values, corners.index[2][triangle], axis=0) * b2[:, None]
    return out
