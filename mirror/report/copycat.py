"""`CopycatReport_<timestamp>.html`: each generated image beside its nearest reference, and who is copied most."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from mirror.contracts import table as columns
from mirror.contracts.summary import CANDIDATE, HELD_OUT, REFERENCE, Summary
from mirror.faces.metrics import BANDS, copy_band
from mirror.report.colours import Group, group_index, page_groups
from mirror.report.render import encoded, json_for_script, number, render, run_facts, shown, sibling_link
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


def build_copycat(table: pd.DataFrame, summary: Summary, thumbnails: Sequence[bytes | None]) -> str:
    """The whole page. `thumbnails[i]` is the small JPEG of row i of `table`, None where the file could not be read."""
    if len(thumbnails) != len(table):
        raise ValueError(f"{len(thumbnails)} thumbnails for {len(table)} rows of the table")
    groups = page_groups(table, summary)
    rows = _rows(table, group_index(table, groups))
    data = _page_data(rows, groups)
    return render(
        "copycat",
        run_facts(summary),
        summary.warnings,
        dashboard_link=sibling_link(summary, "Dashboard_"),
        generated=data["compares"] == "generated",
        references=len(data["ranking"]),
        bands=_band_counts(data),
        candidates=[group for group in groups if not group.is_reference],
        data=json_for_script(data),
        thumbnails=_thumbnail_table(thumbnails),
    )


def _rows(table: pd.DataFrame, groups: list[int]) -> list[dict]:
    """Every file as the page needs it; numbers not measured are None."""
    read = (columns.TYPE, columns.FILENAME, columns.STATUS, columns.SIMILARITY)
    read += (columns.NEAREST_REFERENCE, columns.NEAREST_SIMILARITY, columns.REASON)
    rows = []
    for index, cells in enumerate(table[list(read)].itertuples(index=False, name=None)):
        kind, file, status, similarity, nearest, nearest_similarity, reason = cells
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
            }
        )
    return rows


def _page_data(rows: list[dict], groups: list[Group]) -> dict:
    """What copycat.js draws from. References are named by their row everywhere, so each stands there once."""
    references = [row for row in rows if row["type"] == REFERENCE and groups[row["group"]].name == REFERENCE]
    candidates = [row for row in rows if row["type"] == CANDIDATE]
    row_of = {row["file"]: row["index"] for row in references}
    return {
        "compares": "generated" if candidates else "references",
        "held_out": any(group.is_reference and group.name == HELD_OUT for group in groups),
        "files": [shown(row["file"]) for row in rows],
        "groups": [{"label": group.label, "colour": group.colour, "path": group.path} for group in groups],
        "bands": {name: {"colour": colour, "mark": mark} for name, (colour, mark) in _LOOKS.items()},
        "cards": [_card(row, row_of) for row in candidates or references],
        "ranking": _ranking(references, candidates, row_of),
    }


def _card(row: dict, row_of: dict[str, int]) -> dict:
    """One generated image (or, without any, one reference) and its nearest reference."""
    card = {"row": row["index"], "group": row["group"], "band": _band(row, row_of)}
    if not row["status"].measured:
        return card | {"failure": _failure(row)}
    card |= {"nearest": row_of.get(row["nearest"]), "nearest_similarity": row["nearest_similarity"]}
    card["similarity"] = row["similarity"]
    return card | {"note": shown(row["reason"])} if row["reason"] else card


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


def _limits(name: str) -> str:
    if name not in BANDS:
        return ""
    low, high = BANDS[name].low, BANDS[name].high
    if low is None:
        return f"below {number(high, 2)}"
    return f"above {number(low, 2)}" if high is None else f"{number(low, 2)}\N{EN DASH}{number(high, 2)}"


def _thumbnail_table(thumbnails: Sequence[bytes | None]) -> Markup:
    """JSON list of base64 texts, one a row of the table: each picture is on the page once. Base64 needs no escaping."""
    texts = [encoded(picture) or "" for picture in thumbnails]
    return Markup('["' + '",\n"'.join(texts) + '"]' if texts else "[]")


def _or_none(value: float) -> float | None:
    return None if value is None or value != value else float(value)
