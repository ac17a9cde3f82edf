"""settings.py; runs on CPython under pytest, and unchanged inside MicroPython (test_micropython.py)."""

import settings


def complaint(name, value):
    chosen = settings.defaults()
    before = chosen[name]
    complaints = settings.update(chosen, {name: value})
    assert chosen[name] == before or not complaints or name == "rules"  # bad ones refuse all: test_rules.py
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
        ("port", 69.0, "not 69.0"),
        ("port", float("inf"), "a whole number from 1 to 65535"),
        ("port", 1 << 200, "a whole number from 1 to 65535"),
        ("blksize", 7, "from 8 to 65464"),
        ("log", "loud", 'one of "error", "warning", "info", "debug"'),
        ("single_port", 1, "one of true, false"),
        ("led", 4294967296, 'led must be a GPIO number up to 48 or a name such as "LED", not 4294967296'),
    ):
        assert words in complaint(name, value), (name, value, complaint(name, value))


def test_of_an_object_only_what_is_wrong_is_shown():
    said = complaint("dhcp_proxy", {"bios": "a", "PI": "b", "pi": 3})  # in any order
    assert said.partition(", not ")[2] in ('{"PI": "b", "pi": 3}', '{"pi": 3, "PI": "b"}')


GOOD = {
    "ssid": ("", "lab", "a b", "ü" * 16, "x" * 32, None),
    "password": ("", "12345678", "x" * 63, "ü" * 4, "0123456789abcdefABCDEF" + "0" * 42, None),
    "setup_password": ("", "12345678", "x" * 63, None),
    "hostname": ("a", "tftpd-7", "Lab7", "x" * 32, "0-0"),
    "country": ("DE", "XX", None),
    "wired": ({"phy_type": "PHY_LAN8720"}, {"phy_type": "PHY_LAN8720", "phy_addr": 1, "mdc": 23, "power": 16}),
    "dhcp_proxy": ({}, {"bios": "a", "27": "b/c"}, {"ipxe": "http://10.0.0.1/a"}, {"efi64": "x" * 98}, None),
    "push": ({"file": "a", "to": "10.0.0.1"}, {"file": "a", "to": "10.0.0.1:70", "name": "b"}, None),
    "ip": ("10.0.0.7", "1.0.0.0", "223.255.255.255"),
    "netmask": ("255.0.0.0", "255.255.254.0", "255.255.255.252"),
    "gateway": ("0.0.0.0", "10.0.0.1"),
    "dns": ("0.0.0.0", "8.8.8.8"),
    "address": ("0.0.0.0", "127.0.0.1"),
    "root": ("/files", "/files/", "/srv/tftp", "/library", "/grüße", "/a b", ["/files"], ["/files", "/card"]),
    "write_to": ([], ["/"], ["/incoming/", "/a/b"], ["/a..b"]),
    "read_from": ([], ["10.0.0.7"], ["0.0.0.0/0", "10.0.0.0/32"]),
    "syslog": ("192.168.1.5", "192.168.1.5:1", "10.0.0.7:65535", None),
    "ntp": ("192.168.1.1", "192.168.1.1:1123", None),
    "led": (0, 48, "LED", "WL_GPIO0", None),
    "button": (0, "BOOTSEL", None),
    "read_ahead": (0, 262144),
    "blksize": (8, 100, 65464),
    "transfers": (1, 256),
}
BAD = {
    "ssid": (7, "x" * 33, "ü" * 17, "a\0", "a\nb", "\x7f", "\x9b1m", []),
    "password": (12345678, "secret7", "x" * 64, "0" * 65, "g" + "0" * 63, "ü" * 32, "1234567\0", "12345678\n", ["x"]),
    "setup_password": ("secret7", "x" * 64, 12345678, "1234567\n"),
    "hostname": ("", "x" * 33, "ü" * 20, "ü", "-a", "a-", "a.b", "a b", "a_b", "tftpd\n", None, 7),
    "country": ("", "D", "DEU", "de", "De", "éé", "é", "D1", 49, {}),
    "wired": (
        "PHY_LAN8720",
        {},
        {"phy_type": 7},
        {"phy_type": None},
        {"phy_type": "PHY", "mdc": "23"},
        {"phy_type": "PHY", "mdc": True},
        {"phy_type": "PHY", "power": None},
        {"phy_type": "PHY", "reset": 4294967296},
        {"phy_type": "PHY", "ref_clk": 1.5},
        {"phy_type": "PHY", "ref_clk": [1]},
        [],
    ),
    "ip": (
        "1.2.3",
        "1.2.3.256",
        "1.2.3.x",
        "1.2.3.4.5",
        "1..2.3",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "",
        7,
        {},
    ),
    "netmask": ("0.0.0.0", "255.0.255.0", "192.168.1.1", "254.0.0.0", "255.255.255", "0.0.0.255", None, 24),
    "gateway": ("255.255.255.255", "224.0.0.1", "x", None),
    "dns": ("240.0.0.1", "1.2.3.-4", " 1.2.3.4", "1.2.3.4444"),
    "address": ("239.0.0.1", "localhost", ""),
    "root": (
        "/",
        "//",
        "files",
        "",
        "/lib",
        "/lib/",
        "/lib/x",
        "/a/../..",
        "/../x",
        "/files/..",
        "/.x",
        "//x",
        "/a\0",
        7,
        [],
        ["/files", "/lib"],
        ["/files", ["/card"]],
        ["files"],
        {},
    ),
    "write_to": ("/", [7], ["incoming"], ["/../x"], ["/a//b"], ["/.uploads"], [""], ["/a\n"], ["/"] * 65, None),
    "read_from": ("0.0.0.0/0", ["10.0.0.0/33"], ["10.0.0.0/"], ["10.0.0.0/-1"], ["x"], [7], [[]], ["1.2.3.4"] * 65),
    "syslog": (
        "",
        "log",
        "1.2.3",
        "0.0.0.0",
        "224.0.0.1",
        "1.2.3.4:",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "1.2.3.4:x",
        ":514",
        7,
        [],
    ),
    "ntp": ("pool.ntp.org", "1.2.3.4:1:2", "1.2.3.4:000123", "1.2.3.4:-1", True),
    "led": (-1, 49, 4294967296, 1 << 70, True, 2.0, "25", "", "-1", "x" * 33, "LED\0", []),
    "button": (-1, 49, 4294967296, "0"),
    "dhcp_proxy": ([], "a", {"x": "a"}, {"bios": ""}, {"bios": "x" * 99}, {"pi": 1}, {"-1": "a"}, {"123456": "a"}),
    "push": ({}, {"file": "a"}, {"to": "10.0.0.1"}, {"file": "", "to": "10.0.0.1"}, {"file": "a", "to": "b"}, "a"),
    "options_off": ([], "all", None, {"10.0.0.0/33": "all"}, {"": "all"}, {"10.0.0.7": {}}, {"10.0.0.7": ["size"]}),
    "read_ahead": (-1, 262145, 1e3, None),
    "blksize": (7, 65465, "512"),
    "retries": (0, 101, True),
}


