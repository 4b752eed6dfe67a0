"""What the diffusion model learns from: rendered heads that fill the frame, each with what is true of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from demo.diffusion.words import COMPOSED_FILLS, SIZE_FILLS
from demo.identity import BEARDS, HAIR_STYLES, NAMES, Identity
from demo.parallel import render_all
from demo.scene import BACKGROUNDS, LIGHTS, Scene, draw_scene
from demo.training_data import draw_people, generator
from utils.files import write_text_atomic
from utils.progress import GroupProgress

PIXELS, RENDERED = 96, 192  # rendered at twice the size and scaled down: drawn directly, edges would be jagged
SOFTNESS_PX = 0.6
EXPRESSIONS = {  # how often each is shown
    "neutral": 0.32,
    "smile": 0.17,
    "serious": 0.10,
    "laughing": 0.11,
    "surprised": 0.10,
    "angry": 0.10,
    "sad": 0.10,
}
BACKDROPS = {"low_key": "dark", "high_key": "white"}  # others would be too light, and too dark
_FACE_FILLS = tuple(COMPOSED_FILLS.values())  # smaller heads show no expression
EVERYDAY = "everyday"
EVERYDAY_LIGHTS = ("studio", "window", "daylight", "overcast", "lamp")
_CHOICES = ("hair_style", "beard", "moles")


def draw_yaw(random: np.random.Generator) -> float:
    """Degrees. Mostly what the words for angles ask for, some between."""
    side = random.choice([-1, 1])
    kind = random.choice(4, p=[0.40, 0.28, 0.26, 0.06])
    if kind == 0:
        return float(np.clip(random.normal(0, 6), -15, 15))
    return float(side * random.uniform(*((34, 46), (64, 76), (0, 82))[kind - 1]))


def draw_picture(
    who: Identity, random: np.random.Generator, fill: float | None = None, mood: str | None = None, **fixed: object
) -> Scene:
    """A scene for training. `fill`, the head's height by the picture's, `mood`, EVERYDAY or one of BACKDROPS, and
    `fixed` override what is drawn."""
    size = str(random.choice(["composed", "medium", "full"], p=[0.93, 0.05, 0.02]))
    drawn_fill = random.uniform(*SIZE_FILLS[size]) if size in SIZE_FILLS else random.choice([*COMPOSED_FILLS.values()])
    fill = float(drawn_fill if fill is None else fill)
    mood = mood or str(random.choice([EVERYDAY, *BACKDROPS], p=[0.84, 0.08, 0.08]))
    light = LIGHTS[mood if mood in LIGHTS else str(random.choice(EVERYDAY_LIGHTS))]
    light = replace(light, azimuth_deg=light.azimuth_deg * float(random.choice([-1, 1])) + float(random.normal(0, 6)))
    height = float(np.clip(0.10 + 0.74 * fill, 0.10, 0.5))
    drawn: dict[str, object] = {
        "yaw_deg": draw_yaw(random),
        "pitch_deg": float(np.clip(random.normal(0, 2), -5, 5)),
        "roll_deg": float(np.clip(random.normal(0, 1.5), -4, 4)),
        "expression": str(random.choice(list(EXPRESSIONS), p=list(EXPRESSIONS.values()))),
        "strength": 1.0,
        "eyes_closed": bool(random.random() < 0.02),
        "gaze_deg": (0.0, 0.0),
        "light": light,
        "fill": fill,
        "place": (0.5, height),
        "lens_mm": 85.0,
        "background": BACKDROPS.get(mood) or str(random.choice(BACKGROUNDS, p=[0.6, 0.2, 0.2])),
        "grain": 0.0,
    }
    drawn.update(fixed)
    return draw_scene(who, random, **drawn)


def shrunk(image: np.ndarray, side: int = PIXELS) -> np.ndarray:
    """(H, W, 3) uint8 scaled to a square of `side`, a little softer than it could be.

    What is as fine as a pixel costs a small VAE most and tells nobody who is seen.
    """
    return cv2.GaussianBlur(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), (0, 0), SOFTNESS_PX)


def traits(who: Identity) -> np.ndarray:
    """(T,) float32 within -1 to 1: who a person is, as the network that names people gets it."""
    values = dict(zip(NAMES, who.vector(), strict=True))
    measured = [2 * values[name] - 1 for name in NAMES if name not in _CHOICES]
    hair = [float(who.hair == style) for style in HAIR_STYLES]
    beard = [float(who.facial_hair == style) for style in BEARDS]
    return np.array(measured + hair + beard, np.float32)


@dataclass(frozen=True)
class Pictures:
    """`images` (N, 96, 96, 3) uint8 BGR, their scenes, and where the face lies: (N, 4) pixels, NaN for none."""

    name: str  # of the set
    images: np.ndarray
    scenes: list[Scene]
    boxes: np.ndarray


def pictures(seed: int, people: int, each: int, scratch: Path, workers: int | None = None) -> Pictures:
    """`each` pictures of so many people, from the scratch folder, or rendered and kept there."""
    random = generator(seed, "diffusion")
    scenes = [draw_picture(who, random) for who in draw_people(seed, people) for _ in range(each)]
    return _rendered(f"diffusion-{seed}-{people}-{each}", scenes, scratch, workers)


def faces(seed: int, people: int, scratch: Path, workers: int | None = None) -> Pictures:
    """One scene of each of so many people with every expression in turn, in the order of EXPRESSIONS, kept likewise."""
    random = generator(seed, "expression pairs")
    people_drawn = draw_people(seed, people)
    alike = [draw_picture(who, random, float(random.choice(_FACE_FILLS)), eyes_closed=False) for who in people_drawn]
    scenes = [replace(one, expression=expression) for one in alike for expression in EXPRESSIONS]
    return _rendered(f"faces-{seed}-{people}", scenes, scratch, workers)


def _rendered(name: str, scenes: list[Scene], scratch: Path, workers: int | None) -> Pictures:
    drawn = hashlib.sha256(repr(scenes).encode()).hexdigest()[:8]  # other code may draw other scenes
    base = scratch / f"{name}-{drawn}"
    images_file, boxes_file = base.with_suffix(".npy"), base.with_suffix(".json")
    if not boxes_file.exists():
        scratch.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(images_file, "w+", np.uint8, (len(scenes), PIXELS, PIXELS, 3))
        boxes = _render_into(images, scenes, workers)
        images.flush()
        write_text_atomic(boxes_file, json.dumps(boxes))
    boxes = np.array(json.loads(boxes_file.read_text(encoding="utf-8")), np.float32)
    return Pictures(base.name, np.load(images_file, mmap_mode="r"), scenes, boxes)


def _render_into(images: np.ndarray, scenes: Sequence[Scene], workers: int | None) -> list[list[float]]:
    boxes = []
    with GroupProgress() as progress:
        task = progress.add("Rendering heads", len(scenes))
        for place, picture in enumerate(render_all(scenes, RENDERED, workers, samples=1.0)):
            images[place] = shrunk(picture.image)
            box = picture.truth.face_box_xyxy
            boxes.append([float("nan")] * 4 if box is None else [v * PIXELS / RENDERED for v in box])
            progress.step(task)
    return boxes
