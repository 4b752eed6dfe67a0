"""Hair as a shell over the skull: how far it reaches, how thick it is, and which part of it is strand or gap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from demo.head import bare_head
from demo.identity import Identity
from demo.surfaces import Mesh, ellipsoid, grid_normals, grid_triangles, joined, smoothstep


@dataclass(frozen=True)
class Style:
    """Lengths in cm; `ends` is the height at which the hair behind the ears ends; `fall` lets it hang straight."""

    top: float
    side: float
    ends: float
    fall: float = 0.0
    lumps: float = 0.05
    part: float = 0.0
    covers_ears: bool = False
    fringe: float = 0.0  # cm that the hair comes down over the forehead
    receding: float = 0.0
    bun: bool = False


STYLES = {
    "short": Style(1.25, 0.75, -7.0, lumps=0.16, fringe=0.2),
    "side_part": Style(1.7, 0.95, -7.5, lumps=0.14, part=2.6),
    "crop": Style(0.45, 0.30, -7.0, lumps=0.03),
    "curly": Style(2.5, 1.9, -8.0, lumps=0.75, covers_ears=False, fringe=0.8),
    "bob": Style(1.5, 1.7, -10.5, fall=1.0, lumps=0.10, covers_ears=True, fringe=3.2),
    "long": Style(1.5, 1.6, -24.0, fall=1.0, lumps=0.22, part=0.8, covers_ears=True),
    "bun": Style(0.75, 0.6, -7.5, lumps=0.05, bun=True),
    "receding": Style(0.7, 0.55, -7.0, lumps=0.08, receding=1.0),
}
# the hairline of a short cut: angle from the front (radians) and height (cm); then temple, sideburn, ear, nape
_LINE_ALPHA = [0.0, 0.40, 0.62, 0.80, 0.95, 1.08, 1.20, 1.42, 1.52, 1.85, 2.0, 2.4, 3.15]
_LINE_Y = [7.0, 6.9, 6.1, 4.5, 2.6, 0.9, -1.6, -1.9, 1.6, 1.6, -3.5, -6.8, -8.3]


def hairline(alpha: np.ndarray, who: Identity, style: Style, age: float) -> np.ndarray:
    """Height (cm) at which the hair begins, for each angle from the front."""
    a = np.abs(alpha)
    line = np.interp(a, _LINE_ALPHA, _LINE_Y)
    front = smoothstep(1.0, 0.6, a)
    line = line + front * who.hair_line * who.head_height
    old = np.clip((age - 40) / 40, 0, 1) * (0.6 if style.covers_ears or style.bun else 1.2)
    line = line + old * front * np.exp(-(((a - 0.55) / 0.28) ** 2)) * 1.4
    line = line + style.receding * front * (2.8 + 1.6 * np.exp(-(((a - 0.5) / 0.25) ** 2)))
    line = line - style.fringe * smoothstep(0.95, 0.6, a) * (1 + 0.25 * np.sin(7 * alpha + 2.0))
    line = np.where(a > 1.9, np.maximum(line, style.ends), line)
    if style.fall:
        drop = smoothstep(0.86, 1.06, a + 0.03 * np.sin(9 * alpha))
        line = line * (1 - drop) + style.ends * drop
    return line


def _waves(alpha: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """A smooth field in -1..1 over the shell, from a few waves."""
    rng = np.random.default_rng(seed)
    field = np.zeros(np.broadcast(alpha, y).shape)
    for _ in range(9):
        k = rng.integers(3, 17)
        field += np.sin(k * alpha + rng.uniform(0.5, 2.2) * y + rng.uniform(0, 6.3)) * rng.uniform(0.3, 1.0)
    return field / 3.2


def _shell(who: Identity, age: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bare head resampled: angles (A,), heights (Y,) from crown down, positions (Y, A, 3)."""
    bare = bare_head(who, age)
    cols = np.unique(
        np.concatenate(
            [
                np.arange(0, 31, 1),
                np.arange(31, len(bare.alpha) - 32, 3),
                np.arange(len(bare.alpha) - 32, len(bare.alpha)),
            ]
        )
    )
    crown = float(bare.points[0, 0, 1])
    heights = np.concatenate([crown - (crown + 0.5) * (np.linspace(0, 1, 34) ** 1.9), np.linspace(-1.0, -24.0, 38)])
    grid = np.empty((len(heights), len(cols), 3))
    for j, c in enumerate(cols):
        y = bare.points[::-1, c, 1]
        order = np.maximum.accumulate(y)
        grid[:, j, 0] = np.interp(heights, order, bare.points[::-1, c, 0])
        grid[:, j, 2] = np.interp(heights, order, bare.points[::-1, c, 2])
    grid[..., 1] = heights[:, None]
    grid[0] = bare.points[0, 0]
    return bare.alpha[cols], heights, grid


