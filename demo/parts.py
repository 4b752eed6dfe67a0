"""What a head wears and has besides skin: eyes, teeth, ears, glasses, mask, clothes, arms, hands, legs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from demo.expressions import Expression
from demo.head import NECK_PIVOT, Head, build_head
from demo.identity import Identity
from demo.surfaces import Mesh, ellipsoid, grid_mesh, grid_normals, grid_triangles, joined, smoothstep, tube


def eyeball(head: Head, side: int, gaze_deg: tuple[float, float]) -> Mesh:
    """The front of one eyeball; extra holds the place on it relative to the gaze (cm, right and up)."""
    r = head.eye_radius
    lat = np.linspace(0.0, 1.75, 18)[:, None]
    lon = np.linspace(0, 2 * np.pi, 36, endpoint=False)[None]
    unit = np.stack([np.sin(lat) * np.cos(lon), np.sin(lat) * np.sin(lon), np.cos(lat) * np.ones_like(lon)], -1)
    points = unit * r + head.eye_centres[0 if side < 0 else 1]
    a, b = np.radians(gaze_deg)
    right = np.array([np.cos(a), 0, -np.sin(a)])
    ahead = np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
    up = np.cross(ahead, right)
    place = np.stack([unit @ right, unit @ up, unit @ ahead], -1) * r
    rows, cols = lat.shape[0], lon.shape[1]
    return Mesh(
        points.reshape(-1, 3), unit.reshape(-1, 3), grid_triangles(rows, cols, True), place.reshape(-1, 3), "eye"
    )


def teeth(head: Head) -> Mesh:
    """The inside of the mouth, a curved wall behind the lips; extra: u, height above the middle, opening."""
    lay = head.lay
    jaw = max(head.face.open, 0.04 * head.face.snarl)  # clenched: the two rows all but meet
    top = head.at(0.0, lay.mouth_v + 0.3, slice(0, head.split_row))
    u = np.linspace(-lay.mouth_half * 0.98, lay.mouth_half * 0.98, 25)[None]
    v = np.linspace(1.0, -0.6 - 2.4 * head.face.parted, 15)[:, None]
    depth = top[2] - 1.0 - 0.20 * u**2 - 0.25 * np.maximum(-v, 0)
    curve = 0.45 * max(head.face.smile, 0) * (u / lay.mouth_half) ** 2
    points = np.stack([u + 0 * v, top[1] + v + curve, depth], -1)
    extra = np.stack([u + 0 * v, v + 0 * u, np.full(depth.shape, jaw)], -1)
    return grid_mesh(points, extra, "mouth")


def mouth_lining(head: Head) -> Mesh:
    """A pocket that hangs between the two lips; drawn as the dark of the mouth."""
    row = head.split_row
    cols = np.flatnonzero(np.abs(head.u[row]) < head.lay.mouth_half * 1.05)
    top, bottom = head.grid[row, cols], head.grid[row + 1, cols]
    t = np.linspace(0, 1, 9)[:, None, None]
    pocket = top[None] * (1 - t) + bottom[None] * t
    deep = np.sqrt(np.clip(1 - (head.u[row, cols] / (head.lay.mouth_half * 1.05)) ** 2, 0, 1))
    pocket[..., 2] -= 3.4 * np.sin(np.pi * t[..., 0]) ** 0.6 * deep * min(head.face.parted * 3, 1)
    extra = np.stack(np.broadcast_arrays(head.u[row, cols][None], np.full((9, 1), -1.02), head.face.parted), -1)
    return grid_mesh(pocket, extra, "mouth")


def ear(head: Head, who: Identity, age: float, side: int) -> Mesh:
    """A shell with rim, fold, hollow and a back; extra: place in the ear (-1..1) and depth of the hollow."""
    ring = np.concatenate([np.linspace(0.0, 1.0, 15), [1.0, 1.0, 1.0]])[:, None]
    reach = np.concatenate([ring[:15, 0], [0.97, 0.80, 0.55]])[:, None]
    behind = np.concatenate([np.zeros(15), [0.20, 0.65, 1.30]])[:, None]
    angle = np.linspace(0, 2 * np.pi, 44, endpoint=False)[None]
    size = 0.86 * who.ear_size * (1 + 0.0018 * max(age - 30, 0))
    back = np.cos(angle)  # + is away from the face
    wide = np.where(back > 0, 1.95, 1.25) * (1 - 0.30 * smoothstep(-0.2, -1.0, np.sin(angle)))
    a = reach * back * wide * size
    b = reach * (np.sin(angle) * np.where(np.sin(angle) > 0, 3.15, 3.1)) * size
    rim = 0.38 * np.exp(-(((ring - 0.90) / 0.10) ** 2)) * smoothstep(-0.95, -0.2, back + 0.75 * np.sin(angle))
    fold = 0.22 * np.exp(-(((ring - 0.58) / 0.10) ** 2)) * smoothstep(-0.2, 0.5, back)
    hollow = -0.75 * np.exp(-((ring / 0.40) ** 2)) * (1 + 0 * angle)
    lobe = 0.20 * np.exp(-(((np.sin(angle) + 1.0) / 0.25) ** 2)) * ring
    out = 0.40 + rim + fold + hollow + lobe - 0.35 * smoothstep(0.95, 1.0, ring) - behind
    turn = np.radians(who.ear_out)
    seat = head.grid[int(np.argmin(np.abs(head.v[:, 0] + 0.8)))]
    seat_z = -1.7
    half = float(np.abs(seat[np.argmin(np.abs(seat[:, 2] - seat_z) + 10 * (seat[:, 0] < 0)), 0]))
    front = 1.0 * size
    x = half - 0.25 + np.sin(turn) * (a + front) + np.cos(turn) * out
    z = seat_z - np.cos(turn) * a + np.sin(turn) * out * 0.6 + 0.10 * b
    y = -1.0 + head.lay.eye_v * 0.5 + b
    points = np.stack([side * x, y, z], -1)
    extra = np.stack([ring + 0 * angle, np.broadcast_to(np.sin(angle), a.shape), -hollow], -1)
    if side < 0:
        points, extra = points[:, ::-1], extra[:, ::-1]
    points, extra = points[::-1], extra[::-1]
    normals = grid_normals(points[:, ::-1], True)[:, ::-1]
    triangles = grid_triangles(*points.shape[:2], True)
    mesh = Mesh(points.reshape(-1, 3), normals.reshape(-1, 3), triangles, extra.reshape(-1, 3), "ear")
    return facing(mesh, np.array([side * 1.0, 0.0, 0.2]))


@lru_cache(maxsize=64)
def ears(who: Identity, age: float, face: Expression) -> Mesh:
    head = build_head(who, age, face)
    return joined([ear(head, who, age, side) for side in (-1, 1)], "ear")


def facing(mesh: Mesh, outside: np.ndarray) -> Mesh:
    """Normals and triangles so that most of the surface looks towards `outside`."""
    p = mesh.points[mesh.triangles]
    flat = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    triangles = mesh.triangles if np.sum(flat @ outside) > 0 else mesh.triangles[:, ::-1]
    normals = mesh.normals if np.sum(mesh.normals @ outside) > 0 else -mesh.normals
    return Mesh(mesh.points, normals, triangles, mesh.extra, mesh.material)


def glasses(head: Head, dark: bool) -> list[Mesh]:
    """Two rims, a bridge and the temples; with dark lenses when asked."""
    frame, lenses = [], []
    angle = np.linspace(0, 2 * np.pi, 41)
    z = max(float(head.eye_centres[:, 2].max()) + 2.25, float(head.at(0.0, head.lay.eye_v - 0.3)[2]) + 0.15)
    for i, side in enumerate((-1, 1)):
        centre = head.eye_centres[i] * np.array([1.0, 1.0, 0]) + np.array([side * 0.15, -0.25, z])
        c, s = np.cos(angle), np.sin(angle)
        x = 2.45 * np.sign(c) * np.abs(c) ** 0.72
        y = 1.85 * np.sign(s) * np.abs(s) ** 0.78
        curve = -0.05 * (centre[0] + x) ** 2 * 0.35
        path = np.stack([centre[0] + x, centre[1] + y, centre[2] + curve], -1)
        frame.append(tube(path, np.full(len(path), 0.16), "frame", 8))
        outer = centre + np.array([side * 2.5, 0.5, -0.45])
        ear_top = np.array([side * 7.9, centre[1] + 0.9, -1.5])
        frame.append(tube(np.linspace(outer, ear_top, 8), np.full(8, 0.17), "frame", 8))
        if dark:
            lenses.append(ellipsoid(centre + np.array([0, 0, -0.12]), np.array([2.4, 1.8, 0.10]), "lens", 10, 24))
    a = head.eye_centres[0] * np.array([1, 1, 0]) + np.array([2.2, 0.2, z])
    b = head.eye_centres[1] * np.array([1, 1, 0]) + np.array([-2.2, 0.2, z])
    frame.append(
        tube(
            np.linspace(a, b, 7) + np.array([[0, 0.25 * np.sin(t), 0.1] for t in np.linspace(0, np.pi, 7)]),
            np.full(7, 0.15),
            "frame",
            8,
        )
    )
    return [joined(frame, "frame")] + ([joined(lenses, "lens")] if lenses else [])


def mask(head: Head) -> Mesh:
    """A cloth over nose, mouth and chin."""
    u, v = head.u, head.v
    rows = np.flatnonzero((v[:, 70] < head.lay.tip_v + 1.7) & (v[:, 70] > -12.4))
    cols = np.flatnonzero(np.abs(u[rows[0]]) < 7.5)
    patch = head.grid[np.ix_(rows, cols)].copy()
    for _ in range(14):
        patch[1:-1, 1:-1] = 0.2 * (
            patch[1:-1, 1:-1] + patch[:-2, 1:-1] + patch[2:, 1:-1] + patch[1:-1, :-2] + patch[1:-1, 2:]
        )
    patch = patch + grid_normals(patch) * 0.45
    extra = np.stack([u[np.ix_(rows, cols)], v[np.ix_(rows, cols)]], -1)
    return grid_mesh(patch, extra, "mask")


TORSO = np.array(
    [  # front (y, z), half width, side (y, z), back (y, z); the arms hang from the shoulders' ring
        [-16.2, 2.6, 6.1, -14.9, -2.8, -14.2, -7.6],
        [-17.4, 3.2, 7.4, -15.8, -3.0, -14.9, -8.2],
        [-19.0, 4.0, 10.5, -17.0, -3.4, -16.6, -9.2],
        [-21.5, 5.6, 15.0, -18.4, -3.6, -19.0, -10.6],
        [-25.0, 7.4, 18.6, -20.6, -3.6, -23.0, -11.8],
        [-30.0, 8.6, 19.6, -25.0, -3.4, -29.0, -12.2],
        [-37.0, 8.8, 17.2, -35.0, -3.0, -37.0, -11.6],
        [-50.0, 7.6, 15.2, -50.0, -2.6, -50.0, -9.8],
        [-62.0, 7.4, 14.4, -62.0, -2.6, -62.0, -9.4],
        [-76.0, 8.4, 16.4, -76.0, -2.6, -76.0, -11.4],
        [-86.0, 7.6, 16.8, -86.0, -2.6, -86.0, -12.0],
        [-90.0, 3.0, 13.0, -90.0, -2.6, -90.0, -8.0],
    ]
)


@lru_cache(maxsize=16)
def torso(build: float) -> Mesh:
    """Shirt from the collar to the hips; extra: angle times 15 cm, height, nearness to the collar."""
    steps = np.linspace(0, len(TORSO) - 1, 56)
    ring = np.stack([np.interp(steps, np.arange(len(TORSO)), TORSO[:, i]) for i in range(7)], -1)
    for _ in range(2):
        ring[1:-1] = (ring[:-2] + 2 * ring[1:-1] + ring[2:]) / 4
    yf, zf, w, ys, zs, yb, zb = (ring[:, i : i + 1] for i in range(7))
    w = w * np.where(yf < -18.5, build, 1 + (build - 1) * 0.5)
    for column in (yf, ys, yb):
        column += 1.0 * smoothstep(-40.0, -20.0, column)
    angle = np.linspace(-np.pi, np.pi, 72, endpoint=False)[None]
    c, s = np.cos(angle), np.sin(angle)
    share = np.abs(c) ** 1.3
    x = w * np.sign(s) * np.abs(s) ** 0.92
    y = ys + np.where(c > 0, yf - ys, yb - ys) * share
    z = zs + np.where(c > 0, zf - zs, zs - zb) * c
    extra = np.stack([angle * 15 + 0 * y, y, 0 * y + steps[:, None]], -1)
    mesh = grid_mesh(np.stack([x, y, z], -1), extra, "cloth", closed=True)
    few = grid_triangles(56, 72, True, every=(2, 2))
    return replace(mesh, coarse=few, medium=few)


def _finger(base: np.ndarray, ahead: np.ndarray, palm: np.ndarray, length: float, radius: float, curl: float) -> Mesh:
    """Three joints that bend from `ahead` towards the palm's normal."""
    path, here, bend = [base], base, 0.0
    for part in (0.45, 0.32, 0.25):
        bend += curl
        here = here + (ahead * np.cos(bend) + palm * np.sin(bend)) * length * part
        path.append(here)
    fine = np.concatenate([np.linspace(path[i], path[i + 1], 4, endpoint=False) for i in range(3)] + [path[-1:]])
    return tube(fine, np.linspace(radius, radius * 0.78, len(fine)), "hand", 10)