def test_what_each_setting_takes():
    for name in GOOD:
        for value in GOOD[name]:
            chosen = settings.defaults()
            assert settings.update(chosen, {name: value}) == [], (name, value)
            assert chosen[name] == value


def test_what_each_setting_refuses():
    for name in BAD:
        for value in BAD[name]:
            said = complaint(name, value)
            assert said.startswith(name + " must be "), (name, value, said)


def test_a_complaint_shows_no_password():
    for value in ("secret7", "xyzzy" * 13, 12345678, ["xyzzyxyzzy"], {"xyzzyxyzzy": 1}, "xyzzyxyzzy\n"):
        assert complaint("password", value) == "password must be 8 to 63 bytes, or 64 hexadecimal digits"


def test_no_value_of_any_type_makes_a_check_fail():
    for value in (
        None,
        True,
        0,
        -1,
        1 << 99,
        1.5,
        float("nan"),
        "",
        "x",
        "/",
        ".",
        [],
        [None],
        {},
        {"x": None},
        {1: 2},
    ):
        for name in settings.TABLE:
            for one in (value, [value], {"phy_type": value, "10.0.0.7": value, "mdc": value}):
                complaint(name, one)


def test_no_default_is_refused():
    for name, value in settings.defaults().items():
        assert settings.update({}, {name: value}) == []


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
