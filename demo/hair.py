"""Hair as a shell over the skull: how far it reaches, how thick it is, and which part of it is strand or gap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from demo.head import bare_head
from demo.identity import Identity
from demo.surfaces import Mesh, bump, ellipsoid, grid_normals, grid_triangles, joined, smoothstep


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
    rise: float = 0.7  # cm behind the front edge within which the hair gains its thickness
    ragged: float = 0.6  # how unevenly the hair ends at its edge, a share of 0.2 cm
    sweep: float = 0.0  # 0..1, how far strands above the forehead fall to the sides instead of forward


STYLES = {
    "short": Style(1.35, 0.55, -7.0, lumps=0.10, rise=1.5, sweep=0.5),
    "side_part": Style(1.9, 0.55, -7.5, lumps=0.10, part=2.6, rise=1.3, sweep=1.0),
    "crop": Style(0.45, 0.25, -7.0, lumps=0.02, rise=0.9, ragged=0.45),
    "curly": Style(2.3, 1.6, -8.0, lumps=0.45, covers_ears=False, fringe=0.5, rise=0.9, ragged=0.35),
    "bob": Style(1.35, 1.3, -10.5, fall=1.0, lumps=0.05, covers_ears=True, fringe=2.9, rise=0.45, ragged=1.0),
    "long": Style(1.35, 1.2, -24.0, fall=1.0, lumps=0.08, part=0.8, covers_ears=True, rise=0.6, sweep=1.0),
    "bun": Style(0.75, 0.55, -7.5, lumps=0.03, bun=True, rise=1.3, ragged=0.4),
    "receding": Style(0.7, 0.5, -7.0, lumps=0.05, receding=1.0, rise=1.2, sweep=0.4),
}
# the hairline of a short cut: angle from the front (radians) and height (cm); then temple, sideburn, ear, nape
_LINE_ALPHA = [0.0, 0.20, 0.40, 0.60, 0.80, 0.95, 1.08, 1.24, 1.34, 1.50, 1.85, 2.0, 2.4, 3.15]
_LINE_Y = [7.5, 7.45, 7.1, 6.4, 5.2, 3.8, 2.2, 0.0, -0.3, 1.0, 1.6, -3.5, -6.8, -8.3]


def hairline(alpha: np.ndarray, who: Identity, style: Style, age: float) -> np.ndarray:
    """Height (cm) at which the hair begins, for each angle from the front."""
    a = np.abs(alpha)
    line = np.interp(a, _LINE_ALPHA, _LINE_Y)
    front = smoothstep(1.0, 0.6, a)
    line = line + front * who.hair_line * who.head_height
    old = np.clip((age - 40) / 40, 0, 1) * (0.6 if style.covers_ears or style.bun else 1.2)
    line = line + old * front * np.exp(-(((a - 0.55) / 0.28) ** 2)) * 1.4
    line = line + style.receding * front * (2.8 + 1.6 * np.exp(-(((a - 0.5) / 0.25) ** 2)))
    line = line - 0.7 * style.sweep * front * np.sin(2.2 * alpha) * _heavy_side(who) * (not style.fall)
    line = line - style.fringe * smoothstep(1.05, 0.55, a) * (1 + 0.08 * np.sin(7 * alpha + 2.0))
    line = np.where(a > 1.9, np.maximum(line, style.ends), line)
    if style.fall:
        drop = smoothstep(0.72 if style.fringe else 0.62, 1.02, a + 0.02 * np.sin(9 * alpha)) ** 2
        ends = style.ends + 0.35 * np.sin(19 * alpha) + 0.25 * np.sin(43 * alpha + 1.0)
        line = line * (1 - drop) + ends * drop
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
    hollow = who.temple_hollow * bump(8.0 * bare.alpha[cols][None], heights[:, None], (6.0, 2.8), (1.9, 2.2))
    grid[..., 0] -= np.sign(bare.alpha[cols]) * hollow
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
        hung = np.maximum.accumulate(radius, axis=0) * (1 + 0.003 * np.maximum(-y - 3, 0))
        tuck = 0.60 * smoothstep(1.6, 0.95, np.abs(a)) * smoothstep(3.0, -5.0, y)
        hung = hung * (1 - tuck) + radius * tuck
        scale = 1 + (hung / np.maximum(radius, 1e-6) - 1) * smoothstep(0.55, 0.95, np.abs(a))
        skull = np.stack([skull[..., 0] * scale, skull[..., 1], (skull[..., 2] + 1.5) * scale - 1.5], -1)
    line = hairline(alpha, who, style, age)
    cover = (y - line[None]) / np.hypot(1, np.gradient(line, 8 * alpha))[
        None
    ]  # across the edge, also where it is steep
    points = skull + _outward(skull) * _thickness(who, style, a, y, skull, cover)[..., None]
    if style.fall:
        sway = 0.35 * np.sin(y * 0.55 + 3 * a) * smoothstep(-4, -14, y + 0 * a)
        points[..., 0] += sway
        points[..., 2] += 0.3 * np.sin(y * 0.4 + 2 * a) * smoothstep(-4, -14, y + 0 * a)
    along = np.concatenate(
        [np.zeros((1, len(alpha))), np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=-1), axis=0)]
    )
    above = np.maximum(y - 7.5 + 5.5 * a**2, -1.0)  # a smooth stand-in for the hairline
    aside = 4.0 * style.sweep * (1 - np.exp(-(above + 1) / 4.0)) * np.tanh(6 * (a - _parting(who, style)))
    across = a * 8 + 2.6 * aside + 0.15 * _waves(a, y, int(who.moles) + 7)
    extra = np.stack([across, along, cover, y + 0 * a], -1)
    rows, cols = cover.shape
    triangles = grid_triangles(rows, cols)
    mesh = Mesh(
        points.reshape(-1, 3),
        _outward(points).reshape(-1, 3),
        _alive(triangles, cover, -0.4),
        extra.reshape(-1, 4),
        "hair",
        _alive(grid_triangles(rows, cols, every=(2, 2)), cover, 0.3),
    )
    return _with_bun(mesh, who) if style.bun else mesh


def _outward(points: np.ndarray) -> np.ndarray:
    """Normals (R, C, 3) of a shell whose first and last column are one seam at the back."""
    normal = grid_normals(points)
    normal[0] = (0, 1, 0)
    seam = normal[:, :1] + normal[:, -1:]
    normal[:, (0, -1)] = seam / np.maximum(np.linalg.norm(seam, axis=-1, keepdims=True), 1e-9)
    return normal


def _heavy_side(who: Identity) -> int:
    """1 when most hair lies at the image's right of the parting, else -1."""
    return 1 if int(who.moles) % 2 else -1


