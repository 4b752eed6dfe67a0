"""The head and neck of an identity: rings from the crown to the base of the neck, then features laid on them.

Features live in surface coordinates: u runs along a ring from the middle of the face (cm, to the image's right), v is
the height above the eyes on the ring before features (cm). Centimetres; x right, y up, z towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from demo.expressions import Expression, express
from demo.identity import Identity
from demo.surfaces import Mesh, bump, grid_normals, grid_triangles, smoothstep

# One ring a row: front (y, z), half width, side (y, z), back (y, z), exponent of the superellipse (2 is an ellipse).
# An adult head of 23 cm. The front half was fitted by least squares to 159 points of a mean face (the canonical face of
# MediaPipe's face mesh, scaled to 6.0 cm between the pupils; 0.08 cm root mean square, nose and lips left out), then
# the jaw was narrowed by eye on pictures.
RINGS = np.array(
    [
        [11.2, -1.0, 0.02, 11.2, -1.0, 11.2, -1.02, 2.0],
        [10.95, 1.8, 3.4, 10.7, -1.2, 10.7, -4.4, 2.0],
        [10.0, 4.3, 5.4, 9.3, -1.4, 9.1, -7.5, 1.95],
        [8.5, 6.2, 6.75, 7.4, -1.6, 6.9, -9.4, 2.04],
        [6.1, 7.55, 7.45, 5.3, -1.8, 4.6, -10.3, 2.20],
        [3.8, 8.32, 7.70, 3.4, -1.6, 2.2, -10.4, 2.45],
        [1.9, 8.50, 7.62, 1.9, -1.3, 0.4, -10.1, 2.60],
        [0.2, 8.10, 7.58, 0.5, -1.0, -1.2, -9.6, 2.49],
        [-2.2, 7.65, 7.58, -1.4, -0.8, -3.0, -8.8, 2.32],
        [-4.6, 8.14, 7.40, -3.0, -0.7, -4.6, -8.0, 2.25],
        [-6.9, 8.35, 6.98, -4.6, -0.6, -6.2, -7.4, 2.02],
        [-8.8, 8.40, 6.45, -6.0, -0.6, -7.6, -7.0, 1.90],
        [-10.2, 8.35, 5.75, -7.1, -0.7, -8.8, -6.8, 1.84],
        [-11.0, 7.50, 5.20, -8.0, -1.0, -9.8, -6.7, 1.82],
        [-11.45, 6.10, 4.86, -8.8, -1.6, -10.6, -6.7, 1.89],
        [-11.8, 3.7, 4.90, -9.8, -2.2, -11.6, -6.8, 1.97],
        [-12.8, 2.1, 5.25, -11.4, -2.6, -12.8, -6.9, 2.0],
        [-15.5, 1.9, 5.7, -14.5, -2.8, -15.0, -7.1, 2.0],
        [-20.0, 1.8, 7.2, -19.0, -3.0, -19.0, -7.6, 2.0],
    ]
)
ROWS_BETWEEN = (4, 4, 5, 6, 8, 9, 12, 14, 16, 14, 12, 8, 7, 5, 4, 3, 4, 4)
_MENTON = 13  # ring of the chin's underside; below it v counts the way along the surface
NECK_PIVOT = np.array([0.0, -7.5, -2.5])


@dataclass(frozen=True)
class Layout:
    """Where an identity's features lie in (u, v), cm; one place for the mesh, the skin's paint and the landmarks."""

    eye_u: float
    eye_v: float
    eye_half: float  # half the width of the opening
    eye_tilt: float  # radians
    lid_up: float  # height of the opening above and below the line between the corners
    lid_down: float
    brow_v: float
    tip_v: float
    base_v: float  # under the nose
    mouth_v: float
    mouth_half: float
    upper_lip: float
    lower_lip: float
    chin_v: float
    nose_half: float


def layout(who: Identity, age: float) -> Layout:
    old = np.clip((age - 35) / 45, 0, 1)
    eye_v = 0.0 + who.eye_height
    root_v = eye_v + 0.5
    tip_v = root_v - who.nose_length - 0.25 * old
    base_v = tip_v - 0.95 + 0.25 * who.nose_tip_up
    mouth_v = min(-6.05 + 0.8 * who.mouth_height, base_v - 1.15)
    thin = 1 - 0.35 * old
    return Layout(
        eye_u=who.eye_spacing,
        eye_v=eye_v,
        eye_half=1.50 * who.eye_size,
        eye_tilt=np.radians(who.eye_tilt),
        lid_up=0.43 * who.eye_size * who.eye_open * (1 - 0.18 * old),
        lid_down=0.44 * who.eye_size * who.eye_open,
        brow_v=eye_v + 1.95 + 0.6 * who.brow_height - 0.22 * old,
        tip_v=tip_v,
        base_v=base_v,
        mouth_v=mouth_v,
        mouth_half=who.mouth_width,
        upper_lip=who.upper_lip * thin,
        lower_lip=who.lower_lip * thin,
        chin_v=-9.9 + who.chin_length,
        nose_half=who.nose_width,
    )


def _ring_table(who: Identity, age: float) -> np.ndarray:
    """RINGS bent by the identity's large shapes."""
    ring = RINGS.copy()
    up = smoothstep(0.0, 9.0, ring[:, 0])
    for col in (0, 3, 5):
        ring[:, col] = np.where(ring[:, col] > 0, ring[:, col] * who.head_height, ring[:, col])
    ring[:, 1] += who.forehead_slope * up * (ring[:, 1] > 0) * smoothstep(11.8, 10.0, ring[:, 0])
    ring[:, 6] = np.where(ring[:, 0] > -11.5, -1 + (ring[:, 6] + 1) * who.head_depth, ring[:, 6])
    row = np.arange(len(ring))
    jaw = np.interp(row, [8, 9, 10, 11, 12, 13, 14, 15], [0, 0.25, 0.65, 1, 1, 1, 0.7, 0])
    cheek = np.interp(row, [5, 7, 8, 9, 11], [0, 0.8, 1, 0.7, 0])
    neck = np.interp(row, [14, 16, 18], [0, 1, 0.8])
    ring[:, 2] *= who.head_width * (1 + (who.jaw_width - 1) * jaw) * (1 + (who.cheek_width - 1) * cheek)
    ring[:, 2] *= 1 + (who.neck_width - 1) * neck
    ring[:, 3] += np.interp(row, [9, 11, 13, 15], [0, 1, 1, 0]) * who.jaw_drop
    chin = np.interp(row, [10, 12, 13, 14, 15, 16], [0, 0.8, 1, 1, 0.6, 0])
    ring[:, 0] += who.chin_length * chin
    ring[:, 1] += (who.chin_forward - 0.2) * np.interp(row, [10, 12, 13, 14, 16], [0, 1, 1, 0.8, 0])
    ring[:, 7] += np.interp(row, [10, 12, 13], [0, 0.25, 0.3]) * (who.chin_width - 1)
    sag = np.clip((age - 40) / 40, 0, 1)
    ring[:, 0] -= sag * 0.5 * np.interp(row, [13, 14, 15, 16], [0, 0.6, 1, 0.4])
    ring[:, 1] += sag * 0.8 * np.interp(row, [14, 15, 16], [0, 1, 0.5])
    return ring


