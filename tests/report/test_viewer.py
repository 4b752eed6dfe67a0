"""The picture behind a point, in a real Chromium: hover, click, keys, points by prompt, charts saved as pictures."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pages_fixture as made
import pandas as pd
import pytest
from pages_browser import Opened, assert_fits, assert_quiet, chromium, opened
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mirror.contracts.generation import prompt_key
from mirror.faces.table import CANDIDATE
from mirror.report.colours import page_groups
from mirror.report.dashboard import build_dashboard
from mirror.report.files import BLOCK, MOST_PICTURE_BYTES, PageFiles, address, picture_blocks
from mirror.report.prompts import MOST_PROMPTS, OTHER, UNKNOWN, prompts_of
from utils.files import Status
from utils.images import shrunk

HOSTILE_PROMPT = '</script><b>bold</b> "quoted" \N{FIRE}'
PROMPTS = ["photo of ohwx, in a cafe, sharp", "photo of ohwx, on a beach, sharp", HOSTILE_PROMPT]
SEED = 2**64 - 1  # more than JavaScript's numbers hold


def run_with_prompts() -> pd.DataFrame:
    """Two LoRAs with 9 images each, 6 references; the last image has no prompt, and one more has no face."""
    table = made.make_run(["alpha-000001", "alpha-000002"], each=9, references=6)
    rows = np.flatnonzero(table["Type"] == CANDIDATE)
    table.loc[rows, "Prompt"] = [f"{PROMPTS[i % 3]} <lora:alpha-{i // 9:06d}:0.8>" for i in range(18)]
    table.loc[rows, "Seed"] = [str(SEED - i) for i in range(18)]
    table.loc[rows, "Generator"] = "AUTOMATIC1111"
    table.loc[rows[-1], ["Prompt", "Seed", "Generator"]] = None
    failed = made.failed_row(CANDIDATE, "alpha-000002", "no face.png", Status.NO_FACE, "no face found")
    return pd.concat([table, made.make_table([failed])], ignore_index=True)


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return run_with_prompts()


def page_of(table: pd.DataFrame) -> str:
    files = PageFiles(made.thumbnails_of(table), [], [f"../LoRA/{i}%20x.png" for i in range(len(table))])
    return build_dashboard(table, made.summary_of(table), made.face_map_of(table), "", files)


def test_a_run_brings_prompts_and_pictures_to_the_page(metrics, tiny_pack, tmp_path, make_picture, browser):
    """From the file's own text to the table and the viewer; the link leads to the file; again from the cache."""
    make_picture(tmp_path / "ref" / "a.jpg", 1)
    picture = make_picture(tmp_path / "cand" / "my LoRA" / "ü 1.png", 2, (600, 800))
    info = PngInfo()
    info.add_text("parameters", "photo of ohwx\nSteps: 4, Sampler: Euler, CFG scale: 1, Seed: 77")
    Image.open(picture).save(picture, pnginfo=info)
    for output in ("out", "again"):
        run = metrics("--pack", tiny_pack, output=output)
        row = run.row("ü 1.png")
        assert (row.Prompt, int(row.Seed), row.Generator) == ("photo of ohwx", 77, "AUTOMATIC1111")
        result = Opened(browser.new_page())
        result.page.goto(run.file("Dashboard").as_uri())
        result.page.wait_for_selector("html[data-ready]")
        result.ask("document.getElementById('plot-ratio').emit('plotly_click', {points: [{customdata: 1}]})")
        result.page.wait_for_selector("#viewer-file a")
        assert "300 \N{MULTIPLICATION SIGN} 400 pixels" in result.page.locator("#viewer-file").inner_text()
        assert "photo of ohwx" in result.page.locator("#viewer-made").inner_text()
        with result.page.context.expect_page() as opening:
            result.page.click("#viewer-file a")
        assert unquote(opening.value.url) == f"file://{picture}"
        opening.value.close()
        result.page.close()


@pytest.fixture
def dashboard(browser, table, tmp_path):
    result = opened(browser, tmp_path, page_of(table))
    yield result
    assert_quiet(result)
    result.page.close()


