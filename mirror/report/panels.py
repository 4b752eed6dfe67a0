"""The panels of the dashboard as plain Plotly figures (dictionaries), one trace per group in each.

Trace i of every figure belongs to group i, so the page switches a group by its number. `customdata` holds the row of
the table behind each point; the page writes the hover text from it. Values are the table's own, at full precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.contract import Spread
from mirror.contracts.summary import BASELINE, CANDIDATE, GroupSummary, Summary
from mirror.faces.pose import BIN_LIMITS_DEG
from mirror.report.colours import PANEL, SYMBOLS_3D, Group, group_index
from mirror.report.render import plotly_text

FONT = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
TEXT, MUTED, GRID = "#d5d9e5", "#9aa1b5", "#2c3142"
ROW_PX, AXIS_PX, LEAST_PX = 30, 80, 340  # height of one group's row, of a chart's axis and margins, of any chart
SQUARE_PX = 420  # height of the charts without rows
MANY_POINTS = 1500  # beyond this markers get smaller and fainter, and the page draws scatters with WebGL

# Bubble diameter in pixels for similarity 0 and 1; fixed, so that bubbles of two runs compare.
BUBBLE_PX = (2.0, 22.0)
BUBBLE_UNKNOWN_PX = 7.0


@dataclass(frozen=True)
class Panel:
    """One panel: `figure` is None where `note` says why there is nothing to draw."""

    key: str
    title: str
    reading: str  # how to read it, one sentence
    figure: dict | None
    note: str = ""


@dataclass(frozen=True)
class Points:
    """The measured faces of a run, ready to be split by group."""

    table: pd.DataFrame
    groups: list[Group]
    rows: list[np.ndarray]  # for every group, the rows of the table
    summaries: dict[tuple[str, str], GroupSummary]

    @classmethod
    def of(cls, table: pd.DataFrame, groups: list[Group], summary: Summary) -> Points:
        indexes = np.asarray(group_index(table, groups), dtype=int)
        rows = [np.flatnonzero(indexes == group.index) for group in groups]
        return cls(table, groups, rows, {(group.type, group.name): group for group in summary.groups})

    @property
    def many(self) -> bool:
        return len(self.table) > MANY_POINTS

    def split(self, *columns: np.ndarray) -> list[tuple[Group, np.ndarray]]:
        """For every group the rows in which all `columns` have a value."""
        whole = np.all([np.isfinite(column) for column in columns], axis=0)
        return [(group, rows[whole[rows]]) for group, rows in zip(self.groups, self.rows, strict=True)]

    def column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy(dtype=float)


def build_panels(points: Points, has_age: bool, face_map: np.ndarray | None, map_note: str) -> list[Panel]:
    """All of them, in the documented order."""
    return [
        _similarity(points),
        _age(points, has_age),
        _ratio(points),
        _confidence(points),
        _profile(points),
        _pose(points),
        _identity_map(points, face_map, map_note),
    ]


def _similarity(points: Points) -> Panel:
    panel = _boxes(
        points,
        "similarity",
        "Face Similarity",
        "Further right is closer to your references; a narrow box is a consistent face. The purple box is how alike "
        "the references themselves are: the realistic ceiling.",
        (columns.SIMILARITY, "similarity"),
        "cosine similarity",
        "No similarity to show: at least two references with a face are needed (or one, and a generated image).",
    )
    floor = points.summaries.get((CANDIDATE, BASELINE))
    if panel.figure is not None and floor is not None and floor.similarity.median is not None:
        _mark_floor(panel.figure["layout"], floor.similarity.median)
    return panel


def _mark_floor(layout: dict, median: float) -> None:
    """Where images without the LoRA lie: a LoRA that is no better has learned nothing of the person."""
    line = {"color": "#f5b942", "width": 1, "dash": "dash"}
    layout["shapes"] = [{"type": "line", "x0": median, "x1": median, "yref": "paper", "y0": 0, "y1": 1, "line": line}]
    name = {"x": median, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "text": "no LoRA"}
    layout["annotations"] = [name | {"font": {"color": "#f5b942", "size": 11}}]
    layout["margin"]["t"] = 30


def _age(points: Points, has_age: bool) -> Panel:
    title = "Age Distribution"
    reading = "Apparent age of each face; a shape away from the purple one looks older or younger."
    if not has_age:
        return Panel("age", title, reading, None, "This model pack has no age model, so ages were not measured.")
    ages = points.column(columns.AGE)
    if not np.isfinite(ages).any():
        return Panel("age", title, reading, None, "No age to show: no face was measured.")
    traces = []
    for group, rows in points.split(ages):
        trace = _distribution(points, group, rows, ages)
        traces.append(
            trace
            | {
                "type": "violin",
                "points": "all",
                "spanmode": "hard",
                "scalemode": "width",
                "box": {"visible": True, "width": 0.18},
            }
        )
    return Panel("age", title, reading, _group_figure(points, traces, "years"))


def _ratio(points: Points) -> Panel:
    return _boxes(
        points,
        "ratio",
        "Face Ratio",
        "Width of the face box over its height; away from the purple box, faces are wider or narrower, or turned.",
        (columns.ASPECT_RATIO, "aspect_ratio"),
        "box width / height",
        "No face box to show: no face was measured.",
    )


def _confidence(points: Points) -> Panel:
    return _boxes(
        points,
        "confidence",
        "Detection Confidence",
        "How sure the detector is that this is a face; low values are hidden, turned or malformed faces.",
        (columns.DET_SCORE, "det_score"),
        "detector score",
        "No detection to show: no face was measured.",
    )


def _profile(points: Points) -> Panel:
    title = "Profile Stability"
    reading = "Does the identity hold when the head turns? Points that fall towards the right lose the face in profile."
    turn, similarity = np.abs(points.column(columns.YAW)), points.column(columns.SIMILARITY)
    traces = [_scatter(points, group, rows, turn, similarity) for group, rows in points.split(turn, similarity)]
    if not any(trace["x"] for trace in traces):
        return Panel("profile", title, reading, None, "Nothing to show: no face has both similarity and head angle.")
    widest = max(max(trace["x"], default=0.0) for trace in traces)
    end = max(60.0, widest + 4.0)
    layout = _layout(_axis("absolute yaw in degrees", range=[-2.0, end]), _axis("cosine similarity"))
    layout["height"] = _group_height(points)  # it stands beside one of the lying charts
    layout["shapes"], layout["annotations"] = _bin_marks(end)
    layout["margin"]["t"] = 34
    return Panel("profile", title, reading, _figure(traces, layout))


def _bin_marks(end: float) -> tuple[list[dict], list[dict]]:
    """Lines where an angle bin begins, and the bins' names above the chart."""
    lines, names = [], []
    for name, (low, high) in BIN_LIMITS_DEG.items():
        if low >= end:
            continue
        if low > 0:
            lines.append(
                {"type": "line", "x0": low, "x1": low, "y0": 0, "y1": 1, "yref": "paper"}
                | {"line": {"color": MUTED, "width": 1, "dash": "dot"}, "layer": "below"}
            )
        if min(high, end) - low < 12:
            continue  # no room for the name
        names.append(
            {"x": (low + min(high, end)) / 2, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
            | {"text": name.replace("_", " "), "font": {"color": MUTED, "size": 11}}
        )
    return lines, names


def _pose(points: Points) -> Panel:
    title = "Pose Variety"
    reading = "Where the heads look; a bigger bubble is closer to your references. One tight cloud means rigid poses."
    yaw, pitch, similarity = (points.column(name) for name in (columns.YAW, columns.PITCH, columns.SIMILARITY))
    traces = []
    for group, rows in points.split(yaw, pitch):
        trace = _scatter(points, group, rows, yaw, pitch)
        scale, opacity = (0.5, 0.35) if points.many else (1.0, 0.55)
        trace["marker"] |= {"size": (scale * bubble_sizes(similarity[rows])).tolist(), "opacity": opacity}
        traces.append(trace)
    if not any(trace["x"] for trace in traces):
        return Panel("pose", title, reading, None, "Nothing to show: no head angle was measured.")
    layout = _layout(
        _axis("yaw: looks left  \N{LEFT RIGHT ARROW}  looks right (degrees)", zeroline=True),
        _axis("pitch: down  \N{LEFT RIGHT ARROW}  up (degrees)", zeroline=True),
    )
    return Panel("pose", title, reading, _figure(traces, layout))


def bubble_sizes(similarity: np.ndarray) -> np.ndarray:
    """Diameters in pixels; growing with the similarity, which only the hover text tells in numbers."""
    small, large = BUBBLE_PX
    sizes = small + (large - small) * np.clip(similarity, 0.0, 1.0)
    return np.round(np.where(np.isfinite(similarity), sizes, BUBBLE_UNKNOWN_PX), 2)


def _identity_map(points: Points, face_map: np.ndarray | None, map_note: str) -> Panel:
    title = "Identity Map"
    reading = (
        "Faces that the network finds alike are close together (t-SNE); only neighbours mean something, long distances "
        "do not."
    )
    if face_map is None or not np.isfinite(face_map).all(axis=1).any():
        return Panel("map", title, reading, None, map_note or "No map: no face was measured.")
    axes = list(np.asarray(face_map, dtype=float).T)
    draw = _scatter_3d if len(axes) == 3 else _scatter
    traces = [draw(points, group, rows, *axes) for group, rows in points.split(*axes)]
    blank = _axis("") | {"showticklabels": False, "showgrid": False, "title": {"text": ""}}
    if len(axes) == 2:
        layout = _layout(dict(blank), blank | {"scaleanchor": "x"})
        layout["margin"] = {"l": 14, "r": 14, "t": 14, "b": 14}
    else:
        layout = _layout({}, {})
        wall = {"showticklabels": False, "title": {"text": ""}, "gridcolor": GRID, "zerolinecolor": GRID}
        wall |= {"backgroundcolor": PANEL, "showspikes": False}
        layout["scene"] = {"xaxis": wall, "yaxis": wall, "zaxis": wall, "aspectmode": "cube"}
        layout["margin"] = {"l": 0, "r": 0, "t": 0, "b": 0}
    return Panel("map", title, reading, _figure(traces, layout))


def _boxes(
    points: Points, key: str, title: str, reading: str, names: tuple[str, str], axis_title: str, nothing: str
) -> Panel:
    """A box plot with all its points; `names` are the table's column and the summary's field of the same quantity."""
    column, field = names
    values = points.column(column)
    if not np.isfinite(values).any():
        return Panel(key, title, reading, None, nothing)
    traces = []
    for group, rows in points.split(values):
        trace = _distribution(points, group, rows, values) | {"type": "box", "boxpoints": "all"}
        summary = points.summaries.get((group.type, group.name))
        traces.append(trace | _box_from_summary(trace, getattr(summary, field, None)))
    return Panel(key, title, reading, _group_figure(points, traces, axis_title))


def _box_from_summary(trace: dict, spread: Spread | None) -> dict:
    """Draw the summary's own quartiles: there are many definitions, and Plotly's is not the one of the numbers above.

    Plotly then wants one list of points per box; each trace is one box.
    """
    if spread is None or spread.median is None or spread.count != len(trace["x"]):
        return {}
    numbers = {"q1": [spread.q1], "median": [spread.median], "q3": [spread.q3]}
    return numbers | {"y": [trace["y0"]], "x": [trace["x"]], "customdata": [trace["customdata"]]}


def _distribution(points: Points, group: Group, rows: np.ndarray, values: np.ndarray) -> dict:
    """What box and violin share: lying, one row a group, its points over it (Plotly's jitter is seeded)."""
    marker = {"color": group.colour, "symbol": group.symbol}
    marker |= {"size": 3, "opacity": 0.45} if points.many else {"size": 5, "opacity": 0.85}
    return {
        "name": plotly_text(group.label),
        "orientation": "h",
        "x": values[rows].tolist(),
        "y0": group.key,  # the row; its label is a tick text, since two groups may look the same
        "customdata": rows.tolist(),
        "jitter": 0.55,
        "pointpos": 0,
        "marker": marker,
        "line": {"color": group.colour, "width": 1.5},
        "fillcolor": f"{group.colour}26",
    }


def _scatter(points: Points, group: Group, rows: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict:
    line = {"color": PANEL, "width": 0 if points.many else 0.5}
    marker = {"color": group.colour, "symbol": group.symbol, "line": line}
    marker |= {"size": 4, "opacity": 0.55} if points.many else {"size": 8, "opacity": 0.8}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plotly_text(group.label),
        "x": x[rows].tolist(),
        "y": y[rows].tolist(),
        "customdata": rows.tolist(),
        "marker": marker,
    }


def _scatter_3d(points: Points, group: Group, rows: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> dict:
    trace = _scatter(points, group, rows, x, y)
    marker = {"color": group.colour, "symbol": SYMBOLS_3D[group.symbol], "opacity": 0.85}
    marker["size"] = 3 if points.many else 5
    return trace | {"type": "scatter3d", "z": z[rows].tolist(), "marker": marker}


def _group_figure(points: Points, traces: list[dict], axis_title: str) -> dict:
    """Lying boxes or violins, one row per group, first group on top. The page sets their thickness and the range."""
    names = _axis("") | {
        "type": "category",
        "tickmode": "array",
        "tickvals": [group.key for group in points.groups],
        "ticktext": [plotly_text(group.short) for group in points.groups],
        "automargin": True,
        "fixedrange": True,
        "showgrid": False,
        "title": {"text": ""},
    }
    layout = _layout(_axis(axis_title), names)
    layout["height"] = _group_height(points)
    layout["margin"]["l"] = 8
    return _figure(traces, layout)


def _group_height(points: Points) -> int:
    """Pixels for a chart with one row per group. Such charts stand beside each other, so they are all alike."""
    return max(LEAST_PX, AXIS_PX + ROW_PX * len(points.groups))


def _axis(title: str, **settings: object) -> dict:
    return {
        "title": {"text": title, "font": {"size": 12, "color": MUTED}, "standoff": 8},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "zerolinecolor": "#4a5168",
        "tickfont": {"size": 12, "color": TEXT},
        "automargin": True,
        **settings,
    }


def _layout(xaxis: dict, yaxis: dict) -> dict:
    return {
        "xaxis": xaxis,
        "yaxis": yaxis,
        "height": SQUARE_PX,
        "margin": {"l": 52, "r": 14, "t": 14, "b": 46},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "color": TEXT, "size": 12},
        "showlegend": False,  # the page's own control panel is the legend of all panels
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "#0b0d13", "align": "left", "font": {"family": FONT, "size": 13, "color": "#f3f4f8"}},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#6b7288", "activecolor": "#ffffff"},
    }


def _figure(traces: list[dict], layout: dict) -> dict:
    return {"data": traces, "layout": layout}