def _spline_rows() -> np.ndarray:
    """(rows, rings) Catmull-Rom weights that turn the ring table into the grid's rows."""
    count = len(RINGS)
    rows = []
    for i, steps in enumerate(ROWS_BETWEEN):
        last = i == count - 2
        for t in np.linspace(0, 1, steps, endpoint=False).tolist() + ([1.0] if last else []):
            w = np.zeros(count)
            t2, t3 = t * t, t * t * t
            for k, part in zip(
                (i - 1, i, i + 1, i + 2),
                ((-t3 + 2 * t2 - t), (3 * t3 - 5 * t2 + 2), (-3 * t3 + 4 * t2 + t), (t3 - t2)),
                strict=True,
            ):
                w[min(max(k, 0), count - 1)] += part / 2
            rows.append(w)
    return np.array(rows)


_SPLINE = _spline_rows()
_ALPHA = np.concatenate(
    [
        np.linspace(-np.pi, -1.65, 13, endpoint=False),
        np.linspace(-1.65, -0.78, 18, endpoint=False),
        np.linspace(-0.78, 0.78, 85, endpoint=False),
        np.linspace(0.78, 1.65, 18, endpoint=False),
        np.linspace(1.65, np.pi, 14),
    ]
)


@dataclass(frozen=True)
class Bare:
    """The rings without features: points (R, C, 3), surface coordinates u, v (R, C), the angle of each column."""

    points: np.ndarray
    u: np.ndarray
    v: np.ndarray
    alpha: np.ndarray


