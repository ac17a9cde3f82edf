"""settings.py; runs on CPython under pytest and, as it is, inside MicroPython (test_micropython.py)."""

import settings


def complaint(name, value):
    chosen = settings.defaults()
    before = chosen[name]
    complaints = settings.update(chosen, {name: value})
    assert chosen[name] == before or not complaints
    return "; ".join(complaints)


def test_good_values_are_taken():
    good = {
        "ssid": "lab",
        "password": "",
        "country": "DE",
        "ip": "10.0.0.7",
        "port": 6969,
        "single_port": True,
        "root": "/srv/tftp",
        "windowsize": 1024,
        "log": "debug",
        "led": "LED",
        "button": 0,
        "watchdog": False,
    }
    chosen = settings.defaults()
    assert settings.update(chosen, good) == []
    for name, value in good.items():
        assert chosen[name] == value


def test_a_bad_value_is_named_with_what_is_allowed_and_changes_nothing():
    for name, value, words in (
        ("port", 0, "port must be a whole number from 1 to 65535, not 0"),
        ("port", "69", 'not "69"'),
        ("port", True, "not true"),
        ("port", None, "not null"),
        ("blksize", 7, "from 8 to 65464"),
        ("ip", "1.2.3", "an IPv4 address"),
        ("ip", "1.2.3.256", "an IPv4 address"),
        ("ip", "1.2.3.x", "an IPv4 address"),
        ("ssid", 7, "a text of at most 32 characters"),
        ("ssid", "x" * 33, "a text of at most 32 characters"),
        ("country", "Germany", "two letters"),
        ("log", "loud", 'one of "error", "warning", "info", "debug"'),
        ("single_port", 1, "one of true, false"),
        ("led", "25", "GPIO number"),
        ("root", "/", "a folder"),
        ("root", "files", "a folder"),
        ("root", "/lib/x", "a folder"),
        ("root", "/a/../..", "a folder"),
        ("root", "/.x", "a folder"),
    ):
        assert words in complaint(name, value), (name, value, complaint(name, value))


def test_options_off_names_ranges_and_options():
    chosen = settings.defaults()
    for good in (
        {},
        {"0.0.0.0/0": "all"},
        {"10.0.0.7": []},
        {"192.168.1.0/24": ["blksize", "timeout"], "10.0.0.7": ["tsize", "windowsize"]},
    ):
        assert settings.update(chosen, {"options_off": good}) == [] and chosen["options_off"] == good
    for bad in (None, [], "all", {"x": "all"}, {"10.0.0.7": "blksize"}, {"10.0.0.7": ["size"]}, {"10.0.0.7": [1]}):
        assert 'options_off must be ranges with "all" or a list of options' in complaint("options_off", bad), bad


def test_a_client_has_half_a_minute_by_default():
    chosen = settings.defaults()
    assert chosen["timeout"] * chosen["retries"] == 30


def test_null_switches_off_what_is_off_by_default():
    chosen = settings.defaults()
    chosen["led"] = 2
    assert settings.update(chosen, {"led": None}) == []
    assert chosen["led"] is None


def test_an_unknown_setting_is_named():
    assert settings.update(settings.defaults(), {"blocksize": 512}) == ['no setting is called "blocksize"']


def test_one_bad_value_does_not_stop_the_others():
    chosen = settings.defaults()
    assert len(settings.update(chosen, {"port": -1, "timeout": 9})) == 1
    assert chosen["port"] == 69 and chosen["timeout"] == 9
