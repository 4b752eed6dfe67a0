"""Trains age_demo.onnx: a 96 x 96 crop around the face to an age, in InsightFace's genderage layout.

    python -m demo.train_face age --minutes 6

The layout has two values for the gender before the age. Rendered heads have no gender: both are always 0.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from demo.facepack import networks
from demo.facepack.export import column, packed, restore
from demo.facepack.gallery import Gallery, first_looks, portraits
from demo.facepack.pictures import box_transform, mirrored_box, shaken, spoiled
from demo.facepack.training import (
    RunSettings,
    begin,
    fit,
    goes_on_from_file,
    images_to_device,
    to_device,
    unfinished,
    write_model,
)
from demo.training_data import TRAINING_SEED

FILE = "age_demo.onnx"
AGEING = "ageing.onnx"  # never written: beside it lies what a killed training of demo/facepack/ageing.py left
SIDE, STD = 96, 128.0
GENDERS = 2
_SPOILED = 0.6  # share of the crops: wrinkles are the first thing that spoiling takes away
_PAIRS = 32  # of a batch: a person in both looks


def train(plan: RunSettings, folder: Path) -> list[float]:
    """Trains, writes the file, returns the losses."""
    random = begin(plan)
    gallery = portraits(TRAINING_SEED, plan.people, plan.each, plan.scratch, plan.workers)
    ages = gallery.ages.reshape(plan.people, plan.each)
    network = networks.age()
    torch.nn.init.constant_(network[-1].bias, float(gallery.ages.mean()) / 100)
    if goes_on_from_file(plan, folder / FILE):
        restore(network, folder / FILE)

    def loss_of_batch() -> torch.Tensor:
        rows = two_looks(ages, random)
        images = images_to_device(np.stack([crop(gallery, row, random) for row in rows]), STD)
        wanted = to_device(gallery.ages[rows, None] / 100)
        with networks.mixed_precision():
            features = network[:-1](images).float()
        return ages_loss(network[-1](features), wanted)

    losses = fit(network, loss_of_batch, plan, 2e-3, folder / FILE)
    write(network, folder)
    return losses


def write(network: nn.Module, folder: Path) -> None:
    """The file of the pack. What a killed `ageing` had begun with is gone then, so what that left goes as well."""
    write_model(packed(column(network, SIDE, GENDERS, 1)), folder / FILE)
    unfinished(folder / AGEING).unlink(missing_ok=True)


def two_looks(ages: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows of the gallery: people as they look first, then the same people in their second look, some years apart.

    `ages` (people, each) in years. The young come more often: ten years change their faces less.
    """
    people, each = ages.shape
    shares = 1 / ages.mean(axis=1)
    chosen = each * random.choice(people, _PAIRS, p=shares / shares.sum())
    return a_row_of_both(chosen, each, random)


def a_row_of_both(chosen: np.ndarray, each: int, random: np.random.Generator) -> np.ndarray:
    """Rows (2 N,) of the gallery from people's first rows (N,): one picture of everyone's first look, then of the
    second."""
    first = random.integers(first_looks(each), size=len(chosen))
    second = random.integers(first_looks(each), each, size=len(chosen))
    return np.concatenate([chosen + first, chosen + second])


def ages_loss(found: torch.Tensor, wanted: torch.Tensor, each: int = 1, between_weight: float = 1.0) -> torch.Tensor:
    """On the ages (2 N, 1), and on the years between two looks, means of `each` images: a set that looks older than
    its references is told by these, and a face that is hard to tell must not hide them."""
    between = (first - second for first, second in (ages.reshape(2, -1, each).mean(dim=2) for ages in (found, wanted)))
    on_ages = functional.smooth_l1_loss(found, wanted, beta=0.03)
    return 10 * (on_ages + between_weight * functional.smooth_l1_loss(*between, beta=0.03))


def either_way_round(gallery: Gallery, row: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture of the gallery (S, S, 3) and its box (4,), mirrored half of the time."""
    image, box = gallery.images[row], gallery.boxes[row]
    if random.random() < 0.5:
        return np.ascontiguousarray(image[:, ::-1]), mirrored_box(box, image.shape[1])
    return image, box


def crop(gallery: Gallery, row: int, random: np.random.Generator) -> np.ndarray:
    """(96, 96, 3) of a picture of the gallery, mirrored half of the time."""
    image, box = either_way_round(gallery, row, random)
    image = cv2.warpAffine(image, box_transform(shaken(box, random), SIDE), (SIDE, SIDE))
    return spoiled(image, random) if random.random() < _SPOILED else image