@lru_cache(maxsize=64)
def bare_head(who: Identity, age: float) -> Bare:
    rows = _SPLINE @ _ring_table(who, age)
    yf, zf, w, ys, zs, yb, zb, n = (rows[:, i : i + 1] for i in range(8))
    c, s = np.cos(_ALPHA)[None], np.sin(_ALPHA)[None]
    reach = np.where(c > 0, zf - zs, zs - zb)
    expo = np.where(c > 0, n, 2.05)
    radius = (np.abs(c / np.maximum(reach, 1e-3)) ** expo + np.abs(s / np.maximum(w, 1e-3)) ** expo) ** (-1 / expo)
    share = np.abs(c) ** 1.5
    y = ys + np.where(c > 0, yf - ys, yb - ys) * share
    points = np.stack([radius * s, y, zs + radius * c], -1)
    soft = points.copy()  # the sides of the skull: average away the waves of the spline
    for _ in range(10):
        soft[1:-1] = 0.25 * soft[:-2] + 0.5 * soft[1:-1] + 0.25 * soft[2:]
    side = smoothstep(0.55, 1.0, np.abs(_ALPHA))[None, :, None]
    points = points * (1 - side) + soft * side
    middle = int(np.argmin(np.abs(_ALPHA)))
    step = np.linalg.norm(np.diff(points, axis=1), axis=-1)
    u = np.concatenate([np.zeros((len(points), 1)), np.cumsum(step, axis=1)], axis=1)
    u -= u[:, middle : middle + 1]
    v = y.copy()
    under = sum(ROWS_BETWEEN[:_MENTON])
    down = np.linalg.norm(np.diff(points[under:], axis=0), axis=-1)
    v[under + 1 :] = v[under] - np.cumsum(down, axis=0)
    return Bare(points, u, v, _ALPHA)


def mouth_line(u: np.ndarray, lay: Layout, who: Identity) -> np.ndarray:
    """v of the line between the lips."""
    t = np.clip(np.abs(u) / lay.mouth_half, 0, 1.3)
    return lay.mouth_v + who.mouth_corner * t**2 - 0.05 * np.cos(3 * t)


def _align_mouth(bare: Bare, lay: Layout, who: Identity) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Slide the rows near the mouth so that one lies on the lips' line, and double it (the mouth can then open)."""
    points, u, v = bare.points.copy(), bare.u, bare.v.copy()
    middle = int(np.argmin(np.abs(bare.alpha)))
    r = int(np.argmin(np.abs(v[:, middle] - lay.mouth_v)))
    near = np.exp(-(((np.arange(len(v)) - r) / 9.0) ** 4))[:, None]
    fade = smoothstep(lay.mouth_half + 2.0, lay.mouth_half + 0.3, np.abs(u[r]))[None]
    shift = (mouth_line(u[r], lay, who) - v[r])[None] * near * fade
    slope = (
        np.gradient(points, axis=0)
        / np.where(np.abs(np.gradient(v, axis=0)) < 0.02, -0.02, np.gradient(v, axis=0))[..., None]
    )
    points = points + np.where(shift[..., None] != 0, slope * shift[..., None], 0)
    v = v + shift
    return (np.insert(points, r, points[r], axis=0), np.insert(u, r, u[r], axis=0), np.insert(v, r, v[r], axis=0), r)


def _nose(u: np.ndarray, v: np.ndarray, lay: Layout, who: Identity, age: float) -> np.ndarray:
    """How far the nose stands out (cm): bridge, ball of the tip, wings, nostrils."""
    root = lay.eye_v + 0.5
    s = (root - v) / (root - lay.tip_v)
    out = 0.85 * who.nose_out + 1.15 + 0.15 * np.clip((age - 40) / 40, 0, 1)
    above = who.nose_root + 0.35
    ridge = above + (out - above) * np.clip(s, 0, 1) ** 0.88
    ridge = ridge + who.nose_hump * np.exp(-(((s - 0.38) / 0.22) ** 2))
    ridge = ridge * smoothstep(-0.45, 0.12, s)
    drop = max(lay.tip_v - lay.base_v, 0.4)
    fall = np.clip((lay.tip_v + 0.30 - v) / (drop + 0.55), 0, 1)
    ridge = ridge * (1 - 0.30 * fall - 0.70 * fall**3.2)
    wide = 0.30 + 0.55 * (lay.nose_half - 1.15)
    half = who.nose_bridge_width + 0.16 + wide * np.clip(s, 0, 1) ** 1.3
    half = half + 0.30 * (1 - smoothstep(-0.3, 0.5, s))
    half = half * (1 - 0.38 * fall**1.5)  # the strip between the nostrils
    body = ridge * np.exp(-((np.abs(u) / half) ** 2.3))
    ball = (0.10 + who.nose_tip_ball) * bump(u, v, (0.0, lay.tip_v - 0.15), (0.75, 0.62))
    lobe = lay.tip_v - 0.42 * drop
    wings = (0.70 + 0.30 * lay.nose_half) * bump(u, v, (lay.nose_half * 0.74, lobe), (0.46, 0.50))
    groove = -0.16 * bump(u, v, (lay.nose_half * 0.86, lobe + 0.52), (0.30, 0.30))
    nostril = -0.55 * bump(u, v, (lay.nose_half * 0.44, lay.base_v + 0.22 * drop), (0.30, 0.16))
    return body + wings + ball + groove + nostril


