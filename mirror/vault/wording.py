"""Words for captions: what was measured, and what is left of a captioner's sentence.

A LoRA ties the trigger to whatever the captions do not mention. So a caption says what may change from picture to
picture (angle, shot size, light, clothes, place), and leaves out what is always the person (hair, eyes, age, build).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mirror.dataset import pixels
from mirror.faces.pose import angle_bin

TILTED_FROM_DEG = 15.0  # our choice: from here on people say that a head is lowered, raised or tilted
CONSTANT_SHARE, FEWEST_CAPTIONS = 0.8, 5  # our choice: share of the captions from which a phrase is constant

_SHOTS = {"close_up": "close-up portrait", "medium": "medium shot", "full": "full shot"}  # mirror.dataset.gaps
_LIGHTS = {pixels.LOW_KEY: "low-key lighting", pixels.HIGH_KEY: "high-key lighting"}
_ANGLES = {"front": ("front view",), "three_quarter": ("three-quarter view", "head turned to the {side}")}
_ANGLES |= {"profile": ("profile view", "facing {side}")}
_EXPRESSIONS = {  # as a tagger writes them; an expression may change from picture to picture, so it is said
    "neutral": "neutral expression",
    "smile": "smiling",
    "serious": "serious expression",
    "laughing": "laughing",
    "surprised": "surprised expression",
    "angry": "angry expression",
    "sad": "sad expression",
}
_SAYS_EXPRESSION = re.compile(r"\b(expression|smil\w*|laugh\w*|grin\w*|frown\w*|angry|sad|surprised|serious)\b", re.I)
_TILTS = ("head raised", "head lowered", "head tilted")
_GREY, _OTHERS = "black-and-white photo", "with other people"
_MEASURED = {*_SHOTS.values(), *_LIGHTS.values(), *_EXPRESSIONS.values(), *_TILTS, _GREY, _OTHERS} | {
    phrase.format(side=side) for phrases in _ANGLES.values() for phrase in phrases for side in ("left", "right")
}
_SUBJECT = (
    r"(?:(?:an?|the|this|one)\s+(?:[\w-]+\s+){0,3}?|(?:arafed|araffe)\s+)"  # BLIP's own word for nothing
    r"(?:wom[ae]n|m[ae]n|girl|boy|person|lady|guy|gentleman|child|kid|female|male|teenager|individual)\b"
    r"(?:\s+(?:that|who)\s+(?:is|has))?"
)
_INTRODUCTIONS = re.compile(
    r"^(?:(?:in|on) (?:the|this) (?:image|picture|photo)[^,]*,\s*|"
    r"(?:the|this) (?:image|picture|photo|photograph|portrait) (?:shows|is|depicts|features|captures)(?: of)?\s*|"
    r"there is\s+|"
    r"(?:an?|the)\s+(?:[\w-]+\s+){0,2}(?:image|picture|photo|photograph|portrait|shot|close[ -]?up) of\s+)+",
    re.IGNORECASE,
)
_LOOKS = [
    "hair",
    "eyes",
    "eye",
    "eyebrows",
    "eyelashes",
    "beard",
    "moustache",
    "mustache",
    "stubble",
    "freckles",
    "skin",
    "complexion",
    "nose",
    "lips",
    "cheekbones",
    "jaw",
    "jawline",
    "chin",
    "wrinkles",
    "bald",
]
_PEOPLE = [
    "woman",
    "man",
    "girl",
    "boy",
    "lady",
    "guy",
    "female",
    "male",
    "person",
    "adult",
    "teenager",
    "child",
    "1girl",
    "1boy",
    "solo",
    "young",
    "old",
    "elderly",
    "middle-aged",
    "she",
    "he",
    "they",
    "her",
    "his",
    "their",
    "asian",
    "caucasian",
    "african",
    "european",
    "latina",
    "latino",
    "blonde",
    "blond",
    "brunette",
    "redhead",
]
_MAY_CHANGE = re.compile(
    r"\b(closed|open|shut|wet|tied|ponytail|bun|braid\w*|loose|covered|squint\w*)\b", re.IGNORECASE
)
_WITH_LOOKS = re.compile(
    rf",?\s*\b(?:with|has|having)\s+(?:(?:an?|her|his|their|long|short)\s+)*(?:[\w-]+[\s,]+(?:and\s+)?){{0,5}}?"
    rf"(?:{'|'.join(_LOOKS)})\b(?:\s+and\s+(?:[\w-]+\s+){{0,3}}?(?:{'|'.join(_LOOKS)})\b)*"
    rf"(?P<more>\s+and\b)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Measured:
    """What is known of a picture as it is saved."""

    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    shot_size: str
    lighting: str
    is_grey: bool
    has_others: bool  # other people, too small to be cut away
    expression: str | None = None  # None: not measured, or the model is not sure


def measured_tags(seen: Measured) -> list[str]:
    """Angle, shot size, expression, light: phrases that a tagger would write."""
    side = "right" if seen.yaw_deg > 0 else "left"  # of the picture
    tags = [_SHOTS[seen.shot_size], *(phrase.format(side=side) for phrase in _ANGLES[angle_bin(seen.yaw_deg)])]
    tags += [_EXPRESSIONS[seen.expression]] if seen.expression else []
    if abs(seen.pitch_deg) >= TILTED_FROM_DEG:
        tags.append(_TILTS[0 if seen.pitch_deg > 0 else 1])
    if abs(seen.roll_deg) >= TILTED_FROM_DEG:
        tags.append(_TILTS[2])
    if seen.lighting in _LIGHTS:
        tags.append(_LIGHTS[seen.lighting])
    return tags + [_GREY] * seen.is_grey + [_OTHERS] * seen.has_others


def caption(trigger: str, style: str, seen: Measured, said: str = "") -> str:
    """One line, the trigger first. `said` is what a captioner wrote of the picture; empty: there was none."""
    tags = measured_tags(seen)
    if style == "tags":
        own = kept_tags(said, trigger)
        known = {tag.casefold() for tag in own}
        if any(_SAYS_EXPRESSION.search(tag) for tag in own):  # two words for it could be two expressions
            known |= set(_EXPRESSIONS.values())
        return ", ".join([trigger, *own, *(tag for tag in tags if tag.casefold() not in known)])
    words = kept_sentence(said, trigger)
    if words in ("", trigger):
        return f"{trigger}, {_article(tags[0])} in {tags[1]}" + "".join(f", {tag}" for tag in tags[2:])
    return words


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def kept_tags(said: str, trigger: str) -> list[str]:
    """Phrases of a captioner's text without the trigger and the person's constant looks, each once."""
    found: dict[str, str] = {}
    for phrase in re.split(r"[,;.\n]+", _INTRODUCTIONS.sub("", said.strip())):
        phrase = re.sub(rf"^(?:and\s+)?(?:{_SUBJECT}\s*)", "", _dropped_looks(phrase).strip(), flags=re.IGNORECASE)
        phrase = phrase.strip(" .\"'").removeprefix("and ").strip()
        if phrase and phrase.casefold() != trigger.casefold() and not is_constant_look(phrase):
            found.setdefault(phrase.casefold(), phrase)
    return list(found.values())


def _dropped_looks(text: str) -> str:
    """Text without clauses on constant looks: "with a beard and glasses" keeps its glasses."""
    shorter = _WITH_LOOKS.sub(lambda found: " with" if found["more"] else "", text)
    return re.sub(r"\bwith (?=wearing\b)", "", re.sub(r"\s+", " ", re.sub(r"\s+,", ",", shorter)))


def is_constant_look(phrase: str) -> bool:
    """Whether a tag says what is always the person: "brown hair", "1girl"; not "eyes closed" or "wet hair"."""
    words = re.findall(r"[\w-]+", phrase.casefold())
    if any(word in _LOOKS for word in words):
        return not _MAY_CHANGE.search(phrase)
    return bool(words) and all(word in _PEOPLE or word in ("a", "an", "the") for word in words)


def kept_sentence(said: str, trigger: str) -> str:
    """A captioner's text with the trigger in the person's place and first, constant looks left out; "" for none."""
    text = " ".join(said.split()).strip(" .")
    if not text:
        return ""
    text = _INTRODUCTIONS.sub("", text)
    if is_list_of_tags(text):
        return ", ".join([trigger, *kept_tags(text, trigger)])
    kept = ". ".join(filter(None, (_without_looks(one) for one in re.split(r"(?<=[.!?])\s+", text))))
    begun = re.match(rf"{_SUBJECT}\s*", kept, re.IGNORECASE)
    rest = kept[begun.end() :] if begun else kept
    rest = re.sub(rf"^{re.escape(trigger)}\b[\s,]*", "", rest, flags=re.IGNORECASE).strip(" .")
    if not rest:
        return trigger
    joint = " " if begun and re.match(r"(?:\w+ing|is|in|at|on|with|wears|sits|stands|looks|holds)\b", rest) else ", "
    return f"{trigger}{joint}{rest}"


def is_list_of_tags(text: str) -> bool:
    """Whether a captioner wrote tags: several short phrases, no verb's sentence among them."""
    phrases = [part.split() for part in text.split(",")]
    return len(phrases) >= 3 and max(map(len, phrases)) <= 4 and "." not in text


