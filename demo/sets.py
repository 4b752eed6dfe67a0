"""Planted sets: lists of scenes in which one thing is wrong, and how badly, is known.

`severity` runs from 0 (nothing planted: like the balanced set) to 1 (as bad as it gets).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from demo.identity import Identity, draw_identity, mean_identity
from demo.scene import LIGHTS, Scene, draw_scene


@dataclass(frozen=True)
class Shot:
    """A scene to render, what is planted in it (empty: nothing), and facts about the plant."""

    scene: Scene
    planted: str = ""
    facts: dict = field(default_factory=dict)


@dataclass(frozen=True)
class PlantedSet:
    """`panel` is the part of the report that should show the plant; `kind` says what is planted."""

    name: str
    kind: str
    severity: float
    panel: str
    note: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class World:
    """The person, two strangers, and the person's reference scenes."""

    person: Identity
    stranger: Identity
    second_stranger: Identity
    reference: tuple[Shot, ...]
    seed: int


def _generator(seed: int, *key: int | str) -> np.random.Generator:
    words = [k if isinstance(k, int) else int.from_bytes(k.encode()[:12], "little") for k in key]
    return np.random.default_rng([seed, *words])


def far_stranger(person: Identity, rng: np.random.Generator, tries: int = 12) -> Identity:
    """Of several people at random, the one least like the person."""
    return max((draw_identity(rng) for _ in range(tries)), key=person.distance)


def spread_yaws(count: int, limit_deg: float, rng: np.random.Generator) -> np.ndarray:
    """Angles over -limit..limit: one in each equal part, shuffled."""
    edges = np.linspace(-limit_deg, limit_deg, count + 1)
    return rng.permutation(edges[:-1] + rng.uniform(0, 1, count) * np.diff(edges))


def _varied(
    who: Identity, count: int, rng: np.random.Generator, limit_deg: float = 55.0, **fixed: object
) -> list[Scene]:
    yaws = spread_yaws(count, limit_deg, rng)
    return [draw_scene(who, rng, yaw_deg=float(y), **fixed) for y in yaws]


def nudged(scene: Scene, amount: float, rng: np.random.Generator) -> Scene:
    """The same picture taken again a moment later: `amount` 0 is the same bytes but for grain, 1 a few degrees."""
    d = rng.normal(0, 1, 6) * amount
    light = replace(
        scene.light, azimuth_deg=scene.light.azimuth_deg + 6 * d[3], key=scene.light.key * (1 + 0.05 * d[4])
    )
    return replace(
        scene,
        yaw_deg=scene.yaw_deg + 3.0 * d[0],
        pitch_deg=scene.pitch_deg + 2.0 * d[1],
        roll_deg=scene.roll_deg + 1.5 * d[2],
        light=light,
        fill=scene.fill * (1 + 0.02 * d[5]),
        seed=int(rng.integers(1 << 30)),
    )


def make_reference(
    person: Identity, stranger: Identity, seed: int, size: int = 16, outliers: int = 2, duplicates: int = 2
) -> tuple[Shot, ...]:
    """Good pictures of the person, then planted outliers (another person) and near duplicates of the first pictures."""
    rng = _generator(seed, "reference")
    plain = max(size - outliers - duplicates, 1)
    shots = [Shot(s) for s in _varied(person, plain, rng, 50.0)]
    for _ in range(outliers):
        scene = draw_scene(stranger, rng, yaw_deg=float(rng.uniform(-30, 30)))
        shots.append(Shot(scene, "outlier", {"who": "stranger", "distance": round(person.distance(stranger), 4)}))
    for i in range(duplicates):
        shots.append(Shot(nudged(shots[i].scene, 0.25, rng), "near_duplicate", {"of": i}))
    return tuple(shots)


def make_world(seed: int, reference_size: int = 16, outliers: int = 2, duplicates: int = 2) -> World:
    rng = _generator(seed, "people")
    person = draw_identity(rng).with_values(born_look=float(rng.uniform(24, 36)))
    stranger, second = far_stranger(person, rng), far_stranger(person, rng)
    return World(
        person, stranger, second, make_reference(person, stranger, seed, reference_size, outliers, duplicates), seed
    )


Planter = Callable[[World, int, float, np.random.Generator], list[Shot]]


def balanced(world: World, size: int, severity: float, rng: np.random.Generator) -> list[Shot]:
    return [Shot(s) for s in _varied(world.person, size, rng)]


def copied_reference(world: World) -> int:
    """The most frontal good reference; one without a near duplicate, which would share its hits."""
    doubled = {shot.facts["of"] for shot in world.reference if shot.planted == "near_duplicate"}
    good = [i for i, shot in enumerate(world.reference) if not shot.planted]
    return min(good, key=lambda i: (i in doubled, abs(world.reference[i].scene.yaw_deg)))


def overtrained(world: World, size: int, severity: float, rng: np.random.Generator) -> list[Shot]:
    """`severity` of the pictures are near copies of one reference; the more severe, the nearer."""
    source = copied_reference(world)
    copies = round(size * (0.25 + 0.65 * severity)) if severity > 0 else 0
    amount = 0.05 + 0.6 * (1 - severity)
    shots = [
        Shot(
            nudged(world.reference[source].scene, amount, rng),
            "near_copy",
            {"of_reference": source, "amount": round(amount, 3)},
        )
        for _ in range(copies)
    ]
    return shots + [Shot(s) for s in _varied(world.person, size - copies, rng)] if copies < size else shots


def rigid(world: World, size: int, severity: float, rng: np.random.Generator) -> list[Shot]:
    """Angles shrink towards frontal, pitch and expression too."""
    shots = []
    for scene in _varied(world.person, size, rng):
        keep = 1 - severity
        still = replace(
            scene,
            yaw_deg=scene.yaw_deg * keep + 3 * severity * float(rng.normal()),
            pitch_deg=scene.pitch_deg * keep,
            roll_deg=scene.roll_deg * keep,
            expression=scene.expression if rng.uniform() < keep else "neutral",
        )
        shots.append(Shot(still, "frontal" if severity > 0 else "", {"yaw_before_deg": round(scene.yaw_deg, 2)}))
    return shots


def drifting(world: World, size: int, severity: float, rng: np.random.Generator) -> list[Shot]:
    """The face moves towards a stranger's as |yaw| grows from 10 to 50 degrees."""
    shots = []
    for scene in _varied(world.person, size, rng, 62.0):
        share = severity * float(np.clip((abs(scene.yaw_deg) - 10) / 40, 0, 1))
        who = _same_head(world.person.towards(world.stranger, share), world.person)
        shots.append(Shot(replace(scene, who=who), "drift" if share > 0 else "", {"share": round(share, 4)}))
    return shots


def _same_head(face: Identity, hair_of: Identity) -> Identity:
    """A changed face keeps the person's hair and beard, as a half-trained model gets them right first."""
    return face.with_values(
        hair_style=hair_of.hair_style,
        beard=hair_of.beard,
        hair_dark=hair_of.hair_dark,
        hair_red=hair_of.hair_red,
        hair_volume=hair_of.hair_volume,
        moles=hair_of.moles,
    )


def undertrained(world: World, size: int, severity: float, rng: np.random.Generator) -> list[Shot]:
    """Each picture is a blend of the person with a face at random or with the mean face."""
    shots = []
    for scene in _varied(world.person, size, rng):
        other = mean_identity() if rng.uniform() < 0.5 else draw_identity(rng)
        share = float(np.clip(severity * rng.uniform(0.75, 1.0), 0, 1))
        who = _same_head(world.person.towards(other, share), world.person)
        facts = {"share": round(share, 4), "distance": round(world.person.distance(who), 4)}
        shots.append(Shot(replace(scene, who=who), "blend" if share > 0 else "", facts))
    return shots


def wrong_person(world: World, size: int, severity: float, rng: np.random.Generator) -> list[Shot]:
    who = world.person.towards(world.stranger, severity)
    return [
        Shot(s, "wrong_person" if severity > 0 else "", {"share": round(severity, 4)}) for s in _varied(who, size, rng)
    ]


def two_persons(world: World, size: int, severity: float, rng: np.random.Generator) -> list[Shot]:
    """Up to half of the pictures show the second stranger."""
    strangers = round(0.5 * severity * size)
    shots = [
        Shot(s, "second_person", {"who": "second_stranger"})
        for s in _varied(world.second_stranger, max(strangers, 1), rng)
    ]
    shots = shots[:strangers] + [Shot(s) for s in _varied(world.person, size - strangers, rng)]
    return [shots[i] for i in rng.permutation(len(shots))]


def close_ups(world: World, size: int, severity: float, rng: np.random.Generator) -> list[Shot]:
    """`severity` of the pictures overflow the frame, dim and slightly soft, so that a detector needs room around them.

    In full light pack_mini's detector reports some wrong box in nearly every such picture, of real photos too; then
    nothing is rescued. Flat light is what lets it see no face at first (benchmarks/truth_bench.py has the rates).
    """
    shots = []
    for i, scene in enumerate(_varied(world.person, size, rng, 25.0)):
        close = i < round(severity * size)
        fill = float(rng.uniform(1.40, 1.60)) if close else scene.fill
        small = (
            {
                "pitch_deg": scene.pitch_deg * 0.4,
                "roll_deg": scene.roll_deg * 0.4,
                "place": (0.5, 0.38),
                "contrast": 0.2,
                "veil_grey": 80.0,
                "blur_px": 6.0,
            }
            if close
            else {}
        )
        shots.append(Shot(replace(scene, fill=fill, **small), "close_up" if close else "", {"fill": round(fill, 3)}))
    return shots


