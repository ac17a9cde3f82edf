"""The user's settings: the defaults, then /board.json, then /settings.json. Each value is checked.

A bad value never stops the board: it is reported by name, and the value set before it stays.
"""

import json
import sys


def _whole(low, high):
    def check(value):
        return type(value) is int and low <= value <= high

    return check, "a whole number from %d to %d" % (low, high)


def _is_text(value, least, most, allowed=None):
    """True for a text of `least` to `most` bytes in UTF-8, made of characters in `allowed` or, if
    that is None, of any but control characters."""
    return (
        isinstance(value, str)
        and least <= len(value.encode()) <= most
        and all(
            one in allowed if allowed else " " <= one < "\x7f" or one > "\x9f" for one in value
        )
    )


def _one_of(*allowed):
    def check(value):
        return any(value == one and type(value) is type(one) for one in allowed)  # True == 1

    return check, "one of " + ", ".join([json.dumps(one) for one in allowed])


def _octets(value):
    """The four numbers of the IPv4 address `value`; an empty list if it is not one."""
    parts = value.split(".") if isinstance(value, str) else ()
    octets = [int(part) for part in parts if part.isdigit() and len(part) <= 3]
    return octets if len(octets) == len(parts) == 4 and max(octets) <= 255 else []


def _host(least):
    def check(value):
        octets = _octets(value)
        return octets and least <= octets[0] < 224  # not multicast or broadcast

    return check, 'an IPv4 address such as "192.168.1.5"'


def _is_peer(value):
    host, colon, port = value.partition(":") if isinstance(value, str) else ("", "", "")
    fits = port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536
    return _host(1)[0](host) and (fits or not colon)


def _is_mask(value):
    hosts = 0
    for octet in _octets(value) or 4 * [0]:
        hosts = hosts << 8 | 255 - octet
    return hosts < 1 << 24 and not hosts & (hosts + 1)


def _is_range(value):
    address, slash, bits = value.partition("/") if isinstance(value, str) else ("", "", "")
    return _octets(address) and (not slash or (bits.isdigit() and int(bits) <= 32))


def _all(kind, check, values):
    return isinstance(values, kind) and len(values) <= 64 and all(map(check, values))


def _is_folder(value):
    return _is_text(value, 1, 255) and value[0] == "/" and "//" not in value and "/." not in value


def _is_root(value):
    # Not "/" itself, which holds the board's own files.
    return _is_folder(value) and value != "/" and (value + "/")[:5] != "/lib/"


_is_gpio, _ = _whole(0, 48)  # the ESP32-S3 has the highest number
_SWITCH = _one_of(True, False)
_PIN = (
    lambda value: _is_gpio(value) or (_is_text(value, 1, 32) and value[0].isalpha()),
    'a GPIO number up to 48 or a name such as "LED"',
)
_RANGES = (
    lambda value: _all(list, _is_range, value),
    'a list of addresses and ranges such as ["192.168.1.0/24"]',
)
_PEER = (_is_peer, 'an IPv4 address, or one with a port such as "192.168.1.5:514"')
_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OFF = None  # a setting with this default is off until it is set; null is allowed

