"""`Dashboard_<timestamp>.html`: the panels of one run; a group is switched on or off in all of them at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import HELD_OUT, REFERENCE, Summary
from mirror.report.answers import (
    answer_cards,
    curves_data,
    dataset_view,
    interval_scale,
    ranking_columns,
    ranking_rows,
)
from mirror.report.colours import Group, group_index, page_groups
from mirror.report.files import BLOCK, PageFiles, picture_blocks
from mirror.report.panels import Panel, Points, build_panels
from mirror.report.prompts import prompts_of
from mirror.report.render import (
    json_for_script,
    moment,
    plotly_text,
    render,
    run_facts,
    shown,
    sibling_link,
)
from utils.files import Status


def build_dashboard(
    table: pd.DataFrame,
    summary: Summary,
    face_map: np.ndarray | None,
    map_note: str,
    files: PageFiles | None = None,
) -> str:
    """The whole page. `table` has mirror.contracts.table.COLUMNS and a RangeIndex.

    `face_map` is (rows, 2 or 3) float, NaN where no face was measured;
    `map_note` says in a sentence why there is no map; it is shown where `face_map` is None.
    Without `files` the page has no pictures.
    """
    files = files or PageFiles([None] * len(table))
    groups = page_groups(table, summary)
    points = Points.of(table, groups, summary)
    panels = build_panels(points, summary.pack.has_age, face_map, map_note)
    copycat_link = sibling_link(summary, "CopycatReport_")
    curves = curves_data(summary, table, groups)
    return render(
        "dashboard",
        run_facts(summary),
        summary.warnings,
        plotly=True,
        parts=("viewer", "answers", "ranking", "curve"),
        copycat_link=copycat_link,
        groups=groups,
        answers=answer_cards(summary, copycat_link),
        compared=summary.compared,
        ranking=ranking_rows(summary, groups),
        ranking_columns=ranking_columns(summary),
        scale=interval_scale(summary),
        curves=curves,
        dataset=dataset_view(summary, table),
        failures=_failures(table, groups),
        panels=panels,
        data=json_for_script(_page_data(points, panels) | _viewer_data(points, summary, files) | {"curves": curves}),
        pictures=picture_blocks(files.large()),
    )


def _failures(table: pd.DataFrame, groups: list[Group]) -> list[dict]:
    """Every file without a measured face, so that nothing is lost in silence."""
    failed = ~table[columns.STATUS].map(lambda status: Status(status).measured).to_numpy(dtype=bool)
    indices = np.asarray(group_index(table, groups), dtype=int)[failed]
    rows = table.loc[failed, [columns.FILENAME, columns.STATUS, columns.REASON]].itertuples(name=None)
    return [
        {"row": row, "group": groups[index], "file": file, "status": str(status), "reason": _text(reason)}
        for index, (row, file, status, reason) in zip(indices, rows, strict=True)
    ]


def _page_data(points: Points, panels: list[Panel]) -> dict:
    """What dashboard.js reads: the figures, and the table behind them (one list a column)."""
    table = points.table
    return {
        "figures": {panel.key: panel.figure for panel in panels if panel.figure is not None},
        "panels": {panel.key: plotly_text(panel.title) for panel in panels},
        "groups": [
            {"label": group.label, "colour": group.colour, "reference": group.is_reference} for group in points.groups
        ],
        "many": points.many,
        "rows": {
            "file": [shown(name) for name in table[columns.FILENAME]],
            "group": group_index(table, points.groups),
            "similarity": _numbers_or_null(points.column(columns.SIMILARITY)),
            "age": _numbers_or_null(points.column(columns.AGE)),
            "yaw": _numbers_or_null(points.column(columns.YAW)),
            "pitch": _numbers_or_null(points.column(columns.PITCH)),
            "roll": _numbers_or_null(points.column(columns.ROLL)),
            "ratio": _numbers_or_null(points.column(columns.ASPECT_RATIO)),
            "det_score": _numbers_or_null(points.column(columns.DET_SCORE)),
            "nearest_similarity": _numbers_or_null(points.column(columns.NEAREST_SIMILARITY)),
            "nearest": _nearest_rows(points),
            "note": [shown(_text(reason)) for reason in table[columns.REASON]],
        },
    }


def _viewer_data(points: Points, summary: Summary, files: PageFiles) -> dict:
    """What viewer.js reads beside the rows: prompts, seeds, and where the pictures lie."""
    prompts = prompts_of(points.table, points.groups)
    return {
        "block": BLOCK,
        "links": list(files.links),
        "made": {"pack": plotly_text(summary.pack.identity), "created": moment(summary.created)},
        "held_out": any(group.is_reference and group.name == HELD_OUT for group in points.groups),
        "prompts": {
            "texts": prompts.texts,
            "of": prompts.text_of,
            "seeds": [_text(seed) for seed in points.table[columns.SEED]],
            "generators": [shown(_text(name)) for name in points.table[columns.GENERATOR]],
            "kinds": prompts.kinds,
            "kind_of": prompts.kind_of,
        },
    }


def _nearest_rows(points: Points) -> list[int | None]:
    """For every row the row of its nearest reference."""
    table = points.table
    is_reference = (table[columns.TYPE] == REFERENCE) & (table[columns.GROUP] == REFERENCE)
    row_of = {file: row for row, file in table.loc[is_reference, columns.FILENAME].items()}
    return [row_of.get(name) for name in table[columns.NEAREST_REFERENCE]]


def _numbers_or_null(values: np.ndarray) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _text(value: object) -> str:
    """A cell of text; blank where the table has none (None or NaN)."""
    return value if isinstance(value, str) else ""
