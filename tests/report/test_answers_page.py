"""The answers on the dashboard, in a real Chromium: cards, ranking, verdicts, the curve of checkpoints, the dataset."""

from __future__ import annotations

import numpy as np
import pages_fixture as made
import pandas as pd
import pytest
from pages_browser import Opened, assert_fits, assert_quiet, chromium, opened

from mirror.contracts.summary import BASELINE, DatasetCheck, DatasetFault, Summary
from mirror.faces.table import CANDIDATE, REFERENCE
from mirror.report.colours import page_groups
from mirror.report.dashboard import build_dashboard
from mirror.report.files import PageFiles
from utils.files import Status

STEPS = [f"alice-{number:06d}" for number in (2, 4, 6)]
HOSTILE_FILE = "<b>ref</b> 003.jpg"


def run_with_steps() -> pd.DataFrame:
    """Three checkpoints (the last lies far lower), another LoRA without any face, images without a LoRA."""
    table = made.make_run([*STEPS, BASELINE], each=14, references=12)
    table.loc[table["Filename"] == "ref 003.jpg", "Filename"] = HOSTILE_FILE
    of_group = {name: table["Group"] == name for name in (*STEPS, BASELINE)}
    for name, level in zip(of_group, (0.62, 0.70, 0.45, 0.2), strict=True):
        noise = np.random.default_rng(len(name) + int(100 * level)).normal(0, 0.01, 14)
        table.loc[of_group[name], "Similarity"] = level + np.linspace(-0.05, 0.05, 14) + noise
    failed = [made.failed_row(CANDIDATE, "faceless", f"{i}.png", Status.NO_FACE, "no face found") for i in range(3)]
    return pd.concat([table, made.make_table(failed)], ignore_index=True)


def check_of(table: pd.DataFrame) -> DatasetCheck:
    files = list(table.loc[table["Type"] == REFERENCE, "Filename"])
    twice = DatasetFault(
        file=HOSTILE_FILE,
        fault="near duplicate",
        sentence="As ref 002.jpg.",
        advice="Keep one.",
        keep=False,
        like=files[2],
    )
    blurred = DatasetFault(file=files[5], fault="blurred", sentence="Sharpness 9.", advice="Look at it.", keep=True)
    coverage = {"Head angles": {"front": 9, "three_quarter": 3, "profile": 0}}
    keep = [file for file in files if file != HOSTILE_FILE]
    missing = ["No photo in profile."]
    return DatasetCheck(photos=12, keep=keep, faults=[twice, blurred], coverage=coverage, missing=missing)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return run_with_steps()


@pytest.fixture(scope="module")
def summary(table) -> Summary:
    summary = made.summary_of(table)
    summary.dataset = check_of(table)
    return summary


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser, tmp_path, table, summary):
    files = PageFiles(made.thumbnails_of(table))
    result = opened(browser, tmp_path, build_dashboard(table, summary, made.face_map_of(table), "", files))
    yield result
    assert_quiet(result)
    result.page.close()


def names(page: Opened) -> list[str]:
    return page.texts("#numbers th .name")


def shown_groups(page: Opened) -> list[int]:
    """Groups that every chart shows."""
    charts = page.ask("[...document.querySelectorAll('.plot')].map(plot => plot.data.map(trace => trace.visible))")
    assert all(chart == charts[0] for chart in charts)
    return [i for i, is_shown in enumerate(charts[0]) if is_shown]


def test_the_answers_come_first_with_their_numbers_and_a_link(page, summary):
    assert page.texts("#answers h2")[0] == "Which checkpoint is best?"
    assert page.texts("#answers .headline") == [answer.headline for answer in summary.answers]
    assert page.texts("#answers p.name:not(.headline)") == [answer.sentence for answer in summary.answers]
    box = page.page.locator("#answers").bounding_box()
    assert box["y"] + box["height"] < 900  # on the first screen
    for link in page.ask("[...document.querySelectorAll('#answers a')].map(link => link.getAttribute('href'))"):
        assert link == "CopycatReport_2026.html" or page.page.locator(link).count() == 1


def test_the_ranking_holds_every_group_in_order_of_rank(page, summary):
    ranked = [one.name for one in summary.ranking]
    assert names(page) == ["Reference", *ranked, BASELINE] and ranked[-1] == "faceless"
    assert ranked[0] == STEPS[1]
    cells = [line.split("\t") for line in page.ask("document.getElementById('numbers').innerText").splitlines()]
    assert any("0/3" in line for line in cells)  # failures stay in sight


def test_headings_sort_and_a_third_click_undoes_it(page, summary):
    at_first = names(page)
    heading = page.page.locator("#numbers thead button", has_text="Group")
    heading.click()
    assert names(page) == ["Reference", *STEPS, "faceless", BASELINE]
    assert page.page.locator("#numbers th[aria-sort=ascending]").count() == 1
    heading.press("Enter")
    assert names(page) == ["Reference", "faceless", *reversed(STEPS), BASELINE]
    heading.click()
    assert names(page) == at_first
    page.page.locator("#numbers thead button", has_text="Median").click()
    medians = page.ask(
        "[...document.querySelectorAll('#numbers tbody:not(.fixed) td.strong')].map(cell => cell.dataset.value)"
    )
    measured = [float(value) for value in medians if value]
    assert measured == sorted(measured, reverse=True) and medians[-1] == ""  # what was not measured is last
    page.page.locator("#numbers thead button", has_text="Median").click()
    assert names(page)[1:5] == [STEPS[2], STEPS[0], STEPS[1], "faceless"]


