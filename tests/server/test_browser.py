"""The page of each folder in a real browser (browsing.py)."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from board import Board
from browsing import DESK, PHONE, REBOUND, Visit, drop, online
from client import TftpError, Wire, blocks, fetch, store
from web import Web, free_port

pytestmark = pytest.mark.everyday_only("its address and its port are those of the everyday board")
FILES = {"u-boot.bin": 300_000, "board.dtb": 18_233, "boot.scr": 1322, "firmware/zImage": 5000, "empty": 0}
ONE_COLUMN = "document.documentElement.scrollWidth <= innerWidth"


def names(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("td a:visible").all_text_contents()]


def answer(page: Page, yes: bool, asked: list[str] | None = None) -> None:
    """Answer the next questions."""

    def decide(dialog: Any) -> None:
        if asked is not None:
            asked.append(dialog.message)
        dialog.accept() if yes else dialog.dismiss()

    page.on("dialog", decide)


def make_files(folder: Path) -> Path:
    for name, size in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_files(tmp_path)


@contextlib.contextmanager
def running(folder: Path, *arguments: str, port: int = 0) -> Iterator[Web]:
    port = port or free_port()
    with Board("--flash-size", "8M", "--set", f"http_port={port}", *arguments, files=folder) as board:
        yield Web(board, port)


@pytest.fixture(scope="module")
def still(board_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A board that takes no uploads."""
    with running(make_files(tmp_path_factory.mktemp("still"))) as web:
        yield web


