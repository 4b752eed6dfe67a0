"""Trains rec_demo.onnx: 112 x 112 crops, aligned by five keypoints, to 512 numbers that say who it is.

    python -m demo.train_face recogniser --minutes 15

Every drawn person is a class; the loss is CosFace (Wang et al. 2018) on unit vectors. Hair, age, light and expression
change from picture to picture, the yaw runs from profile to profile, and crops are aligned with points that are as
uncertain as the pack's own detector's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from demo.facepack import networks
from demo.facepack.export import column, restore
from demo.facepack.gallery import PIXELS, Gallery, portraits
from demo.facepack.pictures import MIRRORED_FIVE, aligned, mirrored_points, spoiled
from demo.facepack.training import RunSettings, begin, fit, images_to_device, write_model
from demo.training_data import TRAINING_SEED

FILE = "rec_demo.onnx"
SIDE, STD = 112, 127.5
YAW_LIMIT_DEG = 75.0  # beyond it the five points nearly fall together
_BATCH = 64
_SCALE, _MARGIN = 24.0, 0.30
_POINT_NOISE = 0.08  # of the points' mean distance from their centre, about two pixels of the crop: as the detector's


class Classes(nn.Module):
    """The recogniser and, for training alone, a direction for each person."""

    def __init__(self, people: int):
        super().__init__()
        self.body = networks.recogniser()
        self.directions = nn.Parameter(torch.randn(people, 512) * 0.05)

    @torch.no_grad()
    def aim_at(self, gallery: Gallery, rows: np.ndarray, random: np.random.Generator) -> None:
        """Sets each person's direction to the mean of what the recogniser, trained before, says of them."""
        self.to(networks.device()).eval()
        self.directions.zero_()
        for part in np.array_split(rows, max(len(rows) // _BATCH, 1)):
            images = images_to_device(np.stack([crop(gallery, row, random) for row in part]), STD)
            vectors = functional.normalize(self.body(images))
            self.directions.index_add_(0, torch.from_numpy(gallery.person[part]).to(vectors.device), vectors)

    def forward(self, images: torch.Tensor, person: torch.Tensor) -> torch.Tensor:
        """CosFace's loss: the own direction must win by the margin."""
        with networks.mixed_precision():
            vectors = self.body(images).float()
        cosines = functional.normalize(vectors) @ functional.normalize(self.directions).T
        cosines = cosines - _MARGIN * functional.one_hot(person, len(self.directions))
        return functional.cross_entropy(_SCALE * cosines, person)


def train(plan: RunSettings, folder: Path) -> list[float]:
    """Trains, writes the file, returns the losses."""
    random = begin(plan)
    gallery = portraits(TRAINING_SEED, plan.people, plan.each, plan.scratch, plan.workers)
    usable = np.flatnonzero(~gallery.covered & (np.abs(gallery.angles[:, 0]) <= YAW_LIMIT_DEG))
    network = Classes(plan.people).to(memory_format=torch.channels_last)
    if plan.resume:
        restore(network.body, folder / FILE)
        network.aim_at(gallery, usable, random)

    def loss_of_batch() -> torch.Tensor:
        rows = random.choice(usable, _BATCH)
        images = images_to_device(np.stack([crop(gallery, row, random) for row in rows]), STD)
        person = torch.from_numpy(gallery.person[rows]).to(images.device)
        return network(images, person)

    losses = fit(network, loss_of_batch, plan, rate=2e-3)
    write_model(column(network.body, SIDE, 0, 512), folder / FILE)
    return losses


def crop(gallery: Gallery, row: int, random: np.random.Generator) -> np.ndarray:
    """(112, 112, 3) of a picture of the gallery, mirrored half of the time."""
    image, five = gallery.images[row], gallery.five[row]
    if random.random() < 0.5:
        image, five = np.ascontiguousarray(image[:, ::-1]), mirrored_points(five, PIXELS, MIRRORED_FIVE)
    reach = np.linalg.norm(five - five.mean(axis=0), axis=1).mean()
    five = five + random.normal(0, _POINT_NOISE * reach, five.shape)
    return spoiled(aligned(image, five, SIDE), random)
