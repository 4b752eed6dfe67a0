"""Rendered heads to learn from, with their truth in arrays: rendered once, kept in a scratch folder.

`portraits` shows each person in a few looks (age and expression) at many angles. `ageing` shows each in everyday photos
of two ages, some years apart. `oddities` is what a detector meets besides: close-ups, covered faces, small figures,
heads turned away, rooms without anybody.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from demo.expressions import EXPRESSIONS
from demo.identity import HAIR_STYLES, Identity
from demo.parallel import render_all
from demo.render import Picture
from demo.scene import FRAMINGS, LIGHTS, Scene, draw_scene
from demo.sets import spread_yaws
from demo.training_data import draw_people, generator
from utils.files import write_bytes_atomic
from utils.progress import GroupProgress

PIXELS = 256  # side of the pictures: a recogniser's crop of 112 pixels is about life-size in it
YAW_LIMIT_DEG = 85.0
AGE_LIMITS = (18.0, 75.0)
SAMPLES = 1.0  # nobody looks at these pictures: smooth edges would take as long again
AGEING_PIXELS = 320  # side of `ageing`'s pictures; wrinkles are thin lines, so these are as smooth as a user's
AGEING_YAW_DEG = 55.0  # further turned heads show little of the skin that tells age
AGEING_FIRST, AGEING_YEARS = (18.0, 65.0), (7.0, 14.0)  # first looks, and how much older the second ones are

# What a detector should say of a picture. OVERFLOW: found only with room around the picture (see detector.py).
FACE, NO_FACE, OVERFLOW = 0, 1, 2


@dataclass(frozen=True)
class Gallery:
    """N pictures and what is true of them, in pixels of the picture. Rows without a face have NaN boxes."""

    images: np.ndarray  # (N, S, S, 3) uint8 BGR
    person: np.ndarray  # (N,) which of the people
    kind: np.ndarray  # (N,) FACE, NO_FACE or OVERFLOW
    covered: np.ndarray  # (N,) bool: a mask, a hand or dark glasses hide part of the face
    boxes: np.ndarray  # (N, 4) x1 y1 x2 y2
    five: np.ndarray  # (N, 5, 2)
    points: np.ndarray  # (N, 68, 3), z larger is nearer
    angles: np.ndarray  # (N, 3) yaw, pitch, roll in degrees
    ages: np.ndarray  # (N,) years

    def __len__(self) -> int:
        return len(self.kind)


def portraits(seed: int, people: int, each: int, scratch: Path, workers: int | None = None) -> Gallery:
    """`each` pictures of everyone. Each fifth person blends the two before: faces that are hard to tell apart."""
    scenes = portrait_scenes(crowd(seed, people), each, generator(seed, "portraits"))
    base = scratch / f"portraits-{seed}-{people}-{each}-{PIXELS}"
    return _kept(base, scenes, np.full(len(scenes), FACE), np.arange(people).repeat(each), workers)


def ageing(seed: int, people: int, each: int, scratch: Path, workers: int | None = None) -> Gallery:
    """`each` everyday pictures of everyone, in two looks: the second is 7 to 14 years older. Most people are young."""
    scenes = ageing_scenes(draw_people(seed, people), each, generator(seed, "ageing"))
    base = scratch / f"ageing-{seed}-{people}-{each}-{AGEING_PIXELS}"
    person = np.arange(people).repeat(each)
    return _kept(base, scenes, np.full(len(scenes), FACE), person, workers, AGEING_PIXELS, None)


def oddities(seed: int, count: int, scratch: Path, workers: int | None = None) -> Gallery:
    """`count` pictures, the kinds in turn."""
    random = generator(seed, "oddities")
    makers = (nobody, turned_away, figure, covered, overflowing, close, nobody, hidden)
    people = draw_people(seed, max(count // len(makers), 1))
    drawn = [makers[i % len(makers)](people[i // len(makers) % len(people)], random) for i in range(count)]
    kinds = np.array([kind for _, kind in drawn])
    base = scratch / f"oddities-{seed}-{count}-{PIXELS}"
    return _kept(base, [scene for scene, _ in drawn], kinds, np.full(count, -1), workers)


def crowd(seed: int, people: int) -> list[Identity]:
    """Whom `portraits` show."""
    return with_blends(draw_people(seed, people), generator(seed, "blends"))


def with_blends(people: list[Identity], random: np.random.Generator) -> list[Identity]:
    out = list(people)
    for i in range(4, len(out), 5):
        out[i] = out[i - 1].towards(out[i - 2], float(random.uniform(0.35, 0.65)))
    return out


def portrait_scenes(people: Sequence[Identity], each: int, random: np.random.Generator) -> list[Scene]:
    scenes = []
    for who in people:
        looks = _looks(random)
        for k, yaw in enumerate(spread_yaws(each, YAW_LIMIT_DEG, random)):
            look = looks[k >= first_looks(each)]
            scenes.append(draw_scene(who, random, yaw_deg=float(yaw), **look, **_circumstances(random)))
    return scenes


def first_looks(each: int) -> int:
    """How many of a person's `each` pictures show the first look; the others show the second."""
    return each - each // 2


