"""Both pages: their numbers against the table, hostile names, and a real Chromium that switches, sorts and scrolls."""

from __future__ import annotations

import json
import re
from itertools import combinations, pairwise

import numpy as np
import pages_fixture as made
import pandas as pd
import pytest
from documents import TEXTS
from pages_browser import Opened, assert_fits, assert_quiet, chromium, opened

from mirror.faces.table import CANDIDATE, REFERENCE
from mirror.report.colours import CANDIDATE_COLOURS, PANEL, REFERENCE_COLOUR, assign, page_groups
from mirror.report.copycat import build_copycat
from mirror.report.dashboard import build_dashboard
from mirror.report.panels import BUBBLE_PX, Points, bubble_sizes, build_panels
from mirror.report.render import json_for_script, plotly_text, shortened, shown
from utils.files import Status

TITLES = re.findall(r"^\d\. \*\*(.+?)\*\* - ", TEXTS["docs/reading-the-dashboard.md"], re.MULTILINE)
# panel -> table columns behind x and y (boxes and violins have x alone)
PANEL_COLUMNS = {
    "similarity": ("Similarity",),
    "age": ("Age",),
    "ratio": ("AspectRatio",),
    "confidence": ("DetScore",),
    "profile": ("Yaw", "Similarity"),
    "pose": ("Yaw", "Pitch"),
}

# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
RGB_TO_XYZ = np.array(  # sRGB, white point D65
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour: str) -> np.ndarray:
    """Linear RGB (3,) in 0-1 of an sRGB colour like #a855f7."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab (3,) of linear RGB, white point D65."""
    ratio = RGB_TO_XYZ @ rgb / RGB_TO_XYZ.sum(axis=1)
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
def test_every_two_colours_can_be_told_apart(vision):
    seen = [lab(np.clip(VISIONS[vision] @ linear(colour), 0, 1)) for colour in (REFERENCE_COLOUR, *CANDIDATE_COLOURS)]
    assert len(seen) == 11
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 26


def test_colours_stand_out_from_the_panel():
    ground = RGB_TO_XYZ[1] @ linear(PANEL) + 0.05
    assert min((RGB_TO_XYZ[1] @ linear(colour) + 0.05) / ground for colour in CANDIDATE_COLOURS) > 3.5


def test_colour_and_marker_together_name_the_group():
    groups = assign([(REFERENCE, REFERENCE)] + [(CANDIDATE, str(i)) for i in range(90)])
    assert len({(group.colour, group.symbol) for group in groups}) == 91
    assert [group.colour for group in groups].count(REFERENCE_COLOUR) == 1


def test_names_become_text():
    assert shown("a\udcff\x07\ud83dü😀") == "a\\xff\\x07\N{REPLACEMENT CHARACTER}ü😀"
    assert plotly_text("<b>&amp;") == "&lt;b&gt;&amp;amp;"
    text = json_for_script({"</script><!--\u2028&": "ü"})
    assert not set("<>&\u2028") & set(text) and json.loads(text) == {"</script><!--\u2028&": "ü"}
    assert shortened("flux_lora_rank64_epoch_10", 11) == "flux_…ch_10" and shortened("short", 11) == "short"
    with pytest.raises(ValueError, match="JSON"):
        json_for_script([float("nan")])


def flat(values: list) -> list:
    """Values of a trace; boxes with given quartiles hold them as one list per box."""
    return list(values[0]) if values and isinstance(values[0], list) else list(values)


def expected(table: pd.DataFrame, group, columns: tuple[str, ...], key: str) -> list[tuple]:
    """(row, values ...) of one group's points in a panel, from the table alone."""
    part = table[(table["Type"] == group.type) & (table["Group"] == group.name)].dropna(subset=list(columns))
    values = [part[column].abs() if (key, column) == ("profile", "Yaw") else part[column] for column in columns]
    return [tuple(numbers) for numbers in zip(part.index, *values, strict=True)]


