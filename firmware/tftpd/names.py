"""Names: from the bytes of a request to a path below the root.

Names are not trusted: RFC 1350 says only that they end with a NUL. The rules are in
docs/architecture.md.

A name is looked up as written, then ignoring case, because Windows ignores case. The second
look-up lists whole folders, which takes 1.3 ms an entry on an ESP32-C3. But most names that are
not found do not exist in any case: phones and PXE ask for ten of them at each start. So the hashes
of all paths are kept (the index), 4 bytes each: a path whose hash is not there does not exist, and
no folder is listed for it.

Folders are listed, for the index or for a name in another case, in slices between the turns of the
server's loop.
"""

import os
import sys
from array import array
from binascii import crc32
from errno import EISDIR, ENOENT
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from .packet import ACCESS, NOT_FOUND, UNDEFINED, Refused

_FOLDER = const(0x4000)  # bit of st_mode
_CARD = const("/card/")  # where a card is mounted (cards.py)
_ENOTDIR = const(20)  # not in MicroPython's errno
_MAX_COMPONENT = const(255)  # bytes; LittleFS
_JOBS = const(8)  # most jobs that may wait at a time


def components(name):
    """Split the name of a request (bytes) into the components of a path below the root (list of
    str).

    `\\` is read as `/` (Windows boot manager). A leading `/`, empty components and `.` are
    dropped. Raises Refused: NOT_FOUND for what can't be the name of a visible file, ACCESS for
    `..`.
    """
    # MicroPython keeps each character for good that it makes of a str, by an index or a loop: all
    # of Unicode would take more heap than there is. So what clients send is looked at as bytes.
    try:
        text = name.decode()
        if len(text) != len(name):  # else it is ASCII
            _check(name)
    except ValueError:
        raise Refused(NOT_FOUND, "name not UTF-8")
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    for part in parts:
        if part == "..":
            raise Refused(ACCESS, "'..' is not allowed")
        encoded = part.encode()
        control = min(encoded) < 32 or 127 in encoded
        if part.startswith(".") or control or len(encoded) > _MAX_COMPONENT:
            raise Refused(NOT_FOUND, "file not found")
    return parts


def _check(name):
    """Raise ValueError for what MicroPython decodes although it is no UTF-8 (RFC 3629 section 4):
    overlong forms (C0 AE for "."), surrogates, and what is behind U+10FFFF. Raise Refused for
    control characters from U+0080 on."""
    before = 0
    for one in name:
        two = before << 8 | one
        if (
            one in (0xC0, 0xC1)
            or one > 0xF4
            or 0xE080 <= two < 0xE0A0
            or 0xEDA0 <= two < 0xEDC0
            or 0xF080 <= two < 0xF090
            or 0xF490 <= two < 0xF4C0
        ):
            raise ValueError
        if 0xC280 <= two < 0xC2A0:
            raise Refused(NOT_FOUND, "file not found")
        before = one


def _hash(path):
    return crc32(path.lower().encode()) & 0x3FFFFFFF  # a small int takes no heap


def place(hashes, number):
    """The index of `number` in the sorted `hashes`, or where to insert it (binary search)."""
    low = 0
    high = len(hashes)
    while low < high:
        middle = (low + high) >> 1
        if hashes[middle] < number:
            low = middle + 1
        else:
            high = middle
    return low


class Later(Exception):
    """The answer is not known yet: ask again when Names.work() has returned True."""


