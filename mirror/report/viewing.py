"""What viewer.js reads of a table: numbers, names, prompts and the way to the file, one list a column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import HELD_OUT, REFERENCE
from mirror.report.colours import Group, group_index
from mirror.report.files import BLOCK
from mirror.report.prompts import prompts_of
from mirror.report.render import shown

_NUMBERS = {
    "similarity": columns.SIMILARITY,
    "age": columns.AGE,
    "yaw": columns.YAW,
    "pitch": columns.PITCH,
    "roll": columns.ROLL,
    "ratio": columns.ASPECT_RATIO,
    "det_score": columns.DET_SCORE,
    "nearest_similarity": columns.NEAREST_SIMILARITY,
}
_DIGITS = 7  # the viewer shows four; thousands of rows are megabytes with all sixteen


def viewer_data(table: pd.DataFrame, groups: list[Group], links: Sequence[str | None]) -> dict:
    """`links[i]` is the address of row i's file, None or missing where there is none."""
    prompts = prompts_of(table, groups)
    is_photo = (table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == REFERENCE)
    row_of = {file: row for row, file in table.loc[is_photo, columns.FILENAME].items()}
    return {
        "block": BLOCK,
        "links": list(links) or [None] * len(table),
        "held_out": any(group.is_reference and group.name == HELD_OUT for group in groups),
        "groups": [
            {"label": group.label, "colour": group.colour, "reference": group.is_reference, "path": group.path}
            for group in groups
        ],
        "rows": {
            "file": [shown(name) for name in table[columns.FILENAME]],
            "group": group_index(table, groups),
            "nearest": [row_of.get(name) for name in table[columns.NEAREST_REFERENCE]],
            "note": [shown(_text(reason)) for reason in table[columns.REASON]],
        }
        | {name: _rounded(table[column]) for name, column in _NUMBERS.items()},
        "prompts": {
            "texts": prompts.texts,
            "of": prompts.text_of,
            "seeds": [_text(seed) for seed in table[columns.SEED]],
            "generators": [shown(_text(name)) for name in table[columns.GENERATOR]],
            "kinds": prompts.kinds,
            "kind_of": prompts.kind_of,
        },
    }


def _rounded(values: pd.Series) -> list[float | None]:
    """None where nothing was measured."""
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    return [round(value, _DIGITS) if np.isfinite(value) else None for value in numbers.tolist()]


def _text(value: object) -> str:
    """A cell of text; blank where the table has none (None or NaN)."""
    return value if isinstance(value, str) else ""
