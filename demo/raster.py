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
    width, height = size_wh
    x, y = np.ascontiguousarray(xy[:, 0], np.float32), np.ascontiguousarray(xy[:, 1], np.float32)
    z = np.ascontiguousarray(depth, np.float32)
    corners = [np.ascontiguousarray(triangles[:, k]) for k in range(3)]
    x0, x1, x2 = (x[c] for c in corners)
    y0, y1, y2 = (y[c] for c in corners)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    front = np.abs(area) > 1e-6 if both_sides else area < -1e-6
    top = np.maximum(np.ceil(np.minimum(np.minimum(y0, y1), y2) - 0.5), 0)
    bottom = np.minimum(np.ceil(np.maximum(np.maximum(y0, y1), y2) - 0.5), height)
    chosen = np.flatnonzero(
        front & (bottom > top) & (np.maximum(np.maximum(x0, x1), x2) > 0) & (np.minimum(np.minimum(x0, x1), x2) < width)
    )
    corners = [c[chosen] for c in corners]
    ahead = (z[corners[0]] > 1.0) & (z[corners[1]] > 1.0) & (z[corners[2]] > 1.0)
    if not ahead.all():
        chosen, corners = chosen[ahead], [c[ahead] for c in corners]
    x0, x1, x2 = x0[chosen], x1[chosen], x2[chosen]
    y0, y1, y2 = y0[chosen], y1[chosen], y2[chosen]
    z0, z1, z2 = (z[c] for c in corners)
    area, top = area[chosen], top[chosen].astype(np.int32)
    owner, step = _runs(bottom[chosen].astype(np.int32) - top)

    # rows: the long edge (top to bottom corner) on one side, one of the two short edges on the other
    def ordered(ya: np.ndarray, xa: np.ndarray, yb: np.ndarray, xb: np.ndarray) -> tuple[np.ndarray, ...]:
        swap = yb < ya
        return np.where(swap, yb, ya), np.where(swap, xb, xa), np.where(swap, ya, yb), np.where(swap, xa, xb)

    ya, xa, yb, xb = ordered(y0, x0, y1, x1)
    yb, xb, yc, xc = ordered(yb, xb, y2, x2)
    ya, xa, yb, xb = ordered(ya, xa, yb, xb)

    def edge(ys: np.ndarray, xs: np.ndarray, ye: np.ndarray, xe: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope = (xe - xs) / np.maximum(ye - ys, np.float32(1e-6))
        return xs + slope * (np.float32(0.5) - ys), slope

    line = (top[owner] + step).astype(np.float32)
    start, slope = edge(ya, xa, yc, xc)
    long_side = start[owner] + slope[owner] * line
    upper, lower = edge(ya, xa, yb, xb), edge(yb, xb, yc, xc)
    which = owner + np.int32(len(top)) * (line + np.float32(0.5) >= yb[owner])
    short_side = np.concatenate([upper[0], lower[0]])[which] + np.concatenate([upper[1], lower[1]])[which] * line
    left, right = np.minimum(long_side, short_side), np.maximum(long_side, short_side)
    first = np.maximum(np.ceil(left - 0.5), 0)
    last = np.minimum(np.ceil(right - 0.5), width)
    full = np.flatnonzero(last > first)
    owner, line, first = owner[full], line[full], first[full]
    row, step = _runs((last[full] - first).astype(np.int32))

    # pixels: depth is a plane over each triangle
    inverse = 1.0 / area
    xu, yu, xw, yw = x1 - x0, y1 - y0, x2 - x0, y2 - y0
    zu, zw = z1 - z0, z2 - z0
    zx, zy = (zu * yw - zw * yu) * inverse, (zw * xu - zu * xw) * inverse
    half = np.float32(0.5)
    z_base = z0 + zx * (half - x0) + zy * (half - y0)
    along = zx[owner]
    z_row = z_base[owner] + along * first + zy[owner] * line
    pixel = (line.astype(np.int32) * width + first.astype(np.int32))[row] + step
    z_pixel = z_row[row] + along[row] * step.astype(np.float32)
    nearest = np.full(width * height, np.inf, np.float32)
    np.minimum.at(nearest, pixel, z_pixel)
    won = np.flatnonzero(z_pixel <= nearest[pixel])
    pixel, z_pixel, tri = pixel[won], z_pixel[won], owner[row[won]]
    # two triangles of equal depth: the later one stays
    slot = np.empty(width * height, np.int32)
    slot[pixel] = np.arange(len(pixel), dtype=np.int32)
    only = np.flatnonzero(slot[pixel] == np.arange(len(pixel), dtype=np.int32))
    if len(only) < len(pixel):
        pixel, z_pixel, tri = pixel[only], z_pixel[only], tri[only]
    if values is None:
        return Fragments(pixel, z_pixel, np.zeros((len(pixel), 0), np.float32))

    line = pixel // width
    dx = (pixel - line * width).astype(np.float32) + (half - x0)[tri]
    dy = line.astype(np.float32) + (half - y0)[tri]
    b1 = (yw * inverse)[tri] * dx - (xw * inverse)[tri] * dy
    b2 = (xu * inverse)[tri] * dy - (yu * inverse)[tri] * dx
    out = np.take(values, corners[0][tri], axis=0)
    out *= (1 - b1 - b2)[:, None]
    out += np.take(values, corners[1][tri], axis=0) * b1[:, None]
    out += np.take(values, corners[2][tri], axis=0) * b2[:, None]
    return Fragments(pixel, z_pixel, out)
