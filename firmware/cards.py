"""The SD card: mounted at /card while there is one, and looked after once a second.

Loaded only where the setting `card` is set. An RP2 has sdcard.py for it, the ESP32 family
MicroPython's own machine.SDCard.
"""

import sys

import vfs
from micropython import const

_PLACE = const("/card")
_BLOCK = const(512)
_BOOT_MS = const(2000)  # that a card gets to start at the board's start,
_TURN_MS = const(20)  # and in a turn of the server
_PULLED = const("card: pulled out")

_settings = {}
_uploads = False  # whether some are allowed
_bus = None  # sdcard.Bus, once it is made
_card = None  # sdcard.SDCard or _Native, from when it answers
_started = False
_mounted = False
_news = ""  # what is to be said
_said = ""  # what was said last


class _Native:
    """machine.SDCard with what this file needs besides."""

    def __init__(self, settings):
        """`settings`: as in docs/settings.md. Raises OSError without a card."""
        from machine import SDCard

        arguments = dict(settings)
        for name in ("spi", "shared"):
            arguments.pop(name, None)
        if "baudrate" in arguments:
            arguments["freq"] = arguments.pop("baudrate")
        if "sck" in arguments:
            arguments.setdefault("slot", 2)  # the first SPI
        self._native = native = SDCard(**arguments)
        self._block = bytearray(_BLOCK)
        self.ioctl = native.ioctl  # pyright: ignore[reportAttributeAccessIssue]
        self.close = native.deinit  # pyright: ignore[reportAttributeAccessIssue]
        try:
            native.info()  # pyright: ignore[reportAttributeAccessIssue]
        except OSError:
            self.close()
            raise

    # Both return a bool, which some releases of MicroPython take for an error, or for none.

    def readblocks(self, number, buffer):
        if not self._native.readblocks(number, buffer):  # pyright: ignore[reportAttributeAccessIssue]
            raise OSError(5, "card: no answer, or a damaged block")

    def writeblocks(self, number, buffer):
        if not self._native.writeblocks(number, buffer):  # pyright: ignore[reportAttributeAccessIssue]
            raise OSError(5, "card: not written")

    def ready(self, ms):
        return True

    def present(self):
        try:
            return self._native.readblocks(0, self._block)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError:
            return False


class Blocks:
    """A card in blocks of `size` bytes, as LittleFS wants them: it reads and writes parts."""

    def __init__(self, card, size):
        """`size`: a multiple of 512, of which all parts have to be multiples too."""
        self._card = card
        self._size = size

    def readblocks(self, number, buffer, offset=0):
        return self._card.readblocks((number * self._size + offset) // _BLOCK, buffer)

    def writeblocks(self, number, buffer, offset=0):
        return self._card.writeblocks((number * self._size + offset) // _BLOCK, buffer)

    def ioctl(self, operation, argument):
        if operation == 4:
            return self._card.ioctl(4, 0) * _BLOCK // self._size
        if operation == 5:
            return self._size
        return 0  # initialise, shut down, sync, erase: nothing to do


def littlefs(card=None, make=0):
    """The LittleFS on a `card`, which is a block device; by default on the one that was mounted.
    With `make`, a new one with blocks of so many bytes, in place of all that is on it. Raises
    OSError."""
    card = card or _card
    if not card:
        raise OSError(19, "no card")
    if make:
        vfs.VfsLfs2.mkfs(Blocks(card, make), readsize=_BLOCK, progsize=_BLOCK)  # pyright: ignore[reportArgumentType]
    block = bytearray(_BLOCK)
    card.readblocks(0, block)
    size = int.from_bytes(block[24:28], "little")
    if block[8:16] != b"littlefs" or not size or size % _BLOCK:
        raise OSError(19, "no LittleFS")
    return vfs.VfsLfs2(Blocks(card, size), readsize=_BLOCK, progsize=_BLOCK)  # pyright: ignore[reportArgumentType]


def mount(settings):
    """Mount the card that `settings` (dict of settings.load()) name, if there is one."""
    global _settings, _uploads
    _settings = settings["card"]
    _uploads = bool(settings["write_from"])
    _tend(_BOOT_MS)


def also(tick):
    """A function for Server.serve_forever() that does what `tick` does, and keeps the card."""

    def both(server):
        global _news
        tick(server)
        if _tend(_TURN_MS):
            from tftpd.start import card_changed

            card_changed(server)
        if _news:
            print(_news)
            _news = ""

    return both


def _tend(ms):
    """See whether the card is there, without waiting for longer than `ms`; returns True if what is
    at /card has changed."""
    global _card, _started, _mounted
    if _started and _card:
        if _card.present():
            return False
        was = _mounted
        _lose(_PULLED)
        return was
    try:
        if not _card:
            _card = _start()
        if not _card.ready(ms):
            return False
        _started = True
        _mount(_card)
        _mounted = True
        return True
    except Exception as trouble:  # of pins, of memory, of the card: the server goes on
        if _started:
            _say("card: no FAT32 or LittleFS is on it, format it: %s" % trouble)
        else:
            _lose("" if _said == _PULLED else "card: none: %s" % trouble)
        return False


def _start():
    global _bus
    if sys.platform != "rp2":
        return _Native(_settings)
    import sdcard

    if not _bus:
        _bus = sdcard.Bus(_settings)
    most = _settings.get("baudrate", 25_000_000)
    return sdcard.SDCard(_bus, most, _settings.get("shared", False))


def _mount(card):
    kind = "LittleFS"
    try:
        filesystem = littlefs(card)
    except OSError:
        kind = "FAT"
        filesystem = vfs.VfsFat(card)
    vfs.mount(filesystem, _PLACE)
    said = "card: %s of %d MB at %s" % (kind, card.ioctl(4, 0) >> 11, _PLACE)
    if _uploads and kind == "FAT":
        said += ", which a power cut during an upload may damage"
    _say(said)


def _lose(why):
    global _card, _started, _mounted
    if _mounted:
        vfs.umount(_PLACE)
    if _card:
        _card.close()
    _card = None
    _started = _mounted = False
    _say(why)


def _say(what):
    global _news, _said
    if what and what != _said:
        _news = _said = what