@lru_cache(maxsize=64)
def build_hair(who: Identity, age: float, name: str) -> Mesh | None:
    """Extra: angle times 8 cm (+ sway), way from the crown (cm), cover (cm inside the hair's edge), height."""
    if name == "bald":
        return None
    style = STYLES[name]
    alpha, heights, skull = _shell(who, age)
    a, y = alpha[None], heights[:, None]
    if style.fall:  # from the widest place on, hair hangs
        radius = np.hypot(skull[..., 0], skull[..., 2] + 1.5)
        hung = np.maximum.accumulate(radius, axis=0) * (1 - 0.012 * np.maximum(-y - 3, 0))
        tuck = 0.85 * smoothstep(2.1, 1.15, np.abs(a)) * smoothstep(-13.0, -8.0, y)
        hung = hung * (1 - tuck) + radius * tuck
        scale = np.where(np.abs(a) > 0.7, hung / np.maximum(radius, 1e-6), 1.0)
        skull = np.stack([skull[..., 0] * scale, skull[..., 1], (skull[..., 2] + 1.5) * scale - 1.5], -1)
    line = hairline(a, who, style, age) + 0 * y
    cover = y - line
    top = smoothstep(3.0, 8.5, y + 0 * a)
    thick = (style.side + (style.top - style.side) * top) * who.hair_volume
    wave = _waves(a, y, int(who.moles) + 7)
    thick = thick * (1 + 0.25 * wave) + style.lumps * wave * np.clip(cover, 0, 1)
    if style.lumps > 0.5:
        thick = thick + 0.34 * _waves(3.1 * a, 2.6 * y, int(who.moles) + 8)
    if style.part:  # more hair on one side of the parting
        side = 1 if int(who.moles) % 2 else -1
        groove = (
            np.exp(-(((skull[..., 0] * side - style.part) / 0.35) ** 2)) * smoothstep(-3.0, 1.0, skull[..., 2]) * top
        )
        thick = thick * (1 + 0.3 * np.tanh((style.part - skull[..., 0] * side) / 1.5) * top) - 0.7 * groove
    ramp = 1 - np.exp(-np.maximum(cover, 0) / 1.1)
    if style.fall:  # thin along the edge beside the face
        beside = 1 - 0.75 * np.exp(-np.maximum(np.abs(a) - 0.92, 0) * 8 / 1.6)
        low = smoothstep(3.0, -1.0, y + 0 * a)
        ramp = np.where(np.abs(a) > 0.9, (1 - np.exp(-np.maximum(cover, 0) / 0.5)) * (beside * low + 1 - low), ramp)
    thick = np.maximum(thick, 0.1) * ramp + 0.03
    normal = grid_normals(skull)
    normal[0] = (0, 1, 0)
    thick[0] = thick[0].mean()
    points = skull + normal * thick[..., None]
    if style.fall:
        sway = 0.5 * np.sin(y * 0.55 + 3 * a) * smoothstep(-4, -14, y + 0 * a)
        points[..., 0] += sway
        points[..., 2] += 0.4 * np.sin(y * 0.4 + 2 * a) * smoothstep(-4, -14, y + 0 * a)
    along = np.concatenate(
        [np.zeros((1, len(alpha))), np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=-1), axis=0)]
    )
    extra = np.stack([a * 8 + 0.5 * wave, along, cover, y + 0 * a], -1)
    rows, cols = cover.shape
    triangles = grid_triangles(rows, cols)
    mesh = Mesh(
        points.reshape(-1, 3),
        grid_normals(points).reshape(-1, 3),
        _alive(triangles, cover, -0.8),
        extra.reshape(-1, 4),
        "hair",
        _alive(grid_triangles(rows, cols, every=(2, 2)), cover, 0.3),
    )
    return _with_bun(mesh, who) if style.bun else mesh


def _alive(triangles: np.ndarray, cover: np.ndarray, least: float) -> np.ndarray:
    return triangles[cover.reshape(-1)[triangles].max(1) > least]


def _with_bun(mesh: Mesh, who: Identity) -> Mesh:
    ball = ellipsoid(
        np.array([0.0, 10.3 * who.head_height, -8.2]), np.array([3.3, 3.1, 3.0]) * who.hair_volume**0.5, "hair", 20, 36
    )
    turn = np.arctan2(ball.points[:, 1] - 10.3, ball.points[:, 0])
    extra = np.stack([ball.extra[:, 1] * 2.0, turn * 3.0, np.full(len(turn), 5.0), np.full(len(turn), 9.0)], -1)
    return joined([mesh, Mesh(ball.points, ball.normals, ball.triangles, extra, "hair")], "hair")


def hair_colour(who: Identity, age: float) -> np.ndarray:
    """Linear RGB of the pigment, greyed by age."""
    stops = np.array(
        [[0.86, 0.70, 0.44], [0.66, 0.46, 0.24], [0.40, 0.25, 0.13], [0.23, 0.15, 0.095], [0.115, 0.09, 0.08]]
    )
    place = who.hair_dark * 4
    colour = np.array([np.interp(place, range(5), stops[:, k]) for k in range(3)])
    red = max(who.hair_red - 0.72, 0) / 0.28 * (1 - who.hair_dark) * 1.2
    colour = colour * (1 - red * 0.7) + np.array([0.62, 0.26, 0.10]) * red * 0.7
    return colour**2.2


def grey_share(age: float) -> float:
    """How much of the hair has lost its pigment."""
    return float(smoothstep(34.0, 74.0, np.array(age)))
