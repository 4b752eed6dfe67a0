"""Trains rec_demo.onnx: 112 x 112 crops, aligned by five keypoints, to 512 numbers that say who it is.

    python -m demo.train_face recogniser --minutes 15

Every drawn person is a class; the loss is CosFace (Wang et al. 2018) on unit vectors. Hair, age, light and expression
change from picture to picture, the yaw runs from profile to profile, and crops are aligned with points that are as
uncertain as the pack's own detector's. What people were drawn from is taught beside: pairs of unseen people were told
apart to 90 % after 550 batches so.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from demo.facepack import networks
from demo.facepack.export import column, restore
from demo.facepack.gallery import PIXELS, Gallery, crowd, portraits
from demo.facepack.pictures import ARCFACE_POINTS, MIRRORED_FIVE, flat, mirrored_points, similarity, spoiled
from demo.facepack.training import (
    RunSettings,
    begin,
    fit,
    goes_on_from_file,
    images_to_device,
    to_device,
    write_model,
)
from demo.training_data import TRAINING_SEED

FILE = "rec_demo.onnx"
SIDE, STD = 112, 127.5
YAW_LIMIT_DEG = 75.0  # beyond it the five points nearly fall together
_BATCH, _SETTLED = 64, 40  # crops a step; batches of them from which `Recogniser.settle` learns
_SCALE, _MARGIN = 24.0, 0.30
_FLAT, _CUT = 0.12, 0.2  # shares of the crops
_SHIFT_WEIGHT, _TRAIT_WEIGHT = 20.0, 4.0  # beside the loss on who it is
# Of the points' mean distance from their centre: about as the detector's are on people whom it never saw.
_POINT_NOISE, _COMMON_NOISE = 0.07, 0.05


class Classes(nn.Module):
    """The recogniser and, for training alone, a direction for each person.

    Directions follow from what a person's face was drawn from, `traits` (people, F): people who look alike get
    directions that are alike, and what one picture teaches holds for all who share a trait. `reader` tells the traits
    from what the recogniser sees: a denser lesson than who of thousands it is.
    """

    def __init__(self, traits: np.ndarray):
        super().__init__()
        self.network = networks.Recogniser()
        even = (traits - traits.mean(axis=0)) / (traits.std(axis=0) + 1e-3)
        self.register_buffer("traits", torch.from_numpy(even.astype(np.float32)), persistent=False)
        count = traits.shape[1]
        self.reader = nn.Linear(self.network.body[-1].in_features, count)
        self.from_traits = nn.Linear(count, 512)
        self.own = nn.Parameter(torch.zeros(len(traits), 512))

    @torch.no_grad()
    def aim_at(self, gallery: Gallery, rows: np.ndarray, random: np.random.Generator) -> None:
        """Sets each person's direction to the mean of what the recogniser, trained before, says of them."""
        self.to(networks.device()).eval()
        self.from_traits.weight.zero_()
        self.from_traits.bias.zero_()
        for part in np.array_split(rows, max(len(rows) // _BATCH, 1)):
            crops = _crops(gallery, part, random)
            vectors = functional.normalize(self.network.body(self.network.redraw(crops, self.network.aligner(crops))))
            self.own.index_add_(0, torch.from_numpy(gallery.person[part]).to(vectors.device), vectors)

    def forward(self, crops: torch.Tensor, shifts: torch.Tensor, person: torch.Tensor) -> torch.Tensor:
        """How far off the aligner and the reader are, and CosFace's loss: the own direction must win by the margin."""
        network = self.network
        with networks.mixed_precision():
            found = network.aligner(crops).float()
        on_shifts = functional.smooth_l1_loss(found, shifts, beta=0.02)
        redrawn = network.redraw(crops, found.detach()).contiguous(memory_format=torch.channels_last)
        with networks.mixed_precision():
            features = network.body[:-1](redrawn).float()
        on_traits = functional.mse_loss(self.reader(features), self.traits[person])
        directions = functional.normalize(self.from_traits(self.traits) + self.own)
        cosines = functional.normalize(network.body[-1](features)) @ directions.T
        cosines = cosines - _MARGIN * functional.one_hot(person, len(directions))
        on_people = functional.cross_entropy(_SCALE * cosines, person)
        return on_people + _SHIFT_WEIGHT * on_shifts + _TRAIT_WEIGHT * on_traits


def train(plan: RunSettings, folder: Path) -> list[float]:
    """Trains, writes the file, returns the losses."""
    random = begin(plan)
    gallery = portraits(TRAINING_SEED, plan.people, plan.each, plan.scratch, plan.workers)
    usable = np.flatnonzero(~gallery.covered & (np.abs(gallery.angles[:, 0]) <= YAW_LIMIT_DEG))
    network = Classes(np.stack([who.face_vector() for who in crowd(TRAINING_SEED, plan.people)]))
    if goes_on_from_file(plan, folder / FILE):
        restore(network.network, folder / FILE)
        network.aim_at(gallery, usable, random)

    def loss_of_batch() -> torch.Tensor:
        rows = random.choice(usable, _BATCH)
        crops, shifts = zip(*(example(gallery, row, random) for row in rows), strict=True)
        images, off = images_to_device(np.stack(crops), STD), to_device(np.stack(shifts))
        return network(images, off, torch.from_numpy(gallery.person[rows]).to(images.device))

    losses = fit(network, loss_of_batch, plan, 2e-3, folder / FILE)
    network.network.settle([_crops(gallery, rows, random) for rows in random.choice(usable, (_SETTLED, _BATCH))])
    write_model(column(network.network, SIDE, 0, 512), folder / FILE)
    return losses


def _crops(gallery: Gallery, rows: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    return images_to_device(np.stack([example(gallery, row, random)[0] for row in rows]), STD)


def example(gallery: Gallery, row: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Crop (112, 112, 3), mirrored half of the time, and how far off it is laid (10,), as `shifts_of` says."""
    image, five = gallery.images[row], gallery.five[row].astype(np.float64)
    if random.random() < 0.5:
        image, five = image[:, ::-1], mirrored_points(five, PIXELS, MIRRORED_FIVE)
    to_crop = similarity(_uncertain(five, random), ARCFACE_POINTS)
    crop = cv2.warpAffine(np.ascontiguousarray(image), to_crop, (SIDE, SIDE))
    return _as_others_leave_it(crop, random), shifts_of(to_crop, five)


def _as_others_leave_it(crop: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The crop with its faults, some as of a close-up: flat, and black where the picture ended."""
    if random.random() < _FLAT:
        crop = flat(crop, random)
    crop = spoiled(crop, random)
    if random.random() < _CUT:
        left, top, right, bottom = np.round(random.uniform(-0.1, 0.22, 4).clip(0) * SIDE).astype(int)
        inner = crop[top : SIDE - bottom, left : SIDE - right].copy()
        crop = np.zeros_like(crop)
        crop[top : SIDE - bottom, left : SIDE - right] = inner
    return crop


def shifts_of(to_crop: np.ndarray, five: np.ndarray) -> np.ndarray:
    """(10,) in half crops: from ArcFace's places to where those of the crop that `five` give lie in this one.

    These and not the points themselves, which a turned head spreads less than the places: fitted to them, the new crop
    would be closer than the one that InsightFace lays by true points.
    """
    from_places = cv2.invertAffineTransform(similarity(five, ARCFACE_POINTS))
    in_picture = ARCFACE_POINTS @ from_places[:, :2].T + from_places[:, 2]
    in_crop = in_picture @ to_crop[:, :2].T + to_crop[:, 2]
    return (in_crop - ARCFACE_POINTS).reshape(10) / (SIDE / 2)


def _uncertain(five: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The points (5, 2) as a detector might give them: each a little off, and all of them together."""
    reach = np.linalg.norm(five - five.mean(axis=0), axis=1).mean()
    noise = random.normal(0, _POINT_NOISE, (5, 2)) + random.normal(0, _COMMON_NOISE, 2)
    return five + noise * reach * random.uniform(0.4, 1.8)
