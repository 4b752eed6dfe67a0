"""What the expression network learns from: each person with every expression, turned, lit, aged and dressed at random.

Rendered people by people into a scratch folder, a file for each handful of people; what is there is not rendered again.
Kept of a picture is the square around the face, with room for every way of cropping it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from demo.identity import HAIR_STYLES, Identity
from demo.parallel import render_all
from demo.render import Picture
from demo.scene import LIGHTS, Scene, draw_scene
from demo.sets import spread_yaws
from demo.training_data import TRAINING_SEED, draw_people, generator
from mirror.contracts.expressions import EXPRESSIONS
from utils.files import write_bytes_atomic

PIXELS = 256  # side of a rendered picture; its face is about as large as the network's input
SAMPLES = 1.0  # nobody looks at these pictures: smooth edges would take as long again
KEPT_PIXELS, KEPT_BOXES = 144, 2.0  # side of what is kept of it, and that side in units of the box's longer one
YAW_LIMIT_DEG = 55.0
AGE_LIMITS = (18.0, 75.0)
STRENGTHS = (0.65, 1.0)  # draw_scene gives 0.7 to 1.0
BLOCK_PEOPLE = 10  # people in one file


@dataclass(frozen=True)
class Faces:
    """N pictures around faces and what is true of them."""

    images: np.ndarray  # (N, S, S, 3) uint8 BGR, S = KEPT_PIXELS
    boxes: np.ndarray  # (N, 4) float32 x1 y1 x2 y2 in pixels of the kept square
    five: np.ndarray  # (N, 5, 2) float32, the five keypoints
    expression: np.ndarray  # (N,) int, place in EXPRESSIONS
    yaw_deg: np.ndarray  # (N,)
    roll_deg: np.ndarray  # (N,) above 0: crown to the image's right

    def __len__(self) -> int:
        return len(self.expression)


def expression_scenes(who: Identity, each: int, random: np.random.Generator) -> list[Scene]:
    """`each` scenes of every expression, neighbours alike in shape (the renderer keeps a head's shape)."""
    age = float(random.uniform(*AGE_LIMITS))
    scenes = []
    for name in EXPRESSIONS:
        strength = round(float(random.uniform(*STRENGTHS)), 2)
        for yaw in spread_yaws(each, YAW_LIMIT_DEG, random):
            fixed = {"expression": name, "strength": strength, "age_years": age, **_circumstances(random)}
            scenes.append(draw_scene(who, random, yaw_deg=float(yaw), **fixed))
    return scenes


def _circumstances(random: np.random.Generator) -> dict:
    """Everything about a picture that is neither who, nor the expression, nor the yaw."""
    fill = float(random.uniform(0.40, 0.66))
    fixed = {
        "pitch_deg": float(np.clip(random.normal(0, 8), -22, 22)),
        "roll_deg": float(np.clip(random.normal(0, 7), -20, 20)),
        "fill": fill,
        "place": (0.5 + float(random.normal(0, 0.03)), float(np.clip(0.10 + 0.74 * fill, 0.10, 0.5))),
        "glasses": str(random.choice(["none", "clear", "dark"], p=[0.77, 0.19, 0.04])),
        "hand": str(random.choice(["none", "wave", "chin", "cheek"], p=[0.91, 0.03, 0.03, 0.03])),
        "eyes_closed": bool(random.uniform() < 0.03),
        "blur_px": float(random.choice([0.0, 0.0, 0.0, 1.5])),
    }
    hair, dark = random.uniform(size=2) < (0.3, 0.05)
    if hair:
        fixed["hair"] = str(random.choice(HAIR_STYLES))
    if dark:
        fixed["light"] = LIGHTS["low_key"]
    return fixed


def faces(
    people: int, each: int, scratch: Path, workers: int | None = None, progress: Callable[[], None] | None = None
) -> Faces:
    """`each` pictures of every expression of the first `people` people that networks learn from.

    `progress` is told of each picture, at once of those that are in `scratch` already.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    blocks = []
    crowd = draw_people(TRAINING_SEED, people)
    for first in range(0, people, BLOCK_PEOPLE):
        some = crowd[first : first + BLOCK_PEOPLE]
        file = scratch / f"expressions-{TRAINING_SEED}-{first}-{len(some)}-{each}.npz"
        random = generator(TRAINING_SEED, f"expressions {first}")
        scenes = [scene for who in some for scene in expression_scenes(who, each, random)]
        blocks.append(_block(file, scenes, workers, progress or (lambda: None)))
    return Faces(*(np.concatenate([getattr(block, name) for block in blocks]) for name in Faces.__dataclass_fields__))


def _block(file: Path, scenes: Sequence[Scene], workers: int | None, progress: Callable[[], None]) -> Faces:
    """Faces of `scenes`: from the scratch folder, or rendered and kept there."""
    if not file.exists():
        rows = []
        for picture in render_all(scenes, PIXELS, workers, SAMPLES):
            rows.append(kept(picture))
            progress()
        columns = {
            name: np.stack(column)
            for name, column in zip(Faces.__dataclass_fields__, zip(*rows, strict=True), strict=True)
        }
        content = io.BytesIO()
        np.savez(content, **columns)
        write_bytes_atomic(file, content.getvalue())
        return Faces(**columns)
    with np.load(file) as columns:
        block = Faces(**{name: columns[name] for name in Faces.__dataclass_fields__})
    for _ in range(len(block)):
        progress()
    return block


def kept(picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, float, float]:
    """A row of `Faces`: the square around a picture's face, and what is true of it."""
    truth = picture.truth
    box = np.array(truth.face_box_xyxy)
    scale = KEPT_PIXELS / (KEPT_BOXES * (box[2:] - box[:2]).max())
    shift = KEPT_PIXELS / 2 - scale * (box[:2] + box[2:]) / 2
    to_square = np.column_stack([scale * np.eye(2), shift])
    how = cv2.INTER_AREA if scale < 0.8 else cv2.INTER_LINEAR
    image = cv2.warpAffine(
        picture.image, to_square, (KEPT_PIXELS, KEPT_PIXELS), flags=how, borderMode=cv2.BORDER_REPLICATE
    )
    five = np.asarray(truth.five_points) * scale + shift
    moved = np.concatenate([box[:2] * scale + shift, box[2:] * scale + shift])
    place = EXPRESSIONS.index(truth.expression)
    return image, moved.astype(np.float32), five.astype(np.float32), place, truth.yaw_deg, truth.roll_deg
