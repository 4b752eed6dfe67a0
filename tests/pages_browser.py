"""Opening a page in headless Chromium and noting everything that it does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from utils.files import write_text_atomic


def unavailable(reason: str) -> None:
    """Without a browser these tests say so; in CI that is a failure, never a silent skip."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@contextmanager
def chromium() -> Iterator[object]:
    """A headless Chromium of this machine."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("the Python package playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        unavailable("no Chromium on this machine")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", *quiet])
        yield started
        started.close()


@dataclass
class Opened:
    """A page in the browser, and everything that it did and should not have done."""

    page: object
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def ask(self, script: str, argument: object = None):
        return self.page.evaluate(script, argument)

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_text_contents()


def opened(browser, folder: Path, html: str, width: int = 1280) -> Opened:
    path = folder / "page.html"
    write_text_atomic(path, html)
    result = Opened(browser.new_page(viewport={"width": width, "height": 900}))
    page = result.page
    page.on("console", lambda message: message.type == "error" and result.troubles.append(message.text))
    page.on("pageerror", lambda error: result.troubles.append(str(error)))
    page.on("dialog", lambda dialog: (result.troubles.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: result.requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    return result


def assert_quiet(result: Opened) -> None:
    """No error, no dialog, and nothing asked for but the file itself."""
    assert result.troubles == []
    asked = [url for url in result.requests if not url.startswith(("data:", "blob:"))]
    assert len(asked) == 1 and asked[0].startswith("file:")


def assert_fits(result: Opened) -> None:
    wide = result.ask("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1]
