"""Who a rendered head is: one vector of named shape and colour parameters, without age, pose or light.

A parameter is a number between its two limits (the unit is in its note). An identity is the tuple of all of them, so it
can be a cache key, be blended with another one, and be compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HAIR_STYLES = ("short", "side_part", "crop", "curly", "bob", "long", "bun", "receding", "bald")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")

# name: (low, high, what it is). Lengths in centimetres unless the note says otherwise.
PARAMETERS: dict[str, tuple[float, float, str]] = {
    "head_width": (0.88, 1.12, "factor on all widths"),
    "head_height": (0.94, 1.07, "factor on the skull above the eyes"),
    "head_depth": (0.94, 1.06, "factor on the back of the head"),
    "forehead_slope": (-0.9, 0.8, "how far the upper forehead stands forward"),
    "temple_hollow": (0.0, 0.7, "depth of the temples"),
    "brow_ridge": (-0.1, 0.75, "height of the bone above the eyes"),
    "cheekbone": (-0.25, 0.75, "outward, at the cheekbones"),
    "cheek_width": (0.92, 1.08, "factor on the width at the cheekbones"),
    "cheek_full": (-0.75, 0.85, "fullness of the lower cheeks"),
    "jaw_width": (0.84, 1.12, "factor on the width of the jaw"),
    "jaw_drop": (-1.3, 0.9, "how low the angle of the jaw sits, lower is lower"),
    "chin_length": (-1.1, 1.0, "longer below zero"),
    "chin_forward": (-0.8, 0.7, "forward"),
    "chin_width": (0.65, 1.6, "factor"),
    "chin_cleft": (-0.2, 0.25, "depth of the cleft, none below zero"),
    "eye_size": (0.78, 1.32, "factor on the opening"),
    "eye_spacing": (2.80, 3.55, "half the distance between the pupils"),
    "eye_height": (-0.45, 0.50, "upward"),
    "eye_tilt": (-9.0, 11.0, "degrees, outer corner upward"),
    "eye_open": (0.72, 1.22, "factor on the height of the opening"),
    "eye_depth": (-0.35, 0.55, "how deep the eyes lie"),
    "lid_fold": (0.0, 1.0, "height of the upper lid's crease, 0 is a single lid"),
    "iris_hue": (0.0, 1.0, "brown, hazel, green, grey, blue"),
    "nose_length": (2.85, 4.15, "root to tip"),
    "nose_out": (1.5, 2.7, "how far the tip stands out"),
    "nose_width": (1.15, 2.25, "half the width of the wings"),
    "nose_bridge_width": (0.50, 1.05, "half the width of the bridge"),
    "nose_hump": (-0.32, 0.38, "hump above zero, saddle below"),
    "nose_root": (0.0, 0.75, "height of the bridge between the eyes"),
    "nose_tip_up": (-0.45, 0.55, "tip turned up"),
    "nose_tip_ball": (0.0, 0.40, "roundness of the tip"),
    "mouth_height": (-0.65, 0.55, "upward"),
    "mouth_width": (2.0, 2.95, "half the width at rest"),
    "upper_lip": (0.30, 0.85, "height of the red"),
    "lower_lip": (0.45, 1.05, "height of the red"),
    "lip_forward": (-0.20, 0.50, "fullness"),
    "lip_bow": (0.0, 1.0, "depth of the cupid's bow"),
    "mouth_corner": (-0.30, 0.25, "corners upward at rest"),
    "ear_size": (0.84, 1.2, "factor"),
    "ear_out": (12.0, 48.0, "degrees away from the head"),
    "neck_width": (0.84, 1.14, "factor"),
    "skin_tone": (0.0, 1.0, "light to dark"),
    "skin_warm": (-1.0, 1.0, "pink to olive"),
    "ruddy": (0.0, 1.0, "red of cheeks and nose"),
    "freckles": (-1.2, 1.0, "density, none below zero"),
    "moles": (0.0, 999.0, "seed of their places"),
    "lip_red": (0.1, 1.0, "saturation of the lips"),
    "brow_thick": (0.28, 1.0, "height of the eyebrows"),
    "brow_arch": (-0.15, 0.75, "upward in their middle"),
    "brow_height": (-0.35, 0.55, "upward"),
    "brow_gap": (0.55, 1.7, "where they begin, from the middle"),
    "brow_long": (4.3, 5.9, "where they end, from the middle"),
    "brow_tilt": (-0.40, 0.60, "outer end upward"),
    "brow_dense": (0.35, 1.0, "how many hairs"),
    "hair_dark": (0.0, 1.0, "blond to black"),
    "hair_red": (0.0, 1.0, "red in it"),
    "hair_style": (0.0, len(HAIR_STYLES) - 1e-6, "index into HAIR_STYLES when rounded down"),
    "hair_volume": (0.55, 1.5, "factor on the thickness"),
    "hair_line": (-0.9, 0.8, "height of the hairline"),
    "beard": (0.0, len(BEARDS) - 1e-6, "index into BEARDS when rounded down"),
    "born_look": (20.0, 55.0, "years the person looks by default"),
}
NAMES = tuple(PARAMETERS)
_LOW = np.array([low for low, _, _ in PARAMETERS.values()])
_HIGH = np.array([high for _, high, _ in PARAMETERS.values()])
_PLACE = {name: i for i, name in enumerate(NAMES)}
_CHOICES = tuple(_PLACE[n] for n in ("hair_style", "beard", "moles"))
# what a face network has no business reading; left out of the true distance between two persons
_NOT_FACE = ("hair_style", "hair_volume", "hair_line", "moles", "born_look", "neck_width", "beard")
_FACE = [i for i, name in enumerate(NAMES) if name not in _NOT_FACE]


@dataclass(frozen=True)
class Identity:
    """Values in the order of NAMES; read one as an attribute: `person.nose_length`."""

    values: tuple[float, ...]

    def __getattr__(self, name: str) -> float:
        if name not in _PLACE:  # "values" too, while an identity is being unpickled
            raise AttributeError(name)
        return self.values[_PLACE[name]]

    @property
    def hair(self) -> str:
        return HAIR_STYLES[int(self.hair_style)]

    @property
    def facial_hair(self) -> str:
        return BEARDS[int(self.beard)]

    def vector(self) -> np.ndarray:
        """(P,) in 0..1: each parameter as a share of its range."""
        return (np.array(self.values) - _LOW) / (_HIGH - _LOW)

    def as_dict(self) -> dict[str, float]:
        return {name: round(float(v), 5) for name, v in zip(NAMES, self.values, strict=True)}

    def with_values(self, **changes: float) -> Identity:
        values = list(self.values)
        for name, value in changes.items():
            values[_PLACE[name]] = float(value)
        return Identity(tuple(values))

    def towards(self, other: Identity, share: float) -> Identity:
        """The person `share` of the way to `other`; choices (hair style, beard, moles) switch in the middle."""
        a, b = np.array(self.values), np.array(other.values)
        mixed = a + (b - a) * share
        for i in _CHOICES:
            mixed[i] = a[i] if share < 0.5 else b[i]
        return Identity(tuple(float(v) for v in mixed))

    def face_vector(self) -> np.ndarray:
        """(F,) in 0..1: the parameters of the face alone."""
        return self.vector()[_FACE]

    def distance(self, other: Identity) -> float:
        """Root mean square difference of the face's parameters, as a share of their ranges (0 the same)."""
        return float(np.sqrt(np.mean((self.face_vector() - other.face_vector()) ** 2)))


