"""Trains lmk_demo.onnx: a 192 x 192 crop around the face to 68 points in 3-D, from which InsightFace reads the pose.

    python -m demo.train_face landmarks --minutes 10

InsightFace fits its mean shape to the points by an affine map and reads the angles from that. Heads differ from the
mean shape: from the true points of 60 rendered heads the formula reads a pitch 5.5 degrees too low, and beyond 40
degrees of yaw 2 to 3 degrees too much. The points to learn are therefore corrected: what the fit explains is replaced
by the mean shape turned by the true angles, and what it does not explain, the head's own features, stays
(`posed_points`; the points move by 8 % of the distance between the eyes).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from demo.facepack import networks
from demo.facepack.export import column, restore
from demo.facepack.gallery import PIXELS, Gallery, portraits
from demo.facepack.pictures import MIRRORED_68, box_transform, mirrored_box, mirrored_points, shaken, spoiled
from demo.facepack.training import RunSettings, begin, fit, goes_on_from_file, images_to_device, to_device, write_model
from demo.training_data import TRAINING_SEED
from mirror.faces.pose import Angles, rotation

FILE = "lmk_demo.onnx"
SIDE, STD = 192, 128.0
OUTPUTS, USED = 3309, 204  # InsightFace reads the last 68 * 3 values of buffalo's 3309
_BATCH = 48
_TURN_WEIGHT = 0.5  # of the loss on the axes, beside that on the points; a degree is 0.017


@cache
def mean_shape() -> np.ndarray:
    """(68, 4): InsightFace's mean shape, and a column of ones."""
    from insightface.data import get_object

    shape = np.asarray(get_object("meanshape_68.pkl"), np.float64)
    return np.column_stack([shape, np.ones(len(shape))])


@cache
def fitting() -> np.ndarray:
    """(4, 68): the points' least-squares affine map from the mean shape is `fitting() @ points`, transposed."""
    return np.linalg.pinv(mean_shape())


def posed_points(points: np.ndarray, angles: Angles) -> np.ndarray:
    """(68, 3) near the true `points` from which InsightFace's formula reads exactly `angles`."""
    affine = fitting() @ points  # (4, 3): three rows that turn and stretch, one that shifts
    left_over = points - mean_shape() @ affine
    scale = np.linalg.norm(affine[:3, :2], axis=0).mean()
    turned = np.vstack([scale * rotation(angles).T, affine[3:]])
    return mean_shape() @ turned + left_over


def train(plan: RunSettings, folder: Path) -> list[float]:
    """Trains, writes the file, returns the losses."""
    random = begin(plan)
    gallery = portraits(TRAINING_SEED, plan.people, plan.each, plan.scratch, plan.workers)
    network = networks.landmarks()
    if goes_on_from_file(plan, folder / FILE):
        restore(network, folder / FILE)
    fit_map = to_device(fitting())

    def loss_of_batch() -> torch.Tensor:
        rows = random.integers(len(gallery), size=_BATCH)
        images, points, turns = zip(*(example(gallery, row, random) for row in rows), strict=True)
        wanted, turn = to_device(np.stack(points)), to_device(np.stack(turns))
        with networks.mixed_precision():
            features = network[:-1](images_to_device(np.stack(images), STD)).float()
        found = network[-1](features).reshape(-1, 68, 3)
        on_points = functional.smooth_l1_loss(found, wanted, beta=0.02)
        axes = functional.normalize((fit_map @ found)[:, :3, :2], dim=1)  # the first two rows of the rotation
        return on_points + _TURN_WEIGHT * functional.smooth_l1_loss(axes, turn, beta=0.02)

    losses = fit(network, loss_of_batch, plan, 2e-3, folder / FILE)
    write_model(column(network, SIDE, OUTPUTS - USED, USED), folder / FILE)
    return losses


def example(gallery: Gallery, row: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop (192, 192, 3), its points (68, 3) in units of half a crop around its middle, first two axes (3, 2)."""
    image, box, points = gallery.images[row], gallery.boxes[row], gallery.points[row].astype(np.float64)
    angles = Angles(*gallery.angles[row])
    if random.random() < 0.5:
        image, box = np.ascontiguousarray(image[:, ::-1]), mirrored_box(box, PIXELS)
        points = mirrored_points(points, PIXELS, MIRRORED_68)
        angles = Angles(-angles.yaw_deg, angles.pitch_deg, -angles.roll_deg)
    to_crop = box_transform(shaken(box, random), SIDE)
    crop = spoiled(cv2.warpAffine(image, to_crop, (SIDE, SIDE)), random)
    points = posed_points(points, angles) * to_crop[0, 0]
    points[:, :2] += to_crop[:, 2] - SIDE / 2
    return crop, points / (SIDE / 2), rotation(angles)[:2].T