def _parting(who: Identity, style: Style) -> float:
    """Angle from the front (radians) at which the strands above the forehead divide."""
    return 0.0 if style.fall else -0.35 * _heavy_side(who)


def _thickness(
    who: Identity, style: Style, a: np.ndarray, y: np.ndarray, skull: np.ndarray, cover: np.ndarray
) -> np.ndarray:
    """(Y, A) cm of hair over the skull."""
    top = smoothstep(3.0, 8.5, y + 0 * a)
    thick = (style.side + (style.top - style.side) * top) * who.hair_volume
    wave = _waves(a, y, int(who.moles) + 7)
    thick = thick * (1 + 0.14 * wave) + style.lumps * wave * np.clip(cover, 0, 1)
    if style.lumps > 0.4:
        thick = thick + 0.30 * _waves(3 * a, 2.6 * y, int(who.moles) + 8)
    if style.part:  # more hair on one side of the parting
        off = skull[..., 0] * _heavy_side(who) - style.part
        groove = np.exp(-((off / 0.45) ** 2)) * smoothstep(-3.0, 1.0, skull[..., 2]) * top
        thick = thick * (1 - 0.3 * np.tanh(off / 1.5) * top) * (1 - 0.30 * groove)
    rise = 0.7 + (style.rise - 0.7) * smoothstep(1.4 if not style.fall else 1.0, 0.7, np.abs(a))
    ramp = 1 - np.exp(-np.maximum(cover, 0) / rise)
    if style.fall:  # thin along the edge beside the face
        beside = 1 - 0.6 * np.exp(-np.maximum(np.abs(a) - 0.92, 0) * 8 / 1.6)
        low = smoothstep(3.0, -1.0, y + 0 * a)
        ramp = np.where(np.abs(a) > 0.9, (1 - np.exp(-np.maximum(cover, 0) / 0.5)) * (beside * low + 1 - low), ramp)
    thick = np.maximum(thick, 0.1) * ramp + 0.03 - 0.12 * np.exp(-np.maximum(cover, 0) / 0.2)  # rooted in the skin
    thick[0] = thick[0].mean()
    return thick


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
