"""How long does a dashboard of thousands of points take to open, how large is it, and how soon does a hover answer?

    python -m benchmarks.page_bench                 # 5,000 points, five times; needs playwright and a Chromium

The page is made of random numbers and random pictures of a photo's size. It is opened in headless Chromium without a
GPU; "open" is until everything in the window is drawn and answers (pictures come last). A hover is timed inside the
page over points of each chart: from the event of the moved mouse until its handlers are done, which says how much work
it is, and until the frame in which text and picture stand there, which also waits for the screen and a busy machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from mirror.contracts import table as columns
from mirror.contracts.summary import CANDIDATE, REFERENCE, PackInfo, Summary
from mirror.faces.answers import conclude
from mirror.faces.table import make_table, summarise_group
from mirror.report.copycat import build_copycat
from mirror.report.dashboard import build_dashboard
from mirror.report.files import PageFiles
from utils.files import Status
from utils.images import thumbnail

GROUPS, PROMPTS = 10, 40

# Moves of the mouse are noted when they happen; the card is there when the frame after its change has been drawn.
WATCH = """() => {
  window.hovers = [];
  let moved = null;
  addEventListener("mousemove", (event) => { moved ??= event.timeStamp; }, true);
  const peek = document.getElementById("peek");
  new MutationObserver(() => {
    if (peek.hidden || moved === null) return;
    const began = moved;
    const handled = performance.now() - began;
    moved = null;
    requestAnimationFrame(() => setTimeout(() => hovers.push([performance.now() - began, handled])));
  }).observe(peek, { childList: true });
  window.rest = () => { moved = null; };
}"""

# Points inside a chart, in pixels of the window: of its axes, so that charts drawn with WebGL have them too.
POINTS = """([key, count]) => {
  const plot = document.getElementById(`plot-${key}`);
  plot.scrollIntoView({ block: "center" });
  const box = plot.getBoundingClientRect();
  const { xaxis, yaxis } = plot._fullLayout;
  const found = [];
  plot.data.forEach((trace, i) => {
    const flat = (values) => (Array.isArray(values[0]) ? values[0] : values);
    const x = flat(trace.x);
    const y = trace.orientation === "h" ? x.map(() => i) : trace.y;
    for (let n = 0; n < x.length; n += Math.ceil((x.length * plot.data.length) / count)) {
      const down = trace.orientation === "h" ? yaxis.l2p(y[n]) : yaxis.d2p(y[n]);
      found.push([box.x + xaxis._offset + xaxis.d2p(x[n]), box.y + yaxis._offset + down]);
    }
  });
  return found;
}"""


def pictures(count: int) -> list[bytes]:
    """Thumbnails with the detail of a photo's, each another."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(count):
        image = cv2.resize(
            random.integers(0, 255, (19, 13, 3), dtype=np.uint8), (120, 176), interpolation=cv2.INTER_CUBIC
        )
        grain = random.integers(-14, 15, (176, 120, 1), dtype=np.int16)
        found.append(thumbnail(np.clip(image + grain, 0, 255).astype(np.uint8)))
    return found


