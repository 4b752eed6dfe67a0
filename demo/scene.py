"""One picture's description: who, how they hold their head, light, lens, frame, place and the camera's faults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import numpy as np

from demo.expressions import EXPRESSIONS, Expression
from demo.hair import grey_share
from demo.identity import Identity

FRAMINGS = {"extreme_close_up": 1.75, "close_up": 0.80, "bust": 0.52, "half_body": 0.27, "full_figure": 0.125}
BACKGROUNDS = ("studio", "indoor", "outdoor")
HEAD_CM = 23.0


@dataclass(frozen=True)
class Light:
    """Where the key light comes from (degrees; azimuth > 0 is the image's right) and how strong each light is."""

    azimuth_deg: float = -35.0
    elevation_deg: float = 35.0
    key: float = 1.0
    fill: float = 0.42
    rim: float = 0.35
    warmth: float = 0.1  # -1 blue .. 1 orange
    softness: float = 0.5  # 0 hard shadows .. 1 none to speak of


LIGHTS = {
    "studio": Light(),
    "window": Light(-62.0, 18.0, 1.15, 0.30, 0.15, -0.15, 0.7),
    "daylight": Light(25.0, 48.0, 1.15, 0.55, 0.30, 0.05, 0.35),
    "overcast": Light(5.0, 60.0, 0.55, 0.95, 0.10, -0.20, 1.0),
    "sunset": Light(58.0, 12.0, 1.25, 0.34, 0.60, 0.60, 0.35),
    "low_key": Light(-70.0, 25.0, 0.95, 0.07, 0.55, 0.25, 0.3),
    "high_key": Light(-15.0, 30.0, 1.00, 0.85, 0.40, 0.0, 0.9),
    "lamp": Light(40.0, 42.0, 1.0, 0.32, 0.20, 0.38, 0.5),
}


@dataclass(frozen=True)
class Scene:
    """Angles in degrees: yaw > 0 nose to the image's right, pitch > 0 face up, roll > 0 crown to the image's right."""

    who: Identity
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    age_years: float | None = None  # None: the identity's own
    expression: str = "neutral"
    strength: float = 1.0  # share of the expression
    eyes_closed: bool = False
    gaze_deg: tuple[float, float] = (0.0, 0.0)  # off the camera, right and up
    hair: str | None = None  # None: the identity's own
    glasses: str = "none"  # none, clear, dark
    cover: str = "none"  # none, mask, hand
    hand: str = "none"  # none, wave, chin, cheek
    light: Light = field(default_factory=Light)
    fill: float = FRAMINGS["bust"]  # head's height as a share of the picture's
    place: tuple[float, float] | None = None  # centre of the head as shares of width and height
    lens_mm: float = 70.0
    background: str = "studio"
    background_seed: int = 0
    clothes_seed: int = 0
    person: bool = True  # False: only the background
    blur_px: float = 0.0  # Gaussian, at 512 pixels of height
    motion_px: float = 0.0
    contrast: float = 1.0  # below 1: flat and dim, grey levels shrink towards `veil_grey`
    veil_grey: float = 60.0
    grain: float = 1.2  # grey levels
    jpeg: int = 0  # 0: not compressed
    seed: int = 0

    @property
    def age(self) -> float:
        return float(self.who.born_look if self.age_years is None else self.age_years)

    @property
    def hair_name(self) -> str:
        return self.who.hair if self.hair is None else self.hair

    @property
    def face(self) -> Expression:
        full = EXPRESSIONS[self.expression]
        values = {k: round(v * self.strength, 4) for k, v in asdict(full).items()}
        if self.eyes_closed:
            values["blink"] = 1.0
        return Expression(**values)

    def as_dict(self) -> dict:
        """Plain values for the truth file."""
        out = asdict(self)
        out["who"] = self.who.as_dict()
        out.update(
            age_years=round(self.age, 2),
            hair=self.hair_name,
            beard=self.who.facial_hair,
            grey_share=round(grey_share(self.age), 3),
        )
        return out


def draw_scene(who: Identity, rng: np.random.Generator, **fixed: object) -> Scene:
    """An everyday photo of a person; `fixed` overrides what is drawn (the same number of draws either way)."""
    light = LIGHTS[str(rng.choice(["studio", "window", "daylight", "overcast", "sunset", "high_key", "lamp"]))]
    light = replace(
        light,
        azimuth_deg=light.azimuth_deg * float(rng.choice([-1, 1])) + float(rng.normal(0, 8)),
        elevation_deg=light.elevation_deg + float(rng.normal(0, 5)),
        key=light.key * float(rng.uniform(0.9, 1.1)),
    )
    drawn: dict[str, object] = {
        "yaw_deg": float(np.clip(rng.normal(0, 24), -60, 60)),
        "pitch_deg": float(np.clip(rng.normal(0, 7), -18, 18)),
        "roll_deg": float(np.clip(rng.normal(0, 5), -15, 15)),
        "expression": str(rng.choice(["neutral", "smile", "serious", "laughing"], p=[0.4, 0.3, 0.15, 0.15])),
        "strength": round(0.7 + 0.15 * round(float(rng.uniform(0.0, 2.0))), 2),  # few values: faces are cached by them
        "gaze_deg": (float(rng.normal(0, 5)), float(rng.normal(0, 3))),
        "light": light,
        "fill": float(rng.uniform(0.42, 0.62)),
        "lens_mm": float(rng.choice([50.0, 85.0, 105.0])),
        "background": str(rng.choice(BACKGROUNDS)),
        "background_seed": int(rng.integers(1 << 30)),
        "clothes_seed": int(rng.integers(1 << 30)),
        "grain": float(rng.uniform(0.6, 2.2)),
        "seed": int(rng.integers(1 << 30)),
    }
    drawn.update(fixed)
    return Scene(who=who, **drawn)
