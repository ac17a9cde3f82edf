"""link.py with a Wi-Fi that does what the test says, on a clock that the test moves."""

import importlib
import sys
import time
import types

import pytest
import settings


class Air:
    """What a board sees of the world: the access point, and the time."""

    def __init__(self):
        self.now = 5000
        self.answers = True  # the access point is there
        self.refuses = False  # connect() raises, as on ESP32 while it joins by itself
        self.calls: list[tuple] = []
        self.connected = False

    def wlan(self, interface):
        return self

    # the methods of network.WLAN
    def active(self, on):
        self.calls.append(("active", on))

    def config(self, **values):
        self.calls.append(("config", values))

    def ifconfig(self, addresses=None):
        if addresses:
            self.calls.append(("ifconfig", addresses))
        return ("10.0.0.2", "255.255.255.0", "10.0.0.1", "10.0.0.1")

    def connect(self, *credentials):
        self.calls.append(("connect", *credentials))
        if self.refuses:
            raise OSError("Wifi Internal State Error")
        self.connected = self.answers

    def disconnect(self):
        self.calls.append(("disconnect",))
        self.connected = False

    def isconnected(self):
        return self.connected

    def sleep_ms(self, ms):
        self.now += ms


@pytest.fixture
def air(monkeypatch):
    air = Air()
    network = types.ModuleType("network")
    network.STA_IF = 0  # type: ignore[attr-defined]
    network.WLAN = air.wlan  # type: ignore[attr-defined]
    network.WLAN.__func__.PM_NONE = 16  # type: ignore[attr-defined]
    network.country = lambda code: air.calls.append(("country", code))  # type: ignore[attr-defined]
    network.hostname = lambda name: air.calls.append(("hostname", name))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "network", network)
    monkeypatch.setattr(time, "ticks_ms", lambda: air.now)
    monkeypatch.setattr(time, "sleep_ms", air.sleep_ms, raising=False)
    monkeypatch.delitem(sys.modules, "link", raising=False)
    return air


def join(**values):
    link = importlib.import_module("link")
    chosen = settings.defaults()
    assert settings.update(chosen, {"ssid": "lab", "password": "secret word", **values}) == []
    return link, link.join(chosen)


def test_joins_with_power_save_off_and_the_hostname(air, capsys):
    _, joined = join(country="DE")
    assert joined and capsys.readouterr().out == "link: up, 10.0.0.2\n"
    assert air.calls == [
        ("country", "DE"),
        ("hostname", "tftpd"),
        ("active", True),
        ("config", {"pm": 16}),
        ("connect", "lab", "secret word"),
    ]


def test_a_static_address_is_set_before_joining(air):
    join(ip="10.0.0.9", gateway="10.0.0.1", dns="10.0.0.1")
    assert air.calls[-2] == ("ifconfig", ("10.0.0.9", "255.255.255.0", "10.0.0.1", "10.0.0.1"))


def test_an_open_network_is_joined_without_a_password(air):
    join(password=None)
    assert air.calls[-1] == ("connect", "lab")
    join(password="")
    assert air.calls[-1] == ("connect", "lab")


def test_the_time_to_join_is_bounded(air, capsys):
    air.answers = False
    _, joined = join(join_timeout=7)
    assert not joined and 12_000 <= air.now <= 12_200
    assert "link: not up after 7 s, still trying" in capsys.readouterr().out


def test_a_long_time_to_join_has_several_attempts(air):
    air.answers = False
    join(join_timeout=35)
    assert air.calls.count(("connect", "lab", "secret word")) == 4


def test_no_ssid_is_told_and_nothing_is_touched(air, capsys):
    _, joined = join(ssid=None)
    assert (
        not joined and air.calls == [("hostname", "tftpd")] and "no ssid in /settings.json" in capsys.readouterr().out
    )


def test_a_link_that_drops_is_joined_again(air, capsys):
    link, _ = join()
    assert link.keep()
    air.connected = air.answers = False
    for _ in range(40):
        air.now += 1000
        assert not link.keep()
    attempts = air.calls.count(("connect", "lab", "secret word"))
    assert 4 <= attempts <= 5
    air.answers = True
    for _ in range(12):
        air.now += 1000
        link.keep()
    assert link.keep()
    out = capsys.readouterr().out
    assert out.count("link: down, joining again") == 1 and out.count("link: up, 10.0.0.2") == 2


def test_a_driver_that_refuses_to_connect_is_tried_again(air, capsys):
    air.refuses = True
    link, joined = join(join_timeout=5)
    assert not joined and "Wifi Internal State Error" in capsys.readouterr().out
    air.refuses = False
    air.now += 11_000
    link.keep()
    assert link.keep()


def test_a_wire_is_used_in_place_of_the_wifi(air, monkeypatch, capsys):
    machine = types.ModuleType("machine")
    machine.Pin = lambda number: f"pin {number}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "machine", machine)
    network = sys.modules["network"]
    network.PHY_LAN8720 = 7  # type: ignore[attr-defined]

    def lan(**arguments):
        air.calls.append(("LAN", arguments))
        return air

    network.LAN = lan  # type: ignore[attr-defined]
    air.connected = True
    link, joined = join(ssid=None, wired={"phy_type": "PHY_LAN8720", "phy_addr": 1, "mdc": 23, "power": 16})
    wanted = {"phy_type": 7, "phy_addr": 1, "mdc": "pin 23", "power": "pin 16"}
    assert joined and air.calls == [("hostname", "tftpd"), ("LAN", wanted), ("active", True)]
    air.connected = False
    air.now += 60_000
    assert not link.keep()
    air.connected = True
    assert link.keep() and air.calls[-1] == ("active", True), "a wire is not joined"
    assert capsys.readouterr().out.count("link: up") == 2
