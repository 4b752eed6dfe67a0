"""A dataset of one rendered person and a batch of generated images in which every fault is planted and known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from demo.identity import Identity, draw_identity
from demo.render import render
from demo.scene import Scene, draw_scene
from demo.sets import nudged
from mirror.dataset.checks import BRIGHTNESS, COPY, DUPLICATE, FACE, IDENTITY, INTACT, ONE_FACE, SHARPNESS, TARGET

PIXELS = 384
GRAIN = 3.0  # grey levels: small smooth renders would count as blurred without it
# Two of the people that benchmarks/identity_by_yaw.py draws with --seed 5, far apart for the small pack at all angles:
# at 75 degrees it takes one person in four for somebody else (see there), which is not what is tested here.
PERSON, STRANGER = (5, 19), (5, 12)
REFERENCE_YAWS = (-30, -20, -12, -6, 0, 3, 8, 15, 22, 34)
GOOD_YAWS = (0, 3, -4, 6, -8, 10, -11, 13, 36, -37, 38, -39, 40, -41, 68, -69, 70, -72, 74, -75)
WRONG_YAWS = (0, 30, 60, 75)
UNASKED_YAWS = (-30, 60)  # the person too, and like WRONG_YAWS not in the metadata: asked for no angle
OTHER = {"studio": "outdoor", "indoor": "outdoor", "outdoor": "indoor"}  # background


@dataclass(frozen=True)
class Planted:
    """One image of the batch. `fault` is the check that must fail, None for a good one."""

    file: str
    image: np.ndarray
    target: str | None
    fault: str | None


def angle_target(yaw_deg: float) -> str:
    return "front" if abs(yaw_deg) < 25 else "three_quarter" if abs(yaw_deg) < 55 else "profile"


def planted() -> tuple[list[np.ndarray], list[Planted]]:
    """Pictures of the real photos, and the batch."""
    who, stranger = (draw_identity(np.random.default_rng(seed)) for seed in (PERSON, STRANGER))
    random = np.random.default_rng(5)

    def shot(yaw: float, person: Identity = who, **fixed: object) -> Scene:
        return draw_scene(person, random, yaw_deg=float(yaw), pitch_deg=0.0, **({"grain": GRAIN} | fixed))

    real = [shot(yaw) for yaw in REFERENCE_YAWS]
    batch = [Planted(f"good_{yaw:+d}.png", _drawn(shot(yaw)), angle_target(yaw), None) for yaw in GOOD_YAWS]
    batch += [Planted(f"wrong_{yaw}.png", _drawn(shot(yaw, stranger)), None, IDENTITY) for yaw in WRONG_YAWS]
    batch += [Planted(f"right_{yaw}.png", _drawn(shot(yaw)), None, None) for yaw in UNASKED_YAWS]
    plain = _drawn(shot(5))
    duo = np.hstack([_drawn(shot(4), (256, PIXELS)), _drawn(shot(-4, stranger), (256, PIXELS))])
    empty = draw_scene(who, np.random.default_rng(0), yaw_deg=0.0, pitch_deg=0.0, grain=8.0)
    faults = {
        "blurred": (_drawn(shot(-3, blur_px=5.0)), "front", SHARPNESS),
        "dark": ((plain * 0.15).astype(np.uint8), "front", BRIGHTNESS),
        "bright": ((255 - (255 - _drawn(shot(2))) * 0.14).clip(0, 255).astype(np.uint8), "front", BRIGHTNESS),
        "angle": (_drawn(shot(-2)), "profile", TARGET),
        "no_face": (_drawn(replace(empty, person=False, background="outdoor")), "front", FACE),
        "two_faces": (duo, "front", ONE_FACE),
        "near_copy": (_drawn(nudged(real[4], 0.3, random)), "front", DUPLICATE),
        "pasted_face": (_drawn(replace(real[6], background=OTHER[real[6].background], clothes_seed=9)), "front", COPY),
        "black": (np.zeros((PIXELS, PIXELS, 3), np.uint8), "front", INTACT),
        "grey": (np.full((PIXELS, PIXELS, 3), 127, np.uint8), "front", INTACT),
        "blown": (np.full((PIXELS, PIXELS, 3), 255, np.uint8), "front", INTACT),
    }
    batch += [Planted(f"{name}.png", *what) for name, what in faults.items()]
    return [_drawn(scene) for scene in real], batch


def _drawn(scene: Scene, size: int | tuple[int, int] = PIXELS) -> np.ndarray:
    return render(scene, size, samples=1.0).image  # edges need not be smooth here, and it takes half as long


def write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