def hand(wrist: np.ndarray, ahead: np.ndarray, palm: np.ndarray, side: int, curl: float, spread: float) -> Mesh:
    """A palm, four fingers and a thumb; `palm` is where the palm looks, `ahead` where the fingers point."""
    ahead = ahead / np.linalg.norm(ahead)
    palm = palm - ahead * (palm @ ahead)
    palm = palm / np.linalg.norm(palm)
    across = np.cross(palm, ahead) * side  # towards the thumb
    parts = []
    for k, (at, length, radius) in enumerate(
        ((-3.1, 5.8, 0.72), (-1.1, 7.2, 0.80), (0.95, 7.7, 0.84), (2.9, 6.9, 0.82))
    ):
        base = wrist + ahead * (8.6 - 0.25 * abs(k - 2)) + across * at
        parts.append(_finger(base, ahead + across * spread * (k - 1.4) * 0.16, palm, length, radius, curl))
        parts.append(
            tube(np.linspace(wrist + across * at * 0.55 + ahead * 0.8, base, 6), np.linspace(1.25, 1.02, 6), "hand", 10)
        )
    root = wrist + ahead * 2.6 + across * 2.4
    parts.append(
        tube(
            np.array(
                [
                    root,
                    root + across * 1.7 + ahead * 2.4 + palm * 0.7,
                    root + across * (2.2 + spread) + ahead * 5.2 + palm * 0.9,
                    root + across * (2.3 + 1.4 * spread) + ahead * 7.4 + palm * 0.8,
                ]
            ),
            np.array([1.35, 1.15, 0.92, 0.75]),
            "hand",
            10,
        )
    )
    return joined(parts, "hand")