def _lips(u: np.ndarray, v: np.ndarray, lay: Layout, who: Identity) -> np.ndarray:
    taper = np.sqrt(np.clip(1 - (u / (lay.mouth_half * 1.02)) ** 2, 0, 1))
    line = mouth_line(u, lay, who)
    full = 0.34 + 0.5 * who.lip_forward
    upper = full * np.exp(-(((v - line - 0.50 * lay.upper_lip) / (0.62 * lay.upper_lip + 0.08)) ** 2))
    lower = (full + 0.16) * np.exp(-(((v - line + 0.52 * lay.lower_lip) / (0.62 * lay.lower_lip + 0.08)) ** 2))
    crease = -0.34 * np.exp(-(((v - line) / 0.10) ** 2))
    philtrum = -0.08 * bump(u, v, (0.0, (lay.base_v + lay.mouth_v + lay.upper_lip) / 2), (0.28, 0.8))
    philtrum = philtrum + 0.05 * bump(u, v, (0.5, (lay.base_v + lay.mouth_v + lay.upper_lip) / 2), (0.24, 0.7))
    return (upper + lower + crease) * taper + philtrum


def _whole_normals(points: np.ndarray, row: int) -> np.ndarray:
    """Normals of a grid whose rows `row` and `row` + 1 are one line while the mouth is closed."""
    normals = grid_normals(np.delete(points, row, axis=0))
    return np.insert(normals, row, normals[row], axis=0)


def _lay_features(
    points: np.ndarray, u: np.ndarray, v: np.ndarray, row: int, lay: Layout, who: Identity, age: float
) -> np.ndarray:
    """Bone, fat, nose, lips and lids on the bare head."""
    normal = _whole_normals(points, row)
    old = np.clip((age - 35) / 45, 0, 1)
    z = who.brow_ridge * bump(u, v, (2.5, lay.eye_v + 2.0), (2.3, 0.75))
    z += 0.5 * who.brow_ridge * bump(u, v, (0.0, lay.eye_v + 1.9), (1.0, 0.7))
    z -= (0.62 + who.eye_depth) * bump(u, v, (lay.eye_u - 0.1, lay.eye_v + 0.15), (1.9, 1.15))
    z -= 0.50 * bump(u, v, (1.55, lay.eye_v + 0.25), (0.55, 0.8))
    z += 0.22 * bump(u, v, (3.7, lay.eye_v + 1.05), (1.2, 0.45))
    z += _nose(u, v, lay, who, age) + _lips(u, v, lay, who)
    z += 0.20 * bump(u, v, (0.0, lay.mouth_v), (2.6, 1.9))
    z += 0.85 * bump(u, v, (0.0, (lay.base_v + lay.mouth_v) / 2), (1.9, 1.5))
    z -= 0.34 * bump(u, v, (0.0, lay.mouth_v - lay.lower_lip - 0.65), (1.7, 0.5))
    z += 0.50 * bump(u, v, (0.0, lay.chin_v + 0.2), (1.5 * who.chin_width, 1.0))
    z -= max(who.chin_cleft, 0) * 1.3 * bump(u, v, (0.0, lay.chin_v), (0.22, 0.7))
    z -= 0.22 * bump(u, v, (lay.mouth_half + 0.25, lay.mouth_v - 0.05), (0.45, 0.5))
    z -= (0.10 + 0.30 * old) * bump(u, v, (lay.eye_u - 0.5, lay.eye_v - 1.35), (1.4, 0.40))
    z += (0.08 + 0.22 * old) * bump(u, v, (lay.eye_u, lay.eye_v - 1.0), (1.2, 0.35))
    out = (0.22 + who.cheekbone) * bump(u, v, (5.1, -2.0), (1.9, 1.2))
    out += (who.cheek_full - 0.65 * old) * bump(u, v, (4.7, -5.2), (1.9, 1.9))
    out += 0.35 * bump(u, v, (3.2, -3.2), (1.5, 1.4))
    out -= who.temple_hollow * bump(u, v, (6.9, 2.8), (1.7, 2.0))
    out += 0.55 * old * bump(u, v, (4.3, -8.6), (1.5, 1.1))  # jowls
    out -= 0.25 * old * bump(u, v, (2.6, -9.1), (0.7, 1.0))
    shaped = points + normal * out[..., None]
    shaped[..., 2] += z
    shaped[..., 1] += (who.nose_tip_up - 0.20 * old) * bump(u, v, (0.0, lay.tip_v - 0.1), (1.0, 0.8))
    wings = bump(u, v, (lay.nose_half * 0.85, lay.tip_v - 0.3), (0.5, 0.6))
    shaped[..., 0] += np.sign(u) * 0.18 * wings
    return shaped


