"""The user's settings: defaults, the board's own, then /settings.json; each value checked, each
bad one named.

A bad value never stops the board: it is reported and the default is used in its place.
"""

import json


def _whole(low, high):
    def check(value):
        return type(value) is int and low <= value <= high

    return check, "a whole number from %d to %d" % (low, high)


def _text(limit):
    def check(value):
        return isinstance(value, str) and len(value) <= limit

    return check, "a text of at most %d characters" % limit


def _one_of(*allowed):
    def check(value):
        return any(value == one and type(value) is type(one) for one in allowed)  # True is not 1

    return check, "one of " + ", ".join([json.dumps(one) for one in allowed])


def _is_address(value):
    parts = value.split(".") if isinstance(value, str) else ()
    return len(parts) == 4 and all(
        part.isdigit() and len(part) <= 3 and int(part) <= 255 for part in parts
    )


def _is_range(value):
    address, slash, bits = value.partition("/") if isinstance(value, str) else ("", "", "")
    return _is_address(address) and (not slash or (bits.isdigit() and int(bits) <= 32))


def _list_of(check):
    return lambda value: isinstance(value, list) and all(check(one) for one in value)


def _is_root(value):
    # Not "/" itself: the board's own files lie there.
    if not isinstance(value, str) or value[:1] != "/":
        return False
    parts = value.strip("/").split("/")
    return parts[0] != "lib" and all(part and part[0] != "." for part in parts)


_is_option, _ = _one_of("blksize", "timeout", "tsize", "windowsize")
_SWITCH = _one_of(True, False)
_ADDRESS = (_is_address, 'an IPv4 address such as "192.168.1.5"')
_PIN = (
    lambda value: type(value) is int or (isinstance(value, str) and not value.isdigit()),
    'a GPIO number, or a name such as "LED"',
)
_RANGES = (_list_of(_is_range), 'a list of addresses and ranges such as ["192.168.1.0/24"]')
_FOLDERS = (
    _list_of(lambda value: isinstance(value, str) and value[:1] == "/"),
    'a list of folders such as ["/incoming"]',
)
_OPTIONS = (
    lambda value: (
        isinstance(value, dict)
        and all(
            _is_range(one)
            and (off == "all" or (isinstance(off, list) and all(map(_is_option, off))))
            for one, off in value.items()
        )
    ),
    'ranges with "all" or a list of options, such as {"192.168.1.0/24": ["blksize", "tsize"]}',
)
_OFF = None  # a setting whose default is None is off until it is set, and may be set to null

# name: (default, (check, what is allowed)). docs/settings.md explains each.
TABLE = {
    "ssid": (_OFF, _text(32)),
    "password": (_OFF, _text(63)),
    "hostname": ("tftpd", _text(32)),
    "country": (
        _OFF,
        (lambda v: isinstance(v, str) and len(v) == 2, 'two letters such as "DE"'),
    ),
    "wired": (
        _OFF,
        (lambda v: isinstance(v, dict) and "phy_type" in v, "the arguments of network.LAN"),
    ),
    "ip": (_OFF, _ADDRESS),
    "netmask": ("255.255.255.0", _ADDRESS),
    "gateway": ("0.0.0.0", _ADDRESS),
    "dns": ("0.0.0.0", _ADDRESS),
    "join_timeout": (20, _whole(1, 300)),
    "address": ("0.0.0.0", _ADDRESS),
    "port": (69, _whole(1, 65535)),
    "single_port": (False, _SWITCH),
    "root": ("/files", (_is_root, 'a folder such as "/files", not "/" or "/lib"')),
    "client_folders": (False, _one_of(True, False, "only")),
    "transfers": (8, _whole(1, 256)),
    "transfers_per_client": (256, _whole(1, 256)),
    "blksize": (1468, _whole(8, 65464)),
    "windowsize": (16, _whole(1, 1024)),
    "wrq_windowsize": (1, _whole(1, 1024)),
    "read_from": (["0.0.0.0/0"], _RANGES),
    "write_from": ([], _RANGES),
    "write_to": (["/"], _FOLDERS),
    "overwrite": (False, _SWITCH),
    "write_limit": (_OFF, _whole(0, 1 << 30)),
    "keep_free": (16384, _whole(0, 1 << 30)),
    "read_ahead": (5900, _whole(0, 262144)),
    "flash_cache": (_OFF, _one_of(128, 256, 512, 1024, 2048, 4096)),
    "timeout": (3, _whole(1, 255)),
    "retries": (10, _whole(1, 100)),
    "options_off": ({}, _OPTIONS),
    "log": ("info", _one_of("error", "warning", "info", "debug")),
    "led": (_OFF, _PIN),
    "button": (_OFF, _PIN),
    "watchdog": (True, _SWITCH),
}


def defaults():
    """A new dict of all settings with their default values."""
    return {name: row[0] for name, row in TABLE.items()}


def update(settings, values):
    """Put the good ones of `values` (dict) into `settings` (dict); returns a list of complaints
    (str) about the others."""
    complaints = []
    for name, value in values.items():
        if name not in TABLE:
            complaints.append("no setting is called %s" % json.dumps(name))
            continue
        default, (check, allowed) = TABLE[name]
        if (value is None and default is _OFF) or (value is not None and check(value)):
            settings[name] = value
        else:
            complaints.append("%s must be %s, not %s" % (name, allowed, json.dumps(value)))
    return complaints


def load(paths=("/board.json", "/settings.json")):
    """All settings (dict) from the JSON files in `paths`, later ones over earlier ones; missing
    files are skipped.

    Complaints go to the console.
    """
    settings = defaults()
    for path in paths:
        try:
            with open(path) as file:
                values = json.load(file)
            if not isinstance(values, dict):
                raise ValueError
            complaints = update(settings, values)
        except OSError:  # not there: nothing is set
            continue
        except ValueError:
            complaints = ['not a JSON object such as {"ssid": "lab"}: not used']
        for complaint in complaints:
            print(path + ": " + complaint)
    return settings
