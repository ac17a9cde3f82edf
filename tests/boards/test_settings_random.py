"""The server starts and serves with all settings that settings.py accepts: drawn at random from settings.TABLE, on the
everyday board with the heap of a Pico W, as many words of it or as many bytes (half as much: a word has 8 bytes here).

Forty draws, the same in each run; with SOAK=1 three hundred, which differ.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import settings
from hypothesis import strategies as st

from board import Board
from client import Wire, fetch
from served import content
from tools import boards

SOAK = bool(os.environ.get("SOAK"))
SMALL, LARGE = content(3001), content(70_001)
WORDS, BYTES = boards.load("unix")["heap"], boards.load("rpi_pico_w")["heap"]
OWN_ADDRESS = "127.0.0.1"  # the client's address as the board sees it
ROOTS = ["/files", "/files/", "/files/sub", "/files/sub/"]


def utf8(least: int, most: int) -> st.SearchStrategy[str]:
    """Texts of `least` to `most` bytes without control characters and characters past U+FFFF (two escapes in JSON)."""
    characters = st.characters(codec="utf-8", exclude_categories=["Cc"], max_codepoint=0xFFFF)
    return st.text(characters, min_size=least, max_size=most).filter(lambda one: len(one.encode()) <= most)


def short(lists: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Those of `lists` that fit an argument of MicroPython's Unix port, 255 bytes."""
    return lists.filter(lambda one: len(json.dumps(one)) < 230)


OCTET = st.integers(0, 255)
HOST = st.builds("{}.{}.{}.{}".format, st.sampled_from([1, 10, 126, 128, 192, 223]), OCTET, OCTET, OCTET)
RANGE = st.builds("{}.{}.{}.{}{}".format, OCTET, OCTET, OCTET, OCTET, st.sampled_from(["", "/0", "/8", "/31", "/32"]))
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
GPIO = st.sampled_from([0, 1, 25, 29, 30, 48])
PIN = GPIO | st.sampled_from(["LED", "BOOTSEL", "WL_GPIO0"]) | utf8(0, 20).map(lambda name: "X" + name)
FOLDER = st.lists(st.text("ab.c ü", min_size=1, max_size=5).filter(lambda part: part[0] != "."), max_size=3)
OPTION = st.sampled_from(["blksize", "timeout", "tsize", "windowsize"])

# Strategies for settings whose `allowed` does not define one. None: not drawn, the test needs the default.
DRAWN: dict[str, st.SearchStrategy[Any] | None] = {
    "address": None,
    "port": None,
    "ssid": utf8(0, 32),
    "password": st.just("") | utf8(8, 63) | st.text("0123456789abcdefABCDEF", min_size=64, max_size=64),
    "http_password": utf8(1, 64),
    "setup_password": st.just("") | utf8(8, 63),
    "hostname": st.from_regex("[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?", fullmatch=True),
    "country": st.text(LETTERS[26:], min_size=2, max_size=2),
    "dhcp_proxy": st.dictionaries(
        st.sampled_from(["bios", "efi64", "http64", "ipxe", "pi"]) | st.integers(0, 99999).map(str), utf8(1, 98)
    ),
    "push": st.fixed_dictionaries(
        {"file": utf8(1, 255), "to": st.builds("127.0.0.1:{}".format, st.integers(1, 65535))},
        optional={"name": utf8(1, 255)},
    ),
    "wired": st.fixed_dictionaries(
        {"phy_type": st.sampled_from(["PHY_LAN8720", "WLAN", "x"])},
        optional={name: st.integers(0, 48) for name in ("mdc", "mdio", "power", "reset", "phy_addr", "no_such")},
    ),
    "ip": HOST,
    "netmask": st.integers(8, 32).map(
        lambda bits: ".".join(str((0xFFFFFFFF << 32 - bits & 0xFFFFFFFF) >> shift & 255) for shift in (24, 16, 8, 0))
    ),
    "gateway": HOST | st.just("0.0.0.0"),
    "dns": HOST | st.just("0.0.0.0"),
    "root": st.sampled_from(ROOTS) | st.sampled_from([*ROOTS, "/none"]).map(lambda first: [first, "/card", *ROOTS]),
    "card": st.permutations([0, 3, 16, 18]).map(
        lambda pins: dict(zip(("sck", "mosi", "miso", "cs"), pins, strict=True))
    ),
    "read_from": short(st.lists(RANGE, max_size=12).map(lambda others: [*others, "127.0.0.0/8"])),
    "write_from": short(st.lists(RANGE, max_size=12)),
    "write_to": short(st.lists(FOLDER.map(lambda parts: "/" + "/".join(parts)), max_size=9)),
    "options_off": short(
        st.dictionaries(
            RANGE | st.sampled_from([OWN_ADDRESS, "0.0.0.0/0"]),
            st.just("all") | st.lists(OPTION, max_size=5),
            max_size=5,
        )
    ),
    "syslog": st.builds("127.0.0.1:{}".format, st.integers(1, 65535)),
    "ntp": st.builds("127.0.0.1:{}".format, st.integers(1, 65535)),
    "rules": short(
        st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["*.cfg", "x/*", "[!ls]*"]), "give": st.sampled_from(["deny", "{ip}/{*}"])},
                optional={
                    "from": RANGE | st.lists(RANGE, min_size=1, max_size=2),
                    "op": st.sampled_from(["read", "both"]),
                },
            ),
            max_size=9,
        )
    ).map(lambda rules: [*rules, {"name": "small", "give": ["none", "{file}"]}]),
    "led": PIN,
    "button": PIN,
}


