"""`CopycatReport_<timestamp>.html`: each generated image beside its nearest reference, copy or likeness, and who is
copied most."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import CANDIDATE, REFERENCE, Summary
from mirror.faces.copies import KINDS, LIKENESS, SAME_PICTURE, SAME_POSE, copy_limit
from mirror.faces.metrics import BANDS, copy_band
from mirror.faces.picture_hash import HASH_BITS
from mirror.report.colours import Group, group_index, page_groups
from mirror.report.files import picture_blocks
from mirror.report.render import json_for_script, number, render, run_facts, shown, sibling_link
from mirror.report.viewing import viewer_data
from utils.files import Status

FAILED_TEXT = "\N{WARNING SIGN} Failed to recognize face"
FAILED = "Failed"  # stands beside the bands: no face, so no band
UNMATCHED = "No match"  # a face, but no reference to compare it with

# Colour and mark of the bands, the most urgent first; a band's name always stands beside its colour.
_BAND_LOOKS = (
    ("#ff6b6b", "\N{BLACK UP-POINTING TRIANGLE}"),
    ("#f5b942", "\N{BLACK DIAMOND}"),
    ("#4fd1a5", "\N{BLACK CIRCLE}"),
    ("#8fa8d8", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    ("#c39bf0", "\N{BLACK SQUARE}"),
)
_LOOKS = dict(zip(reversed(BANDS), itertools.cycle(_BAND_LOOKS))) | {
    UNMATCHED: ("#b7bccb", "\N{EN DASH}"),
    FAILED: ("#d0a3a3", "\N{MULTIPLICATION SIGN}"),
}
_MEANINGS = {name: band.meaning for name, band in BANDS.items()} | {
    UNMATCHED: "no reference with a face to compare with",
    FAILED: "no face could be measured",
}
# Colour and mark of what a pair shares; the name always stands beside them.
_KIND_LOOKS = {
    SAME_PICTURE: ("#ff7eb6", "\N{BLACK SQUARE}"),
    SAME_POSE: ("#ffb27a", "\N{CIRCLE WITH LEFT HALF BLACK}"),
    LIKENESS: ("#6fd3ff", "\N{WHITE CIRCLE}"),
}


def build_copycat(
    table: pd.DataFrame,
    summary: Summary,
    thumbnails: Sequence[bytes | None],
    links: Sequence[str | None] = (),
) -> str:
    """The whole page. `thumbnails[i]` is the small JPEG of row i of `table`, None where the file could not be read;
    `links[i]` leads to the file itself."""
    if len(thumbnails) != len(table):
        raise ValueError(f"{len(thumbnails)} thumbnails for {len(table)} rows of the table")
    groups = page_groups(table, summary)
    rows = _rows(table, group_index(table, groups))
    is_reference = (table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == REFERENCE)
    limit = copy_limit(table[is_reference])
    data = viewer_data(table, groups, links) | _page_data(rows, groups, limit)
    return render(
        "copycat",
        run_facts(summary),
        summary.warnings,
        parts=("viewer",),
        dashboard_link=sibling_link(summary, "Dashboard_"),
        generated=data["compares"] == "generated",
        references=len(data["ranking"]),
        kinds=_kind_counts(data, limit),
        bands=_band_counts(data),
        candidates=[group for group in groups if not group.is_reference],
        data=json_for_script(data),
        pictures=picture_blocks(thumbnails),
    )


def _rows(table: pd.DataFrame, groups: list[int]) -> list[dict]:
    """Every file as the page needs it; numbers not measured are None."""
    read = (columns.TYPE, columns.FILENAME, columns.STATUS, columns.SIMILARITY)
    read += (columns.NEAREST_REFERENCE, columns.NEAREST_SIMILARITY, columns.REASON, columns.COPY, columns.HASH_DISTANCE)
    rows = []
    for index, cells in enumerate(table[list(read)].itertuples(index=False, name=None)):
        kind, file, status, similarity, nearest, nearest_similarity, reason, copy, bits = cells
        rows.append(
            {
                "index": index,
                "type": kind,
                "group": groups[index],
                "file": file,
                "status": Status(status),
                "similarity": _or_none(similarity),
                "nearest": nearest if isinstance(nearest, str) else None,
                "nearest_similarity": _or_none(nearest_similarity),
                "reason": reason if isinstance(reason, str) else "",
                "copy": copy if copy in KINDS else None,
                "bits": None if pd.isna(bits) else int(bits),
            }
        )
    return rows


def _page_data(rows: list[dict], groups: list[Group], limit: float) -> dict:
    """What copycat.js draws from. References are named by their row everywhere, so each stands there once."""
    references = [row for row in rows if row["type"] == REFERENCE and groups[row["group"]].name == REFERENCE]
    candidates = [row for row in rows if row["type"] == CANDIDATE]
    row_of = {row["file"]: row["index"] for row in references}
    return {
        "compares": "generated" if candidates else "references",
        "bands": {name: {"colour": colour, "mark": mark} for name, (colour, mark) in _LOOKS.items()},
        "kinds": {name: {"colour": colour, "mark": mark} for name, (colour, mark) in _KIND_LOOKS.items()},
        "cards": [_card(row, row_of, limit) for row in candidates or references],
        "ranking": _ranking(references, candidates, row_of),
    }


def _card(row: dict, row_of: dict[str, int], limit: float) -> dict:
    """One generated image (or, without any, one reference) and its nearest reference."""
    card = {"row": row["index"], "group": row["group"], "band": _band(row, row_of)}
    if not row["status"].measured:
        return card | {"failure": _failure(row)}
    card |= {"nearest": row_of.get(row["nearest"]), "nearest_similarity": row["nearest_similarity"]}
    card["similarity"] = row["similarity"]
    if row["copy"] is not None:
        card |= {"kind": row["copy"], "says": _says(row["copy"], row["bits"], row["nearest_similarity"], limit)}
    return card | {"note": shown(row["reason"])} if row["reason"] else card


def _says(kind: str, bits: int | None, similarity: float, limit: float) -> str:
    """One sentence with the numbers that make a pair what it is."""
    differ = "" if bits is None else f"{bits} of {HASH_BITS} bits differ"
    if kind == SAME_PICTURE:
        return f"The whole picture again: {differ}."
    near = f"{number(similarity, 3)} is above {number(limit, 3)}"
    scene = f"; the picture is another ({differ})" if differ else ""
    if kind == SAME_POSE:
        return f"This face again, at this angle: {near}{scene}."
    if similarity > limit:
        return f"As like as a copy ({near}), but turned otherwise{scene}."
    what = f"; {differ}" if differ else ""
    return f"Another picture, not a copy: no nearer than {number(limit, 3)}{what}."


def _band(row: dict, row_of: dict[str, int]) -> str:
    if not row["status"].measured:
        return FAILED
    if row["nearest_similarity"] is None or row["nearest"] not in row_of:
        return UNMATCHED
    return copy_band(row["nearest_similarity"])


def _failure(row: dict) -> str:
    """The documented words; where it was not simply a picture without a face, its status and reason as well."""
    if row["status"] == Status.NO_FACE:
        return FAILED_TEXT
    why = shown(row["reason"]) or str(row["status"]).replace("_", " ")
    return f"{FAILED_TEXT}: {why}"


def _ranking(references: list[dict], candidates: list[dict], row_of: dict[str, int]) -> list[dict]:
    """Black Hole Ranking: all references by hits, most first; equals share a rank and keep the order of the files."""
    hits = dict.fromkeys(row_of.values(), 0)
    for row in candidates:
        if row["status"].measured and row["nearest"] in row_of:
            hits[row_of[row["nearest"]]] += 1
    ordered = sorted(references, key=lambda row: (not row["status"].measured, -hits[row["index"]], row["index"]))
    entries, rank = [], 0
    for position, row in enumerate(ordered, start=1):
        if not row["status"].measured:
            entries.append({"row": row["index"], "hits": 0, "failure": _failure(row)})
            continue
        if not entries or entries[-1]["hits"] != hits[row["index"]]:
            rank = position
        entries.append({"row": row["index"], "hits": hits[row["index"]], "rank": rank})
    return entries


def _band_counts(data: dict) -> list[dict]:
    """Number of cards in each band, in the order of urgency; the two that are no bands only where they occur."""
    counts = dict.fromkeys(_LOOKS, 0)
    for card in data["cards"]:
        counts[card["band"]] += 1
    return [
        {"name": name, "count": counts[name], "limits": _limits(name), "colour": colour, "mark": mark}
        | {"meaning": _MEANINGS[name]}
        for name, (colour, mark) in _LOOKS.items()
        if counts[name] or name in BANDS
    ]


def _kind_counts(data: dict, limit: float) -> list[dict]:
    """Number of cards of each kind, copies first; nothing where no pair was compared."""
    counts = Counter(card["kind"] for card in data["cards"] if "kind" in card)
    meanings = KINDS | {SAME_POSE: f"{KINDS[SAME_POSE]}; similarity above {number(limit, 2)}"}
    return [
        {"name": name, "count": counts[name], "meaning": meanings[name], "colour": colour, "mark": mark}
        for name, (colour, mark) in _KIND_LOOKS.items()
        if counts
    ]


def _limits(name: str) -> str:
    if name not in BANDS:
        return ""
    low, high = BANDS[name].low, BANDS[name].high
    if low is None:
        return f"below {number(high, 2)}"
    return f"above {number(low, 2)}" if high is None else f"{number(low, 2)}\N{EN DASH}{number(high, 2)}"


def _or_none(value: float) -> float | None:
    return None if value is None or value != value else float(value)
