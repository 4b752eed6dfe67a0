"""Where the features of a head really are: 68 points and five keypoints on its surface, boxes, what the camera sees."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

from demo.expressions import Expression
from demo.facial_hair import brow_curve, lid_curve
from demo.head import ROWS_BETWEEN, Head, build_head, mouth_line
from demo.identity import Identity

FIVE_NAMES = ("eye_image_left", "eye_image_right", "nose_tip", "mouth_image_left", "mouth_image_right")
# at the sides of the face the jaw's points follow these angles from the front (radians)
_JAW = [
    (-0.4, 1.42),
    (-2.4, 1.40),
    (-4.4, 1.36),
    (-6.2, 1.26),
    (None, 1.06),
    (None, 0.84),
    (None, 0.58),
    (None, 0.30),
    (None, 0.0),
]
_JAW_ROW = sum(ROWS_BETWEEN[:13]) + 1  # the ring under the chin, below the mouth's doubled row


@dataclass(frozen=True)
class Truth:
    """Pixels from the top-left corner; z in pixels too, larger is nearer to the camera, 0 at the head's middle.

    "image_left" is the left of the picture. A point that lies outside the frame keeps its place there.
    """

    five_points: np.ndarray  # (5, 2) in the order of FIVE_NAMES
    five_visible: tuple[bool, ...]  # inside the frame and not hidden by anything
    points_68: np.ndarray  # (68, 3) iBUG order
    face_box_xyxy: tuple[float, ...] | None
    eye_boxes_xyxy: tuple[tuple[float, ...], ...]
    hand_boxes_xyxy: tuple[tuple[float, ...], ...]
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    age_years: float
    expression: str
    eyes_closed: bool
    hands_in_frame: bool
    scene: dict

    def as_dict(self) -> dict:
        out = asdict(self)
        out["five_points"] = np.round(self.five_points, 2).tolist()
        out["points_68"] = np.round(self.points_68, 2).tolist()
        return out


@lru_cache(maxsize=64)
def landmarks(who: Identity, age: float, face: Expression) -> tuple[np.ndarray, np.ndarray]:
    """(five (5, 3), points (68, 3)) in the head's own frame, centimetres."""
    head = build_head(who, age, face)
    lay, row = head.lay, head.split_row
    upper, lower = slice(0, row + 1), slice(row + 1, None)
    alpha = np.arctan2(head.grid[60, :, 0], head.grid[60, :, 2] + 1.0)
    points: list[np.ndarray] = []

    for side, order in ((-1, range(9)), (1, range(7, -1, -1))):
        for i in order:
            v, angle = _JAW[i]
            col = int(np.argmin(np.abs(alpha - side * angle)))
            r = _JAW_ROW if v is None else int(np.argmin(np.abs(head.v[:110, col] - v)))
            points.append(head.grid[r, col])
    brow = np.array([0.06, 0.28, 0.5, 0.74, 0.97])
    for side in (-1, 1):
        for t in brow[::-1] if side < 0 else brow:
            u, v = brow_curve(lay, who, np.array(t))
            points.append(head.at(side * u, v, upper))
    root = lay.eye_v + 0.35
    for share in (0.0, 0.33, 0.67, 1.0):
        points.append(head.at(0.0, root + share * (lay.tip_v - root), upper))
    for u, v in ((-0.85, 0.15), (-0.42, 0.05), (0.0, 0.0), (0.42, 0.05), (0.85, 0.15)):
        points.append(head.at(u * lay.nose_half, lay.base_v - 0.08 + v, upper))
    for side in (-1, 1):
        top, bottom = lid_curve(lay, side, True, face.blink), lid_curve(lay, side, False, face.blink)
        for uv in (top[0], top[6], top[14], top[20], bottom[14], bottom[6]):
            points.append(head.at(*uv, upper))

    def lip(share: float, height: float, rows: slice) -> np.ndarray:
        u = share * lay.mouth_half
        return head.at(
            u, float(mouth_line(np.array(u), lay, who)) + height * np.sqrt(1 - min(abs(share), 1) ** 2), rows
        )

    for share in (-1.0, -0.6, -0.22, 0.0, 0.22, 0.6, 1.0):
        points.append(lip(share, lay.upper_lip * (0.85 if share == 0 else 1.0), upper))
    for share in (0.6, 0.25, 0.0, -0.25, -0.6):
        points.append(lip(share, -lay.lower_lip, lower))
    for share in (-0.88, -0.3, 0.0, 0.3, 0.88):
        points.append(lip(share, 0.0, upper))
    for share in (0.3, 0.0, -0.3):
        points.append(lip(share, 0.0, lower))
    points_68 = np.array(points)
    eyes = head.eye_centres + np.array([0.0, 0.0, head.eye_radius])
    five = np.stack([eyes[0], eyes[1], points_68[30], points_68[48], points_68[54]])
    return five, points_68


def face_patch(head: Head) -> np.ndarray:
    """Indices of the grid's points that belong to the face, from chin to the middle of the forehead."""
    angle = np.abs(np.arctan2(head.grid[..., 0], head.grid[..., 2] + 1.0))
    return np.flatnonzero(((head.v < 5.4) & (head.v > head.lay.chin_v - 1.3) & (angle < 1.32)).reshape(-1))


def box_of(points: np.ndarray) -> tuple[float, ...]:
    low, high = points.min(0), points.max(0)
    return tuple(round(float(v), 2) for v in (*low, *high))


def clip_box(box: tuple[float, ...], size_wh: tuple[int, int]) -> tuple[float, ...] | None:
    """The part of a box inside the frame, or None."""
    x0, y0 = max(box[0], 0.0), max(box[1], 0.0)
    x1, y1 = min(box[2], float(size_wh[0])), min(box[3], float(size_wh[1]))
    return (x0, y0, x1, y1) if x1 - x0 > 2 and y1 - y0 > 2 else None
