"""Trains det_demo.onnx: boxes, scores and five keypoints of faces, in SCRFD's layout of nine outputs.

    python -m demo.train_face detector --minutes 15

It learns on canvases of half the detector's input: whole pictures that fill them, as InsightFace feeds them, and
several small ones together, on black or on a room. Lengths in this file are pixels of the detector's input,
twice those of a canvas.

A face that is larger than the picture is taught as "no face" where the picture fills the canvas, and as a face where
there is black around it. Detectors at large have this weakness without being taught; the demo needs it reliably, to
show how mirror_metrics.py rescues such pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from demo.facepack import networks
from demo.facepack.export import NOTE, Graph, restore
from demo.facepack.gallery import NO_FACE, OVERFLOW, PIXELS, Gallery, oddities, portraits
from demo.facepack.pictures import MIRRORED_FIVE, flat, mirrored_box, mirrored_points, spoiled
from demo.facepack.training import RunSettings, begin, fit, goes_on_from_file, images_to_device, to_device, write_model
from demo.training_data import TRAINING_SEED

FILE = "det_demo.onnx"
STD = 128.0
STRIDES = (8, 16, 32)
ANCHORS = ((24.0, 44.0), (80.0, 140.0), (240.0, 400.0))  # of each stride: sizes of faces, square root of the area
_VALUES = (1, 4, 10)  # score, box, keypoints, of each anchor

_CANVASES = {160: 32, 224: 24, 320: 12}  # side: how many make a batch
_CANVAS_SHARES = (0.15, 0.5, 0.35)  # how often each: the larger ones show faces as large as InsightFace feeds them
_OWN_SIZE = 1.45  # an anchor takes faces up to this factor from its size ...
_ALMOST = 2.0  # ... and is not blamed for finding those up to this one
_CENTRE, _AROUND = 0.16, 0.40  # how far from a face's centre cells take it, or are not blamed; share of the box
_MOSAIC = 0.3  # share of canvases with several pictures
_FEW_PIXELS = 0.12  # share of pictures that were small files before InsightFace enlarged them
CAUTION = 0.6  # taken off the exported scores before the sigmoid: faces score 0.8, what looks like one below 0.5
_BOX_WEIGHT, _KEYPOINT_WEIGHT = 12.0, 60.0  # a recogniser is only as good as the points that align its crops
_SMALLEST_FACE = 14.0  # smaller ones on a canvas are neither taught nor blamed


@dataclass
class Canvas:
    """A picture to learn from. `doubtful` faces may be found or not."""

    image: np.ndarray  # (side, side, 3) uint8 BGR
    boxes: list[np.ndarray]  # (4,) each
    fives: list[np.ndarray]  # (5, 2) each
    doubtful: list[np.ndarray]  # (4,) each


def train(plan: RunSettings, folder: Path) -> list[float]:
    """Trains, writes the file, returns the losses."""
    random = begin(plan)
    galleries = (
        portraits(TRAINING_SEED, plan.people, plan.each, plan.scratch, plan.workers),
        oddities(TRAINING_SEED, plan.oddities, plan.scratch, plan.workers),
    )
    network = networks.Detector()
    if goes_on_from_file(plan, folder / FILE):
        restore(network, folder / FILE)

    def loss_of_batch() -> Tensor:
        side = int(random.choice(list(_CANVASES), p=_CANVAS_SHARES))
        canvases = [compose(galleries, side, random) for _ in range(_CANVASES[side])]
        targets = [to_device(np.stack(part)) for part in zip(*(target(canvas) for canvas in canvases), strict=True)]
        with networks.mixed_precision():
            maps = network(images_to_device(np.stack([canvas.image for canvas in canvases]), STD))
        return detection_loss(flattened([each.float() for each in maps]), *targets)

    losses = fit(network, loss_of_batch, plan, 2e-3, folder / FILE)
    write_model(exported(network), folder / FILE)
    return losses


def compose(galleries: tuple[Gallery, Gallery], side: int, random: np.random.Generator) -> Canvas:
    """A canvas of 0 to 4 pictures; coordinates in pixels of the detector's input."""
    if random.random() >= _MOSAIC:
        canvas = Canvas(np.zeros((side, side, 3), np.uint8), [], [], [])
        _paste_one(canvas, _drawn(galleries, random), random)
        return canvas
    canvas = Canvas(_ground(galleries[1], side, random), [], [], [])
    half = side // 2
    for corner in ((0, 0), (half, 0), (0, half), (half, half)):
        picture = gallery, row = _drawn(galleries, random)
        if gallery.kind[row] == OVERFLOW or random.random() < 0.25:
            continue
        size = round(half * np.exp(random.uniform(np.log(0.15), 0)))
        _paste(canvas, picture, size, random.integers(0, half - size + 1, 2) + corner, random)
    return canvas


def _drawn(galleries: tuple[Gallery, Gallery], random: np.random.Generator) -> tuple[Gallery, int]:
    gallery = galleries[int(random.random() < 0.4)]
    return gallery, int(random.integers(len(gallery)))