class Names:
    """Looks up files and folders below the roots, which are searched in order.

    jobs     generators that list folders, one entry a step; work() runs the first
    deflate  whether one of the files is a compressed one (NAME.gz)
    """

    deflate = False

    def __init__(self, roots, most):
        """`roots`: folders without a `/` at their end; `most`: how many hashes may be kept."""
        self.roots = roots
        self.most = most
        self.jobs = []
        self.hashes = array("i")  # sorted
        self.indexed = False  # True once the hashes are complete; None if they are not kept

    def may_be(self, parts):
        """False if no path is `parts` (list of str), in any case. Quick: it lists no folder."""
        parts = "".join(["/" + part for part in parts])  # no further name: see Ports._run()
        for root in self.roots:  # noqa: SIM110 (a generator would cost a refusal 0.1 ms)
            if not parts or self._may_be(root + parts):
                return True
        return False

    def find(self, parts, found, roots=None):
        """Return (path, file) of what `parts` name: `file` is open for reading, None for a
        folder.

        found  results of the listing for this request: {} at first, the same dict again after
               Later
        roots  those to search, all without it

        Raises Refused, Later, OSError.
        """
        below = "".join(["/" + part for part in parts])
        for root in roots or self.roots:
            path = root + below
            if not parts or self._may_be(path):
                if path not in found:
                    try:
                        return path, self._open(path)
                    except Refused:  # no such file as written
                        pass
                    if self.indexed is not False and len(self.jobs) < _JOBS:
                        found[path] = None
                        self.jobs.append(self._search(root, path, parts, found))
                    raise Later
                if found[path] is None:
                    raise Later
                if found[path] == 0:  # the listing failed
                    raise Refused(UNDEFINED, "can't list the files, try again")
                if found[path]:
                    return found[path], self._open(found[path])
        raise Refused(NOT_FOUND, "file not found")

    def served(self, path, asked):
        """The name (bytes) that `path` has for clients: without its root. `asked`, the name of the
        request (bytes, b"" without one), is for rules.py."""
        lengths = [len(root) for root in self.roots if path.startswith(root + "/")]
        return path[lengths[0] :].encode()

    def _may_be(self, path):
        if not self.indexed:
            return True
        number = _hash(path)
        hashes = self.hashes
        at = place(hashes, number)
        return at < len(hashes) and hashes[at] == number

    def _open(self, path):
        """Open the file at `path`; None for a folder. Raises Refused, OSError.

        open() makes LittleFS search the folder once, os.stat() twice.
        """
        try:
            return open(path, "rb")
        except OSError as trouble:
            if trouble.errno == EISDIR or self._is_folder(path):
                return None
            if trouble.errno != ENOENT and trouble.errno != _ENOTDIR:
                raise
        raise Refused(NOT_FOUND, "file not found")

    def _is_folder(self, path):
        """Whether there is such a folder on a card. FAT gives ENOENT or EINVAL for it."""
        try:
            return (path + "/").startswith(_CARD) and os.stat(path)[0] & _FOLDER
        except OSError:
            return False

    def work(self, ms):
        """Run the first job for `ms` milliseconds. Returns True if it has come to its end."""
        end = ticks_add(ticks_ms(), ms)
        job = self.jobs[0]
        try:
            while ticks_diff(end, ticks_ms()) > 0:
                next(job)
        except StopIteration:
            del self.jobs[0]
            return True
        except Exception as trouble:
            del self.jobs[0]
            self.deflate = True  # for all that is known
            sys.print_exception(trouble)
            return True
        return False

    def add(self, path):
        """Call when a file was put at `path`: its hash is kept. If there are too many, drop them
        all and keep none."""
        if path[-3:].lower() == ".gz":
            self.deflate = True
        if self.indexed is None:
            return
        number = _hash(path)
        hashes = self.hashes
        at = place(hashes, number)
        if at < len(hashes) and hashes[at] == number:
            return
        try:
            if len(hashes) >= self.most:
                raise MemoryError
            hashes.append(number)
            view = memoryview(hashes)
            view[at + 1 :] = view[at:-1]
            hashes[at] = number
        except MemoryError:  # without hashes a name that does not exist takes longer
            self.indexed = None
            self.hashes = array("i")

    # -- jobs. Each lists to the end: an unfinished ilistdir() stays open until it is collected

    def _search(self, root, asked, parts, found):
        """Set found[asked] to the path that differs from `asked` only in case, "" without one.

        The path in lower case is tried first, as that needs no listing. Among several matches at
        one level the exact one goes first.
        """
        try:
            small = root + asked[len(root) :].lower()
            if small != asked:  # `asked` itself does not exist
                try:
                    file = self._open(small)
                    if file:
                        file.close()
                    found[asked] = small
                    return
                except Refused:
                    pass
                yield  # opening may have taken long
            matches = [root]
            for part in parts:
                folders = matches
                matches = []
                for folder in folders:
                    for entry in self.entries(folder):
                        if entry[0].lower() == part.lower():
                            at = 0 if entry[0] == part else len(matches)
                            matches.insert(at, folder + "/" + entry[0])
                        yield
            found[asked] = matches[0] if matches else ""
        except BaseException:
            found[asked] = 0
            raise

    def entries(self, folder):
        """What os.ilistdir() gives, without names that are not UTF-8 (on FAT). Nothing
        if `folder` is not a folder."""
        try:
            entries = os.ilistdir(folder)
        except OSError:
            return
        while True:
            try:
                yield next(entries)  # an ESP32's next() takes no default (v1.24.0)
            except StopIteration:
                return
            except UnicodeError:
                pass
