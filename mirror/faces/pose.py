"""Head angles: their signs, their bins, and how they are read from five keypoints.

Signs, everywhere in this project, as a viewer sees the picture:

    yaw   > 0   the nose points to the picture's right       (a profile with the nose at the right edge: about +90)
    pitch > 0   the face looks up                            (towards the top edge)
    roll  > 0   the head is tilted clockwise                 (the crown moves to the picture's right)

They are the signs of InsightFace's own `pose` (its order is pitch, yaw, roll; rotation = Rz(roll) Ry(yaw) Rx(pitch)),
so packs with a 3-D landmark model need no conversion: tests/faces/test_pose.py turns InsightFace's mean
shape to check it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

# Our choice. By |yaw| in degrees, lower limit included: near 0 both cheeks show alike; from about 55 the far eye is on
# the outline or gone, which is what people call a profile shot.
BIN_LIMITS_DEG: dict[str, tuple[float, float]] = {
    "front": (0.0, 25.0),
    "three_quarter": (25.0, 55.0),
    "profile": (55.0, 180.0),
}


class Angles(NamedTuple):
    """Degrees, with the signs of this module."""

    yaw_deg: float
    pitch_deg: float
    roll_deg: float


def angle_bin(yaw_deg: float) -> str:
    """Name of the bin of `yaw_deg`, one of `BIN_LIMITS_DEG`; the last one takes all that lies beyond."""
    return next((name for name, (_, high) in BIN_LIMITS_DEG.items() if abs(yaw_deg) < high), list(BIN_LIMITS_DEG)[-1])


def rotation(angles: Angles) -> np.ndarray:
    """(3, 3) matrix that turns a frontal head; axes x right, y down, z towards the viewer."""
    yaw, pitch, roll = np.radians(angles)
    cx, sx, cy, sy, cz, sz = np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    turn_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return turn_z @ turn_y @ turn_x


# A head's five keypoints in units of the distance between the eyes: eyes, nose tip, mouth corners. Widths and heights
# are those of the ArcFace alignment template (Deng et al. 2019) within a few percent; the depths are halfway between
# InsightFace's 68-point mean shape and the shape that best explains 24 photos of that project's public test set, as a
# RetinaFace detector sees them. benchmarks/truth_bench.py measures the outcome on rendered heads of known angle.
_HEAD = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.61, 0.52], [-0.42, 1.09, -0.05], [0.42, 1.09, -0.05]])

# How far a detector's keypoints lie from that head, as a share of the face's size, and how far heads usually turn
# (standard deviations): together they decide how much doubt pulls an estimate towards the front.
_KEYPOINT_NOISE = 0.10
_USUAL_PITCH_DEG, _USUAL_YAW_DEG = 25.0, 35.0
_PITCHES_DEG = np.arange(-60.0, 61.0, 2.0)
_YAWS_DEG = np.arange(-90.0, 91.0, 2.0)


def angles_from_keypoints(keypoints: np.ndarray) -> Angles:
    """Angles of a face from its five keypoints (5, 2) in pixels: left eye, right eye, nose, mouth corners (as seen).

    Every pitch and yaw of a grid predicts a shape of five points. Size, place and in-plane turn drop out when shapes
    are compared as Procrustes does it (Dryden & Mardia 1998, planar shapes as complex vectors), which leaves roll as
    the turn of the best match. The best shape, weighed against how rarely heads turn that far, is refined by a
    parabola.
    Raises ValueError for points that coincide.
    """
    shape = _normalised(np.asarray(keypoints, dtype=np.float64))
    overlap = _predicted_shapes().conj() @ shape
    cost = (1.0 - np.abs(overlap) ** 2) / _KEYPOINT_NOISE**2
    cost += (_PITCHES_DEG[:, None] / _USUAL_PITCH_DEG) ** 2 + (_YAWS_DEG[None, :] / _USUAL_YAW_DEG) ** 2
    i, j = np.unravel_index(cost.argmin(), cost.shape)
    return Angles(
        yaw_deg=float(_refined(_YAWS_DEG, cost[i, :], j)),
        pitch_deg=float(_refined(_PITCHES_DEG, cost[:, j], i)),
        roll_deg=float(np.degrees(np.angle(overlap[i, j]))),
    )


def _normalised(points: np.ndarray) -> np.ndarray:
    """(..., 5, 2) points as complex shapes (..., 5): centred, unit norm."""
    shape = points[..., 0] + 1j * points[..., 1]
    shape = shape - shape.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(shape, axis=-1, keepdims=True)
    if not np.all(norm > 0):
        raise ValueError("keypoints coincide")
    return shape / norm


@cache
def _predicted_shapes() -> np.ndarray:
    """(pitches, yaws, 5) complex: the head seen from far away at every angle of the grid."""
    turned = [[_HEAD @ rotation(Angles(yaw, pitch, 0.0)).T for yaw in _YAWS_DEG] for pitch in _PITCHES_DEG]
    return _normalised(np.array(turned)[..., :2])


def _refined(grid: np.ndarray, cost: np.ndarray, index: int) -> float:
    """Minimum of the parabola through the grid point `index` and its neighbours."""
    if index in (0, len(grid) - 1):
        return grid[index]
    before, here, after = cost[index - 1 : index + 2]
    curvature = before - 2 * here + after
    shift = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    return grid[index] + shift * (grid[1] - grid[0])
