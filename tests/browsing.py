"""A real browser for the tests: Chromium, headless, driven by playwright. The fixtures `browser` and `visit` use it.

No browser is downloaded. Without Chromium (Debian: apt install chromium) the tests are skipped. No name but REBOUND
resolves in it, and a test with `visit` fails if a page asks for anything that is not on this machine.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REBOUND = "rebound.example"  # a name of somebody else that leads to this machine
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1000, "height": 680}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run it; skips the test if it is not there."""
    if not _CHROMIUM:
        pytest.skip("no chromium on this machine")
    names = f"MAP {REBOUND} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    with sync_playwright() as playwright:
        # --no-sandbox: root can't have one. It opens pages of this machine only.
        arguments = ["--no-sandbox", f"--host-resolver-rules={names}"]
        running = playwright.chromium.launch(executable_path=_CHROMIUM, args=arguments)
        yield running
        running.close()


class Visit:
    """What the pages of a test did.

    told   what they complained of on the console
    asked  the addresses that they asked
    """

    def __init__(self, browser: Browser):
        self._browser = browser
        self.contexts: list[BrowserContext] = []
        self.told: list[str] = []
        self.asked: list[str] = []

    def open(self, url: str, seconds: float = 10, **options: Any) -> Page:
        """Open a page in a context of its own; an action in it may take so many seconds. `options`: of the context."""
        context = self._browser.new_context(**{"viewport": DESK, **options})
        self.contexts.append(context)
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("console", lambda message: self.told.extend([message.text] * (message.type == "error")))
        context.on("weberror", lambda error: self.told.append(str(error.error)))
        page = context.new_page()
        page.set_default_timeout(1000 * seconds)
        page.goto(url)
        return page

    def close(self) -> None:
        """Close all, and fail if they asked anybody else."""
        for context in self.contexts:
            context.close()
        assert {urlsplit(url).hostname for url in self.asked} <= {"127.0.0.1", "localhost", REBOUND, None}


def online(page: Page, text: str = "online", seconds: float = 10) -> None:
    """Wait until the page says so about the board."""
    expect(page.get_by_role("status")).to_have_text(re.compile(text), timeout=1000 * seconds)


def drop(page: Page, name: str, content: str) -> None:
    """Drop a file on the page."""
    code = """([name, content]) => {
        const data = new DataTransfer();
        data.items.add(new File([content], name));
        const one = type => new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true});
        document.querySelector("table").dispatchEvent(one("dragover"));
        const marked = document.body.classList.contains("drop");
        document.querySelector("table").dispatchEvent(one("drop"));
        return marked && !document.body.classList.contains("drop");
    }"""
    assert page.evaluate(code, [name, content])