def test_panels_are_valid_and_equal_the_table():
    graph_objects = pytest.importorskip("plotly.graph_objects")
    table = made.hostile_run()
    summary = made.summary_of(table)
    groups = page_groups(table, summary)
    for dimensions in (2, 3):
        face_map = made.face_map_of(table, dimensions)
        panels = build_panels(Points.of(table, groups, summary), True, face_map, "")
        assert [panel.title for panel in panels] == TITLES
        for panel in panels:
            graph_objects.Figure(panel.figure)  # raises for a setting that Plotly does not know
        traces = panels[-1].figure["data"]
        rows = np.concatenate([trace["customdata"] for trace in traces]).astype(int)
        axes = [np.concatenate([trace[axis] for trace in traces]) for axis in "xyz"[:dimensions]]
        assert sorted(rows) == list(np.flatnonzero(np.isfinite(face_map[:, 0])))
        assert np.array_equal(np.stack(axes, axis=1), face_map[rows])


def test_bubbles_grow_with_similarity_and_never_stand_for_it():
    sizes = bubble_sizes(np.array([-0.5, 0.0, 0.4, 0.8, 1.0, np.nan]))
    assert sizes[0] == sizes[1] == BUBBLE_PX[0] and sizes[4] == BUBBLE_PX[1] and np.isfinite(sizes[5])
    assert all(low < high for low, high in pairwise(sizes[1:5]))


def test_pages_hold_no_lone_surrogate_and_no_hostile_markup():
    table = made.hostile_run()
    summary = made.summary_of(table)
    for page in (
        build_dashboard(table, summary, made.face_map_of(table), ""),
        build_copycat(table, summary, made.thumbnails_of(table)),
    ):
        page.encode("utf-8")  # raises for a lone surrogate
        assert "<img src=x" not in page and "alert(2)</script>" not in page


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def hostile():
    table = made.hostile_run()
    return table, made.summary_of(table, warnings=("<b>look</b>",))


@pytest.fixture(scope="module")
def dashboard(browser, hostile, tmp_path_factory):
    table, summary = hostile
    html = build_dashboard(table, summary, made.face_map_of(table), "")
    result = opened(browser, tmp_path_factory.mktemp("dashboard"), html)
    yield result
    result.page.close()


DATA = """() => Object.fromEntries([...document.querySelectorAll('.plot')].map(plot => [plot.id.slice(5),
  plot.data.map(({x, y, customdata, visible}) => ({x, y, customdata, visible}))]))"""


def visible(result: Opened) -> dict[str, list[bool]]:
    return {key: [trace["visible"] for trace in traces] for key, traces in result.ask(DATA).items()}


def test_dashboard_numbers_equal_the_table(dashboard, hostile):
    table, summary = hostile
    drawn = dashboard.ask(DATA)
    assert dashboard.texts(".panel h2 b") == TITLES
    assert list(drawn) == [*PANEL_COLUMNS, "map"]
    for key, columns in PANEL_COLUMNS.items():
        for group in page_groups(table, summary):
            trace = drawn[key][group.index]
            axes = [flat(trace[axis]) for axis in "xy"[: len(columns)]]
            assert list(zip(flat(trace["customdata"]), *axes, strict=True)) == expected(table, group, columns, key)


def test_boxes_show_the_quartiles_of_the_summary(dashboard, hostile):
    drawn = dashboard.ask("document.getElementById('plot-similarity').calcdata.map(c => [c[0].q1, c[0].med, c[0].q3])")
    table, summary = hostile
    names = {(group.type, group.name): group.similarity for group in summary.groups}
    wanted = [names[group.type, group.name] for group in page_groups(table, summary)]
    assert drawn == [[spread.q1, spread.median, spread.q3] for spread in wanted]


# What the page shows beside the pointer for every point of every chart, by the chart's own event.
PEEKS = """() => [...document.querySelectorAll('.plot')].flatMap(plot => plot.data.flatMap(trace =>
  trace.customdata.flat().map(row => {
    plot.emit('plotly_hover', {points: [{customdata: row}]});
    return [plot.id.slice(5), row, document.getElementById('peek').innerText];
  })))"""


def test_hover_tells_the_true_similarity(dashboard, hostile):
    table, _ = hostile
    peeks = dashboard.ask(PEEKS)
    assert len({key for key, _, _ in peeks}) == 7
    for key, row, text in peeks:
        line = table.loc[row]
        assert f"Similarity {line['Similarity']:.4f}" in text, key
        assert ("Rescued via padding" in text) == (line["Status"] == Status.RESCUED)
        assert text.startswith(shown(line["Filename"]))


