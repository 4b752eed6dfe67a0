"""`faces.html` in a real Chromium: cards open, search and order work, names are escaped, 10,000 faces open quickly."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from pages_browser import assert_fits, assert_quiet, chromium, opened

from mirror.contracts.vault import DuplicateFile, DuplicateGroup, Duplicates, LabelledFace, LabelledPerson, Labels
from mirror.report.faces import LOW_SCORE, SHOWN_SETS, build_faces

HOSTILE = "<img src=x onerror=alert(1)> & </script>"


def jpeg(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(small, (80, 80)))[1].tobytes()


def face(number: int, score: float = 0.9) -> LabelledFace:
    return LabelledFace(
        face=number,
        file=f"/photos/{number} {HOSTILE[:8]}.jpg",
        box_xyxy=(0, 0, 90, 100),
        score=score,
        sharpness=100,
        yaw_deg=3,
    )


def labels(sizes: dict[str | None, int], alone: int = 4) -> Labels:
    """Clusters by name, None for an unnamed one; each has one face of a low score, which stands first."""
    number, persons = 0, []
    for cluster, (name, size) in enumerate(sizes.items(), 1):
        faces = [face(number + i, 0.55 if i == 0 else 0.9) for i in range(size)]
        persons.append(LabelledPerson(cluster=cluster, name=name or None, kept=name != "statue", faces=faces))
        number += size
    left = [face(number + i) for i in range(alone)]
    return Labels(created="2026-01-02T03:04:05", pack="demo@1", persons=persons, unclustered=left)


def duplicates(count: int) -> Duplicates:
    other = {"kind": "near", "bits": 3, "likeness": 0.99, "mirrored": True, "why": "larger: 9 x 9 against 3 x 3 pixels"}
    groups = [
        DuplicateGroup(keep=f"/photos/{i}.jpg", duplicates=[DuplicateFile(file=f"/photos/{i} {HOSTILE}.jpg", **other)])
        for i in range(count)
    ]
    keep = f"/photos/{'a-long-way-down/' * 4}0.jpg"
    same = other | {"kind": "exact", "bits": 0, "mirrored": False, "why": f"the same bytes as {keep}"}
    groups.append(DuplicateGroup(keep=keep, duplicates=[DuplicateFile(file="/photos/again.jpg", **same)]))
    return Duplicates(created="2026-01-02T03:04:05", pictures=9, settings={}, groups=groups)


def page(found: Labels, sets: Duplicates | None, tmp_path) -> str:
    numbers = [one.face for person in found.persons for one in person.faces] + [one.face for one in found.unclustered]
    some = [jpeg(i) for i in range(10)]
    files = [one for group in sets.groups for one in (group.keep, group.duplicates[0].file)] if sets else []
    return build_faces(found, sets, {n: some[n % 10] for n in numbers}, dict.fromkeys(files, some[0]), tmp_path)


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.mark.parametrize("width", [1280, 390])
def test_cards_open_with_their_faces_and_low_scores_apart(browser, tmp_path, width):
    found = labels({"alice": 12, HOSTILE: 30, "": 5, "statue": 3})
    shown = opened(browser, tmp_path, page(found, duplicates(2), tmp_path), width)
    assert shown.texts(".persons .who b") == [HOSTILE, "alice", "cluster 3", "statue"]
    assert shown.ask("document.querySelectorAll('.faces li').length") == 0  # made when they are asked for
    shown.page.click(".persons .head >> nth=0")
    card = ".persons .person.open"
    assert len(shown.texts(f"{card} .faces:not(.low) li")) == 29 and len(shown.texts(f"{card} .faces.low li")) == 1
    assert f"below {LOW_SCORE:.2f}" in shown.texts(f"{card} h3")[0]
    assert "face 12, score 0.55" in shown.texts(f"{card} .faces.low li")[0]
    widths = shown.ask(f"[...document.querySelectorAll('{card} img')].map((one) => one.naturalWidth)")
    assert len(widths) == 31 and set(widths) == {80}
    assert "not a person to keep" in shown.texts(".put-aside .hint")[0]
    shown.page.click("#alone .head")
    assert len(shown.texts("#alone .faces li")) == 4
    shown.page.click("#duplicates summary")
    assert len(shown.texts(".set")) == 3 and "near, mirrored" in shown.texts(".set .tag")
    assert any("the other is larger: 9 x 9" in text for text in shown.texts(".set .hint"))
    assert any(text.startswith("the same bytes as /photos/a-long-way") for text in shown.texts(".set .hint"))
    places = "[...document.querySelectorAll('.set li')].every((one) => one.scrollWidth <= one.clientWidth)"
    assert shown.ask(places), "a long path stays in its place"
    assert_fits(shown)
    assert_quiet(shown)
    shown.page.close()


def test_search_and_order(browser, tmp_path):
    shown = opened(browser, tmp_path, page(labels({"bea": 4, "alice": 9, "": 20}), None, tmp_path))
    assert shown.texts(".persons .who b") == ["cluster 3", "alice", "bea"]
    shown.page.select_option("#order", "name")
    assert shown.texts(".persons .who b") == ["alice", "bea", "cluster 3"]
    shown.page.fill("#search", "ALI")
    assert shown.ask(
        "[...document.querySelectorAll('.persons .person:not([hidden]) b')].map((b) => b.textContent)"
    ) == ["alice"]
    assert shown.texts("#shown") == ["1 of 3 persons"]
    shown.page.fill("#search", "nobody")
    assert shown.page.is_visible("#none")
    assert "facevault.py dedup" in shown.texts(".facts")[0]
    shown.page.close()


def test_ten_thousand_faces_open_quickly(browser, tmp_path):
    sizes = {f"person {i}": 60 for i in range(100)} | {"many": 3000}
    html = page(labels(sizes, alone=1000), duplicates(SHOWN_SETS + 40), tmp_path)
    assert len(html) < 45e6
    began = time.monotonic()
    shown = opened(browser, tmp_path, html)
    shown.page.click(".persons .head >> nth=0")
    assert len(shown.texts(".person.open .faces:not(.low) li")) == 300
    assert time.monotonic() - began < 30  # 2 s on an idle machine
    shown.page.click(".person.open .more >> nth=0")
    assert len(shown.texts(".person.open .faces:not(.low) li")) == 600
    assert "41 more in duplicates.json" in shown.texts("#duplicates")[0]
    assert_quiet(shown)
    shown.page.close()


def test_a_vault_without_clusters_says_what_to_do(browser, tmp_path):
    shown = opened(browser, tmp_path, page(labels({}), None, tmp_path))
    assert any("facevault.py cluster" in text for text in shown.texts("main .hint"))
    assert_quiet(shown)
    shown.page.close()
