"""Trains age_demo.onnx: a 96 x 96 crop around the face to an age, in InsightFace's genderage layout.

    python -m demo.train_face age --minutes 6

The layout has two values for the gender before the age. Rendered heads have no gender: both are always 0.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from demo.facepack import networks
from demo.facepack.export import column, restore
from demo.facepack.gallery import PIXELS, Gallery, portraits
from demo.facepack.pictures import box_transform, mirrored_box, shaken, spoiled
from demo.facepack.training import RunSettings, begin, fit, images_to_device, to_device, write_model
from demo.training_data import TRAINING_SEED

FILE = "age_demo.onnx"
SIDE, STD = 96, 128.0
GENDERS = 2
_BATCH = 64


def train(plan: RunSettings, folder: Path) -> list[float]:
    """Trains, writes the file, returns the losses."""
    random = begin(plan)
    gallery = portraits(TRAINING_SEED, plan.people, plan.each, plan.scratch, plan.workers)
    network = networks.age()
    torch.nn.init.constant_(network[-1].bias, float(gallery.ages.mean()) / 100)
    if plan.resume:
        restore(network, folder / FILE)

    def loss_of_batch() -> torch.Tensor:
        rows = random.integers(len(gallery), size=_BATCH)
        images = images_to_device(np.stack([crop(gallery, row, random) for row in rows]), STD)
        wanted = to_device(gallery.ages[rows, None] / 100)
        return 10 * functional.smooth_l1_loss(network(images), wanted, beta=0.03)

    losses = fit(network, loss_of_batch, plan, rate=2e-3)
    write_model(column(network, SIDE, GENDERS, 1), folder / FILE)
    return losses


def crop(gallery: Gallery, row: int, random: np.random.Generator) -> np.ndarray:
    """(96, 96, 3) of a picture of the gallery, mirrored half of the time."""
    image, box = gallery.images[row], gallery.boxes[row]
    if random.random() < 0.5:
        image, box = np.ascontiguousarray(image[:, ::-1]), mirrored_box(box, PIXELS)
    return spoiled(cv2.warpAffine(image, box_transform(shaken(box, random), SIDE), (SIDE, SIDE)), random)
