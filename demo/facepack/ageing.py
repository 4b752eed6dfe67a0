"""Teaches age_demo.onnx what ten years do to a face: everyday pictures of people, all in two looks some years apart.

    python -m demo.train_face ageing --minutes 23

It goes on from the file that `age` wrote. There people look however they may; here they look as in a user's photos, so
that hardly anything but the years tells the two looks of a person apart.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from demo.facepack import networks
from demo.facepack.age import AGEING, FILE, SIDE, STD, a_row_of_both, ages_loss, either_way_round, write
from demo.facepack.export import restore
from demo.facepack.gallery import Gallery, ageing
from demo.facepack.pictures import box_transform
from demo.facepack.training import RunSettings, begin, fit, images_to_device, to_device, unfinished
from demo.training_data import TRAINING_SEED
from utils.console import UserError

_PEOPLE, _EACH = 24, 2  # of a batch: so many people, so many images of each in both looks
_BETWEEN_WEIGHT = 2.0  # of the years between two looks, by that of the ages themselves
_RATE = 5e-4
_SHIFT_PX = 3.0  # how far off a detector's box may lie, in pixels of the crop


def train(plan: RunSettings, folder: Path) -> list[float]:
    """Trains, writes the file anew, returns the losses. Raises UserError where there is no file to go on from."""
    if unfinished(folder / FILE).exists():
        said = "python -m demo.train_face age --resume ends it; or delete that file."
        raise UserError(f"{unfinished(folder / FILE)} is of a training of age that was killed: {said}")
    if not (folder / FILE).exists():
        raise UserError(f"{folder / FILE} is missing: python -m demo.train_face age makes it first.")
    random = begin(plan)
    network = networks.age()
    restore(network, folder / FILE)
    gallery = ageing(TRAINING_SEED, plan.people, plan.each, plan.scratch, plan.workers)

    def loss_of_batch() -> torch.Tensor:
        rows = both_looks(plan.people, plan.each, random)
        images = images_to_device(np.stack([crop(gallery, row, random) for row in rows]), STD)
        wanted = to_device(gallery.ages[rows, None] / 100)
        with networks.mixed_precision():
            features = network[:-1](images).float()
        return ages_loss(network[-1](features), wanted, _EACH, _BETWEEN_WEIGHT)

    losses = fit(network, loss_of_batch, plan, _RATE, folder / AGEING, settled=True)
    write(network, folder)
    return losses


def both_looks(people: int, each: int, random: np.random.Generator) -> np.ndarray:
    """Rows of the gallery: `_EACH` images of everyone's first look, one person after the other, then of the second."""
    chosen = each * random.choice(people, min(_PEOPLE, people), replace=False).repeat(_EACH)
    return a_row_of_both(chosen, each, random)


def crop(gallery: Gallery, row: int, random: np.random.Generator) -> np.ndarray:
    """(96, 96, 3) of a picture of the gallery, nothing of its skin spoiled; mirrored half of the time."""
    image, box = either_way_round(gallery, row, random)
    to_crop = box_transform(box, SIDE)
    to_crop[:, 2] += random.uniform(-_SHIFT_PX, _SHIFT_PX, 2)
    image = cv2.warpAffine(image, to_crop, (SIDE, SIDE))
    return cv2.addWeighted(image, random.uniform(0.9, 1.1), image, 0, random.uniform(-6, 6))