def world(count: int) -> tuple[pd.DataFrame, Summary]:
    """A run of `count` pictures with random numbers, a fiftieth of them references."""
    random = np.random.default_rng(0)
    references = [f"reference {i:04d}.jpg" for i in range(count // 50)]
    rows = []
    for i in range(count):
        real = i < len(references)
        row = (
            {columns.TYPE: REFERENCE, columns.GROUP: REFERENCE, columns.FILENAME: references[i]}
            if real
            else {
                columns.TYPE: CANDIDATE,
                columns.GROUP: f"person-{i % GROUPS:06d}",
                columns.FILENAME: f"ComfyUI_{i:05d}_.png",
                columns.PROMPT: f"photo of ohwx person, scene number {i % PROMPTS}, natural light, 35 mm, sharp focus",
                columns.SEED: str(i),
                columns.GENERATOR: "ComfyUI",
            }
        )
        row |= {
            columns.STATUS: Status.OK,
            columns.SIMILARITY: random.normal(0.6, 0.08),
            columns.AGE: random.normal(31, 4),
        }
        row |= {
            columns.YAW: random.normal(0, 28),
            columns.PITCH: random.normal(0, 12),
            columns.ROLL: random.normal(0, 6),
        }
        row |= {columns.DET_SCORE: random.uniform(0.6, 0.9), columns.ASPECT_RATIO: random.normal(0.76, 0.05)}
        row |= {
            columns.NEAREST_REFERENCE: references[i % len(references)],
            columns.NEAREST_SIMILARITY: random.normal(0.65, 0.1),
        }
        rows.append(row)
    table = make_table(rows).sort_values([columns.TYPE, columns.GROUP], ascending=[False, True], ignore_index=True)
    return table, _summary(table)


def _summary(table: pd.DataFrame) -> Summary:
    keys = dict.fromkeys(zip(table[columns.TYPE], table[columns.GROUP], strict=True))
    pack = PackInfo(
        name="random", identity="random@0", tasks=["detection"], licence="none", pose_source="keypoints", has_age=True
    )
    concluded = conclude(table, keys)
    groups = [summarise_group(table, *key) for key in keys]
    for group in groups:
        group.verdicts = concluded.verdicts.get(group.name, [])
    return Summary(
        created="2026-01-01T00:00:00+00:00",
        pack=pack,
        providers={},
        versions={},
        settings={},
        reference_folder="Reference_Images",
        candidates_folder="Lora_Candidates",
        groups=groups,
        compared=concluded.compared,
        ranking=concluded.ranking,
        curves=concluded.curves,
        answers=concluded.answers,
        ignored_files={},
        warnings=[],
        seconds={},
        results={},
    )


def write_pages(folder: Path, count: int) -> Path:
    """Both pages into `folder`, with what they took; the dashboard's path."""
    table, summary = world(count)
    small = pictures(count)
    started = time.monotonic()
    files = PageFiles(small, [], [f"../Lora_Candidates/{name}" for name in table[columns.FILENAME]])
    face_map = np.random.default_rng(2).normal(0, 20, (count, 2))
    dashboard = build_dashboard(table, summary, face_map, "", files)
    copycat = build_copycat(table, summary, files.small())
    print(
        f"pages built in {time.monotonic() - started:.1f} s; thumbnails of {sum(map(len, small)) / count:.0f} bytes, "
        f"in the pages {sum(map(len, files.small())) / count:.0f}"
    )
    print(f"dashboard {len(dashboard) / 1e6:.1f} MB, copycat report {len(copycat) / 1e6:.1f} MB")
    path = folder / "dashboard.html"
    path.write_text(dashboard, encoding="utf-8")
    return path


def time_hovers(page, key: str, count: int) -> list[tuple[float, float]]:
    """For about `count` points of a chart: milliseconds until its picture is drawn, and until handlers are done."""
    page.locator(f"#plot-{key}").scroll_into_view_if_needed()
    page.wait_for_function("key => document.getElementById(`plot-${key}`).calcdata", arg=key)
    page.wait_for_timeout(700)
    page.evaluate("hovers.length = 0")
    for x, y in page.evaluate(POINTS, [key, count]):
        page.mouse.move(x + 1, y)
        page.wait_for_timeout(90)
        page.evaluate("rest()")
    return page.evaluate("hovers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        address = write_pages(Path(folder), args.points).as_uri()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        seconds, loaded = [], []
        for _ in range(args.rounds):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            started = time.monotonic()
            page.goto(address, wait_until="commit")
            page.wait_for_selector("html[data-ready]", timeout=60_000)
            seconds.append(time.monotonic() - started)
            page.wait_for_load_state("load")
            loaded.append(time.monotonic() - started)
            if len(seconds) < args.rounds:
                page.close()
        print(f"open: median {statistics.median(seconds):.2f} s, of {', '.join(f'{one:.2f}' for one in seconds)}")
        print(f"with all its pictures: median {statistics.median(loaded):.2f} s")
        page.evaluate(WATCH)
        for key in page.evaluate("[...document.querySelectorAll('.plot')].map(plot => plot.id.slice(5))"):
            found = time_hovers(page, key, 60)
            if found:
                frames, handled = zip(*found, strict=True)
                said = f"handled in {statistics.median(handled):.0f} ms, at most {max(handled):.0f}; "
                said += f"drawn after {statistics.median(frames):.0f} ms, at most {max(frames):.0f}"
                print(f"hover in {key}: {said}; {len(found)} points")
        browser.close()


if __name__ == "__main__":
    main()