def test_a_group_is_switched_in_all_panels(dashboard, hostile):
    labels = [group.short for group in page_groups(*hostile)]
    boxes = dashboard.page.locator("#controls-list input")
    count = boxes.count()
    assert count == 11
    boxes.nth(2).focus()
    dashboard.page.keyboard.press("Space")  # the keyboard alone is enough
    for shown_groups in visible(dashboard).values():
        assert shown_groups == [i != 2 for i in range(count)]
    dashboard.page.click("#show-none")
    assert len(visible(dashboard)) == 7
    assert not any(any(groups) for groups in visible(dashboard).values())
    for alone in (*range(count), 0):  # Solo goes through all groups and begins again
        dashboard.page.click("#show-solo")
        assert [i for i, one in enumerate(visible(dashboard)["map"]) if one] == [alone]
        assert dashboard.texts("#plot-similarity .yaxislayer-above text") == [labels[alone]]
    dashboard.page.click("#show-all")
    assert all(all(groups) for groups in visible(dashboard).values())
    assert_quiet(dashboard)


def test_hostile_names_stay_text_on_the_dashboard(dashboard, hostile):
    table, summary = hostile
    groups = page_groups(table, summary)
    assert dashboard.texts("#controls-list .name") == [shown(group.name) for group in groups]
    assert sorted(dashboard.texts("#numbers th .name")) == sorted(shown(group.name) for group in groups)
    assert dashboard.texts("#plot-ratio .yaxislayer-above text") == [group.short for group in groups]
    failed = ["</script><b>view</b>.jpg", "no face.png", "broken.png", "huge.png"]
    assert dashboard.texts("#failures td:first-child") == failed
    assert dashboard.ask("document.images.length") == 0 and dashboard.page.locator("td b, li b").count() == 0
    row = int(np.flatnonzero(table["Filename"].str.startswith("<img"))[0])
    dashboard.ask(
        "row => document.getElementById('plot-profile').emit('plotly_hover', {points: [{customdata: row}]})", row
    )
    assert "<img src=x onerror=alert(3)>.png" in dashboard.page.locator("#peek").text_content()
    assert_quiet(dashboard)


def test_no_chart_offers_to_upload_itself(dashboard):
    buttons = dashboard.ask("[...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)")
    assert buttons and not [title for title in buttons if re.search("share|cloud|edit", title, re.IGNORECASE)]


def test_a_handler_injected_all_the_same_would_not_run(browser, tmp_path):
    table = made.make_run(["a"], each=6, references=4)
    result = opened(browser, tmp_path, build_copycat(table, made.summary_of(table), made.thumbnails_of(table)))
    result.ask("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit = 1\">')")
    result.page.wait_for_timeout(200)
    assert result.ask("window.hit") is None and "Content Security Policy" in " ".join(result.troubles)
    result.page.close()


@pytest.mark.parametrize("case", ["hostile", "references only", "one reference", "nothing measured"])
def test_unusual_runs_are_good_pages_on_a_phone(browser, tmp_path, case):
    table = {
        "hostile": lambda: made.hostile_run(each=6),
        "references only": lambda: made.make_run([], each=0, references=9),
        "one reference": lambda: made.make_run([], each=0, references=1),
        "nothing measured": lambda: made.hostile_run()[lambda rows: rows["DetScore"].isna()].reset_index(drop=True),
    }[case]()
    summary = made.summary_of(table, has_age=case == "hostile")
    face_map = made.face_map_of(table, 3) if case == "references only" else None
    result = opened(browser, tmp_path, build_dashboard(table, summary, face_map, "Too few <faces>."), width=390)
    notes = result.texts(".panel .note")
    assert_fits(result)
    assert_quiet(result)
    assert result.page.locator(".plot .main-svg").count() > 0 or case == "nothing measured"
    assert ("Too few <faces>." in notes) == (face_map is None)
    assert any("no age model" in note for note in notes) == (case != "hostile")
    assert any("No similarity" in note for note in notes) == (case in ("one reference", "nothing measured"))
    assert not result.page.locator("#show-solo").is_visible()  # folded away, the charts stay free
    result.page.click("#controls-toggle")
    assert result.page.locator("#show-solo").is_visible()
    box = result.page.locator("#controls").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] >= 0
    result.page.close()
    result = opened(browser, tmp_path, build_copycat(table, summary, made.thumbnails_of(table)), width=390)
    assert_fits(result)
    assert_quiet(result)
    if case in ("references only", "one reference"):
        assert "no generated images" in result.texts(".lead")[0]
        assert result.page.locator("#pairs > li").count() > 0 and result.page.locator("#bands").count() == 0
    result.page.close()