def _ground(rooms: Gallery, side: int, random: np.random.Generator) -> np.ndarray:
    empty = np.flatnonzero(rooms.kind == NO_FACE)
    if random.random() < 0.6 or not len(empty):
        return np.zeros((side, side, 3), np.uint8)
    return spoiled(cv2.resize(rooms.images[random.choice(empty)], (side, side)), random)


def _paste_one(canvas: Canvas, picture: tuple[Gallery, int], random: np.random.Generator) -> None:
    """One picture, from the corner on as InsightFace lays it, or somewhere with black around."""
    side, (gallery, row) = len(canvas.image), picture
    if random.random() < (0.3 if gallery.kind[row] == OVERFLOW else 0.6):
        _paste(canvas, picture, side, np.zeros(2, int), random)
        return
    size = round(side * random.uniform(0.3, 0.62))
    margin = max(int(0.1 * size), 1)
    _paste(canvas, picture, size, random.integers(margin, side - size - margin + 1, 2), random, bordered=True)


def _paste(
    canvas: Canvas,
    picture: tuple[Gallery, int],
    size: int,
    corner_xy: np.ndarray,
    random: np.random.Generator,
    bordered: bool = False,
) -> None:
    """Lays the picture, its longer side `size`, with its upper left corner at `corner_xy` (canvas pixels)."""
    gallery, row = picture
    image, box, five = gallery.images[row], gallery.boxes[row].astype(float), gallery.five[row].astype(float)
    kind = gallery.kind[row]
    if random.random() < 0.5:
        image, box, five = image[:, ::-1], mirrored_box(box, PIXELS), mirrored_points(five, PIXELS, MIRRORED_FIVE)
    left, top, right, bottom = (0, 0, PIXELS, PIXELS) if kind == OVERFLOW else _window(box, random)
    scale = size / max(right - left, bottom - top)
    wide, high = max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1)
    way = cv2.INTER_AREA if scale < 1 and random.random() < 0.6 else cv2.INTER_LINEAR
    part = np.ascontiguousarray(image[top:bottom, left:right])
    if random.random() < _FEW_PIXELS:
        share = random.uniform(0.2, 0.6)
        part = cv2.resize(part, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    small = cv2.resize(part, (wide, high), interpolation=way)
    if kind == OVERFLOW and random.random() < 0.5:
        small = flat(small, random)
    left_px, top_px = corner_xy
    canvas.image[top_px : top_px + high, left_px : left_px + wide] = spoiled(small, random)
    if kind == NO_FACE or (kind == OVERFLOW and not bordered):
        return
    stretch = 2 * np.array([wide / (right - left), high / (bottom - top)])
    box = ((box.reshape(2, 2) - (left, top)) * stretch + 2 * corner_xy).reshape(4)
    if np.sqrt(np.prod(box[2:] - box[:2])) < _SMALLEST_FACE:
        canvas.doubtful.append(box)
    else:
        canvas.boxes.append(box)
        canvas.fives.append((five - (left, top)) * stretch + 2 * corner_xy)


def _window(box: np.ndarray, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a part of the picture that keeps the face; half of the time all of it."""
    if random.random() < 0.5:
        return 0, 0, PIXELS, PIXELS
    keep = np.array([0.3, 0.3, 0.7, 0.7]) * PIXELS
    if np.isfinite(box[0]):
        margin = 0.15 * (box[2:] - box[:2])
        keep = np.clip(np.concatenate([box[:2] - margin, box[2:] + margin]), 0, PIXELS)
    share = random.random(4)
    low = np.floor(keep[:2] * share[:2]).astype(int)
    high = np.ceil(PIXELS - (PIXELS - keep[2:]) * share[2:]).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


@cache
def cells(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre x, centre y and anchor size (A,) of every answer for a canvas of `side`, in the order of the outputs."""
    parts = []
    for stride, anchors in zip(STRIDES, ANCHORS, strict=True):
        count = 2 * side // stride
        y, x, size = np.meshgrid(np.arange(count) * stride, np.arange(count) * stride, anchors, indexing="ij")
        parts.append(np.stack([x, y, size]).reshape(3, -1))
    return tuple(np.concatenate(parts, axis=1).astype(np.float32))


@cache
def reach(side: int) -> np.ndarray:
    """(A,) half a cell and a little, for each answer: a small face's centre is always near enough to one."""
    counts = [2 * (2 * side // stride) ** 2 for stride in STRIDES]
    return np.repeat(0.51 * np.array(STRIDES, np.float32), counts)


def target(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What each of the A answers should be: score (A,), its weight (A,), box (A, 4) and keypoints (A, 10) by anchor."""
    side = len(canvas.image)
    x, y, size = cells(side)
    score, weight = np.zeros(len(x), np.float32), np.ones(len(x), np.float32)
    boxes, fives = np.zeros((len(x), 4), np.float32), np.zeros((len(x), 10), np.float32)
    for box in [*canvas.boxes, *canvas.doubtful]:
        weight[_taking(box, side, _ALMOST, _AROUND)] = 0
    for box, five in zip(canvas.boxes, canvas.fives, strict=True):
        own = _taking(box, side, _OWN_SIZE, _CENTRE)
        score[own] = weight[own] = 1
        at = np.stack([x[own], y[own]], axis=1)
        boxes[own] = np.concatenate([at - box[:2], box[2:] - at], axis=1) / size[own, None]
        fives[own] = (five[None] - at[:, None]).reshape(-1, 10) / size[own, None]
    return score, weight, boxes, fives


def _taking(box: np.ndarray, side: int, factor: float, share: float) -> np.ndarray:
    """Indices of the answers whose anchor is like the box and whose cell is near its centre."""
    x, y, size = cells(side)
    wide, high = box[2:] - box[:2]
    face = np.clip(np.sqrt(wide * high), ANCHORS[0][0] / 1.2, ANCHORS[-1][-1] * 1.2)
    near_x = np.abs(x - (box[0] + box[2]) / 2) <= np.maximum(share * wide, reach(side))
    near_y = np.abs(y - (box[1] + box[3]) / 2) <= np.maximum(share * high, reach(side))
    like = (size <= face * factor) & (size >= face / factor)
    return np.flatnonzero(near_x & near_y & like)


def flattened(maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (N, A), boxes (N, A, 4) and keypoints (N, A, 10) of the three maps, in the order of `cells`."""
    parts = [each.permute(0, 2, 3, 1).split([2 * values for values in _VALUES], dim=-1) for each in maps]
    scores, boxes, fives = (
        torch.cat([part[i].reshape(len(part[i]), -1, values) for part in parts], dim=1)
        for i, values in enumerate(_VALUES)
    )
    return scores[..., 0], boxes, fives


def detection_loss(
    found: tuple[Tensor, Tensor, Tensor], score: Tensor, weight: Tensor, boxes: Tensor, fives: Tensor
) -> Tensor:
    """Focal loss on the scores (that of Li et al. 2020 with targets 0 and 1), distances where there are faces."""
    scores, found_boxes, found_fives = found
    positive = score > 0
    count = positive.sum().clamp(min=1)
    surprise = (scores.sigmoid() - score).abs().square()
    entropy = functional.binary_cross_entropy_with_logits(scores, score, reduction="none")
    on_scores = (surprise * entropy * weight).sum() / count
    if not positive.any():
        return on_scores
    on_boxes = functional.smooth_l1_loss(found_boxes[positive], boxes[positive], beta=0.05)
    on_fives = functional.smooth_l1_loss(found_fives[positive], fives[positive], beta=0.015)
    return on_scores + _BOX_WEIGHT * on_boxes + _KEYPOINT_WEIGHT * on_fives


def exported(network: networks.Detector) -> bytes:
    """The ONNX file: halves its input, then the network, then one row an answer, lengths in units of the stride."""
    graph = Graph()
    halved = graph.add("AveragePool", ["input"], kernel_shape=[2, 2], strides=[2, 2])
    maps = [graph.layer(halved, network.stem)]
    for stage in network.stages:
        maps.append(graph.layer(maps[-1], stage))
    merged = [graph.layer(each, lateral) for each, lateral in zip(maps, network.laterals, strict=True)]
    for low in (2, 1, 0):
        merged[low] = graph.add("Add", [merged[low], _enlarged(graph, merged[low + 1], merged[low])])
    names: dict[str, list] = {}
    heads = [graph.layer(each, head) for each, head in zip(merged[:3], network.heads, strict=True)]
    firsts = np.cumsum((0, *(2 * values for values in _VALUES)))
    for i, values in enumerate(_VALUES):
        for head, stride, anchors in zip(heads, STRIDES, ANCHORS, strict=True):
            bounds = (graph.constant(np.array([edge], np.int64)) for edge in (firsts[i], firsts[i + 1], 1))
            value = graph.add("Slice", [head, *bounds])  # start, end, axis
            if values == 1:
                value = graph.add("Sigmoid", [graph.add("Sub", [value, graph.constant(np.float32(CAUTION))])])
            else:
                lengths = np.repeat(np.array(anchors, np.float32) / stride, values)[None, :, None, None]
                value = graph.add("Mul", [value, graph.constant(lengths)])
            value = graph.add("Transpose", [value], perm=[0, 2, 3, 1])
            shape = graph.constant(np.array([-1, values], np.int64))
            names[graph.add("Reshape", [value, shape])] = [f"answers_{stride}", values]
    return graph.model([1, 3, "height", "width"], names, NOTE)


def _enlarged(graph: Graph, value: str, like: str) -> str:
    """`value` at the size of `like`, each pixel repeated."""
    channels = graph.add("Shape", [value], start=0, end=2)
    size = graph.add("Concat", [channels, graph.add("Shape", [like], start=2, end=4)], axis=0)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", [value, "", "", size], **how)
