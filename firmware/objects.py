"""Checks of the settings that are JSON objects, as in the table of settings.py, which loads this
file where one of them is set, and forgets it.
"""

from settings import _all, _is_gpio, _is_peer, _is_range, _is_text, _one_of, _whole

_CARD_PINS = ("sck", "mosi", "miso", "cs")
_CARD = {
    "spi": _whole(0, 1)[0],
    "slot": _whole(0, 3)[0],
    "width": _one_of(1, 4)[0],
    "baudrate": _whole(100_000, 50_000_000)[0],
    "shared": _one_of(True, False)[0],
}


def _is_card(value):
    if not _all(
        dict,
        lambda name: (
            _is_gpio(value[name])
            if name in _CARD_PINS
            else name in _CARD and _CARD[name](value[name])
        ),
        value,
    ):
        return False
    pins = [value[name] for name in _CARD_PINS if name in value]
    return len(set(pins)) == len(pins) == 4 or ("slot" in value and not pins)


_ARCHITECTURES = ("bios", "efi64", "arm64", "http64", "httparm64", "ipxe", "pi")


def _is_booted(value):
    return _all(
        dict,
        lambda name: (
            (name in _ARCHITECTURES or _is_text(name, 1, 5, "0123456789"))
            and _is_text(value[name], 1, 98)
        ),
        value,
    )


def _is_push(value):
    return _all(
        dict,
        lambda name: (
            _is_peer(value[name])
            if name == "to"
            else name in ("file", "name") and _is_text(value[name], 1, 255)
        ),
        value,
    ) and ("file" in value and "to" in value)


_is_option, _ = _one_of("blksize", "timeout", "tsize", "windowsize")

wired = (
    lambda value: (
        _all(dict, lambda name: name == "phy_type" or _is_gpio(value[name]), value)
        and _is_text(value.get("phy_type"), 1, 32)
    ),
    'arguments of network.LAN such as {"phy_type": "PHY_LAN8720", "mdc": 23}',
)
card = (
    _is_card,
    'four pins such as {"sck": 18, "mosi": 19, "miso": 16, "cs": 17}, or {"slot": 1}; '
    "beside them spi, baudrate, shared, width as in docs/settings.md",
)
dhcp_proxy = (
    _is_booted,
    "files of up to 98 bytes for %s, or an architecture by its number, such as "
    '{"efi64": "ipxe.efi", "27": "riscv.efi"}' % ", ".join(_ARCHITECTURES),
)
push = (
    _is_push,
    'a file and where it goes, such as {"file": "netgear.img", "to": "192.168.1.1"}; '
    'beside them "name", what it is called there',
)
options_off = (
    lambda value: _all(
        dict,
        lambda one: _is_range(one) and (value[one] == "all" or _all(list, _is_option, value[one])),
        value,
    ),
    'ranges with "all" or a list of options, such as {"192.168.1.0/24": ["blksize"]}',
)
