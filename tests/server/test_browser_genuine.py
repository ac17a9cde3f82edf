"""The page of each folder as the genuine firmware serves it, in a real browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from board import PATIENCE, Board
from browsing import Visit, drop, online
from web import free_port

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def seconds(board_name: str) -> Iterator[int]:
    """That an action may take."""
    seconds = 4 * PATIENCE[board_name]
    expect.set_options(timeout=1000 * seconds)
    yield seconds
    expect.set_options(timeout=5000)


@pytest.mark.genuine("esp32_c3")  # the emulated Pico W takes minutes
def test_the_page(start: Callable[..., Board], seconds: int, tmp_path: Path, visit: Visit):
    (tmp_path / "old.bin").write_bytes(bytes(5000))
    port = free_port()
    board = start("--writable", "--set", "overwrite=true", "--set", f"http_port={port}", files=tmp_path)
    board.wait_for(f"http: port {port}", seconds)
    page = visit.open(f"http://127.0.0.1:{port}/", seconds)
    online(page, seconds=seconds)
    expect(page.get_by_text("nothing is transferred")).to_be_visible()
    drop(page, "new.bin", "x" * 3000)
    expect(page.locator("main li", has_text="new.bin")).to_contain_text("3,000 bytes stored")
    expect(page.get_by_role("link", name="new.bin")).to_be_visible()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete old.bin").click()
    expect(page.get_by_role("link", name="old.bin")).to_have_count(0)
    expect(page.locator("dl")).to_contain_text("2 done, 0 failed, 0 refused")
    assert visit.told == []