def _without_looks(sentence: str) -> str:
    """A sentence without clauses on constant looks; "" where it is about nothing else ("She has brown hair")."""
    shorter = _dropped_looks(sentence).strip(" .")
    is_bare = re.fullmatch(r"(?:she|he|they|her|his)\b[\w\s]{0,12}", shorter, re.IGNORECASE)
    about_looks = re.match(r"(?:her|his|their|the)\s+(?:[\w-]+\s+){0,2}?(?:" + "|".join(_LOOKS) + r")\b", shorter, re.I)
    return "" if is_bare or about_looks else shorter


def told_constant_phrases(captions: Sequence[str], trigger: str) -> list[str]:
    """A sentence for each phrase that stands in nearly all captions."""
    return [
        f'"{phrase}" stands in {count} of {len(captions)} captions: the LoRA learns it with these words and not with '
        "the trigger. Take it out of the captions if it is always the person's."
        for phrase, count in constant_phrases(captions, trigger).items()
    ]


def constant_phrases(captions: Sequence[str], trigger: str) -> dict[str, int]:
    """Phrases that stand in nearly all captions, with how many; measured ones are the coverage's to tell of."""
    if len(captions) < FEWEST_CAPTIONS:
        return {}
    counts: Counter[str] = Counter()
    for one in captions:  # without the trigger, which may hold a full stop: "ohwx J. Smith"
        phrases = {part.strip() for part in re.split(r"[,;.]+", one.casefold().replace(trigger.casefold(), ","))}
        counts.update(phrases - _MEASURED - {""})
    least = CONSTANT_SHARE * len(captions)
    return {phrase: count for phrase, count in counts.most_common() if count >= least}
