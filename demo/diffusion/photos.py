"""Photos of a person as the diffusion model would be shown them: rendered as its own pictures were, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from demo.diffusion.pictures import EVERYDAY, RENDERED, draw_picture, shrunk
from demo.diffusion.words import COMPOSED_FILLS, NAME, caption_of
from demo.identity import Identity
from demo.parallel import render_all
from demo.simulated_generator import write_png

TRIGGER = "ohwx person"
_EXPRESSIONS = {"neutral": 0.5, "smile": 0.3, "laughing": 0.1, "serious": 0.1}  # of people's photos of somebody
_NEAR = tuple(COMPOSED_FILLS.values())


def write_photos(
    folder: Path, who: Identity, yaws_deg: Sequence[float], random: np.random.Generator, workers: int | None = None
) -> list[Path]:
    """Everyday pictures, one a yaw, each with its true angle inside and a caption beside it that names TRIGGER."""
    scenes = [
        draw_picture(
            who,
            random,
            fill=float(random.choice(_NEAR)),
            mood=EVERYDAY,
            yaw_deg=float(yaw),
            expression=str(random.choice(list(_EXPRESSIONS), p=list(_EXPRESSIONS.values()))),
            eyes_closed=False,
        )
        for yaw in yaws_deg
    ]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (scene, picture) in enumerate(zip(scenes, render_all(scenes, RENDERED, workers, 1.0), strict=True)):
        path = folder / f"photo_{index:02d}.png"
        write_png(path, shrunk(picture.image), scene.yaw_deg)
        caption = caption_of(scene, random, named=True).replace(NAME, TRIGGER.split()[0])
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        paths.append(path)
    return paths


def usual_yaws(front: int, turned: int, profile: int, random: np.random.Generator) -> np.ndarray:
    """Degrees, either side: so many from the front, turned, and in profile."""
    sides = random.choice([-1, 1], turned + profile)
    turns = np.concatenate([random.uniform(30, 45, turned), random.uniform(62, 75, profile)])
    return np.concatenate([random.uniform(-15, 15, front), sides * turns])