def ageing_scenes(people: Sequence[Identity], each: int, random: np.random.Generator) -> list[Scene]:
    """Scenes as `draw_scene` draws them. Logarithms of first ages are even: ten years show less in the young."""
    scenes = []
    for who in people:
        first = float(np.exp(random.uniform(*np.log(AGEING_FIRST))))
        looks = (first, min(first + float(random.uniform(*AGEING_YEARS)), AGE_LIMITS[1]))
        for k in range(each):
            yaw = float(random.uniform(-AGEING_YAW_DEG, AGEING_YAW_DEG))
            scenes.append(draw_scene(who, random, yaw_deg=yaw, age_years=looks[k >= first_looks(each)]))
    return scenes


def _looks(random: np.random.Generator) -> list[dict]:
    """Ages are drawn apart from who it is, so that nothing but age tells age; the second look is some years off."""
    age = float(random.uniform(*AGE_LIMITS))
    other = float(np.clip(age + random.uniform(-14, 14), *AGE_LIMITS))
    return [
        {
            "age_years": years,
            "expression": str(random.choice(list(EXPRESSIONS))),
            "strength": float(random.uniform(0.6, 1.0)),
            "eyes_closed": bool(random.uniform() < 0.06),
        }
        for years in (age, other)
    ]


def _circumstances(random: np.random.Generator) -> dict:
    """Everything about a portrait that is neither who, nor the look, nor the yaw."""
    fill = float(random.uniform(0.40, 0.66))
    height = float(np.clip(0.10 + 0.74 * fill, 0.10, 0.5))
    fixed = {
        "pitch_deg": float(np.clip(random.normal(0, 10), -28, 28)),
        "roll_deg": float(np.clip(random.normal(0, 8), -28, 28)),
        "fill": fill,
        "place": (0.5 + float(random.normal(0, 0.05)), height + float(random.normal(0, 0.03))),
        "glasses": str(random.choice(["none", "clear", "dark"], p=[0.82, 0.14, 0.04])),
        "cover": str(random.choice(["none", "mask", "hand"], p=[0.95, 0.03, 0.02])),
        "hand": str(random.choice(["none", "wave", "chin", "cheek"], p=[0.88, 0.04, 0.04, 0.04])),
        "blur_px": float(random.choice([0.0, 0.0, 0.0, 1.5])),
    }
    if random.uniform() < 0.3:
        fixed["hair"] = str(random.choice(HAIR_STYLES))
    if random.uniform() < 0.06:
        fixed["light"] = LIGHTS["low_key"]
    return fixed


def nobody(who: Identity, random: np.random.Generator) -> tuple[Scene, int]:
    return draw_scene(who, random, person=False, fill=float(random.choice([0.15, 0.5]))), NO_FACE


def turned_away(who: Identity, random: np.random.Generator) -> tuple[Scene, int]:
    fill, yaw = float(random.uniform(0.15, 0.6)), float(180 + random.uniform(-45, 45))
    return draw_scene(who, random, yaw_deg=yaw, pitch_deg=0.0, expression="neutral", fill=fill), NO_FACE


def figure(who: Identity, random: np.random.Generator) -> tuple[Scene, int]:
    """A person in the distance, hands in the picture."""
    low, high = FRAMINGS["full_figure"], FRAMINGS["half_body"]
    hand = str(random.choice(["none", "wave", "chin", "cheek"]))
    yaw = float(random.uniform(-80, 80))
    return draw_scene(who, random, yaw_deg=yaw, fill=float(random.uniform(low, 1.3 * high)), hand=hand), FACE


def covered(who: Identity, random: np.random.Generator) -> tuple[Scene, int]:
    cover = str(random.choice(["none", "mask", "hand"], p=[0.3, 0.45, 0.25]))
    glasses = "dark" if cover == "none" or random.uniform() < 0.15 else "none"
    fill, yaw = float(random.uniform(0.3, 0.7)), float(random.uniform(-60, 60))
    return draw_scene(who, random, yaw_deg=yaw, cover=cover, glasses=glasses, fill=fill), FACE


def overflowing(who: Identity, random: np.random.Generator) -> tuple[Scene, int]:
    """A face larger than the picture, often flat and soft."""
    scene = _near(who, random, (1.40, 1.75))
    if random.uniform() < 0.6:
        flat = {"contrast": float(random.uniform(0.15, 0.6)), "veil_grey": float(random.uniform(50, 110))}
        scene = replace(scene, blur_px=float(random.uniform(0, 7)), **flat)
    return scene, OVERFLOW


def close(who: Identity, random: np.random.Generator) -> tuple[Scene, int]:
    return _near(who, random, (0.66, 1.0)), FACE


def _near(who: Identity, random: np.random.Generator, fills: tuple[float, float]) -> Scene:
    place = (0.5 + float(random.normal(0, 0.03)), 0.40 + float(random.normal(0, 0.03)))
    return draw_scene(
        who, random, yaw_deg=float(random.uniform(-35, 35)), fill=float(random.uniform(*fills)), place=place
    )


def hidden(who: Identity, random: np.random.Generator) -> tuple[Scene, int]:
    """Mask, dark glasses and a hand in the dark: nothing of a face is left to find."""
    scene = draw_scene(who, random, yaw_deg=float(random.uniform(-55, 55)))
    veiled = {"cover": "mask", "glasses": "dark", "hand": "cover", "light": LIGHTS["low_key"]}
    return replace(scene, motion_px=float(random.uniform(15, 30)), **veiled), NO_FACE


def _kept(
    base: Path,
    scenes: Sequence[Scene],
    kinds: np.ndarray,
    person: np.ndarray,
    workers: int | None,
    pixels: int = PIXELS,
    samples: float | None = SAMPLES,
) -> Gallery:
    """The gallery of `scenes`: from the scratch folder, or rendered and kept there. The truth is written last."""
    images_file, truth_file = base.with_suffix(".npy"), base.with_suffix(".npz")
    if not truth_file.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        rendered = render_all(scenes, pixels, workers, samples)
        _keep(images_file, truth_file, rendered, kinds, pixels)
    with np.load(truth_file) as truth:
        facts = {name: truth[name] for name in truth.files}
    part_hidden = np.array([scene.cover != "none" or scene.glasses == "dark" for scene in scenes])
    images = np.load(images_file, mmap_mode="r")
    return Gallery(images=images, person=person, kind=kinds, covered=part_hidden, **facts)


def _keep(images_file: Path, truth_file: Path, rendered: Iterator[Picture], kinds: np.ndarray, pixels: int) -> None:
    images = np.lib.format.open_memmap(images_file, "w+", np.uint8, (len(kinds), pixels, pixels, 3))
    truths = []
    with GroupProgress() as progress:
        task = progress.add(images_file.stem, len(kinds))
        for i, picture in enumerate(rendered):
            images[i] = picture.image
            truths.append(_facts(picture, kinds[i]))
            progress.step(task)
    images.flush()
    del images
    columns = {name: np.array([truth[name] for truth in truths], np.float32) for name in truths[0]}
    file = io.BytesIO()
    np.savez(file, **columns)
    write_bytes_atomic(truth_file, file.getvalue())


def _facts(picture: Picture, kind: int) -> dict:
    truth = picture.truth
    seen = kind != NO_FACE and truth.face_box_xyxy is not None
    return {
        "boxes": truth.face_box_xyxy if seen else [np.nan] * 4,
        "five": truth.five_points,
        "points": truth.points_68,
        "angles": (truth.yaw_deg, truth.pitch_deg, truth.roll_deg),
        "ages": truth.age_years,
    }