# wrist, where the fingers point, where the palm looks, curl, spread; for the image-right hand, relative to the head
HAND_POSES = {
    "wave": (np.array([15.5, -11.0, 5.0]), np.array([0.15, 1.0, 0.05]), np.array([0.0, 0.0, 1.0]), 0.05, 0.9),
    "chin": (np.array([5.2, -19.5, 12.0]), np.array([-0.35, 1.0, -0.05]), np.array([-0.6, 0.1, -1.0]), 0.75, 0.1),
    "cover": (np.array([4.0, -10.5, 13.6]), np.array([-0.28, 1.0, 0.0]), np.array([0.0, 0.0, -1.0]), 0.10, 0.35),
    "cheek": (np.array([9.2, -14.5, 6.5]), np.array([-0.12, 1.0, -0.05]), np.array([-1.0, 0.0, -0.6]), 0.25, 0.3),
    "down": (np.array([22.5, -76.0, -1.0]), np.array([-0.05, -1.0, 0.1]), np.array([-1.0, 0.0, 0.1]), 0.35, 0.15),
}


def arm(pose: str, side: int, build: float) -> tuple[list[Mesh], np.ndarray]:
    """Sleeve and hand of one side, and the hand's box corners; `side` 1 is the image's right at yaw 0."""
    wrist, ahead, palm, curl, spread = HAND_POSES[pose]
    mirror = np.array([side, 1.0, 1.0])
    wrist, ahead, palm = wrist * mirror, ahead * mirror, palm * mirror
    shoulder = np.array([side * 15.2 * build, -24.5, -3.5])
    elbow = np.array([side * 20.5 * build, -49.0, -4.0]) if pose == "down" else np.array([side * 24.0, -44.0, 6.0])
    back = ahead / np.linalg.norm(ahead)
    cuff = wrist - back * 1.0
    path = np.concatenate([np.linspace(shoulder, elbow, 10, endpoint=False), np.linspace(elbow, cuff, 10)])
    for _ in range(3):
        path[1:-1] = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    radii = np.interp(np.arange(20), [0, 3, 9, 12, 19], [4.6, 5.0, 4.3, 4.2, 2.9])
    palm_mesh = hand(wrist, ahead, palm, -side, curl, spread)
    wristlet = tube(np.linspace(wrist - back * 3, wrist + back * 1.5, 5), np.full(5, 2.15), "hand", 14)
    return [tube(path, radii, "cloth", 18), joined([palm_mesh, wristlet], "hand")], palm_mesh.points


@lru_cache(maxsize=4)
def legs(build: float) -> tuple[Mesh, ...]:
    """Trousers and shoes."""
    out = []
    for side in (-1, 1):
        path = np.array(
            [
                [side * 8.4 * build, -80.0, -2.5],
                [side * 8.8, -105.0, -1.6],
                [side * 9.2, -125.0, -1.0],
                [side * 9.4, -145.0, -2.2],
                [side * 9.6, -161.0, -3.0],
            ]
        )
        fine = np.stack([np.interp(np.linspace(0, 4, 24), np.arange(5), path[:, i]) for i in range(3)], -1)
        out.append(tube(fine, np.interp(np.arange(24), [0, 6, 13, 23], [9.0, 8.2, 6.2, 4.8]), "trousers", 20))
    shoes = [ellipsoid(np.array([s * 10.2, -165.5, 2.5]), np.array([4.4, 3.6, 11.5]), "shoe") for s in (-1, 1)]
    return joined(out, "trousers"), joined(shoes, "shoe")


def around_neck(points: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Points turned about the joint between neck and head."""
    return (points - NECK_PIVOT) @ turn.T + NECK_PIVOT
