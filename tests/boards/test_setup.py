"""The first set-up: its page in a real browser (Chromium, headless), its form and requests, what it keeps, and when it
opens. On the everyday board; the genuine ones open their access point, which nobody can join in the emulators.
"""

import contextlib
import http.client
import importlib
import json
import os
import random
import re
import socket
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
import settings
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from board import Board, flash_files
from browsing import DESK, PHONE
from client import Wire, fetch
from served import SERVED
from tools import boards, image

pytestmark = pytest.mark.timeout(300)
everyday = pytest.mark.everyday_only("its access point is a port of this computer")
HOSTILE = [
    "<script>document.title='owned'</script>"[:32],
    '"><img src=x onerror=alert(1)>',
    "' & \" < > &lt; %s {0}",
    "‮gnp.exe",
    "größe 漢字",
    " a  b ",
]
AIR = {"lab": "right password", "open": "", **dict.fromkeys(HOSTILE, "a password")}


class Answer(NamedTuple):
    status: int
    text: str
    place: str | None


class SettingUp:
    """A board without Wi-Fi settings."""

    def __init__(self, start: Callable[..., Board], *arguments: str, **options: Path) -> None:
        self.board = start("--set", "ssid=null", *arguments, **options)
        assert self.board.ready.startswith("set-up http://"), self.board.ready
        self.url = self.board.url
        self.port = self.board.address[1]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 5)

    def say(self, request: bytes) -> bytes:
        with self.connect() as sock:
            sock.sendall(request)
            data = b""
            while more := sock.recv(65536):
                data += more
            return data

    def ask(self, target: str = "/", host: str | None = None, **form: str) -> Answer:
        """GET, or POST with a form."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Host": host} if host else {}
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request("POST" if form else "GET", target, urlencode(form) or None, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return Answer(answer.status, text, answer.headers["Location"])

    def token(self) -> str:
        match = re.search(r"name=token value=(\w+)", self.ask().text)
        assert match
        return match[1]

    def choose(self, **form: str) -> str:
        """Send the form; returns the page that follows."""
        empty = dict.fromkeys(("other", "password", "hostname", "ip", "netmask", "gateway", "dns"), "")
        answer = self.ask(token=self.token(), **{**empty, "hostname": "tftpd", **form})
        assert (answer.status, answer.place) == (303, "/")
        return self.ask().text

    def wait_for_restart(self) -> None:
        assert self.board.process.stdout
        assert self.board.process.stdout.readline().startswith("ready tftp://")


@pytest.fixture
def set_up(start: Callable[..., Board], monkeypatch: pytest.MonkeyPatch) -> Callable[..., SettingUp]:
    """set_up(*arguments) starts a board among the networks of AIR, with ticks that run ten times as fast."""
    monkeypatch.setenv("WIFI", json.dumps(AIR))
    monkeypatch.setenv("TICKS_RATE", "10")
    return lambda *arguments, **options: SettingUp(start, *arguments, **options)


def alert(page: str) -> str:
    match = re.search(r"<div role=alert>([^<]*)", page)
    assert match, page
    return match[1]


def open_page(browser: Browser, url: str, size: Any = DESK, script: bool = True, **options: Any) -> Page:
    page = browser.new_context(viewport=size, java_script_enabled=script, **options).new_page()
    page.set_default_timeout(15_000)
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto(url)
    return page


@everyday
def test_a_phone_without_script_sets_the_board_up(set_up: Callable[..., SettingUp], browser: Browser, tmp_path: Path):
    saved = tmp_path / "flash"
    new = set_up("--save", str(saved), "--set", "windowsize=7", "--set", "setup_password=a phone knows it")
    assert new.board.wait_for("set-up: join") == (
        "set-up: join Wi-Fi tftpd-ABCD, password a phone knows it, open http://127.0.0.1/"
    )
    page = open_page(browser, new.url, PHONE, script=False, has_touch=True)
    expect(page.get_by_role("heading")).to_have_text("Set up tftpd-ABCD")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_label("lab").check()
    page.get_by_label("Password").fill("wrong password")
    page.get_by_label("Name of the board").fill("lab-7")
    page.get_by_role("button").click()
    expect(page.get_by_role("heading")).to_have_text("Joining lab")
    expect(page.get_by_role("alert")).to_have_text("The password is wrong.")
    expect(page.get_by_label("lab")).to_be_checked()
    expect(page.get_by_label("Name of the board")).to_have_value("lab-7")
    expect(page.get_by_label("Password")).to_have_value("")
    page.get_by_label("Password").fill("right password")
    page.get_by_role("button").click()
    expect(page.get_by_role("heading")).to_have_text("Joined lab")
    expect(page.get_by_text("The address of the board is 127.0.0.1.")).to_be_visible()
    expect(page.get_by_text("also called lab-7.local")).to_be_visible()
    page.context.close()
    new.wait_for_restart()
    assert fetch(new.board.address, "hello.txt") == SERVED["hello.txt"]
    assert new.board.stop() == 0
    files = flash_files(saved)
    kept = json.loads(files["/settings.json"])
    assert kept["windowsize"] == 7 and kept["setup_password"] == "a phone knows it", "other settings stay"
    assert (kept["ssid"], kept["password"], kept["hostname"]) == ("lab", "right password", "lab-7")
    assert "/settings.json.new" not in files


@everyday
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_asks_nobody_else(set_up: Callable[..., SettingUp], browser: Browser, scheme: Any):
    new = set_up()
    page = open_page(browser, "about:blank", PHONE, color_scheme=scheme)
    asked: list[str] = []
    troubles: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: troubles.extend([message.text] * (message.type in ("error", "warning"))))
    page.goto(new.url)
    page.get_by_text("Static address").click()
    results = Axe().run(page)
    assert not results.violations_count, results.generate_report()
    assert troubles == [] and {url for url in asked if not url.startswith(new.url)} <= {"data:,"}
    page.context.close()


@everyday
def test_hostile_names_of_networks_are_text(set_up: Callable[..., SettingUp], browser: Browser):
    new = set_up()
    page = open_page(browser, new.url)
    names = page.locator("label bdi").all_text_contents()
    assert sorted(names) == sorted(AIR), "without the hidden one and what is not UTF-8"
    strengths = [int(text.split()[0]) for text in page.locator("label small").all_text_contents()]
    assert strengths == sorted(strengths, reverse=True)
    assert page.locator("form script, form img").count() == 0 and page.title() == "tftpd-ABCD"
    page.locator("label", has_text="onerror").get_by_role("radio").check()
    page.get_by_label("Password").fill("a password")
    page.get_by_role("button").click()
    expect(page.get_by_role("heading")).to_have_text(f"Joined {HOSTILE[1]}")
    page.context.close()


@everyday
@pytest.mark.parametrize("name", HOSTILE)
def test_a_network_is_joined_and_kept_by_its_exact_name(set_up: Callable[..., SettingUp], tmp_path: Path, name: str):
    saved = tmp_path / "flash"
    new = set_up("--save", str(saved))
    new.choose(ssid=name, password="a password")
    new.wait_for_restart()
    assert new.board.stop() == 0
    kept = json.loads(flash_files(saved)["/settings.json"])
    assert (kept["ssid"], kept["password"]) == (name, "a password")


@everyday
def test_a_try_that_fails_writes_nothing(set_up: Callable[..., SettingUp], tmp_path: Path):
    saved = tmp_path / "flash"
    new = set_up("--save", str(saved))
    for form, text in (
        ({"ssid": "lab", "password": "wrong password"}, "The password is wrong."),
        ({"other": "nowhere", "password": "any password"}, "That network is not there."),
    ):
        assert "Joining" in new.choose(**form)
        end = time.monotonic() + 10
        while "Joining" in (page := new.ask().text):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert alert(page) == text
    assert new.board.stop() == 0
    assert json.loads(flash_files(saved)["/settings.json"])["ssid"] is None


@everyday
def test_a_static_address_and_a_hidden_network(set_up: Callable[..., SettingUp], tmp_path: Path):
    saved = tmp_path / "flash"
    new = set_up("--save", str(saved))
    static = {"ip": "127.0.0.7", "netmask": "255.0.0.0", "gateway": "127.0.0.1"}
    new.choose(ssid="lab", other="open", **static)
    new.board.wait_for("set-up: joined, the address is 127.0.0.7")
    assert "127.0.0.7" in new.ask().text
    new.wait_for_restart()
    assert new.board.stop() == 0
    kept = json.loads(flash_files(saved)["/settings.json"])
    assert kept.items() >= {**static, "ssid": "open", "password": ""}.items() and "dns" not in kept


WRONG = [
    ({}, "Choose a network."),
    ({"ssid": "lab", "password": "short"}, "password must be 8 to 63 bytes, or 64 hexadecimal digits"),
    ({"ssid": "lab", "password": "x" * 65}, "password must be 8 to 63 bytes, or 64 hexadecimal digits"),
    ({"ssid": "x" * 33}, "ssid must be a text of at most 32 bytes"),
    ({"other": "a\nb"}, "ssid must be a text of at most 32 bytes"),
    ({"ssid": "lab", "hostname": "a.b"}, "hostname must be 1 to 32 letters, digits and inner hyphens"),
    ({"ssid": "lab", "hostname": "<b>"}, "not &quot;&lt;b&gt;&quot;"),
    ({"ssid": "lab", "hostname": ""}, "hostname must be"),
    ({"ssid": "lab", "ip": "1.2.3"}, "ip must be an IPv4 address"),
    ({"ssid": "lab", "ip": "10.0.0.7", "netmask": "255.0.255.0"}, "netmask must be"),
    ({"ssid": "lab", "ip": "10.0.0.7", "gateway": "router", "dns": "x"}, "gateway must be"),
]


@everyday
def test_values_are_checked_by_the_rules_of_the_settings(set_up: Callable[..., SettingUp]):
    new = set_up()
    for form, text in WRONG:
        assert text in alert(new.choose(**form)), form
    assert not any("joining" in line for line in new.board.console)


@everyday
def test_a_form_of_another_page_is_not_taken(set_up: Callable[..., SettingUp]):
    new = set_up()
    fields = {"ssid": "lab", "other": "", "password": "right password", "hostname": "x", "ip": ""}
    for token in ({}, {"token": ""}, {"token": "0" * 16}):
        assert new.ask(**fields, **token).status == 303
        assert "old" in alert(new.ask().text)
    assert not any("joining" in line for line in new.board.console)


@everyday
def test_a_name_of_somebody_else_gets_no_page(set_up: Callable[..., SettingUp]):
    """DNS rebinding; and a phone that looks for the Internet is led to the page."""
    new = set_up()
    token = new.token()
    for target, host in (("/", "evil.example"), ("/generate_204", "connectivitycheck.example"), ("/", "127.0.0.1.x")):
        answer = new.ask(target, host)
        assert (answer.status, answer.place) == (303, "http://127.0.0.1/") and token not in answer.text
    assert (
        new.ask("/", "evil.example", token=token, ssid="open", other="", password="", hostname="x", ip="").status == 303
    )
    assert not any("joining" in line for line in new.board.console)


@everyday
def test_nothing_else_is_served(set_up: Callable[..., SettingUp]):
    new = set_up("--set", "log=debug")
    for target in "/hello.txt", "/settings.json", "/../settings.json", "/tftpd/status.json", "/lib/setup.mpy":
        answer = new.ask(target)
        assert (answer.status, answer.place, answer.text) == (303, "/", ""), target
    with Wire(new.board.address) as wire, pytest.raises((TimeoutError, OSError)):
        wire.ask("hello.txt")


@everyday
def test_bad_requests_and_silent_clients_do_not_stop_it(set_up: Callable[..., SettingUp]):
    new = set_up()
    token = new.token().encode()
    form = b"token=" + token + b"&ssid=lab&other=&password=&hostname=x&ip="
    post = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    for body in b"a=%", b"ssid=%zz", b"ssid=%ff", b"token=%s&ssid=x" % token:  # the last: a field is missing
        bad = post % len(body) + body
        assert new.say(bad).startswith(b"HTTP/1.1 400 "), bad
    assert new.say(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert new.say(b"\xff\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    with contextlib.suppress(ConnectionResetError):
        assert new.say(b"GET / HTTP/1.1\r\n" + b"x" * 5000) == b""
    chance = random.Random(5)
    sample = post % len(form) + form.replace(token, b"0" * 16)
    for _ in range(100):
        data = bytearray(sample)
        for _ in range(chance.randrange(1, 9)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with new.connect() as sock:
            sock.sendall(data[: chance.randrange(len(data) + 1)])
            sock.shutdown(socket.SHUT_WR)
    silent = [new.connect() for _ in range(12)]
    began = time.monotonic()
    assert new.ask().status == 200 and time.monotonic() - began < 2
    for sock in silent:
        sock.close()
    for number in range(len(form)):  # a request in two pieces, cut at each place
        with new.connect() as sock:
            whole = post % len(form) + form.replace(token, b"0" * 16)
            sock.sendall(whole[: len(whole) - number])
            time.sleep(0.001)
            sock.sendall(whole[len(whole) - number :])
            assert sock.recv(100).startswith(b"HTTP/1.1 303"), number
    assert new.ask().status == 200 and new.board.stop() == 0


@everyday
def test_it_closes_when_nobody_has_used_it_for_ten_minutes(set_up: Callable[..., SettingUp], monkeypatch: Any):
    monkeypatch.setenv("TICKS_RATE", "100")
    new = set_up()
    began = time.monotonic()
    while time.monotonic() - began < 8:  # 800 s
        assert new.ask().status == 200
        time.sleep(0.5)
    began = time.monotonic()
    new.wait_for_restart()  # it has not restarted, but serves
    assert 5 < time.monotonic() - began < 12
    assert fetch(new.board.address, "hello.txt")
    with pytest.raises(OSError):
        new.connect()
    assert "set-up: not used for ten minutes, closed" in new.board.console and new.board.stop() == 0


def password_of(board: Board) -> str:
    match = re.search(r"password ([a-z2-8]{10}|none),", board.wait_for("set-up: join"))
    assert match
    return match[1]


@everyday
def test_each_board_makes_its_own_password_and_keeps_it(set_up: Callable[..., SettingUp], tmp_path: Path):
    assert password_of(set_up("--set", "setup_password=").board) == "none"
    saved = tmp_path / "flash"
    first = set_up("--save", str(saved), "--set", "windowsize=7").board
    made = password_of(first)
    assert made != password_of(set_up().board)
    assert first.stop() == 0
    kept = json.loads(flash_files(saved)["/settings.json"])
    assert kept["setup_password"] == made and kept["windowsize"] == 7


def test_damaged_settings_are_not_replaced_by_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for name in ("machine", "network"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    setup = importlib.import_module("setup")
    monkeypatch.setattr(setup, "_KEPT", str(tmp_path / "settings.json"))
    for damaged in ('{"ssid": "lab"', "7"):
        (tmp_path / "settings.json").write_text(damaged)
        assert len(setup._password()) == 10
        assert (tmp_path / "settings.json").read_text() == damaged
        assert "set-up: the password is not kept: " in capsys.readouterr().out
    (tmp_path / "settings.json").unlink()
    made = setup._password()
    assert json.loads((tmp_path / "settings.json").read_text()) == {"setup_password": made}


@everyday
def test_a_console_that_is_opened_late_shows_how_to_join(set_up: Callable[..., SettingUp]):
    board = set_up().board
    first = board.wait_for("set-up: join")
    assert board.wait_for("set-up: join", after=board.console.index(first) + 1) == first  # ticks run ten times as fast


@everyday
def test_ctrl_c_ends_it(set_up: Callable[..., SettingUp]):
    assert set_up().board.stop() == 0


@pytest.mark.genuine("esp32_c3", "rpi_pico_w")
def test_the_genuine_firmware_opens_its_access_point(start: Callable[..., Board], board_name: str, tmp_path: Path):
    """The emulated Pico W finds a network, the C3 none; nobody can join either."""
    saved = tmp_path / "flash"
    board = start("--set", "ssid=null", "--save", str(saved))
    assert board.ready == "set-up http://192.168.4.1/"
    said = board.wait_for("set-up: join", 120)
    shown = re.fullmatch(
        r"set-up: join Wi-Fi tftpd-[0-9A-F]{4}, password ([a-z2-8]{10}), open http://192\.168\.4\.1/", said
    )
    assert shown, said
    assert not any("scan" in line or "Traceback" in line for line in board.console), board.console
    assert board.stop() == 0
    assert image.read_earlier(boards.load(board_name), saved).settings["setup_password"] == shown[1]


# -- mode.py, with a simulated button


class Held:
    """A button that is let go after `seconds`, and the modules that mode.py imports."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch, wifi: bool = True) -> None:
        self.left = seconds
        self.calls: list[str] = []
        self.trouble: BaseException | None = None
        machine, network, setup = (types.ModuleType(name) for name in ("machine", "network", "setup"))
        pin = lambda *_: types.SimpleNamespace(value=lambda: int(self.left <= 0))  # noqa: E731
        pin.IN = pin.PULL_UP = 0  # type: ignore[attr-defined]
        machine.Pin = pin  # type: ignore[attr-defined]
        if wifi:
            network.AP_IF = 1  # type: ignore[attr-defined]
        network.WLAN = lambda _: types.SimpleNamespace(active=lambda on: self.calls.append(f"active {on}"))  # type: ignore[attr-defined]
        setup.run = self.run  # type: ignore[attr-defined]
        for module in machine, network, setup:
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(time, "sleep_ms", self.sleep, raising=False)
        monkeypatch.delitem(sys.modules, "mode", raising=False)
        self.mode: Any = importlib.import_module("mode")
        monkeypatch.setattr(os, "stat", self.stat)
        self.safe_file = False

    def stat(self, path: str) -> None:
        if not self.safe_file:
            raise OSError(2)

    def sleep(self, ms: int) -> None:
        self.left -= ms / 1000

    def run(self, chosen: dict[str, Any]) -> None:
        self.calls.append("set-up")
        if self.trouble:
            raise self.trouble

    def serves(self, **values: Any) -> bool:
        chosen = settings.defaults()
        assert settings.update(chosen, values) == []
        return self.mode.serves(chosen)


