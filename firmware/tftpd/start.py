"""What the server needs once, when it is made: its buffer, its files and its uploads, and the
hashes of all names, which a new card needs once more.

The module removes itself: without its code the idle server takes 1 KB of heap less.
"""

import gc
import os
import sys
from array import array

from micropython import const

from .files import UPLOADS, Files, ReadAhead
from .journal import ALWAYS
from .packet import WRQ

_FOLDER = const(0x4000)  # bit of st_mode
_LEAST_BLKSIZE = const(512)  # RFC 1350's, for requests without options


def start(server):
    """(ReadAhead, Files, Uploads) as the settings of `server` want them; None in place of the
    Uploads where no upload is allowed. Its journal is told what is not as it was set. Raises
    MemoryError."""
    settings = server.settings
    journal = server.journal
    ahead = _make_ahead(settings, journal)
    most = gc.mem_free() // 32  # an eighth of what is free, at most
    if settings["made_files"]:
        from .reserved import Reserved

        files = Reserved(server, most)
    else:
        files = Files(settings, most)
    uploads = _load_uploads(settings, files, journal)
    if settings["rules"]:
        from .rules import rule

        rule(settings["rules"], files)
    index(files.names)
    return ahead, files, uploads


def index(names):
    """Begin to collect the hashes of all paths in `names` (Names)."""
    names.indexed = False
    names.hashes = array("i")
    names.jobs.insert(0, _collect(names))
    package = sys.modules["tftpd"]
    if hasattr(package, "start"):
        del sys.modules["tftpd.start"], package.start  # pyright: ignore[reportAttributeAccessIssue]


def card_changed(server):
    """Other files are at /card than before: their names, and what an upload has left there."""
    uploads = server.stores[WRQ]
    if uploads:
        uploads.card_changed()
        for trouble in uploads.make_folders():
            server.journal.log(ALWAYS, trouble)
    index(server.files.names)


def _collect(names):
    """A job of Names.work()."""
    try:
        folders = [(root, names.entries(root)) for root in names.roots]
        while folders:
            folder, entries = folders[-1]
            for entry in entries:
                if not entry[0].startswith("."):
                    path = folder + "/" + entry[0]
                    names.add(path)
                    if entry[1] & _FOLDER:
                        folders.append((path, names.entries(path)))
                        break
                yield
            else:
                folders.pop()
            yield
        if names.indexed is False:
            names.indexed = True
    except BaseException:  # not all are known: a name without a hash may exist
        names.indexed = None
        raise


def _make_ahead(settings, journal):
    """As many bytes as `settings` want, blksize or read_ahead, but no more than a quarter of the
    free heap."""
    gc.collect()
    size = max(settings["blksize"], settings["read_ahead"])
    size = max(min(size, gc.mem_free() // 4), _LEAST_BLKSIZE)
    ahead = None
    while not ahead:
        try:
            ahead = ReadAhead(size)
        except MemoryError:  # the heap has no contiguous block of that size
            if size == _LEAST_BLKSIZE:
                raise
            size = max(size // 2, _LEAST_BLKSIZE)
    for name in ("blksize", "read_ahead"):
        if settings[name] > size:
            what = "%s: lowered from %d to %d, too little heap"
            journal.log(ALWAYS, what, name, settings[name], size)
    return ahead


def _load_uploads(settings, files, journal):
    """Recovers from a power cut also where no upload is allowed any more."""
    allowed = settings["write_from"]
    left = []
    for mount in ("", "/card"):
        try:
            left += os.listdir(mount + UPLOADS)
        except OSError:  # no upload so far, or no card
            pass
    if not allowed and not left:
        return None
    from .waiting import Uploads

    uploads = Uploads(settings, files)
    if left:
        uploads.recover()
    if not allowed:
        return None
    try:
        for folder in settings["write_to"]:
            os.stat((files.names.roots[0] + folder).rstrip("/"))
    except OSError:  # one is to be made
        for trouble in uploads.make_folders():
            journal.log(ALWAYS, trouble)
    return uploads
