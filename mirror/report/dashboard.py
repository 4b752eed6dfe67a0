"""`Dashboard_<timestamp>.html`: the panels of one run; a group is switched on or off in all of them at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import Summary
from mirror.report.colours import Group, group_index, page_groups
from mirror.report.panels import Panel, Points, build_panels
from mirror.report.render import (
    json_for_script,
    plotly_text,
    render,
    run_facts,
    shown,
    sibling_link,
)
from utils.files import Status


def build_dashboard(table: pd.DataFrame, summary: Summary, face_map: np.ndarray | None, map_note: str) -> str:
    """The whole page. `table` has mirror.contracts.table.COLUMNS and a RangeIndex.

    `face_map` is (rows, 2 or 3) float, NaN where no face was measured;
    `map_note` says in a sentence why there is no map; it is shown where `face_map` is None.
    """
    groups = page_groups(table, summary)
    points = Points.of(table, groups, summary)
    panels = build_panels(points, summary.pack.has_age, face_map, map_note)
    return render(
        "dashboard",
        run_facts(summary),
        summary.warnings,
        plotly=True,
        copycat_link=sibling_link(summary, "CopycatReport_"),
        groups=groups,
        numbers=_numbers(summary, groups),
        failures=_failures(table, groups),
        panels=panels,
        data=json_for_script(_page_data(points, panels)),
    )


def _numbers(summary: Summary, groups: list[Group]) -> list[dict]:
    """One row of the table of groups each, in the order of the page."""
    styles = {(group.type, group.name): group for group in groups}
    rows = [{"group": styles[group.type, group.name], "numbers": group} for group in summary.groups]
    return sorted(rows, key=lambda row: row["group"].index)


def _failures(table: pd.DataFrame, groups: list[Group]) -> list[dict]:
    """Every file without a measured face, so that nothing is lost in silence."""
    failed = ~table[columns.STATUS].map(lambda status: Status(status).measured).to_numpy(dtype=bool)
    indices = np.asarray(group_index(table, groups), dtype=int)[failed]
    rows = table.loc[failed, [columns.FILENAME, columns.STATUS, columns.REASON]].itertuples(index=False, name=None)
    return [
        {"group": groups[index], "file": file, "status": str(status), "reason": _text(reason)}
        for index, (file, status, reason) in zip(indices, rows, strict=True)
    ]


def _page_data(points: Points, panels: list[Panel]) -> dict:
    """What dashboard.js reads: the figures, and the table behind their hover texts (one list a column)."""
    table = points.table
    return {
        "figures": {panel.key: panel.figure for panel in panels if panel.figure is not None},
        "groups": [{"label": plotly_text(group.label), "colour": group.colour} for group in points.groups],
        "many": points.many,
        "rows": {
            "file": [shown(name) for name in table[columns.FILENAME]],
            "group": group_index(table, points.groups),
            "similarity": _numbers_or_null(points.column(columns.SIMILARITY)),
            "age": _numbers_or_null(points.column(columns.AGE)),
            "yaw": _numbers_or_null(points.column(columns.YAW)),
            "pitch": _numbers_or_null(points.column(columns.PITCH)),
            "det_score": _numbers_or_null(points.column(columns.DET_SCORE)),
            "note": [shown(_text(reason)) for reason in table[columns.REASON]],
        },
    }


def _numbers_or_null(values: np.ndarray) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _text(value: object) -> str:
    """A cell of text; blank where the table has none (None or NaN)."""
    return value if isinstance(value, str) else ""
