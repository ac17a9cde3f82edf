"""The tree that is served: which names are visible, and how a file is opened.

Names come from strangers: RFC 1350 says only that they end with a NUL. The rules are in
docs/architecture.md.
"""

import os

from .netascii import NetasciiSource
from .packet import ACCESS, NOT_FOUND, Refused

_FOLDER = 0x4000  # bit of st_mode
_MAX_COMPONENT = 255  # LittleFS


class OctetSource:
    """Blocks of a file as they are; after a rollback they are read again."""

    def __init__(self, file, agreed):
        """`file`: opened for reading in binary; `agreed`: options.Agreed."""
        self._file = file
        self._blksize = agreed.blksize
        self.close = file.close
        # Fills a memoryview with the next blocks; fewer bytes at the end of the file only.
        self.readinto = file.readinto

    def seek(self, block):
        """Go to `block` (from 1, not wrapped)."""
        self._file.seek((block - 1) * self._blksize)


def components(name):
    """Split the name of a request (bytes) into the components of a path below the root (list of
    str).

    `\\` is read as `/` (Windows boot manager); a leading `/`, empty components and `.` are
    dropped. Raises Refused: NOT_FOUND for what can't be the name of a visible file, ACCESS for
    `..`.
    """
    try:
        text = name.decode()
        # MicroPython lets over-long forms pass (C0 AE for "."); written anew they are another
        # text.
        if "".join([chr(ord(character)) for character in text]) != text:
            raise UnicodeError
    except UnicodeError:
        raise Refused(NOT_FOUND, "file name is not UTF-8")
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    for part in parts:
        if part == "..":
            raise Refused(ACCESS, "'..' is not allowed in a file name")
        control = any(ord(character) < 32 or ord(character) == 127 for character in part)
        if part[0] == "." or control or len(part.encode()) > _MAX_COMPONENT:
            raise Refused(NOT_FOUND, "file not found")
    return parts


class Store:
    """The files below `root` (an absolute path on the board)."""

    def __init__(self, root):
        self._root = root.rstrip("/")

    def find(self, name):
        """The path and the size in bytes of the file with that name (bytes of a request). Raises
        Refused."""
        parts = components(name)
        path = self._root + "".join(["/" + part for part in parts])
        try:
            stat = os.stat(path)
        except OSError:
            path = self._find_any_case(parts)
            stat = os.stat(path)
        if stat[0] & _FOLDER:
            raise Refused(ACCESS, "is a folder, not a file")
        return path, stat[6]

    def _find_any_case(self, parts):
        # For Windows, whose names have no case. An exact match goes first at each level.
        path = self._root
        for part in parts:
            try:
                names = [entry[0] for entry in os.ilistdir(path)]
            except OSError:  # a file where a folder is asked for
                names = ()
            if part not in names:
                names = [name for name in names if name.lower() == part.lower()]
                if not names:
                    raise Refused(NOT_FOUND, "file not found")
                part = names[0]
            path += "/" + part
        return path

    def open(self, path, mode, agreed):
        """The source of blocks for `path`; `mode` is "octet" or "netascii". Raises OSError."""
        file = open(path, "rb")
        if mode == "netascii":
            return NetasciiSource(file, agreed)
        return OctetSource(file, agreed)
