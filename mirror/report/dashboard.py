"""`Dashboard_<timestamp>.html`: the panels of one run; a group is switched on or off in all of them at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import Summary
from mirror.report.answers import (
    answer_cards,
    curves_data,
    dataset_view,
    interval_scale,
    ranking_columns,
    ranking_rows,
)
from mirror.report.colours import Group, group_index, page_groups
from mirror.report.files import PageFiles, picture_blocks
from mirror.report.panels import Panel, Points, build_panels
from mirror.report.render import (
    json_for_script,
    moment,
    plotly_text,
    render,
    run_facts,
    sibling_link,
)
from mirror.report.viewing import viewer_data
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
        held_out=summary.settings.get("holdout") is not None,
        scale=interval_scale(summary),
        curves=curves,
        dataset=dataset_view(summary, table),
        failures=_failures(table, groups),
        panels=panels,
        data=json_for_script(
            _page_data(points, panels, summary) | viewer_data(table, groups, files.links) | {"curves": curves}
        ),
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


def _page_data(points: Points, panels: list[Panel], summary: Summary) -> dict:
    """What dashboard.js reads beside what the viewer shows: the figures, and what a saved chart says of the run."""
    return {
        "figures": {panel.key: panel.figure for panel in panels if panel.figure is not None},
        "panels": {panel.key: plotly_text(panel.title) for panel in panels},
        "many": points.many,
        "made": {"pack": plotly_text(summary.pack.identity), "created": moment(summary.created)},
    }


def _text(value: object) -> str:
    """A cell of text; blank where the table has none (None or NaN)."""
    return value if isinstance(value, str) else ""