def point(result: Opened, key: str, number: int) -> tuple[int, float, float]:
    """(row, x, y) in the window: the first point from `number` on that no other lies near."""
    return tuple(
        result.ask(
            """async ([key, number]) => {
              const plot = document.getElementById(`plot-${key}`);
              plot.scrollIntoView({block: 'center'});
              await new Promise(done => setTimeout(done, 300));
              const rank = ({__data__: {i}}) => Array.isArray(i) ? i[1] : i; // boxes sort their points
              const points = [...plot.querySelectorAll('.points')].flatMap((layer, i) =>
                [...layer.querySelectorAll('path')].map((path) => [plot.data[i].customdata.flat()[rank(path)], path]));
              const middles = points.map(([row, path]) => {
                const box = path.getBoundingClientRect();
                return [row, box.x + box.width / 2, box.y + box.height / 2]; });
              const near = ([, x, y]) => middles.filter((other) => Math.hypot(other[1] - x, other[2] - y) < 14);
              return middles.slice(number).find((middle) => near(middle).length === 1); }""",
            [key, number],
        )
    )


def shown_pictures(result: Opened, selector: str) -> list[bytes]:
    sources = result.ask("s => [...document.querySelectorAll(s)].map(image => image.src)", f"{selector} img")
    return [base64.b64decode(source.removeprefix("data:image/jpeg;base64,")) for source in sources]


@pytest.mark.parametrize("key", ["similarity", "age", "profile", "map"])
def test_hover_shows_the_picture_beside_the_text(dashboard, table, key):
    row, x, y = point(dashboard, key, 10)
    dashboard.page.mouse.move(x, y)
    dashboard.page.wait_for_selector("#peek:not([hidden])")
    name, *_ = dashboard.page.locator("#peek").inner_text().splitlines()
    (hovered,) = table.index[(table["Filename"] == name) & dashboard_group(dashboard, table)]
    assert shown_pictures(dashboard, "#peek") == [made.thumbnails_of(table)[hovered]]
    assert hovered == row
    dashboard.page.mouse.move(2, 2)
    dashboard.page.wait_for_selector("#peek", state="hidden")


def dashboard_group(result: Opened, table: pd.DataFrame) -> pd.Series:
    return table["Group"] == result.page.locator("#peek").inner_text().splitlines()[1]


def test_click_opens_the_picture_with_its_reference_and_numbers(dashboard, table):
    row, x, y = point(dashboard, "profile", 8)
    dashboard.page.mouse.move(x, y)
    dashboard.page.mouse.click(x, y)
    dashboard.page.wait_for_selector("#viewer[open]")
    line = table.loc[row]
    (nearest,) = table.index[(table["Type"] != CANDIDATE) & (table["Filename"] == line["NearestReference"])]
    pictures = made.thumbnails_of(table)
    assert shown_pictures(dashboard, "#viewer-pictures") == [pictures[row], pictures[nearest]]
    text = dashboard.page.locator("#viewer").inner_text()
    for said in (line["Filename"], line["NearestReference"], line["Prompt"], line["Seed"], "AUTOMATIC1111"):
        assert said in text
    numbers = dict(zip(dashboard.texts("#viewer dt"), dashboard.texts("#viewer dd"), strict=True))
    assert numbers["Similarity"] == f"{line['Similarity']:.4f}"
    assert numbers["Similarity to the nearest reference"] == f"{line['NearestSimilarity']:.4f}"
    assert dashboard.page.locator("#viewer-file a").get_attribute("href") == f"../LoRA/{row}%20x.png"
    assert "36 \N{MULTIPLICATION SIGN} 48 pixels" in text  # the fixture's thumbnails
    assert not dashboard.page.locator("#peek").is_visible()


def test_arrow_keys_walk_through_what_is_switched_on_and_escape_closes(dashboard, table):
    dashboard.page.locator("#controls-list input").nth(1).uncheck()  # the first LoRA
    dashboard.ask("document.getElementById('plot-pose').emit('plotly_click', {points: [{customdata: 5}]})")
    shown = table.index[table["Group"] != "alpha-000001"]
    place = dashboard.page.locator("#viewer-place")
    name = dashboard.page.locator("#viewer-name")
    assert place.text_content() == f"6 of {len(shown)}"
    dashboard.page.keyboard.press("ArrowRight")
    assert name.text_content() == table["Filename"][shown[6]] and table["Group"][shown[6]] == "alpha-000002"
    for _ in shown:
        dashboard.page.keyboard.press("ArrowRight")
    assert place.text_content() == f"{len(shown)} of {len(shown)}"
    assert name.text_content() == "no face.png" and dashboard.page.locator("#viewer-on").is_disabled()
    assert "not measured" in dashboard.page.locator("#viewer-numbers").inner_text()
    dashboard.page.keyboard.press("ArrowLeft")
    assert place.text_content() == f"{len(shown) - 1} of {len(shown)}"
    assert "no prompt and no seed" in dashboard.page.locator("#viewer-made").inner_text()
    dashboard.page.keyboard.press("Escape")
    assert not dashboard.page.locator("#viewer").is_visible()
    dashboard.page.click("#failures summary")
    dashboard.page.click("#failures button.link")
    assert name.text_content() == "no face.png"
    dashboard.page.click("#viewer-close")


