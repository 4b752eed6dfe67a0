"""Mesh building blocks: grids, tubes, ellipsoids, their normals. Centimetres; x right, y up, z to the camera."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Mesh:
    """One part: vertices (N, 3), normals (N, 3), triangles (T, 3), texture coordinates or other values (N, K)."""

    points: np.ndarray
    normals: np.ndarray
    triangles: np.ndarray
    extra: np.ndarray
    material: str
    coarse: np.ndarray | None = None  # few triangles over the same points, for shadows
    medium: np.ndarray | None = None  # about half of them, for small pictures

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> Mesh:
        turn = rotation.T.astype(np.float32)
        return replace(self, points=self.points @ turn + shift.astype(np.float32), normals=self.normals @ turn)

    def __post_init__(self) -> None:
        for name in ("points", "normals", "extra"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))


def bump(u: np.ndarray, v: np.ndarray, at: tuple[float, float], width: tuple[float, float]) -> np.ndarray:
    """Gaussian of height 1; `at` u > 0 stands for both sides."""
    return np.exp(-(((np.abs(u) - at[0]) / width[0]) ** 2) - ((v - at[1]) / width[1]) ** 2)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=64)
def grid_triangles(
    rows: int, cols: int, closed: bool = False, skip_row: int = -1, every: tuple[int, int] = (1, 1)
) -> np.ndarray:
    """Two triangles a cell of a row-major grid seen from outside (row 0 on top, columns to the right).

    `every` takes only each n-th row and column (and the last); `skip_row` leaves a slit below that row.
    """
    index = np.arange(rows * cols, dtype=np.int32).reshape(rows, cols)
    slit = [skip_row, skip_row + 1] if skip_row >= 0 else []
    used = np.unique(np.r_[0 : rows : every[0], rows - 1, slit].astype(int))
    index = index[np.ix_(used, np.unique(np.r_[0 : cols : every[1], cols - 1]))]
    right = np.roll(index, -1, axis=1) if closed else index[:, 1:]
    left = index if closed else index[:, :-1]
    keep = used[:-1] != skip_row
    a, b = left[:-1][keep], right[:-1][keep]
    c, d = left[1:][keep], right[1:][keep]
    return np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])


def grid_normals(points: np.ndarray, closed: bool = False) -> np.ndarray:
    """Unit normals (R, C, 3) of a grid (R, C, 3): columns run right, rows run down, outside is to the viewer."""
    if closed:
        wrapped = np.concatenate([points[:, -1:], points, points[:, :1]], axis=1)
        along = wrapped[:, 2:] - wrapped[:, :-2]
    else:
        along = np.gradient(points, axis=1)
    down = np.gradient(points, axis=0)
    normal = np.cross(down, along)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = normal / np.maximum(length, 1e-9)
    if length[0].max() < 1e-6 or np.ptp(points[0], axis=0).max() < 1e-6:  # a pole: all columns share one normal
        pole = normal[1].mean(0)
        normal[0] = pole / max(np.linalg.norm(pole), 1e-9)
    return normal


def grid_mesh(points: np.ndarray, extra: np.ndarray, material: str, closed: bool = False) -> Mesh:
    rows, cols = points.shape[:2]
    return Mesh(
        points.reshape(-1, 3),
        grid_normals(points, closed).reshape(-1, 3),
        grid_triangles(rows, cols, closed),
        extra.reshape(rows * cols, -1),
        material,
    )


def tube(path: np.ndarray, radii: np.ndarray, material: str, sides: int = 12, flat: float = 1.0) -> Mesh:
    """A round tube along `path` (K, 3); `flat` < 1 squeezes it in the direction nearest to z. Ends are rounded."""
    path, radii = np.asarray(path, float), np.asarray(radii, float)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    caps = np.array([0.0, 0.6, 0.9])
    head = path[:1] - tangent[:1] * radii[0] * np.sqrt(1 - caps[:, None] ** 2) * 0.9
    tail = path[-1:] + tangent[-1:] * radii[-1] * np.sqrt(1 - caps[::-1, None] ** 2) * 0.9
    path = np.concatenate([head, path, tail])
    tangent = np.concatenate([np.repeat(tangent[:1], 3, 0), tangent, np.repeat(tangent[-1:], 3, 0)])
    radii = np.concatenate([radii[0] * caps, radii, radii[-1] * caps[::-1]])
    helper = np.where(np.abs(tangent[:, 2:]) > 0.85, np.array([[0.0, 1.0, 0.0]]), np.array([[0.0, 0.0, 1.0]]))
    side = np.cross(tangent, helper)
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
    depth = np.cross(side, tangent)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = side[:, None] * np.cos(angle)[None, :, None] + depth[:, None] * np.sin(angle)[None, :, None] * flat
    points = path[:, None] + ring * radii[:, None, None]
    u = np.broadcast_to(angle[None] * max(radii.max(), 0.1), points.shape[:2])
    v = np.broadcast_to(np.cumsum(np.r_[0, np.linalg.norm(np.diff(path, axis=0), axis=1)])[:, None], points.shape[:2])
    return outward(grid_mesh(points, np.stack([u, v], -1), material, closed=True), path, sides)


def outward(mesh: Mesh, path: np.ndarray, sides: int) -> Mesh:
    """Turn a tube inside out if its normals point at its axis."""
    centre = np.repeat(path, sides, axis=0)
    if np.mean(np.sum((mesh.points - centre) * mesh.normals, axis=1)) < 0:
        return replace(mesh, normals=-mesh.normals, triangles=mesh.triangles[:, ::-1])
    return mesh


def ellipsoid(centre: np.ndarray, radii: np.ndarray, material: str, rows: int = 18, cols: int = 28) -> Mesh:
    """Texture coordinates: longitude (0 in front, grows to the right) and height, both in centimetres."""
    lat = np.linspace(0, np.pi, rows)[:, None]
    lon = np.linspace(-np.pi, np.pi, cols, endpoint=False)[None, :]
    unit = np.stack([np.sin(lat) * np.sin(lon), np.cos(lat) * np.ones_like(lon), np.sin(lat) * np.cos(lon)], -1)
    points = unit * np.asarray(radii) + np.asarray(centre)
    normals = unit / np.asarray(radii)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    extra = np.stack([np.broadcast_to(lon, unit.shape[:2]) * radii[0], unit[..., 1] * radii[1]], -1)
    return Mesh(
        points.reshape(-1, 3), normals.reshape(-1, 3), grid_triangles(rows, cols, True), extra.reshape(-1, 2), material
    )


def joined(meshes: list[Mesh], material: str) -> Mesh:
    """Several meshes of one material as one."""
    starts = np.cumsum([0] + [len(m.points) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.points for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.triangles + s for m, s in zip(meshes, starts, strict=True)]).astype(np.int32),
        np.concatenate([m.extra for m in meshes]),
        material,
    )


def rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """Rz(roll) Ry(yaw) Rx(pitch): first pitched, then yawed, then rolled.

    yaw > 0: the nose points to the image's right; pitch > 0: the face looks up; roll > 0: the crown moves to the
    image's right. Frame: x right, y up, z towards the camera.
    """
    a, b, c = np.radians([pitch_deg, yaw_deg, roll_deg])
    rx = np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), np.sin(c), 0], [-np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx
