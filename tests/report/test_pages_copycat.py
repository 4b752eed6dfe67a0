"""The Copycat report: pairs, bands, ranking, sorting and filtering against the table, drawn in a real Chromium."""

from __future__ import annotations

import json
import os
import re
from collections import Counter

import numpy as np
import pages_fixture as made
import pandas as pd
import pytest
from pages_browser import Opened, assert_fits, assert_quiet, chromium, opened

from mirror.contracts.summary import HELD_OUT
from mirror.faces.copies import LIKENESS, SAME_PICTURE, SAME_POSE
from mirror.faces.group import LIMITS
from mirror.faces.metrics import copy_band
from mirror.faces.table import CANDIDATE, REFERENCE
from mirror.report.colours import page_groups
from mirror.report.copycat import FAILED_TEXT, build_copycat
from mirror.report.render import shown
from utils.files import Status


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def hostile():
    table = made.hostile_run()
    return table, made.summary_of(table, warnings=("<b>look</b>",))


def test_each_thumbnail_is_stored_once():
    table = made.make_run(["a"], each=40, references=3)
    thumbnails = [f"picture number {i:04d}".encode() for i in range(len(table))]
    page = build_copycat(table, made.summary_of(table), thumbnails)
    stored = made.pictures_in(page)
    assert len(stored) == len(set(stored)) == 43 and all(page.count(text) == 1 for text in stored)
    with pytest.raises(ValueError, match="thumbnails"):
        build_copycat(table, made.summary_of(table), thumbnails[:-1])


@pytest.fixture(scope="module")
def copycat(browser, hostile, tmp_path_factory):
    table, summary = hostile
    html = build_copycat(table, summary, made.thumbnails_of(table))
    result = opened(browser, tmp_path_factory.mktemp("copycat"), html)
    yield result
    result.page.close()


def cards(result: Opened) -> list[dict]:
    """Every card of the report, gathered by scrolling through it."""
    found = {}
    result.ask("window.scrollTo(0, 0)")
    for _ in range(400):
        result.ask("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        for card in result.ask(
            """() => [...document.querySelectorAll('#pairs > li')].map(li => ({
              place: Number(li.getAttribute('aria-posinset')), band: li.querySelector('.band')?.textContent.slice(2),
              value: li.querySelector('.value')?.textContent ?? null, group: li.querySelector('.group')?.textContent,
              file: li.querySelector('.file').textContent, text: li.textContent,
              reference: li.querySelector('.reference')?.textContent ?? null}))"""
        ):
            found[card["place"]] = card
        if result.ask("() => { const y = scrollY; scrollBy(0, 700); return scrollY === y; }"):
            break
    assert list(range(1, len(found) + 1)) == sorted(found)
    return [found[place] for place in sorted(found)]


def choose(result: Opened, selector: str, label: str) -> None:
    result.page.select_option(selector, label=label)


def test_pairs_equal_the_table(copycat, hostile):
    table, summary = hostile
    labels = {(group.type, group.name): group.label for group in page_groups(table, summary)}
    generated = table[table["Type"] == CANDIDATE]
    wanted = Counter()
    for row in generated.itertuples():
        pair, band = (None, None), "No match" if Status(row.Status).measured else "Failed"
        if not pd.isna(row.NearestSimilarity):
            pair = (f"{row.NearestSimilarity:.3f}", row.NearestReference)
            band = copy_band(row.NearestSimilarity)
        wanted[labels[CANDIDATE, row.Group], shown(row.Filename), *pair, band] += 1
    drawn = cards(copycat)
    assert Counter((c["group"], c["file"], c["value"], c["reference"], c["band"]) for c in drawn) == wanted
    on_limits = [card["band"] for card in sorted(drawn, key=lambda card: card["file"]) if card["group"] == "10"][:5]
    assert on_limits == ["Watch Out", "Danger Zone", "Watch Out", "OK", "LOW"]
    failed = {card["file"]: card["text"] for card in drawn if card["band"] == "Failed"}
    assert all(FAILED_TEXT in text for text in failed.values()) and len(failed) == 3
    assert "zero bytes <b>" in failed["broken.png"] and "900 megapixels" in failed["huge.png"]
    bands = Counter(key[-1] for key in wanted.elements())
    order = ("Danger Zone", "Watch Out", "OK", "LOW", "No match", "Failed")
    assert [text[2:] for text in copycat.texts("#bands .what")] == list(order)
    assert copycat.texts("#bands .count") == [str(bands[name]) for name in order]
    assert copycat.ask("[...document.images].every(image => image.src.startsWith('data:image/jpeg;base64,'))")
    assert_quiet(copycat)


def test_sort_and_filter(copycat, hostile):
    table, summary = hostile
    choose(copycat, "#sort", "Similarity, lowest first")
    values = [card["value"] for card in cards(copycat)]
    measured = [float(value) for value in values if value]
    assert measured == sorted(measured) and values[len(measured) :] == [None] * 4  # the failed are always last
    choose(copycat, "#sort", "Similarity, highest first")
    highest = [float(card["value"]) for card in cards(copycat) if card["value"]]
    assert highest == sorted(measured, reverse=True)
    choose(copycat, "#sort", "Group")
    names = [card["group"] for card in cards(copycat)]
    order = [group.label for group in page_groups(table, summary)]
    assert names == sorted(names, key=order.index)
    choose(copycat, "#group", "Reference (LoRA)")
    copycat.page.click("#bands button[data-band='OK']")
    part = table[(table["Type"] == CANDIDATE) & (table["Group"] == "Reference")]
    wanted = [row.Filename for row in part.itertuples() if copy_band(row.NearestSimilarity) == "OK"]
    assert wanted and sorted(card["file"] for card in cards(copycat)) == wanted
    copycat.page.click("#clear")
    copycat.page.fill("#search", "ÜBERGRÖSSE".replace("SS", "ß"))
    assert [card["file"] for card in cards(copycat)] == ["\N{GRINNING FACE} Übergröße %{x} $a$ .png"]
    copycat.page.fill("#search", "no such file")
    assert cards(copycat) == [] and copycat.page.locator("#nothing").is_visible()
    copycat.page.click("#clear")
    assert copycat.texts("#shown") == [f"{len(names)} of {len(names)} generated images"]
    assert_quiet(copycat)


def test_black_hole_ranking_has_every_reference(copycat, hostile):
    table, _ = hostile
    references = table[table["Type"] == REFERENCE]
    hits = Counter(table.loc[table["Type"] == CANDIDATE, "NearestReference"].dropna())
    data = json.loads(re.search(r'id="page-data">(.*?)</script>', build_copycat(*hostile, [None] * len(table)))[1])
    ranked = {data["rows"]["file"][entry["row"]]: entry for entry in data["ranking"]}
    assert set(ranked) == {shown(name) for name in references["Filename"]}
    assert all(entry["hits"] == hits[name] for name, entry in ranked.items())
    order = [entry["hits"] for entry in data["ranking"]]
    assert order == sorted(order, reverse=True) and any(e["hits"] == 0 and "rank" in e for e in data["ranking"])
    copycat.ask("window.scrollTo(0, 0)")
    first = copycat.page.locator("#ranks button").first
    assert first.locator(".hits").text_content() == str(max(hits.values()))
    first.click()
    favourite = first.locator(".name").text_content()
    only = cards(copycat)
    assert len(only) == hits[favourite] and {card["reference"] for card in only} == {favourite}
    copycat.page.click("#only")
    assert not copycat.page.locator("#only").is_visible() and len(cards(copycat)) == len(data["cards"])
    copycat.ask("document.querySelector('#ranks-scroll').scrollTo(0, 1e6)")
    last = copycat.page.locator("#ranks > li").last
    last.wait_for()
    copycat.page.wait_for_timeout(100)
    assert FAILED_TEXT in last.text_content() and "</script><b>view</b>.jpg" in last.text_content()


@pytest.mark.parametrize(
    "groups, held_out, label, photos",
    [
        (["a"], False, "to all", "all references"),
        ([], False, "to the others", "the other references"),
        (["a"], True, "held-out", "the held-out photos"),
        ([], True, "held-out", "the held-out photos"),
    ],
)
def test_each_card_says_what_its_similarity_is_to(browser, tmp_path, groups, held_out, label, photos):
    table = made.make_run(groups, each=2, references=3)
    if held_out:
        others = table[table["Type"] == REFERENCE].assign(Group=HELD_OUT)
        table = pd.concat([table, others], ignore_index=True)
    html = build_copycat(table, made.summary_of(table), [None] * len(table))
    result = opened(browser, tmp_path, html)
    hint = result.page.locator("#pairs .hint").first
    assert hint.text_content().startswith(f"{label} 0.")
    assert hint.get_attribute("title") == f"Similarity to the centroid of {photos}"
    assert hint.evaluate("one => one.scrollWidth <= one.clientWidth"), "the number is not cut off"
    result.page.close()


def kinds_run() -> pd.DataFrame:
    """Six references; one LoRA of two near copies as pictures, one as a pose, one turned away, two likenesses, and one
    picture without a face."""
    table = made.make_run(["alpha"], each=6, references=6)
    rows = np.flatnonzero(table["Type"] == CANDIDATE)
    table.loc[rows, "NearestSimilarity"] = [0.99, 0.98, 0.97, 0.96, 0.6, 0.4]
    table.loc[rows, "Copy"] = [SAME_PICTURE, SAME_PICTURE, SAME_POSE, LIKENESS, LIKENESS, LIKENESS]
    table.loc[rows, "HashDistance"] = [4, 26, 70, 90, 88, 120]
    table.loc[table["Type"] == REFERENCE, "NearestSimilarity"] = 0.7
    failed = made.failed_row(CANDIDATE, "alpha", "no face.png", Status.NO_FACE, "no face found")
    return pd.concat([table, made.make_table([failed])], ignore_index=True)


@pytest.fixture
def kinds(browser, tmp_path):
    table = kinds_run()
    html = build_copycat(table, made.summary_of(table), made.thumbnails_of(table), [f"x/{i}" for i in table.index])
    result = opened(browser, tmp_path, html)
    yield result
    assert_quiet(result)
    result.page.close()


def test_each_card_says_what_is_copied(kinds):
    assert [text[2:] for text in kinds.texts("#kinds .what")] == [SAME_PICTURE, SAME_POSE, LIKENESS]
    assert kinds.texts("#kinds .count") == ["2", "1", "3"]
    says = {card["file"]: card["text"] for card in cards(kinds)}
    assert "The whole picture again: 4 of 256 bits differ." in says["img_0000.png"]
    limit = f"{1 - 0.3 * LIMITS.copy_share:.3f}"  # of six references that are all 0.7 like their nearest
    assert f"0.970 is above {limit}; the picture is another (70 of 256 bits differ)" in says["img_0002.png"]
    assert f"As like as a copy (0.960 is above {limit}), but turned otherwise" in says["img_0003.png"]
    assert f"no nearer than {limit}; 88 of 256 bits differ" in says["img_0004.png"]
    assert "bits" not in says["no face.png"] and FAILED_TEXT in says["no face.png"]
    assert [text[2:] for text in kinds.texts("#bands .what")][:2] == ["Danger Zone", "Watch Out"], "bands stay"


def test_kinds_filter_and_sort(kinds):
    kinds.page.click("#kinds button[data-kind='same picture']")
    assert [card["file"] for card in cards(kinds)] == ["img_0000.png", "img_0001.png"]
    kinds.page.click("#kinds button[data-kind='same pose']")
    assert [card["file"] for card in cards(kinds)] == [f"img_000{i}.png" for i in range(3)]
    kinds.page.click("#clear")
    assert len(cards(kinds)) == 7
    kinds.page.click("#bands button[data-band='Danger Zone']")
    kinds.page.click("#kinds button[data-kind='likeness']")
    assert [card["file"] for card in cards(kinds)] == ["img_0003.png"], "both filters hold"
    kinds.page.click("#clear")
    choose(kinds, "#sort", "Copies first")
    assert [card["file"] for card in cards(kinds)][-1] == "no face.png"


@pytest.mark.parametrize("key", [None, "Enter"])
def test_a_pair_opens_large_and_arrows_walk(kinds, key):
    choose(kinds, "#sort", "Similarity, lowest first")
    card = kinds.page.locator("#pairs > li", has_text="img_0004.png")
    if key is None:
        card.locator("img").first.click()
    else:
        card.focus()
        kinds.page.keyboard.press(key)
    kinds.page.wait_for_selector("#viewer[open]")
    assert kinds.page.locator("#viewer-pictures img").count() == 2
    walked = [kinds.texts("#viewer-name")[0]]
    assert "no nearer than" in kinds.texts("#viewer .told")[0] and kinds.texts("#viewer-place") == ["2 of 7"]
    for arrow in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        kinds.page.keyboard.press(arrow)
        walked += kinds.texts("#viewer-name")
    assert walked == ["img_0004.png", "img_0003.png", "img_0002.png", "img_0003.png"]
    assert kinds.page.locator("#viewer-file a").get_attribute("href") == "x/9"
    kinds.page.keyboard.press("Escape")
    assert kinds.page.locator("#viewer[open]").count() == 0


def test_a_phone_shows_pairs_and_both_pictures(browser, tmp_path):
    table = kinds_run()
    result = opened(
        browser, tmp_path, build_copycat(table, made.summary_of(table), made.thumbnails_of(table)), width=390
    )
    assert_fits(result)
    result.ask("document.getElementById('pairs').scrollIntoView()")
    result.page.wait_for_selector("#pairs > li .kind")
    cut = "[...document.querySelectorAll('#pairs .kind')].filter(one => one.scrollHeight > one.clientHeight + 1)"
    assert result.ask(f"{cut}.map(one => one.textContent)") == []
    result.page.locator("#pairs > li").first.click()
    assert_fits(result)
    wide = result.ask("[...document.querySelectorAll('#viewer-pictures img')].map(one => one.getBoundingClientRect())")
    assert len(wide) == 2 and all(one["left"] >= 0 and one["right"] <= 390 for one in wide)
    assert_quiet(result)
    result.page.close()


def test_four_thousand_pairs_are_drawn_lazily(browser, tmp_path):
    table = made.make_run(["one", "two"], each=2000, references=100)
    thumbnails = [os.urandom(6000)] * len(table)
    html = build_copycat(table, made.summary_of(table), thumbnails)
    assert len(html) < 40e6
    result = opened(browser, tmp_path, html)
    steps = result.ask(
        """async () => {
          const counts = [];
          for (let step = 0; step <= 20; step++) {
            scrollTo(0, document.documentElement.scrollHeight * step / 20);
            await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
            const inView = [...document.querySelectorAll('#pairs > li')].filter(li => {
              const box = li.getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight; });
            counts.push([document.querySelectorAll('#pairs > li').length, inView.length]);
          }
          return counts; }"""
    )
    assert max(drawn for drawn, _ in steps) < 60 and all(seen for _, seen in steps[1:])
    last = result.ask("Math.max(...[...document.querySelectorAll('#pairs > li')].map(li => Number(li.ariaPosInSet)))")
    assert last == 4000 and result.page.locator("#ranks > li").count() < 40
    lowest = f"{table['NearestSimilarity'][100:].min():.3f}"
    assert result.page.locator("#pairs > li", has_text=lowest).count() >= 1
    result.page.close()