KINDS = """key => document.getElementById(`plot-${key}`).data.filter(trace => trace.visible)
  .map(trace => [trace.marker.color, trace.marker.symbol, trace.customdata.flat(), (trace.x ?? []).flat()])"""


def test_points_are_coloured_by_prompt(dashboard, table):
    dashboard.page.select_option("#points-by", label="Prompt")
    dashboard.page.wait_for_timeout(800)
    names = dashboard.texts("#prompts-list .name")
    assert names == ["Reference", *PROMPTS, UNKNOWN]
    for key in ("similarity", "age", "ratio", "confidence", "profile", "pose", "map"):
        drawn = dashboard.ask(KINDS, key)
        assert len({(colour, symbol) for colour, symbol, *_ in drawn}) == len(names)
        prompts = [
            {prompt_key(p) if isinstance(p := table["Prompt"][row], str) else None for row in one[2]} for one in drawn
        ]
        assert prompts == [{None}, *({text} for text in PROMPTS), {None}], key
        assert sorted(row for *_, rows, _ in drawn for row in rows) == list(table.index[table["DetScore"].notna()])
    for *_, rows, values in dashboard.ask(KINDS, "similarity"):
        assert values == [table["Similarity"][row] for row in rows]
    medians = dashboard.ask("document.getElementById('plot-similarity').calcdata.map(box => box[0].med)")
    drawn = dashboard.ask(KINDS, "similarity")
    assert medians == pytest.approx([float(table["Similarity"][rows].median()) for _, _, rows, _ in drawn])
    dashboard.page.locator("#controls-list input").nth(1).uncheck()
    dashboard.page.locator("#prompts-list input").nth(1).uncheck()
    dashboard.page.wait_for_timeout(800)
    left = [row for *_, rows, _ in dashboard.ask(KINDS, "pose") for row in rows]
    assert left and {table["Group"][row] for row in left} == {"Reference", "alpha-000002"}
    assert not any("cafe" in str(table["Prompt"][row]) for row in left)
    dashboard.page.select_option("#points-by", label="LoRA group")
    dashboard.page.locator("#controls-list input").nth(1).check()
    dashboard.page.wait_for_timeout(800)
    assert dashboard.ask("document.getElementById('plot-pose').data.map(trace => trace.customdata.length)") == [6, 9, 9]
    labels = [group.short for group in page_groups(table, made.summary_of(table))]
    assert dashboard.texts("#plot-similarity .yaxislayer-above text") == labels


def test_a_chart_is_saved_with_a_title_that_says_what_it_shows(dashboard, tmp_path):
    dashboard.ask(
        """() => { const draw = Plotly.toImage; window.asked = [];
          Plotly.toImage = (figure, size) => { asked.push(figure.layout); return draw(figure, size); }; }"""
    )
    dashboard.page.locator("#controls-list input").nth(1).uncheck()
    for key, title, axis in (
        ("similarity", "Face Similarity", "cosine similarity"),
        ("profile", "Profile Stability", "cosine similarity against absolute yaw in degrees"),
    ):
        with dashboard.page.expect_download() as download:
            dashboard.page.click(f"#panel-{key} button.save")
        download.value.save_as(tmp_path / "chart.png")
        picture = cv2.imread(str(tmp_path / "chart.png"))
        assert picture.shape[1] == 2400 and picture.shape[0] >= 1400 and picture.std() > 5
        layout = dashboard.ask("asked.at(-1)")
        assert layout["title"]["text"] == f"<b>{title}</b>" and layout["showlegend"] == (key == "profile")
        said = layout["title"]["subtitle"]["text"]
        assert said.startswith(f"{axis} \N{MIDDLE DOT} 2 of 3 groups, 15 faces")
        assert "synthetic@0000" in said and "2026-01-02" in said
        assert re.fullmatch(rf"MirrorMetrics {key} 2026-01-02.*\.png", download.value.suggested_filename)