def failures(world: World, size: int, severity: float, rng: np.random.Generator) -> list[Shot]:
    """No person, a head turned away, or a face under mask and dark glasses, in turn."""
    shots = []
    for i, scene in enumerate(_varied(world.person, size, rng)):
        if i >= round(severity * size):
            shots.append(Shot(scene))
        elif i % 3 == 0:
            shots.append(Shot(replace(scene, person=False), "no_person"))
        elif i % 3 == 1:
            turned = replace(scene, yaw_deg=float(180 + rng.uniform(-25, 25)), pitch_deg=0.0, expression="neutral")
            shots.append(Shot(turned, "turned_away"))
        else:
            hidden = replace(scene, cover="mask", glasses="dark", hand="cover", light=LIGHTS["low_key"], motion_px=26.0)
            shots.append(Shot(hidden, "hidden_face"))
    return [shots[i] for i in rng.permutation(len(shots))]


def aged(world: World, size: int, severity: float, rng: np.random.Generator, years: float = 10.0) -> list[Shot]:
    """The same person, `years` times severity older."""
    add = years * severity
    age = float(world.person.born_look) + add
    return [
        Shot(s, "aged" if add > 0 else "", {"years_added": add})
        for s in _varied(world.person, size, rng, age_years=age)
    ]


@dataclass(frozen=True)
class Kind:
    plant: Planter
    panel: str
    note: str


KINDS: dict[str, Kind] = {
    "balanced": Kind(balanced, "all panels, for comparison", "the person at many angles, lights and expressions"),
    "overtrained": Kind(overtrained, "Copycat report: Danger Zone, Black Hole Ranking", "near copies of one reference"),
    "rigid": Kind(rigid, "Pose Variety", "frontal, neutral heads only"),
    "drifting": Kind(drifting, "Profile Stability", "the face becomes a stranger's as it turns"),
    "undertrained": Kind(undertrained, "Face Similarity", "faces between the person and others"),
    "wrong_person": Kind(wrong_person, "Face Similarity, Identity Map", "another person throughout"),
    "two_persons": Kind(two_persons, "Face Similarity (two humps), Identity Map", "half of them another person"),
    "close_ups": Kind(close_ups, "table of groups: rescued; Detection Confidence", "faces that overflow the frame"),
    "failures": Kind(failures, "table of groups: failed", "no face, turned away, hidden"),
    "aged": Kind(aged, "Age Distribution", "the person ten years older"),
}
DEFAULT_SEVERITY = {
    "overtrained": 0.8,
    "rigid": 1.0,
    "drifting": 1.0,
    "undertrained": 0.9,
    "wrong_person": 1.0,
    "two_persons": 1.0,
    "close_ups": 1.0,
    "failures": 0.75,
    "aged": 1.0,
    "balanced": 0.0,
}


def make_set(
    world: World, kind: str, size: int = 12, severity: float | None = None, name: str | None = None
) -> PlantedSet:
    """One candidate set. The same world, kind, size and severity give the same scenes."""
    if kind not in KINDS:
        raise ValueError(f"no planted set '{kind}'; there are: {', '.join(KINDS)}")
    severity = DEFAULT_SEVERITY[kind] if severity is None else severity
    if not 0.0 <= severity <= 1.0:
        raise ValueError(f"severity {severity} of '{kind}' is not between 0 and 1")
    entry = KINDS[kind]
    shots = entry.plant(world, size, severity, _generator(world.seed, "set", kind))
    return PlantedSet(name or kind, kind, severity, entry.panel, entry.note, tuple(shots))


STEPS = (2, 4, 6, 8, 10, 12)
# step: (share of another face, share of near copies): improves, peaks at step 8, then copies a reference
_STEP_COURSE = {2: (0.95, 0.0), 4: (0.7, 0.0), 6: (0.4, 0.0), 8: (0.0, 0.0), 10: (0.0, 0.5), 12: (0.0, 0.95)}


def make_steps(world: World, name: str = "lora", size: int = 12) -> list[PlantedSet]:
    """`name-000002` ... `name-000012`: undertrained, better, best at 8, then overtrained."""
    sets = []
    for step in STEPS:
        blend, copies = _STEP_COURSE[step]
        rng = _generator(world.seed, "steps")  # the same prompts and seeds for every step, as one should compare them
        plant, severity = (overtrained, copies) if copies > 0 else (undertrained, blend)
        shots = plant(world, size, severity, rng)
        note = f"step {step}: up to {blend:.0%} another face" if blend else f"step {step}: the best, the person alone"
        if copies:
            marked = sum(shot.planted == "near_copy" for shot in shots)
            note = f"step {step}: overtrained, {marked} of {size} are near copies of one reference"
        sets.append(
            PlantedSet(
                f"{name}-{step:06d}",
                "steps",
                max(blend, copies),
                "Face Similarity, Copycat report",
                note,
                tuple(shots),
            )
        )
    return sets
