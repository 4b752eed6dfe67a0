"""What the dashboard says in words and in its ranking: answers, verdicts, checkpoint curves, the dataset's check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import BASELINE, CANDIDATE, REFERENCE, Curve, GroupSummary, Summary
from mirror.faces import steps
from mirror.faces.ranking import picture_keys
from mirror.faces.verdicts import GOOD, TOO_FEW
from mirror.report.colours import Group
from mirror.report.render import shortened, shown

_QUESTIONS = {
    "best checkpoint": "Which checkpoint is best?",
    "overtrained": "Is it overtrained?",
    "rigid": "Is it rigid?",
    "dataset": "Is the dataset sound?",
}
_PANELS = {"similarity": "Face Similarity", "pose": "Pose Variety", "dataset": "Dataset check", "curve": "Checkpoints"}
_SEEN = {GOOD: "good", TOO_FEW: "unknown"}  # how a verdict looks; all others are faults
MOST_FAULTS = 60  # of the dataset on the page; the summary has all of them
MOST_KEYS = 24  # prompts and seeds to choose from above a strip of checkpoints


class Column(NamedTuple):
    """A heading of the ranking; `order` is how a first click sorts: up or down."""

    title: str
    hint: str = ""
    order: str = "down"


_MEDIAN = "Median\nsimilarity"
# In the order of the cells in ranking.html. On a phone the first three are in sight.
_COLUMNS = (
    Column("Group", order="up"),
    Column("Verdict", "What the numbers say of the group; click one to read why", "up"),
    Column(_MEDIAN, "Half of the faces are more like the person"),
    Column("95 %\ninterval", "Where the median of many more such images would lie"),
    Column("Rank", "Groups that share a rank cannot be told apart by these images", "up"),
    Column("Faces", "Images with a measured face, of all images"),
    Column("Near\ncopies", "Faces that are nearly a copy of one reference"),
    Column("Spread", "Spread of the similarity (MAD, as a standard deviation)", "up"),
    Column("Lost per\n30\u00b0 yaw", "Similarity lost for each 30 degrees that a head turns", "up"),
    Column("Yaw\nspread", "How far heads turn, as a share of the references' spread; low is rigid"),
    Column("Age\nshift", "Median apparent age less the references', in years"),
    Column("Lower\nquartile"),
    Column("Upper\nquartile"),
    Column("Rescued", "Faces that only a second look found", "up"),
    Column("Failed", "Images without a measured face", "up"),
)


def answer_cards(summary: Summary, copycat_link: str | None) -> list[dict]:
    """One for each question, with the panel or page that shows it."""
    return [
        {
            "question": _QUESTIONS[answer.question],
            "headline": shown(answer.headline),
            "tone": answer.tone,
            "sentence": shown(answer.sentence),
            **_where(answer.panel, copycat_link),
        }
        for answer in summary.answers
    ]


def _where(panel: str, copycat_link: str | None) -> dict:
    if panel == "copycat":
        return {"link": copycat_link, "link_text": "Copycat report"}
    return {"link": f"#panel-{panel}", "link_text": _PANELS[panel]}


def ranking_rows(summary: Summary, groups: list[Group]) -> list[dict]:
    """The table of groups: real photos first, then candidates by rank, then images without a LoRA.

    Each number is shown and sorted by; None sorts last.
    """
    styles = {(group.type, group.name): group for group in groups}
    ranked = {one.name: one for one in summary.ranking}
    order = {name: place for place, name in enumerate(ranked)}

    def place(group: GroupSummary) -> tuple[int, int]:
        if group.type == REFERENCE:
            return 0, 0
        return (2, 0) if group.name == BASELINE else (1, order.get(group.name, len(order)))

    rows = []
    for group in sorted(summary.groups, key=place):
        is_candidate = group.type == CANDIDATE
        line = ranked.get(group.name) if is_candidate else None
        rows.append(
            {
                "group": styles[group.type, group.name],
                "is_floor": is_candidate and group.name == BASELINE,
                "numbers": group,
                "ranked": line,
                "face_rate": group.faces / group.images if group.images else None,
                "copy_share": line.copies / group.faces if line and group.faces else None,
                "verdicts": [
                    {
                        "name": one.name,
                        "look": _SEEN.get(one.name, "bad"),
                        "said": shown(one.sentence),
                        "advice": one.advice,
                    }
                    for one in group.verdicts
                ],
            }
        )
    return rows


def ranking_columns(summary: Summary) -> tuple[Column, ...]:
    """The headings; the one of the median says what it is taken to."""
    if summary.settings.get("holdout") is None:
        return _COLUMNS
    to_held_out = Column(
        "Median to\nheld-out", "Median similarity to the held-out photos, which no LoRA was trained on"
    )
    return tuple(to_held_out if column.title == _MEDIAN else column for column in _COLUMNS)


def interval_scale(summary: Summary) -> tuple[float, float]:
    """Similarities between which the table draws its intervals: all of them fit, and no difference is blown up."""
    ends = [end for group in summary.groups for end in group.similarity_interval or ()]
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    room = max(0.05, 0.1 * (high - low))
    return max(-1.0, low - room), min(1.0, high + room)


def curves_data(summary: Summary, table: pd.DataFrame, groups: list[Group]) -> list[dict]:
    """What curve.js draws: one line a training run, and pictures of each checkpoint with the same prompt and seed."""
    ranked = {one.name: one for one in summary.ranking}
    styles = {group.name: group for group in groups if group.type == CANDIDATE}
    return [_curve(curve, ranked, styles, table, summary) for curve in summary.curves]


def _curve(curve: Curve, ranked: dict, styles: dict[str, Group], table: pd.DataFrame, summary: Summary) -> dict:
    points = curve.checkpoints
    photos, floor = (_median_of(summary, kind, name) for kind, name in ((REFERENCE, REFERENCE), (CANDIDATE, BASELINE)))
    return {
        "name": shown(curve.series),
        "unit": curve.unit,
        "best": next((i for i, point in enumerate(points) if point.group == curve.best), None),
        "references": photos,
        "floor": floor,
        "points": [
            {
                "number": point.number,
                "label": shown(point.group),
                "group": styles[point.group].index,
                "median": point.median,
                "low": point.interval[0] if point.interval else None,
                "high": point.interval[1] if point.interval else None,
                "faces": point.faces / point.images if point.images else None,
                "copies": point.copies / point.faces if point.faces else None,
                "poses": ranked[point.group].pose_coverage,
                "verdicts": point.verdicts,
            }
            for point in points
        ],
        "strips": _strips([point.group for point in points], table),
    }


def _median_of(summary: Summary, kind: str, name: str) -> float | None:
    return next((one.similarity.median for one in summary.groups if (one.type, one.name) == (kind, name)), None)


def _strips(names: list[str], table: pd.DataFrame) -> list[dict]:
    """For each prompt and seed that most checkpoints share, the row of its picture in each; None where one lacks it.

    Without any that is shared: the first, second ... picture of each checkpoint.
    """
    of_group = {
        name: table.index[(table[columns.TYPE] == CANDIDATE) & (table[columns.GROUP] == name)] for name in names
    }
    keyed = {name: _keyed(name, table.loc[rows]) for name, rows in of_group.items()}
    counts: dict[str, int] = {}
    for pictures in keyed.values():
        for key in pictures:
            counts[key] = counts.get(key, 0) + 1
    shared = [key for key, count in counts.items() if count > len(names) / 2]
    best = sorted(shared, key=lambda key: -counts[key])[:MOST_KEYS]
    if best:
        return [{"label": shown(shortened(key, 60)), "rows": [keyed[name].get(key) for name in names]} for key in best]
    most = min(MOST_KEYS, max((len(rows) for rows in of_group.values()), default=0))
    numbered = [[int(rows[i]) if i < len(rows) else None for rows in of_group.values()] for i in range(most)]
    return [{"label": f"picture {i + 1}", "rows": rows} for i, rows in enumerate(numbered)]


def _keyed(name: str, rows: pd.DataFrame) -> dict[str, int]:
    mark = steps.mark_of(name)
    keys = picture_keys(name, rows[columns.FILENAME], (mark.token,) if mark else ())
    return dict(zip(keys, map(int, rows.index), strict=True))


def dataset_view(summary: Summary, table: pd.DataFrame) -> dict | None:
    """The dataset's check as the page shows it; None where the run has none."""
    check = summary.dataset
    if check is None:
        return None
    photos = table[(table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == REFERENCE)]
    row_of = {file: int(row) for row, file in photos[columns.FILENAME].items()}
    by_file: dict[str, list] = {}
    for fault in check.faults:
        by_file.setdefault(fault.file, []).append(fault)
    return {
        "check": check,
        "files": [_photo(file, faults, row_of) for file, faults in list(by_file.items())[:MOST_FAULTS]],
        "more": max(0, len(by_file) - MOST_FAULTS),
        "coverage": [
            {"title": title, "bins": _bins(counts.items())} for title, counts in check.coverage.items() if counts
        ],
    }


def _photo(file: str, faults: list, row_of: dict[str, int]) -> dict:
    like = next((fault.like for fault in faults if fault.like is not None), None)
    return {
        "file": shown(file),
        "row": row_of.get(file),
        "keep": all(fault.keep for fault in faults),
        "like": None if like is None else shown(like),
        "like_row": row_of.get(like),
        "faults": [
            {"fault": fault.fault, "sentence": shown(fault.sentence), "advice": shown(fault.advice)} for fault in faults
        ],
    }


def _bins(counts: Iterable[tuple[str, int]]) -> list[dict]:
    counts = list(counts)
    most = max(count for _, count in counts) or 1
    return [{"name": name.replace("_", " "), "count": count, "share": count / most} for name, count in counts]