def test_the_viewer_fits_a_phone(browser, table, tmp_path):
    result = opened(browser, tmp_path, page_of(table), width=390)
    result.ask("document.getElementById('plot-map').emit('plotly_click', {points: [{customdata: 10}]})")
    box = result.page.locator("#viewer").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert result.page.locator("#viewer-pictures img").count() == 2
    result.page.click("#viewer-on")
    assert result.texts("#viewer-name") == [table["Filename"][11]]
    assert_fits(result)
    assert_quiet(result)
    result.page.close()


def test_a_page_without_prompts_offers_no_such_choice(browser, tmp_path):
    result = opened(browser, tmp_path, page_of(made.make_run(["a"], each=3, references=3)))
    assert not result.page.locator("#points-by").is_visible()
    result.page.close()


def test_rare_prompts_share_a_row_and_tags_of_loras_do_not_count():
    table = made.make_run(["a"], each=60, references=2)
    names = [f"scene {i}" for i in range(MOST_PROMPTS + 5)] * 2
    table.loc[table.index[2 : 2 + len(names)], "Prompt"] = [f"{n} <lora:x-{i}:1>" for i, n in enumerate(names)]
    prompts = prompts_of(table, page_groups(table, made.summary_of(table)))
    assert [kind["label"] for kind in prompts.kinds][-2:] == [OTHER, UNKNOWN] and len(prompts.kinds) == 3 + MOST_PROMPTS
    counts = np.bincount(prompts.kind_of)
    assert counts[0] == 2 and set(counts[1 : 1 + MOST_PROMPTS]) == {2} and list(counts[-2:]) == [10, 10]
    assert [kind["short"] for kind in prompts.kinds[1:3]] == ["0", "1"], "what all prompts begin with tells none apart"


def test_charts_of_thousands_are_drawn_when_they_come_near(browser, tmp_path):
    table = made.make_run(["a", "b"], each=2450, references=100)
    files = PageFiles([bytes(4300)] * len(table))
    html = build_dashboard(table, made.summary_of(table), made.face_map_of(table), "", files)
    assert len(html) < 40e6
    result = opened(browser, tmp_path, html)
    drawn = "[...document.querySelectorAll('.plot')].filter(plot => plot.calcdata).map(plot => plot.id.slice(5))"
    near = result.ask(drawn)
    assert "similarity" in near and not {"profile", "pose", "map"} & set(near)
    result.page.locator("#controls-list input").nth(1).uncheck()
    result.ask("document.getElementById('plot-map').scrollIntoView()")
    result.page.wait_for_function("document.getElementById('plot-map').calcdata", timeout=60_000)
    visible = "document.getElementById('plot-map').data.map(trace => trace.visible)"
    assert result.ask(visible) == [True, False, True], "switched off before it was drawn"
    assert_quiet(result)
    result.page.close()


def test_pictures_of_thousands_fit_into_a_page():
    noise = np.random.default_rng(0).integers(0, 255, (176, 120, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", noise)[1].tobytes()
    small = shrunk([jpeg, None, jpeg], len(jpeg))
    assert sum(len(one) for one in small if one) <= len(jpeg) and small[1] is None
    assert shrunk([jpeg], len(jpeg)) == [jpeg]
    few = PageFiles([b"small"], [b"larger"])
    assert few.large() == [b"larger"] and few.small() == [b"small"]
    assert PageFiles([b"small"], [b"l" * int(MOST_PICTURE_BYTES + 1)]).large() == [b"small"]
    assert len(picture_blocks([b"x"] * (BLOCK + 1))) == 2


def test_addresses_of_files_cannot_be_anything_else(tmp_path):
    assert address(tmp_path / "a b" / "ü#?.png", tmp_path / "out") == "../a%20b/%C3%BC%23%3F.png"
    assert address(tmp_path / "javascript:alert(1)", tmp_path) == "javascript%3Aalert%281%29"
    assert address(Path("/x/undecodable \udcff.png"), Path("/x")) == "undecodable%20%FF.png"