def test_a_click_on_a_row_shows_its_group_alone_in_every_chart(page, table, summary):
    index = {group.name: group.index for group in page_groups(table, summary)}
    everything = shown_groups(page)
    button = page.page.locator("#numbers .solo", has_text=STEPS[2])
    button.click()
    assert shown_groups(page) == [index[STEPS[2]]] and page.page.locator("#numbers tbody.alone").count() == 1
    page.page.locator("#numbers td.strong").first.click()  # anywhere in a row
    assert shown_groups(page) == [index["Reference"]]
    button.press("Enter")  # by keyboard
    assert shown_groups(page) == [index[STEPS[2]]]
    button.press("Enter")
    assert shown_groups(page) == everything


def test_a_verdict_tells_what_it_rests_on_and_what_to_do(page, summary, table):
    everything = shown_groups(page)
    group = next(one for one in summary.groups if one.name == STEPS[2])
    index = next(one.index for one in page_groups(table, summary) if one.name == STEPS[2])
    body = page.page.locator(f"#numbers tbody[data-group='{index}']")
    chip, said = body.locator("button.chip").first, body.locator(".said")
    assert not said.is_visible() and chip.get_attribute("aria-expanded") == "false"
    chip.click()
    assert chip.get_attribute("aria-expanded") == "true"
    for verdict in group.verdicts:
        assert verdict.sentence in said.inner_text() and verdict.advice in said.inner_text()
    assert shown_groups(page) == everything  # reading is not choosing
    chip.click()
    assert not said.is_visible()


def test_the_curve_marks_the_best_checkpoint_and_a_click_shows_it_alone(page, table, summary):
    (curve,) = summary.curves
    drawn = page.ask("document.querySelector('.curve-plot').data.map(({name, x, y, marker}) => ({name, x, y, marker}))")
    assert drawn[0]["x"] == [2, 4, 6] and drawn[0]["y"] == [point.median for point in curve.checkpoints]
    assert [symbol == "star" for symbol in drawn[0]["marker"]["symbol"]] == [name == curve.best for name in STEPS]
    levels = page.ask("document.querySelector('.curve-plot').layout.annotations.map(one => [one.text, one.y])")
    medians = {group.name: group.similarity.median for group in summary.groups}
    assert levels == [["references", medians["Reference"]], ["no LoRA", medians[BASELINE]]]
    index = next(group.index for group in page_groups(table, summary) if group.name == STEPS[1])
    page.ask(
        "index => document.querySelector('.curve-plot').emit('plotly_click', {points: [{customdata: index}]})", index
    )
    assert shown_groups(page) == [index]


def test_the_strip_shows_one_picture_a_checkpoint_of_the_same_name(page, table):
    page.page.wait_for_selector(".strip img")
    assert [text.split(" \N{MIDDLE DOT}")[0] for text in page.texts(".strip li")] == ["epoch 2", "epoch 4", "epoch 6"]
    assert page.ask("[...document.querySelectorAll('.strip img')].map(image => image.alt)") == ["img_0000.png"] * 3
    page.page.locator(".strip-choice").select_option("5")
    assert page.ask("[...document.querySelectorAll('.strip img')].map(image => image.alt)") == ["img_0005.png"] * 3
    page.page.locator(".strip .thumb").nth(1).click()
    assert page.page.locator("#viewer-name").inner_text() == "img_0005.png"
    page.page.keyboard.press("Escape")
    assert not page.page.locator("#viewer").is_visible()


def test_the_dataset_check_shows_photos_with_advice(page, summary):
    section = page.page.locator("#panel-dataset")
    section.scroll_into_view_if_needed()
    page.page.wait_for_selector("#panel-dataset .thumb img")
    assert "11 of them are sound" in section.inner_text() and "No photo in profile." in section.inner_text()
    assert page.texts(".photos .name")[0] == HOSTILE_FILE and section.locator("b").count() == 0
    assert page.texts(".photos .tag") == ["leave out", "keep"]
    section.locator(".thumb").first.click()
    assert page.page.locator("#viewer-name").inner_text() == HOSTILE_FILE


def test_the_floor_of_images_without_a_lora_is_drawn(page, summary):
    (line,) = page.ask("document.getElementById('plot-similarity').layout.shapes.map(one => one.x0)")
    assert line == next(group.similarity.median for group in summary.groups if group.name == BASELINE)


def test_the_median_says_what_it_is_taken_to(table, summary):
    assert "Median to\nheld-out" not in build_dashboard(table, summary, None, "")
    held_out = summary.model_copy(update={"settings": {"holdout": "/photos/holdout"}})
    assert "Median to\nheld-out" in build_dashboard(table, held_out, None, "")


def test_name_verdict_and_median_are_in_sight_on_a_phone(browser, tmp_path, table, summary):
    result = opened(browser, tmp_path, build_dashboard(table, summary, None, "No map."), width=390)
    assert_fits(result)
    medians = "[...document.querySelectorAll('#numbers tr:first-child td.strong')]"
    right = result.ask(f"{medians}.map(cell => cell.getBoundingClientRect().right)")
    assert len(right) == 6 and max(right) <= 390 - 12
    assert result.page.locator("#answers .headline").first.bounding_box()["y"] < 300
    assert_quiet(result)
    result.page.close()