@pytest.fixture(scope="module")
def open_board(board_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A board whose files everybody may replace and delete: each test has its own."""
    with running(make_files(tmp_path_factory.mktemp("open")), "--writable", "--set", "overwrite=true") as web:
        yield web


@pytest.fixture
def take(serve: Callable[..., Web], folder: Path) -> Callable[..., Web]:
    """A board that takes uploads, but replaces nothing."""

    def start(*settings: str) -> Web:
        return serve("--writable", *[word for one in settings for word in ("--set", one)], files=folder)

    return start


def test_the_first_look(still: Web, visit: Visit):
    page = visit.open(still.url)
    online(page)
    assert names(page) == ["board.dtb", "boot.scr", "empty", "firmware/", "u-boot.bin"]
    assert page.title() == "tftpd: Files in /"
    expect(page.locator("td", has_text="300,000")).to_be_visible()
    expect(page.get_by_text("nothing is transferred")).to_be_visible()
    status = json.loads(still.ask("/tftpd/status.json").data)
    facts = page.locator("dl").inner_text()
    assert status["micropython"] in facts and status["machine"] in facts
    assert re.search(r"/files\s+[\d.]+ MB free of 8\.0 MB", facts) and re.search(r"Heap\s+\d+ KB free of \d+ KB", facts)
    assert page.get_by_role("meter", name="/files").get_attribute("max") == str(8 << 20)
    expect(page.locator("ol")).to_contain_text("ready on 127.0.0.1")
    for button in ("Upload files", "Delete u-boot.bin"):  # this board takes none
        expect(page.get_by_role("button", name=button, include_hidden=True)).to_be_hidden()
    page.get_by_role("link", name="firmware/").click()
    online(page)
    assert names(page) == ["Parent folder", "zImage"] and page.title() == "tftpd: Files in /firmware/"
    page.get_by_role("link", name="Parent folder").click()
    assert page.url == still.url + "/"
    with page.expect_download() as download:  # of unknown content
        page.get_by_role("link", name="u-boot.bin").click()
    assert download.value.path().read_bytes() == bytes(300_000)
    assert visit.told == []


def test_a_list_is_whole_at_once(still: Web):
    began = time.monotonic()
    assert b"</main>" in still.ask("/").data
    assert time.monotonic() - began < 0.8  # not the second for which other connections linger


def test_script_and_style_are_loaded_once(still: Web, visit: Visit):
    page = visit.open(still.url)
    taken = (
        """performance.getEntriesByType("resource").filter(one => /page/.test(one.name)).map(one => one.transferSize)"""
    )
    online(page)
    first = page.evaluate(taken)
    assert len(first) == 2 and all(first) and sum(first) < 6000
    page.goto(still.url + "/firmware/")
    online(page)
    assert page.evaluate(taken) == [0, 0]
    page.reload()
    online(page)
    assert page.evaluate(taken) == [0, 0]


def test_script_and_style_are_compressed_and_for_who_can_inflate_them(still: Web):
    browser = still.ask("/", Accept_Encoding="gzip, deflate")
    links = re.findall(rb'(?:href|src)="(/\?page[^"]+)"', browser.data)
    assert len(links) == 2
    sizes = []
    for link in links:
        got = still.ask(link.decode(), Accept_Encoding="gzip, deflate")
        assert got.status == 200 and got.field["Content-Encoding"] == "gzip"
        assert "immutable" in got.field["Cache-Control"]
        sizes.append(len(got.data))
        head = still.ask(link.decode(), "HEAD")
        assert head.field["Content-Length"] == str(len(got.data)) and not head.data
    assert sum(sizes) < 4864, "script and style of the page, compressed"
    for other in (still.ask("/"), still.ask("/", Accept_Encoding="br")):
        assert b"page.js" not in other.data and b"page.css" not in other.data and b"u-boot.bin" in other.data
    assert still.ask("/?page.html").data == still.ask("/").data


def test_without_made_files_it_is_the_list_alone(serve: Callable[..., Web], folder: Path, visit: Visit):
    web = serve("--set", "made_files=false", files=folder)
    page = visit.open(web.url)
    expect(page.get_by_role("heading", name="Files in /")).to_be_visible()
    assert len(names(page)) == 5 and page.locator("aside,script").count() == 0
    assert page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
    assert visit.told == [] and not [url for url in visit.asked if "status" in url]


def test_without_script_the_list_serves(still: Web, visit: Visit):
    page = visit.open(still.url, java_script_enabled=False)
    assert len(names(page)) == 5
    page.get_by_role("link", name="firmware/").click()
    expect(page.get_by_role("heading", name="Files in /firmware/")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="zImage").click()
    assert download.value.path().read_bytes() == bytes(5000)


def test_transfers_move(serve: Callable[..., Web], folder: Path, visit: Visit):
    web = serve(files=folder)
    page = visit.open(web.url)
    online(page)
    bar = page.get_by_role("progressbar", name="u-boot.bin")
    with Wire(web.board.address) as wire:
        seen: list[float] = []
        for number, _ in enumerate(blocks(wire, wire.ask("u-boot.bin"))):
            if number % 100 == 1:
                seen.append(float(bar.get_attribute("value") or 0))  # waits for the bar
                if len(set(seen)) > 2:
                    break
                page.wait_for_timeout(500)
        assert seen == sorted(seen) and 0 < seen[-1] < 1
        assert "of 293 KB" in page.locator("aside li").first.inner_text()
    expect(page.get_by_role("progressbar")).to_have_count(0)
    expect(page.get_by_text("nothing is transferred")).to_be_visible()
    expect(page.locator("ol .bad")).to_contain_text("u-boot.binRRQ 127.0.0.1")
    expect(page.locator("dl")).to_contain_text("0 done, 1 failed")
    with pytest.raises(TftpError):
        fetch(web.board.address, "missing")
    assert fetch(web.board.address, "boot.scr") == bytes(1322)
    expect(page.locator("ol li:not(.bad)", has_text="boot.scr")).to_contain_text("done, 1322 bytes")
    expect(page.locator("ol .bad", has_text="missing")).to_contain_text("refused, file not found")
    assert visit.told == []


def test_files_are_uploaded(take: Callable[..., Web], visit: Visit, tmp_path: Path):
    web = take()
    page = visit.open(web.url + "/firmware/")
    online(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload files").click()
    (tmp_path / "with space #1%.txt").write_bytes(b"chosen" * 100)
    (tmp_path / "second").write_bytes(b"")
    chooser.value.set_files([tmp_path / "with space #1%.txt", tmp_path / "second"])
    expect(page.locator("main li", has_text="with space")).to_contain_text("600 bytes stored")
    expect(page.locator("main li", has_text="second")).to_contain_text("0 bytes stored")
    expect(page.locator("td", has_text="with space #1%.txt")).to_be_visible()
    assert web.ask("/firmware/with%20space%20%231%25.txt").data == b"chosen" * 100
    drop(page, "dropped", "text")
    expect(page.locator("main li", has_text="dropped")).to_contain_text("4 bytes stored")
    expect(page.get_by_role("link", name="dropped")).to_be_visible()
    assert fetch(web.board.address, "firmware/dropped") == b"text"
    assert page.get_by_role("button", name=re.compile("Delete")).count() == 0  # as overwrite is off
    assert visit.told == []


def test_an_upload_shows_its_progress_and_the_board_that_of_all(take: Callable[..., Web], visit: Visit):
    web = take()
    page, other = visit.open(web.url), visit.open(web.url, viewport=PHONE)
    online(page)
    online(other)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 150_000}
    network.send("Network.emulateNetworkConditions", limits)
    drop(page, "slow.bin", "x" * 750_000)
    own = page.locator("main progress")
    expect(own).to_have_attribute("value", re.compile(r"0\.[1-9]"))
    expect(other.locator("aside li", has_text="slow.bin")).to_contain_text(re.compile("from 127.* of 732 KB"))
    assert 0 < float(str(other.get_by_role("progressbar", name="slow.bin").get_attribute("value"))) < 1
    expect(page.locator("main li")).to_contain_text("750,000 bytes stored")
    expect(own).to_have_count(0)
    expect(other.get_by_role("link", name="slow.bin")).to_be_visible()  # the list follows what others store
    assert len(web.ask("/slow.bin").data) == 750_000


def test_a_refused_upload_says_why(take: Callable[..., Web], visit: Visit):
    web = take("write_limit=400000")
    page = visit.open(web.url)
    online(page)
    drop(page, "boot.scr", "other")
    expect(page.locator("main .bad").first).to_contain_text("refused: file exists")
    drop(page, "large.bin", "x" * 3_000_000)  # refused before it has been sent
    expect(page.locator("main .bad").nth(1)).to_contain_text("refused: the file is too large")
    drop(page, ".hidden", "x")
    expect(page.locator("main .bad").nth(2)).to_contain_text("refused: file not found")
    drop(page, "after", "all")  # and the next is stored
    expect(page.locator("main li", has_text="after")).to_contain_text("3 bytes stored")
    assert web.ask("/boot.scr").data == bytes(1322)


def test_files_are_replaced_and_deleted_after_a_question(open_board: Web, visit: Visit):
    for name in ("old.bin", "useless.bin"):
        assert open_board.ask(f"/{name}", "PUT", b"old").status == 201
    page = visit.open(open_board.url)
    online(page)
    asked: list[str] = []
    answer(page, False, asked)
    drop(page, "old.bin", "other")
    page.get_by_role("button", name="Delete useless.bin").click()
    assert asked == ["Replace old.bin?", "Delete useless.bin?"]
    assert open_board.ask("/old.bin").data == b"old" and open_board.ask("/useless.bin", "HEAD").status == 200
    page = visit.open(open_board.url)
    online(page)
    answer(page, True, asked)
    drop(page, "OLD.bin", "other")  # the board knows it in any case
    expect(page.locator("main li", has_text="OLD.bin")).to_contain_text("5 bytes stored")
    assert asked[2:] == ["Replace OLD.bin?"] and open_board.ask("/old.bin").data == b"other"
    page.get_by_role("button", name="Delete useless.bin").click()
    expect(page.locator("main li", has_text="useless.bin")).to_contain_text("deleted")
    expect(page.get_by_role("link", name="useless.bin")).to_have_count(0)
    assert open_board.ask("/useless.bin").status == 404
    assert page.get_by_role("button", name="Delete firmware/").count() == 0
    assert visit.told == []


def test_by_keyboard_alone(open_board: Web, visit: Visit, tmp_path: Path):
    for name in ("key-1", "key-2"):
        assert open_board.ask(f"/{name}", "PUT", b"old").status == 201
    page = visit.open(open_board.url)
    online(page)
    answer(page, True)

    def tab_to(name: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            focus = page.evaluate("[document.activeElement.ariaLabel || document.activeElement.textContent]")[0]
            if focus.startswith(name):
                break
        else:
            raise AssertionError(f"{name} is not reached")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"

    (tmp_path / "typed").write_bytes(b"x")
    page.on("filechooser", lambda chooser: chooser.set_files(tmp_path / "typed"))
    tab_to("Upload files")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="typed")).to_be_visible()
    tab_to("Delete key-1")
    page.keyboard.press("Space")
    expect(page.locator("main li", has_text="key-1")).to_contain_text("deleted")
    expect(page.get_by_role("link", name="key-1")).to_have_count(0)
    focused = page.evaluate("document.activeElement.ariaLabel")
    assert focused == "Delete key-2"  # the next of the list, not the top of the page
    page.evaluate("document.activeElement.blur()")
    tab_to("Journal")
    page.keyboard.press("Enter")
    expect(page.locator("ol")).to_be_hidden()


def test_the_password(take: Callable[..., Web], visit: Visit):
    web = take("http_password=secret")
    # As from the browser's own question, which nobody sees here.
    for password, outcome in (
        ("wrong", "refused: the password is missing or wrong"),
        ("secret", "700,000 bytes stored"),
    ):
        page = visit.open(web.url, http_credentials={"username": "me", "password": password})
        online(page)
        drop(page, "new", "x" * 700_000)
        expect(page.locator("main li")).to_contain_text(outcome)
    assert len(web.ask("/new").data) == 700_000


def test_a_board_goes_away_and_comes_back(folder: Path, board_name: str, visit: Visit):
    port = free_port()
    arguments = ("--flash-size", "8M", "--set", f"http_port={port}")
    with Board(*arguments, files=folder) as board:
        page = visit.open(Web(board, port).url)
        online(page)
    online(page, r"offline since \d\d:\d\d:\d\d")
    assert len(names(page)) == 5
    (folder / "new").write_bytes(b"x")
    with Board(*arguments, files=folder):
        online(page)
        expect(page.get_by_role("link", name="new")).to_be_visible()


def test_each_boot_is_one_story(serve: Callable[..., Web], tmp_path: Path, visit: Visit):
    for name in ("pxelinux.0", "default"):
        (tmp_path / name).write_bytes(b"x")
    web = serve("--set", 'rules=[{"name": "pxelinux.cfg/*", "give": "default"}]', files=tmp_path)
    page = visit.open(web.url)
    online(page)
    boots = page.locator("details", has=page.get_by_role("heading", name="Boots", include_hidden=True))
    expect(boots).to_be_hidden()
    fetch(web.board.address, "pxelinux.0")
    with pytest.raises(TftpError):
        fetch(web.board.address, "<b>.c32")
    fetch(web.board.address, "pxelinux.cfg/01-52-54")
    expect(boots.locator("li")).to_have_count(1)
    expect(boots.locator("li")).to_contain_text("pxelinux.cfg/01-52-54 → /default: done, 1 bytes")
    expect(boots.locator("li b")).to_have_text("127.0.0.1")
    expect(boots.locator(".bad")).to_contain_text("<b>.c32: refused, file not found")
    assert visit.told == []


def test_a_page_that_is_not_seen_asks_nothing(still: Web, visit: Visit):
    page = visit.open(still.url)
    online(page)
    hide = (
        "hide => {{ Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}});"
        " document.dispatchEvent(new Event('visibilitychange')); }}"
    )
    page.evaluate(hide.format("true"))
    page.wait_for_timeout(500)
    before = len(visit.asked)
    page.wait_for_timeout(3000)
    assert len(visit.asked) == before
    with page.expect_request("**/status.json", timeout=1000):
        page.evaluate(hide.format("false"))


def test_four_hundred_files(serve: Callable[..., Web], tmp_path: Path, visit: Visit):
    for number in range(400):
        (tmp_path / f"file-{number:03}.bin").write_bytes(bytes(number))
    page = visit.open(serve(files=tmp_path).url, viewport=PHONE)
    online(page)
    assert len(names(page)) == 400 and page.evaluate(ONE_COLUMN)
    page.get_by_role("searchbox", name="Filter").fill("FILE-39")
    assert names(page) == [f"file-39{digit}.bin" for digit in range(10)]
    page.get_by_role("searchbox").fill("")
    assert len(names(page)) == 400


HOSTILE = [
    "<script>alert(1)<",
    '"><img src=x onerror=alert(1)>',
    "<svg onload=alert(1)>",
    "a&amp;b&lt;",
    "javascript:alert(1)",
    "100%25.txt",
    "#?x",
    "<!--",
    "\u202egpj.exe",
    "x" * 250,
]


def test_a_name_that_tries_to_be_html_is_only_text(serve: Callable[..., Web], tmp_path: Path, visit: Visit):
    for name in HOSTILE:
        (tmp_path / name).write_bytes(name.encode())
    web = serve("--writable", "--set", "overwrite=true", files=tmp_path)
    page = visit.open(web.url, viewport=PHONE)
    online(page)
    answer(page, True, asked := [])
    with contextlib.ExitStack() as wires:
        for name in HOSTILE[:3]:
            store(web.board.address, f"up {name}", b"x" * 600)
            with pytest.raises(TftpError):
                fetch(web.board.address, f"no {name}")
            wire = wires.enter_context(Wire(web.board.address))
            wire.ask(f"{name}", ("blksize", 8))
            wire.ack(0)
        expect(page.locator("aside progress")).to_have_count(3)
        shown = page.locator("body").inner_text()
        assert page.locator("img,svg,iframe,main script,aside script").count() == 0
        for name in HOSTILE[:3]:
            assert shown.count(name.replace('"', '\\"')) >= 2, name
    page.locator("summary", has_text="Journal").click()
    assert "<svg onload=alert(1)>" in page.locator("ol").inner_text()
    assert page.evaluate(ONE_COLUMN)
    assert page.evaluate("document.getElementsByTagName('*').length") < 400
    for name in HOSTILE[:6]:
        text = name.replace('"', '\\"')
        page.get_by_role("button", name=f"Delete {text}", exact=True).click()
        expect(page.locator("main li", has_text="deleted")).to_have_count(len(asked))
        assert asked[-1] == f"Delete {text}?" and web.ask("/" + quote(name)).status == 404
    assert visit.told == []


def test_the_policy_forbids_what_the_page_does_not_do(still: Web, visit: Visit):
    page = visit.open(still.url)
    online(page)
    for code in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.write('x')",
        "new DOMParser().parseFromString('<b>x</b>', 'text/html')",
    ):
        assert (
            page.evaluate(f"(() => {{ try {{ {code}; return 'done' }} catch (e) {{ return e.name }} }})()")
            == "TypeError"
        )
    for code in (
        "document.head.append(Object.assign(document.createElement('script'), {textContent: 'window.bad = 1'}))",
        "document.body.setAttribute('onclick', 'window.bad = 1'); document.body.click()",
    ):
        page.evaluate(f"(() => {{ try {{ {code} }} catch {{}} }})()")
    assert page.evaluate("window.bad") is None
    assert page.evaluate("fetch('http://localhost:9').then(() => 'sent', e => e.name)") == "TypeError"
    assert len(visit.told) >= 3  # the browser tells what it has not done


LAB = {
    "board.dtb": 18_233,
    "boot.scr": 1322,
    "firmware/switch-15.2.bin": 400_000,
    "phone-7960.cnf": 811,
    "pxelinux.0": 42_988,
    "pxelinux.cfg/default": 211,
    "u-boot.bin": 612_344,
    "zImage": 1_843_220,
}


@contextlib.contextmanager
def busy(board: Board) -> Iterator[None]:
    """Transfers that have ended, and two that are under way."""
    for name in ("pxelinux.0", "phone-7960.cnf"):
        fetch(board.address, name, ("blksize", 1428))
    with pytest.raises(TftpError):
        fetch(board.address, "SEP001122AABBCC.cnf.xml")
    store(board.address, "router-startup.txt", bytes(3120))
    fetch(board.address, "boot.scr")
    with Wire(board.address) as reading, Wire(board.address) as writing:
        blksize = ("blksize", 1428)
        data = blocks(reading, reading.ask("zImage", blksize, ("windowsize", 16)))
        for _ in range(830):
            next(data)
        writing.ask("backup.tar", blksize, ("tsize", 300_000), opcode=2)
        for block in range(1, 70):
            writing.send(bytes((0, 3, 0, block)) + bytes(1428))
            writing.receive()
        yield


def test_in_the_dark_and_on_a_phone(
    serve: Callable[..., Web], tmp_path: Path, visit: Visit, pytestconfig: pytest.Config
):
    """With --pictures DIR it saves what the pages look like."""
    for name, size in LAB.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    web = serve("--writable", "--set", "overwrite=true", files=tmp_path)
    pictures = pytestconfig.getoption("--pictures")
    colours = set()
    with busy(web.board):
        for scheme in ("light", "dark"):
            for kind, viewport in (("desk", DESK), ("phone", PHONE)):
                page = visit.open(web.url, viewport=viewport, color_scheme=scheme, device_scale_factor=1.5)
                online(page)
                expect(page.locator("aside progress")).to_have_count(2)
                if pictures:
                    page.screenshot(path=Path(pictures) / f"page-{kind}-{scheme}.png")
                else:
                    drop(page, ".no", "x")
                    expect(page.locator("main .bad")).to_be_visible()
                page.evaluate("document.querySelectorAll('details').forEach(one => (one.open = true))")
                assert page.evaluate(ONE_COLUMN)
                colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
                found = Axe().run(page)
                assert not found.response["violations"], found.generate_report()
                page.context.close()
    assert len(colours) == 2


class Elsewhere(BaseHTTPRequestHandler):
    """A page of another origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><iframe name=inner></iframe>")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_page_elsewhere_changes_and_reads_nothing(open_board: Web, elsewhere: str, visit: Visit):
    page = visit.open(elsewhere)
    send = "([url, options]) => fetch(url, options).then(one => one.type + one.status, error => error.name)"
    target = open_board.url + "/board.dtb"
    for options in (
        {"method": "PUT", "body": "evil"},
        {"method": "DELETE"},
        {"method": "DELETE", "credentials": "include"},
        {"method": "PUT", "body": "evil", "mode": "no-cors"},
        {"method": "POST", "body": "evil"},
        {"method": "GET"},
    ):
        assert page.evaluate(send, [target, options]) == "TypeError", options
    assert page.evaluate(send, [open_board.url + "/tftpd/status.json", {"method": "GET"}]) == "TypeError"
    assert page.evaluate(send, [target, {"method": "POST", "body": "evil", "mode": "no-cors"}]) == "opaque0"
    open_board.board.wait_for('OPTIONS "/board.dtb": 405')
    open_board.board.wait_for('POST "/board.dtb": 405')
    page.evaluate(
        """url => { const form = document.createElement("form");
        Object.assign(form, {method: "post", action: url, enctype: "multipart/form-data", target: "inner"});
        document.body.append(form); form.submit(); }""",
        target,
    )
    page.wait_for_timeout(300)
    frame = page.frame("inner")
    assert frame
    with contextlib.suppress(Exception):  # it may end as an error page
        frame.goto(open_board.url + "/")
    assert not [one for one in page.frames if one.locator("td a").count()]  # no frame around the page: frame-ancestors
    code = """url => new Promise(done => { const script = document.createElement("script");
        script.src = url; script.onload = () => done("run"); script.onerror = () => done("not run");
        document.body.append(script); })"""
    assert page.evaluate(code, open_board.url + "/tftpd/status.json") == "not run"  # nosniff
    assert open_board.ask("/board.dtb").data == bytes(18_233)


def test_a_name_of_somebody_else_that_leads_to_the_board_shows_nothing(open_board: Web, visit: Visit):
    page = visit.open(f"http://{REBOUND}:{open_board.port}/")  # DNS rebinding
    assert "this board is not rebound.example" in page.locator("body").inner_text()
    send = "([url, options]) => fetch(url, options).then(a => a.status)"
    for target, options in (
        ("/board.dtb", {"method": "DELETE"}),
        ("/x", {"method": "PUT", "body": "x"}),
        ("/board.dtb", {}),
    ):
        assert page.evaluate(send, [target, options]) == 403
    assert open_board.ask("/board.dtb").data == bytes(18_233) and open_board.ask("/x").status == 404


def test_what_was_stored_as_a_page_acts_in_nobodys_name(open_board: Web, visit: Visit):
    page = visit.open(open_board.url)
    online(page)
    evil = "<script>fetch('/board.dtb', {method: 'DELETE'})</script><p>here"
    for name in ("evil.html", "evil.svg", "evil.xhtml", "evil.xml", "evil.txt"):
        text = evil if name[-3:] != "svg" else f"<svg xmlns='http://www.w3.org/2000/svg'>{evil}</svg>"
        drop(page, name, text)
        expect(page.locator("main li", has_text=name)).to_contain_text("stored")
        other = page.context.new_page()
        with contextlib.suppress(Exception):  # an unknown type is a download
            other.goto(f"{open_board.url}/{name}")
        other.wait_for_timeout(200)
        other.close()
    assert open_board.ask("/board.dtb").data == bytes(18_233)