WITH_WIFI = {"ssid": "lab", "button": 0}


@pytest.mark.parametrize(
    ("seconds", "serves", "calls"),
    [(0, True, []), (0.2, False, []), (2.8, False, []), (3.2, True, ["set-up", "active False"])],
)
def test_a_short_press_is_safe_mode_and_a_long_one_the_set_up(monkeypatch, capsys, seconds, serves, calls):
    held = Held(seconds, monkeypatch)
    assert (held.serves(**WITH_WIFI), held.calls) == (serves, calls)
    said = capsys.readouterr().out
    assert ("safe mode: the server is not started" in said) == (not serves)
    assert ("hold it for three seconds" in said) == (seconds > 0)


@pytest.mark.parametrize(
    ("values", "wifi", "opens"),
    [
        ({}, True, True),
        ({"ssid": ""}, True, True),
        ({"ssid": "lab"}, True, False),
        ({"wired": {"phy_type": "PHY_LAN8720"}}, True, False),
        ({}, False, False),  # a board without Wi-Fi
    ],
)
def test_without_a_network_the_set_up_opens_by_itself(monkeypatch, values, wifi, opens):
    held = Held(0, monkeypatch, wifi)
    assert held.serves(**values) and ("set-up" in held.calls) == opens


def test_the_file_safe_comes_first(monkeypatch):
    held = Held(9, monkeypatch)
    held.safe_file = True
    assert not held.serves(button=0) and held.calls == []