# name: (default, (check, what is allowed)), the latter None where it is in objects.py.
# docs/settings.md explains each.
TABLE = {
    "ssid": (_OFF, (lambda value: _is_text(value, 0, 32), "a text of at most 32 bytes")),
    "password": (
        _OFF,
        (
            lambda value: (
                value == ""
                or _is_text(value, 8, 63)
                or _is_text(value, 64, 64, "0123456789abcdefABCDEF")
            ),
            "8 to 63 bytes, or 64 hexadecimal digits",
        ),
    ),
    "setup_password": (
        _OFF,
        (
            lambda value: value == "" or _is_text(value, 8, 63),
            'a text of 8 to 63 bytes, or "" for an open network',
        ),
    ),
    "hostname": (
        "tftpd",
        (
            lambda value: (  # a label of RFC 1123
                _is_text(value, 1, 32, _CAPITALS + _CAPITALS.lower() + "0123456789-")
                and "-" not in (value[0], value[-1])
            ),
            "1 to 32 letters, digits and inner hyphens",
        ),
    ),
    "country": (
        _OFF,
        (
            lambda value: _is_text(value, 2, 2, _CAPITALS),
            'two capital letters such as "DE"',
        ),
    ),
    "wired": (_OFF, None),
    "ip": (_OFF, _host(1)),
    "netmask": ("255.255.255.0", (_is_mask, 'a netmask such as "255.255.255.0"')),
    "gateway": ("0.0.0.0", _host(0)),
    "dns": ("0.0.0.0", _host(0)),
    "join_timeout": (20, _whole(1, 300)),
    "address": ("0.0.0.0", _host(0)),
    "port": (69, _whole(1, 65535)),
    "http_port": (_OFF, _whole(1, 65535)),
    "http_password": (_OFF, (lambda value: _is_text(value, 1, 64), "a text of at most 64 bytes")),
    "single_port": (False, _SWITCH),
    "root": (
        "/files",
        (
            lambda value: value and _all(list, _is_root, [value] if type(value) is str else value),
            'a folder such as "/files", not "/" or "/lib", or a list of such folders',
        ),
    ),
    "client_folders": (False, _one_of(True, False, "only")),
    "rules": (
        _OFF,
        (
            lambda value: isinstance(value, list) and len(value) <= 64,
            'a list of at most 64 rules such as [{"name": "*.cfg", "give": "cfg/{file}"}]',
        ),
    ),
    "transfers": (8, _whole(1, 256)),
    "transfers_per_client": (256, _whole(1, 256)),
    "blksize": (1468, _whole(8, 65464)),
    "windowsize": (16, _whole(1, 1024)),
    "wrq_windowsize": (1, _whole(1, 1024)),
    "made_files": (True, _SWITCH),
    "read_from": (["0.0.0.0/0"], _RANGES),
    "write_from": ([], _RANGES),
    "write_to": (
        ["/"],
        (lambda value: _all(list, _is_folder, value), 'a list of folders such as ["/incoming"]'),
    ),
    "overwrite": (False, _SWITCH),
    "write_limit": (_OFF, _whole(0, 1 << 30)),
    "keep_free": (16384, _whole(0, 1 << 30)),
    "dhcp_proxy": (_OFF, None),
    "push": (_OFF, None),
    "read_ahead": (5900, _whole(0, 262144)),
    "flash_cache": (_OFF, _one_of(128, 256, 512, 1024, 2048, 4096)),
    "card": (_OFF, None),
    "timeout": (3, _whole(1, 255)),
    "retries": (10, _whole(1, 100)),
    "options_off": ({}, None),
    "log": ("info", _one_of("error", "warning", "info", "debug")),
    "syslog": (_OFF, _PEER),
    "ntp": (_OFF, _PEER),
    "led": (_OFF, _PIN),
    "button": (_OFF, _PIN),
    "watchdog": (True, _SWITCH),
}


def defaults():
    """A new dict of all settings with their default values."""
    return {name: row[0] for name, row in TABLE.items()}


def update(settings, values):
    """Copy the valid ones of `values` (dict) to `settings` (dict). Returns a list of complaints
    (str), one for each of the others."""
    complaints = []
    for name, value in values.items():
        if name not in TABLE:
            complaints.append("no setting is called %s" % json.dumps(name))
            continue
        default, rule = TABLE[name]
        if not rule:
            import objects

            rule = getattr(objects, name)
            sys.modules.pop("objects", None)
        check, allowed = rule
        good = (value is None and default is _OFF) or (value is not None and check(value))
        if name == "rules" and value is not None:
            from rulebook import packed

            settings[name], wrong = packed(value if good else [0], _is_text, _RANGES[0])
            complaints += wrong if good else ()
        elif good:
            settings[name] = value
        if not good:
            if isinstance(value, dict):  # only what is wrong of it
                value = {one: value[one] for one in value if not check({one: value[one]})} or value
            secret = "password" in name
            shown = "" if secret else ", not " + json.dumps(value)
            complaints.append("%s must be %s%s" % (name, allowed, shown))
    return complaints


def load(paths=("/board.json", "/settings.json")):
    """Return all settings (dict): the defaults and the JSON files in `paths`, where a later file
    overrides an earlier one.

    A missing file is skipped. Complaints are printed.
    """
    settings = defaults()
    for path in paths:
        try:
            with open(path, "rb") as file:
                if file.read(3) != b"\xef\xbb\xbf":  # the BOM that Notepad on Windows writes
                    file.seek(0)
                values = json.load(file)
            if not isinstance(values, dict):
                raise ValueError
            complaints = update(settings, values)
        except Exception as trouble:  # of any type: the board must start
            if isinstance(trouble, OSError) and trouble.errno == 2:  # ENOENT: no such file
                continue
            complaints = ['not a JSON object such as {"ssid": "lab"}: not used, %r' % trouble]
        for complaint in complaints:
            print(path + ": " + complaint)
    if settings["card"] and settings["root"] == TABLE["root"][0]:
        settings["root"] = [settings["root"], "/card"]
    return settings
