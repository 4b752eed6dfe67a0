"""What to ask a generator for: prompts and seeds for the images of each gap, the same again for the same seed.

A prompt is made of parts: who, what the gap asks (texts of `mirror.dataset.gaps`), expression, setting, composition,
quality. Parts that would contradict the gap are left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mirror.contracts.contract import read_contract
from mirror.contracts.gaps import Recommendation
from mirror.contracts.plan import MAX_SEED, PromptPlan
from mirror.dataset.gaps import GAP_TYPES
from utils.console import UserError
from utils.defaults import SYNTHETIC_PREFIX

# Our choice of everyday variety; what matters is that no two images of a gap are asked for in the same words.
EXPRESSIONS = (
    "neutral expression",
    "gentle smile",
    "laughing",
    "serious expression",
    "thoughtful expression",
    "slightly surprised",
    "confident look",
    "relaxed expression",
)
SETTINGS = (
    "plain studio background",
    "in a park",
    "in a cafe",
    "on a city street",
    "in a library",
    "in a living room",
    "in an office",
    "by the sea",
    "in a garden",
    "in front of a brick wall",
)
COMPOSITIONS = ("head and shoulders portrait", "upper body shot", "medium close-up")
QUALITY = ("photorealistic, sharp focus, detailed skin", "high quality photo, natural colours, sharp focus")
NEGATIVE = "lowres, blurry, deformed, bad anatomy, extra fingers, extra limbs, watermark, text, cartoon"

# Parts that say the same thing as a gap, or the opposite.
EXPRESSION, SETTING, COMPOSITION = "expression", "setting", "composition"
LEAVE_OUT = {"lighting": (SETTING,), "shot_size": (COMPOSITION,), "hands": (COMPOSITION,), "eyes": (EXPRESSION,)}

PLACEHOLDERS = ("{person}", "{target}")


@dataclass(frozen=True)
class PlannedImage:
    """One image to make. `name` is its file name without time stamp and suffix."""

    name: str
    prompt: str
    seed: int
    gap_type: str | None = None
    target: str | None = None
    negative: str | None = None  # None: the run's


def plan_gaps(
    recommendations: Sequence[Recommendation],
    person: str,
    num_per_gap: int,
    seed: int,
    templates: tuple[str, ...] = (),
) -> tuple[list[PlannedImage], list[str]]:
    """(the images of all gaps, sentences about gaps that get none). At most `num_per_gap` images a gap."""
    planned_images, passed_over, taken = [], [], set()
    names: dict[str, tuple[str, str]] = {}  # beginning of file names, folded -> the gap that has it
    for gap in recommendations:
        why_not = _why_not(gap)
        if why_not:
            passed_over.append(why_not)
            continue
        texts = GAP_TYPES[gap.type].target(gap.target).prompts
        first = sum(planned.gap_type == gap.type and planned.target == gap.target for planned in planned_images)
        for index in range(first, first + min(gap.count, num_per_gap)):
            source = random.Random(f"{seed}/{gap.type}/{gap.target}/{index}")  # of its own: no image shifts another's
            text = texts[index % len(texts)]
            template = _template(templates, index, source) if templates else None
            prompt = filled(template, person, text) if template else composed(person, gap.type, text, source)
            own_seed = _free_seed(source, taken)
            name = _own_name(names, gap)
            planned_images.append(PlannedImage(f"{name}_{index + 1:03d}", prompt, own_seed, gap.type, gap.target))
    return planned_images, passed_over


def _why_not(gap: Recommendation) -> str | None:
    """Why a gap gets no image; None where it gets some."""
    here = gap.key
    if gap.type not in GAP_TYPES:
        return f"{here}: this gap type is not in mirror/dataset/gaps.py; known: {', '.join(GAP_TYPES)}."
    targets = {target.name: target for target in GAP_TYPES[gap.type].targets}
    if gap.target not in targets:
        return f"{here}: {gap.type} has no such target; known: {', '.join(targets)}."
    if not gap.count:
        return f"{here}: no image is asked for ({gap.reason})."
    if not targets[gap.target].prompts:
        return f"{here}: its entry in mirror/dataset/gaps.py has no prompt texts."
    return None


def composed(person: str, gap_type: str, text: str, source: random.Random) -> str:
    """A prompt from our parts."""
    parts = {EXPRESSION: EXPRESSIONS, SETTING: SETTINGS, COMPOSITION: COMPOSITIONS}
    chosen = {name: source.choice(choices) for name, choices in parts.items()}
    kept = [part for name, part in chosen.items() if name not in LEAVE_OUT.get(gap_type, ())]
    return ", ".join([f"photo of {person}", text, *kept, source.choice(QUALITY)])


def filled(template: str, person: str, text: str) -> str:
    """A line of a prompts file with both put in; a person that it does not name comes first, a target last."""
    if "{person}" not in template:
        template = "{person}, " + template
    if "{target}" not in template:
        template += ", {target}"
    return template.replace("{person}", person).replace("{target}", text)


def _template(templates: tuple[str, ...], index: int, source: random.Random) -> str:
    """Each line once before any comes again; then at random."""
    return templates[index] if index < len(templates) else source.choice(templates)


def _own_name(names: dict[str, tuple[str, str]], gap: Recommendation) -> str:
    """How the files of a gap begin. `hair/color_red` and `hair_color/red` would be one name: the later gets a 2."""
    plain = f"{SYNTHETIC_PREFIX}{_word(gap.type)}_{_word(gap.target)}"
    for number in count(1):
        name = plain if number == 1 else f"{plain}_{number}"
        if names.setdefault(name.casefold(), gap.key) == gap.key:
            return name
    raise AssertionError("there is always a next number")


def _free_seed(source: random.Random, taken: set[int]) -> int:
    while True:
        seed = source.randint(0, MAX_SEED)
        if seed not in taken:
            taken.add(seed)
            return seed


def _word(name: str) -> str:
    """Part of a file name on every system."""
    return re.sub(r"[^\w-]+", "_", name)


def read_prompts(path: Path) -> tuple[str, ...] | list[PlannedImage]:
    """A prompts file: lines of text are templates for the gaps, JSON is a plan of its own. Raises UserError."""
    if path.suffix.lower() == ".json":
        return _read_plan(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The prompts {path} cannot be read: {error}.") from error
    stripped = (line.strip() for line in text.splitlines())
    lines = tuple(line for line in stripped if line and not line.startswith("#"))
    if not lines:
        raise UserError(f"{path} holds no prompts; it takes one a line, or a plan as .json.")
    for line in lines:
        unknown = [word for word in re.findall(r"\{[^}]*\}", line) if word not in PLACEHOLDERS]
        if unknown:
            raise UserError(f"{path}: {unknown[0]} is not known in a prompt; known: {', '.join(PLACEHOLDERS)}.")
    return lines


def _read_plan(path: Path) -> list[PlannedImage]:
    plan = read_contract(path, PromptPlan, cure="correct the plan")
    planned_images = [
        PlannedImage(one.name or f"{index + 1:03d}", one.prompt, one.seed, negative=one.negative_prompt)
        for index, one in enumerate(plan.images)
    ]
    names = [planned.name.casefold() for planned in planned_images]  # Windows takes A.png and a.png for one
    for planned in planned_images:
        if planned.name != _word(planned.name) or names.count(planned.name.casefold()) > 1:
            raise UserError(
                f"{path}: the name {planned.name!r} is not a file name of its own (letters, digits, _ and -)."
            )
    if not planned_images:
        raise UserError(f"{path}: the plan is empty.")
    return planned_images