@dataclass(frozen=True)
class Head:
    """Mesh of head and neck (extra: u, v, share that turns with the head), the grid, and where things are."""

    mesh: Mesh
    grid: np.ndarray
    u: np.ndarray
    v: np.ndarray
    lay: Layout
    face: Expression
    split_row: int
    eye_centres: np.ndarray  # (2, 3): image-left eye first
    eye_radius: float

    def at(self, u: float, v: float, rows: slice = slice(None)) -> np.ndarray:
        """The point of the surface at (u, v): inside the four grid corners around it."""
        grid, gu, gv = self.grid[rows], self.u[rows], self.v[rows]
        gap = (gu - u) ** 2 + (gv - v) ** 2
        r, c = np.unravel_index(int(np.argmin(gap)), gap.shape)
        r0, r1 = max(r - 1, 0), min(r + 1, len(grid) - 1)
        c0, c1 = max(c - 1, 0), min(c + 1, grid.shape[1] - 1)
        patch = (slice(r0, r1 + 1), slice(c0, c1 + 1))
        design = np.stack([np.ones(gu[patch].size), (gu[patch] - u).ravel(), (gv[patch] - v).ravel()], -1)
        fit, *_ = np.linalg.lstsq(design, grid[patch].reshape(-1, 3), rcond=None)
        return fit[0]


EYE_RADIUS = 1.22


@lru_cache(maxsize=64)
def build_head(who: Identity, age: float, face: Expression) -> Head:
    lay = layout(who, age)
    points, u, v, row = _align_mouth(bare_head(who, age), lay, who)
    shaped = _lay_features(points, u, v, row, lay, who, age)
    probe = Head(None, shaped, u, v, lay, face, row, None, EYE_RADIUS)  # only to find the eyes' place
    centres = []
    for side in (-1, 1):
        skin = probe.at(side * lay.eye_u, lay.eye_v, slice(0, row))
        centres.append(skin + np.array([0.0, 0.0, -0.88]))
    centres = np.array(centres)
    for centre in centres:  # lids lie on the eyeball
        dx, dy = shaped[..., 0] - centre[0], shaped[..., 1] - centre[1]
        lid = 1.36**2 - dx * dx - dy * dy
        bulge = centre[2] + np.sqrt(np.maximum(lid, 0.0)) - 0.03
        near = smoothstep(2.1, 1.2, np.sqrt((dx / 1.12) ** 2 + (dy * 1.25) ** 2)) * (shaped[..., 2] > 3.0)
        gap = bulge - shaped[..., 2]
        push = 0.5 * (gap + np.sqrt(gap * gap + 0.02))
        shaped[..., 2] += np.where(lid > 0, push, 0) * near
    shaped = express(shaped, u, v, row, lay, face)
    if face.parted < 0.02:
        normals = _whole_normals(shaped, row)
    else:
        normals = np.concatenate([grid_normals(shaped[: row + 1]), grid_normals(shaped[row + 1 :])])
    turns = smoothstep(-17.5, -9.5, shaped[..., 1] + 0.35 * np.minimum(shaped[..., 2], 4) - 1.0)
    rows, cols = u.shape
    triangles = grid_triangles(rows, cols, False, row)
    extra = np.stack([u, v, turns], -1).reshape(-1, 3)
    mesh = Mesh(
        shaped.reshape(-1, 3),
        normals.reshape(-1, 3),
        triangles,
        extra,
        "skin",
        grid_triangles(rows, cols, every=(3, 3)),
        grid_triangles(rows, cols, False, row, (2, 2)),
    )
    return Head(mesh, shaped, u, v, lay, face, row, centres, EYE_RADIUS)
