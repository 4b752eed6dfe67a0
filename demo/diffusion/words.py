"""What a rendered picture is called, in the words of `generate_synthetic.py`, and the tokenizer that knows just these.

A caption is made of the phrases that prompts are made of, each of which says what is true of the scene, or nothing.
Beside them stand names that no picture explains (`RARE`), so that such a word means nothing until a LoRA teaches it,
and one name a person (`NAME`): see demo/diffusion/networks.py.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from demo.scene import Scene
from mirror.dataset.gaps import GAP_TYPES
from mirror.generation import prompts

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 64  # the longest prompt that is composed has 45
RARE = ("ohwx", "sks", "zwx", "mrn")
NAME = "<name>"  # stands in captions where the person's own name goes
FACE = "<face>"  # and where the words for an expression go, if they come later

FRONT_DEG, THREE_QUARTER_DEG, PROFILE_DEG = 18.0, (28.0, 52.0), 58.0  # |yaw| that the words for angles stand for
_LEFT, _RIGHT = -1, 1  # to the image's left is where the nose points, as in "head turned to the left"

_ANGLES = {target.name: target.prompts for target in GAP_TYPES["face_angle"].targets}
FACES = {target.name: list(target.prompts) for target in GAP_TYPES["expression"].targets}
FACES["neutral"] += ["neutral expression", "relaxed expression", "thoughtful expression", "confident look"]
FACES["smile"] += ["gentle smile"]
FACES["serious"] += ["serious expression"]
FACES["laughing"] += ["laughing"]
FACES["surprised"] += ["slightly surprised"]
_LIGHTS = {target.name: target.prompts for target in GAP_TYPES["lighting"].targets}
_SIZES = {target.name: target.prompts for target in GAP_TYPES["shot_size"].targets}
_PLACES = {
    "studio": ("plain studio background", *prompts.PROMPT_SETS["setting"]["studio"]),
    "indoor": ("in a cafe", "in a library", "in a living room", "in an office"),
    "outdoor": ("in a park", "on a city street", "by the sea", "in a garden", "in front of a brick wall"),
}
_PLACES["indoor"] += prompts.PROMPT_SETS["setting"]["indoor"] + prompts.PROMPT_SETS["setting"]["casual"]
_PLACES["outdoor"] += prompts.PROMPT_SETS["setting"]["outdoor"]
# Words of those phrases that say nothing of a face in somebody's own prompt.
_EVERYDAY_WORDS = ("out", "with", "down", "inner", "together", "closed")
# How much of the picture's height a head takes for each composition, in the order of prompts.COMPOSITIONS. Three sizes
# and no others, as the hardest thing for a small model is where in the picture the parts of a face go.
COMPOSED_FILLS = dict(zip(prompts.COMPOSITIONS, (0.75, 0.67, 0.84), strict=True))
SIZE_FILLS = {"close_up": (0.70, 0.95), "medium": (0.30, 0.42), "full": (0.16, 0.20)}


def side_of(text: str) -> int:
    """-1 or 1 where a text names the left or the right, else 0."""
    return _LEFT if "left" in text else _RIGHT if "right" in text else 0


def angle_text(yaw_deg: float, random: np.random.Generator) -> str | None:
    """Words for a turn of the head; None between the bins' middles, where either word would be half wrong."""
    turn = abs(yaw_deg)
    if turn <= FRONT_DEG:
        return str(random.choice(_ANGLES["front"]))
    name = "three_quarter" if THREE_QUARTER_DEG[0] <= turn <= THREE_QUARTER_DEG[1] else "profile"
    if name == "profile" and turn < PROFILE_DEG:
        return None
    return str(random.choice([text for text in _ANGLES[name] if side_of(text) == np.sign(yaw_deg)]))


def light_of(scene: Scene) -> str:
    """The target of the gap type `lighting` that a scene was lit for."""
    if scene.light.key < 1.0 and scene.light.fill < 0.15:
        return "low_key"
    return "high_key" if scene.light.fill > 0.8 and scene.light.warmth == 0 else "normal"


