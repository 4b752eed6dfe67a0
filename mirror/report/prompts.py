"""Points by prompt: which rows were made with which prompt, and how each prompt is drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.generation import prompt_key
from mirror.contracts.summary import CANDIDATE
from mirror.report.colours import SYMBOLS_3D, Group, assign, group_index
from mirror.report.render import plotly_text, shortened, shown

MOST_PROMPTS = 20  # drawn apart; beyond that neither colours nor rows can be told apart
OTHER, UNKNOWN = "other prompts", "no prompt known"
_PALE = {OTHER: "#8a91a6", UNKNOWN: "#5c6377"}
_NAME_LENGTH = 26
_MOST_SHOWN = 1000  # characters of a prompt in the page


@dataclass(frozen=True)
class Prompts:
    """`texts` are the different prompts as they stand in the files, `text_of` their index for each row or None.

    `kinds` are the groups that points are drawn by, references first; `kind_of` is the index of each row's.
    """

    texts: list[str]
    text_of: list[int | None]
    kinds: list[dict]
    kind_of: list[int]


def prompts_of(table: pd.DataFrame, groups: list[Group]) -> Prompts:
    """`kinds` is empty where points cannot be grouped: no prompt is known, or each is used once."""
    given = [text if isinstance(text, str) else None for text in table[columns.PROMPT]]
    numbers = {text: index for index, text in enumerate(dict.fromkeys(filter(None, given)))}
    texts = [shown(text.replace("\n", " "))[:_MOST_SHOWN] for text in numbers]
    text_of = [numbers.get(text) for text in given]
    keys = [_key(kind, text) for kind, text in zip(table[columns.TYPE], given, strict=True)]
    counts = Counter(key for key in keys if key not in (None, UNKNOWN))
    if not counts or max(counts.values()) < 2:
        return Prompts(texts, text_of, [], [])
    names = [name for name, _ in counts.most_common(MOST_PROMPTS)]
    names += [name for name in (OTHER, UNKNOWN) if (name == OTHER and len(counts) > MOST_PROMPTS) or name in keys]
    photos = [group for group in groups if group.is_reference]
    kinds = [_drawn(group, group.label, group.short) for group in photos]
    drawn = zip(names, _told_apart(names), assign((CANDIDATE, name) for name in names), strict=True)
    kinds += [_prompt(name, short, group) for name, short, group in drawn]
    place = {name: len(photos) + index for index, name in enumerate(names)}
    kind_of = [
        group if key is None else place.get(key, place.get(OTHER))
        for key, group in zip(keys, group_index(table, groups), strict=True)
    ]
    return Prompts(texts, text_of, kinds, kind_of)


def _key(kind: str, text: str | None) -> str | None:
    """What a row is grouped by; None for real photos."""
    if kind != CANDIDATE:
        return None
    return prompt_key(text) or UNKNOWN if text else UNKNOWN


def _told_apart(names: list[str]) -> list[str]:
    """The prompts without the words that all of them begin or end with: these would be all that a short name shows."""
    words = [name.split() for name in names if name not in _PALE]
    first = _alike(words)
    last = _alike([one[first:][::-1] for one in words])
    parts = {" ".join(one): " ".join(one[first : len(one) - last]).strip(" ,") for one in words}
    return [parts.get(name) or name for name in names]


def _alike(lists: list[list[str]]) -> int:
    """How many words all lists begin with; 0 where there is one list only."""
    if len(lists) < 2:
        return 0
    by_place = enumerate(zip(*lists, strict=False))
    return next((at for at, words in by_place if len(set(words)) > 1), min(map(len, lists)))


def _prompt(name: str, short: str, group: Group) -> dict:
    look = _drawn(group, shown(name)[:_MOST_SHOWN], shortened(shown(short), _NAME_LENGTH))
    return look | {"colour": _PALE.get(name, look["colour"])}


def _drawn(group: Group, label: str, short: str) -> dict:
    return {
        "label": label,
        "short": plotly_text(short),
        "colour": group.colour,
        "symbol": group.symbol,
        "symbol3d": SYMBOLS_3D[group.symbol],
        "path": group.path,
    }