def values(name: str) -> st.SearchStrategy[Any] | None:
    """Values of a setting: its limits, and values between them."""
    default, rule = settings.TABLE[name]
    allowed = rule[1] if rule else "an object"
    if name in DRAWN:
        drawn = DRAWN[name]
    elif limits := re.fullmatch(r"a whole number from (\d+) to (\d+)", allowed):
        low, high = map(int, limits.groups())
        drawn = st.sampled_from([low, high]) | st.integers(low, high)
        if high > 2048:  # most values of a wide range behave alike: draw small ones too
            drawn |= st.integers(low, 2048)
    elif allowed.startswith("one of "):
        drawn = st.sampled_from(json.loads(f"[{allowed.removeprefix('one of ')}]"))
    else:
        raise AssertionError(f"say in DRAWN how {name} is drawn: {allowed}")
    return drawn if drawn is None or default is not None else drawn | st.none()


def with_network(chosen: dict[str, Any]) -> dict[str, Any]:
    """The same with a network: a board without one opens its first set-up, and serves nothing."""
    if not chosen.get("ssid", "emulated") and not chosen.get("wired"):
        del chosen["ssid"]
    return chosen


CHOSEN = st.fixed_dictionaries(
    {}, optional={name: drawn for name in settings.TABLE if (drawn := values(name)) is not None}
).map(with_network)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two files in every place where the drawn `root` and `client_folders` make the board look."""
    top = tmp_path_factory.mktemp("random")
    for where in (top, top / OWN_ADDRESS, top / "sub", top / "sub" / OWN_ADDRESS):
        where.mkdir(exist_ok=True)
        (where / "small").write_bytes(SMALL)
        (where / "large").write_bytes(LARGE)
    return top


def serves(folder: Path, heap: int, chosen: dict[str, Any]) -> None:
    """A board with these settings starts, reports no error and serves both files whole."""
    pairs = [word for name, value in chosen.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    with Board("--heap", str(heap), *pairs, files=folder) as board:
        try:
            assert fetch(board.address, "small") == SMALL
            assert fetch(board.address, "large", ("blksize", 65464), ("windowsize", 4), ("tsize", 0)) == LARGE
            assert fetch(board.address, "small", ("blksize", 8), ("windowsize", 65535)) == SMALL
            assert fetch(board.address, "small", mode="netascii")
            assert fetch(board.address, "large", ("blksize", 1468), ("timeout", 1)) == LARGE
            with Wire(board.address) as one, Wire(board.address) as other:  # with transfers=1 the second is refused
                assert one.ask("large", ("blksize", 1428))[:2] in (b"\0\6", b"\0\3")
                assert other.ask("small")[:2] in (b"\0\3", b"\0\5")
                for wire in one, other:  # from the listening port too, if single_port is on
                    wire.send(b"\0\5\0\0enough\0")
            assert fetch(board.address, "small") == SMALL
        except Exception as trouble:
            raise AssertionError(f"{trouble!r} with {chosen}; its console: {board.console}") from trouble
        assert board.stop() == 0
    wrong = [line for line in board.console if "json: " in line or "Traceback" in line or "internal" in line]
    assert not wrong, (wrong, board.console)


ODD = [
    {"blksize": 100, "read_ahead": 0},
    {"blksize": 8, "read_ahead": 0, "windowsize": 1},
    {"read_ahead": 511, "blksize": 8},
    {"read_ahead": 262144},
    {"blksize": 65464},
    {"blksize": 65464, "single_port": True},
    {"blksize": 65464, "read_ahead": 262144, "windowsize": 1024},
    {"blksize": 32768, "wrq_windowsize": 1024, "write_from": ["127.0.0.0/8"], "single_port": True},
    {"transfers": 256, "transfers_per_client": 256},
    {"transfers": 1, "transfers_per_client": 1},
    {"windowsize": 1024, "read_ahead": 0},
    {"timeout": 255, "retries": 100},
    {"timeout": 1, "retries": 1},
    {"led": 48, "button": "BOOTSEL"},
    {"hostname": "x" * 32, "country": "XX", "ssid": "ü" * 16, "password": "0123456789abcdef" * 4},
    {"wired": {"phy_type": "PHY_LAN8720", "mdc": 48}, "ip": "10.0.0.7"},
    {"options_off": {"0.0.0.0/0": "all"}},
    {"client_folders": "only", "root": "/files/sub/"},
    {"read_from": [f"10.0.{number}.0/24" for number in range(10)] + ["127.0.0.1"]},
]


@pytest.mark.parametrize("heap", [WORDS, BYTES], ids=["words", "bytes"])
@pytest.mark.parametrize("chosen", ODD, ids=lambda chosen: "-".join(f"{k}={v}" for k, v in chosen.items())[:60])
def test_the_server_serves_with_extreme_settings(folder: Path, heap: int, chosen: dict[str, Any]):
    assert settings.update({}, chosen) == []
    serves(folder, heap, chosen)


@pytest.mark.timeout(7200 if SOAK else 600)
@hypothesis.settings(
    max_examples=300 if SOAK else 40,
    derandomize=not SOAK,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],  # a start takes a second: too slow to shrink an example
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)
@hypothesis.given(heap=st.sampled_from([WORDS, BYTES]), chosen=CHOSEN)
def test_the_server_serves_with_any_accepted_settings(folder: Path, heap: int, chosen: dict[str, Any]):
    assert settings.update({}, chosen) == []
    serves(folder, heap, chosen)