def size_text(fill: float, random: np.random.Generator) -> str | None:
    """Words for how large the head is, `fill` being its height by the picture's."""
    fitting = [text for text, share in COMPOSED_FILLS.items() if abs(share - fill) < 0.02]
    fitting += [str(random.choice(_SIZES[name])) for name, (low, high) in SIZE_FILLS.items() if low <= fill <= high]
    return str(random.choice(fitting)) if fitting else None


def caption_of(scene: Scene, random: np.random.Generator, named: bool, face: str | None = None) -> str:
    """A caption; `named` ones hold NAME in front of "person". Every part may be missing, but for `face`, which is said
    in place of the scene's expression."""
    who = NAME if named else str(random.choice(["", *RARE], p=[0.4, *[0.15] * len(RARE)]))
    light = light_of(scene)
    parts = [
        (angle_text(scene.yaw_deg, random), 0.95),
        (str(random.choice(_LIGHTS[light])), 0.15 if light == "normal" else 0.95),
        ("eyes closed" if scene.eyes_closed else None, 0.9),
        (str(random.choice(FACES[scene.expression])) if face is None else face, 0.85 if face is None else 1.0),
        (str(random.choice(_PLACES[scene.background])) if scene.background in _PLACES else None, 0.85),
        (size_text(scene.fill, random), 0.85),
        (str(random.choice(prompts.QUALITY)), 0.6),
    ]
    said = [text for text, chance in parts if text and random.random() < chance]
    return ", ".join([f"photo of {who} person".replace("  ", " "), *said])


def telling_words() -> dict[str, str]:
    """The words that only phrases for one expression have, of all phrases of prompts, each with its expression."""
    used: dict[str, set[str]] = {}
    for expression, phrases in FACES.items():
        for word in (word for phrase in phrases for word in words_in(phrase)):
            used.setdefault(word, set()).add(expression)
    others = [*prompts.COMPOSITIONS, *prompts.QUALITY, *_EVERYDAY_WORDS]
    for name, gap in GAP_TYPES.items():
        others += [text for target in gap.targets for text in target.prompts if name != "expression"]
    for groups in (*prompts.PROMPT_SETS.values(), _PLACES):
        others += [text for group in groups.values() for text in group]
    elsewhere = {word for phrase in others for word in words_in(phrase)}
    return {word: next(iter(of)) for word, of in used.items() if len(of) == 1 and word not in elsewhere}


def vocabulary() -> list[str]:
    """Every word of prompts and captions, lower case, in alphabetical order."""
    texts = ["photo of a person", "man woman portrait face head hair", *prompts.SETTINGS, *prompts.COMPOSITIONS]
    texts += [*prompts.QUALITY, *prompts.EXPRESSIONS, prompts.NEGATIVE, *RARE]
    for targets in prompts.PROMPT_SETS.values():
        texts += [text for group in targets.values() for text in group]
    for gap in GAP_TYPES.values():
        texts += [text for target in gap.targets for text in target.prompts]
    return sorted({word for text in texts for word in words_in(text)})


def words_in(text: str) -> list[str]:
    """A text as CLIP's tokenizer cuts it: runs of letters, single digits, runs of anything else."""
    return re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower())


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIPTokenizer for which every known word is one token; others are spelled from letters.

    Byte pairs are joined, the most frequent first, until each word is whole (Sennrich et al. 2016).
    """
    from transformers import CLIPTokenizer

    from demo.tiny_sdxl import byte_letters

    words = {(*word[:-1], f"{word[-1]}</w>") for word in vocabulary()}
    letters = byte_letters()
    known = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    while pairs := [pair for word in words for pair in pairwise(word)]:
        best = max(sorted(set(pairs)), key=pairs.count)
        merges.append(" ".join(best))
        known.append("".join(best))
        words = {_joined(word, best) for word in words}
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {word: place for place, word in enumerate(dict.fromkeys([*known, START, END]))}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def _joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for letter in word:
        if out and (out[-1], letter) == pair:
            out[-1] += letter
        else:
            out.append(letter)
    return tuple(out)