def test_ctrl_c_in_the_set_up_gives_the_prompt_and_a_fault_the_server(monkeypatch, capsys):
    held = Held(0, monkeypatch)
    held.trouble = KeyboardInterrupt()
    assert not held.serves() and held.calls == ["set-up", "active False"]
    held.trouble = OSError(5, "no radio")
    assert held.serves() and held.calls[2:] == ["set-up", "active False"]
    assert "set-up: OSError(5, 'no radio')" in capsys.readouterr().out


def test_bootsel_is_no_pin(monkeypatch):
    held = Held(0, monkeypatch)
    rp2 = types.ModuleType("rp2")
    rp2.bootsel_button = lambda: 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rp2", rp2)
    assert held.serves(ssid="lab", button="BOOTSEL") and held.calls[0] == "set-up"
    rp2.bootsel_button = lambda: 0  # type: ignore[attr-defined]
    assert held.serves(ssid="lab", button="BOOTSEL") and len(held.calls) == 2


@pytest.mark.parametrize("trouble", [ValueError("invalid pin"), AttributeError(), MemoryError()], ids=repr)
def test_a_button_that_is_not_there_is_reported_and_the_server_starts(monkeypatch, capsys, trouble):
    held = Held(0, monkeypatch)

    def pin(*_: object) -> None:
        raise trouble

    pin.IN = pin.PULL_UP = 0  # type: ignore[attr-defined]
    sys.modules["machine"].Pin = pin  # type: ignore[attr-defined]
    assert held.serves(ssid="lab", button=48)
    assert capsys.readouterr().out == f"button: no pin 48: {trouble!r}\n"
