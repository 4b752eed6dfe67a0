"""What happens to a picture before a network learns from it: crops as InsightFace makes them, faults, mirroring."""

from __future__ import annotations

import cv2
import numpy as np

# Where insightface.utils.face_align puts the five points in a crop of 112 pixels (Deng et al. 2019).
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
MIRRORED_FIVE = (1, 0, 2, 4, 3)
MIRRORED_68 = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),  # nose
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),  # lips
)


def spoiled(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The picture (H, W, 3) uint8 as others would have left it: soft or sharpened, tinted, grainy, compressed."""
    height, width = image.shape[:2]
    draw = random.random(6)
    if draw[0] < 0.2:
        share = random.uniform(0.3, 0.8)
        size = max(int(width * share), 4), max(int(height * share), 4)
        image = cv2.resize(cv2.resize(image, size, interpolation=cv2.INTER_AREA), (width, height))
    elif draw[0] < 0.3:
        sharp = cv2.GaussianBlur(image, (0, 0), 1.0)
        image = cv2.addWeighted(image, 1.7, sharp, -0.7, 0)
    image = cv2.LUT(image, _curve(random))
    if draw[1] < 0.06:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if draw[2] < 0.35:
        grain = random.standard_normal((height, width, 1), np.float32) * random.uniform(1, 9)
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
    if draw[3] < 0.3:
        quality = int(random.integers(30, 96))
        image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    return image


def flat(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The picture (H, W, 3) uint8 dim, soft and with little contrast, as the close-ups of demo/sets.py are."""
    veiled = random.uniform(50, 110) + (image - image.mean()) * random.uniform(0.15, 0.4)
    soft = cv2.GaussianBlur(veiled, (0, 0), random.uniform(0.004, 0.014) * len(image))
    return np.clip(soft, 0, 255).astype(np.uint8)


def _curve(random: np.random.Generator) -> np.ndarray:
    """(256, 1, 3) grey levels in to grey levels out: exposure, contrast, a colour cast."""
    gains = random.uniform(0.65, 1.35) * random.normal(1, 0.05, 3)
    levels = (np.arange(256)[:, None] / 255) ** random.uniform(0.75, 1.35) * gains * 255 + random.normal(0, 10)
    return np.clip(levels, 0, 255).astype(np.uint8)[:, None, :]


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) shift, turn and scale that brings points (N, 2) nearest to `target` (least squares; Umeyama 1991)."""
    p, q = points[:, 0] + 1j * points[:, 1], target[:, 0] + 1j * target[:, 1]
    centred = p - p.mean()
    turn = np.vdot(centred, q) / np.vdot(centred, centred).real
    shift = q.mean() - turn * p.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def aligned(image: np.ndarray, five: np.ndarray, side: int = 112) -> np.ndarray:
    """The crop that ArcFace networks read; `norm_crop` of insightface.utils.face_align."""
    return cv2.warpAffine(image, similarity(five, ARCFACE_POINTS * (side / 112)), (side, side))


def box_transform(box: np.ndarray, side: int) -> np.ndarray:
    """(2, 3) from the picture to a square of 1.5 times the box's longer side; as InsightFace's landmarks and ages."""
    scale = side / (1.5 * max(box[2] - box[0], box[3] - box[1]))
    centre = (box[:2] + box[2:]) / 2
    return np.array([[scale, 0, side / 2 - scale * centre[0]], [0, scale, side / 2 - scale * centre[1]]])


def shaken(box: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A box (4,) as the pack's own detector might have given it."""
    size = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + random.normal(0, 0.035, 2) * size
    half = size / 2 * np.exp(random.normal(0, 0.05, 2))
    return np.concatenate([centre - half, centre + half])


def mirrored_box(box: np.ndarray, width: float) -> np.ndarray:
    return np.array([width - box[2], box[1], width - box[0], box[3]])


def mirrored_points(points: np.ndarray, width: float, order: tuple[int, ...]) -> np.ndarray:
    """Points (N, 2 or 3) of the mirrored picture, in their usual order."""
    out = points[list(order)].copy()
    out[:, 0] = width - out[:, 0]
    return out