def draw_identity(rng: np.random.Generator) -> Identity:
    """A person at random: uniform shares, with what goes together in people drawn together."""
    share = rng.uniform(0.0, 1.0, len(NAMES))

    def lean(name: str, by: float) -> None:
        share[_PLACE[name]] = np.clip(share[_PLACE[name]] + by, 0.0, 1.0)

    sturdy = rng.uniform(-1.0, 1.0)
    for name, by in (
        ("head_width", 0.10),
        ("jaw_width", 0.34),
        ("jaw_drop", -0.20),
        ("brow_ridge", 0.38),
        ("neck_width", 0.35),
        ("brow_thick", 0.34),
        ("nose_out", 0.12),
        ("nose_width", 0.15),
        ("upper_lip", -0.20),
        ("lower_lip", -0.15),
        ("eye_size", -0.20),
        ("eye_open", -0.12),
        ("chin_width", 0.25),
        ("chin_length", -0.1),
        ("lip_red", -0.35),
        ("brow_arch", -0.22),
    ):
        lean(name, by * sturdy)
    tone = share[_PLACE["skin_tone"]]
    if tone > 0.45:  # darker skin: dark hair and brown eyes, few freckles
        lean("hair_dark", 0.8)
        share[_PLACE["iris_hue"]] *= 0.25
        share[_PLACE["freckles"]] *= 0.3
    if sturdy > 0:
        style = rng.choice(["short", "side_part", "crop", "curly", "receding", "bald", "short"])
        beard = rng.choice(["none", "none", "stubble", "stubble", "moustache", "goatee", "full"])
    else:
        style = rng.choice(["bob", "long", "bun", "long", "curly", "side_part"])
        beard = "none"
    share[_PLACE["hair_style"]] = (HAIR_STYLES.index(str(style)) + 0.5) / len(HAIR_STYLES)
    share[_PLACE["beard"]] = (BEARDS.index(str(beard)) + 0.5) / len(BEARDS)
    values = _LOW + share * (_HIGH - _LOW)
    return Identity(tuple(float(v) for v in values))


def mean_identity() -> Identity:
    """The middle of every range: a face without a face of its own."""
    middle = (_LOW + _HIGH) / 2
    return Identity(tuple(float(v) for v in middle)).with_values(hair_style=0.5, beard=0.5, skin_tone=0.3)
