"""What to ask a generator for: prompts and seeds for the images of each gap, the same again for the same seed.

A prompt is made of parts: who, what the gap asks (texts of `mirror.dataset.gaps`), expression, setting, composition,
quality. Parts that would contradict the gap are left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mirror.contracts.contract import read_contract
from mirror.contracts.gaps import Recommendation
from mirror.contracts.plan import MAX_SEED, PromptPlan
from mirror.dataset.gaps import GAP_TYPES
from utils.console import UserError
from utils.defaults import SYNTHETIC_PREFIX
from utils.files import file_word

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
QUALITY = (
    "professional photography, photorealistic, sharp focus, detailed skin",
    "professional photo, high quality, natural colours, sharp focus",
)
NEGATIVE = "lowres, blurry, deformed, bad anatomy, extra fingers, extra limbs, watermark, text, cartoon"

# Parts that say the same thing as a gap, or the opposite.
EXPRESSION, SETTING, COMPOSITION, PHOTOGRAPHY = "expression", "setting", "composition", "quality"
LEAVE_OUT = {
    "lighting": (SETTING,),
    "shot_size": (COMPOSITION,),
    "composition": (COMPOSITION,),
    "eyes": (EXPRESSION,),
    "expression": (EXPRESSION,),
    "setting": (SETTING,),
    "quality": (PHOTOGRAPHY,),
}

# Gap types of the guide that no sensor measures: a gap file may ask for them, and only the prompts know them.
PROMPT_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    SETTING: {
        "indoor": ("indoors, in a living room, window light", "indoors, in a cafe, warm light"),
        "outdoor": ("outdoors, in a park, daylight", "outdoors, on a city street, natural light"),
        "studio": ("in a photo studio, plain backdrop, studio lighting", "studio portrait, softbox light"),
        "casual": ("casual everyday setting, candid photo, casual clothes", "relaxed at home, casual snapshot"),
    },
    PHOTOGRAPHY: {
        "professional": ("professional photography, high resolution, sharp focus, detailed skin texture, 85mm lens",),
    },
}

# Texts by gap type and target; one text, or several of which the images get one in turn.
PromptTables = Mapping[str, Mapping[str, str | Sequence[str]]]

TABLE_SUFFIX = "_PROMPTS"

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
    own: PromptTables | None = None,
    candidates: int = 1,
) -> tuple[list[PlannedImage], list[str]]:
    """(the images of all gaps, sentences about gaps that get none). At most `num_per_gap` images are wanted for a gap.

    `candidates` are made for each, to choose the best from. `own` texts go before ours.
    """
    own = own or {}
    planned_images, passed_over, taken = [], [], set()
    names: dict[str, tuple[str, str]] = {}  # beginning of file names, folded -> the gap that has it
    for gap in recommendations:
        texts = prompt_texts(*gap.key, own)
        why_not = _why_not(gap, texts, own)
        if why_not:
            passed_over.append(why_not)
            continue
        first = sum(planned.gap_type == gap.type and planned.target == gap.target for planned in planned_images)
        for index in range(first, first + candidates * min(gap.count, num_per_gap)):
            source = random.Random(f"{seed}/{gap.type}/{gap.target}/{index}")  # of its own: no image shifts another's
            text = texts[index % len(texts)]
            template = _template(templates, index, source) if templates else None
            prompt = filled(template, person, text) if template else composed(person, gap.type, text, source)
            own_seed = _free_seed(source, taken)
            name = _own_name(names, gap)
            planned_images.append(PlannedImage(f"{name}_{index + 1:03d}", prompt, own_seed, gap.type, gap.target))
    return planned_images, passed_over


def prompt_texts(gap_type: str, target: str, own: PromptTables | None = None) -> tuple[str, ...]:
    """What asks a generator for a target: `own` texts, else those of its gap type; none where nobody knows any."""
    texts = _tables(gap_type, own or {}).get(target) or ()
    return (texts,) if isinstance(texts, str) else tuple(texts)


def _tables(gap_type: str, own: PromptTables) -> dict[str, str | Sequence[str]]:
    """Target -> texts of a gap type, whoever knows it."""
    measured = {one.name: one.prompts for one in GAP_TYPES[gap_type].targets} if gap_type in GAP_TYPES else {}
    return PROMPT_SETS.get(gap_type, {}) | measured | dict(own.get(_table_key(gap_type), {}))


def _why_not(gap: Recommendation, texts: tuple[str, ...], own: PromptTables) -> str | None:
    """Why a gap gets no image; None where it gets some."""
    here = gap.key
    if not texts:
        known = _tables(gap.type, own)
        if gap.target in known:
            return f"{here}: its entry in mirror/dataset/gaps.py has no prompt texts."
        table = f"a table {table_name(gap.type)} in generate_synthetic.py gives it some"
        if known:
            return f"{here}: {gap.type} has no such target; known: {', '.join(known)}; {table}."
        types = dict.fromkeys([*GAP_TYPES, *PROMPT_SETS, *own])
        return f"{here}: no prompts are known for this gap type; known: {', '.join(types)}; {table}."
    if not gap.count:
        return f"{here}: no image is asked for{f' ({gap.reason})' if gap.reason else ''}."
    return None


def table_name(gap_type: str) -> str:
    """What a table of prompts for a gap type is called: `LIGHTING_PROMPTS`."""
    return f"{_table_key(gap_type).upper()}{TABLE_SUFFIX}"


def _table_key(gap_type: str) -> str:
    """A gap type as it can be part of a name in Python."""
    return re.sub(r"\W+", "_", gap_type).lower()


def own_tables(names: Mapping[str, object], script: str) -> PromptTables:
    """The tables of prompts among the names of a script: `LIGHTING_PROMPTS = {"low_key": "..."}` is for `lighting`.

    Raises UserError for a table that holds something else than texts.
    """
    tables = {name: one for name, one in names.items() if name.endswith(TABLE_SUFFIX) and isinstance(one, dict)}
    for name, table in tables.items():
        for target, texts in table.items():
            listed = [texts] if isinstance(texts, str) else texts
            is_text = isinstance(listed, list | tuple) and listed and all(isinstance(one, str) for one in listed)
            if not isinstance(target, str) or not is_text:
                raise UserError(f"{script}: {name}[{target!r}] must be a text in quotes, or a list of such texts.")
    return {name.removesuffix(TABLE_SUFFIX).lower(): table for name, table in tables.items()}


def composed(person: str, gap_type: str, text: str, source: random.Random) -> str:
    """A prompt from our parts."""
    parts = {EXPRESSION: EXPRESSIONS, SETTING: SETTINGS, COMPOSITION: COMPOSITIONS, PHOTOGRAPHY: QUALITY}
    chosen = {name: source.choice(choices) for name, choices in parts.items()}
    kept = [part for name, part in chosen.items() if name not in LEAVE_OUT.get(gap_type, ())]
    return ", ".join([f"photo of {person}", text, *kept])


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
    plain = f"{SYNTHETIC_PREFIX}{file_word(gap.type)}_{file_word(gap.target)}"
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
        if planned.name != file_word(planned.name) or names.count(planned.name.casefold()) > 1:
            raise UserError(
                f"{path}: the name {planned.name!r} is not a file name of its own (letters, digits, _ and -)."
            )
    if not planned_images:
        raise UserError(f"{path}: the plan is empty.")
    return planned_images
