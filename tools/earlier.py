"""What an earlier image of a board has of its user: files, folders and settings (`image --update`)."""

from dataclasses import dataclass
from typing import Any

from . import PROGRAM, ToolError, boards

_SETTINGS = "/settings.json"
_SERVER = {"/boot.py", "/main.py", "/board.json", _SETTINGS, "/crash.log"}
_PACKAGE = "/lib/tftpd/"
_UPLOADS = "/.uploads"  # as in firmware/tftpd/files.py
_ASIDE = ".old"
_PART = "/.deploy-"  # as in deploy.py


@dataclass(frozen=True)
class Earlier:
    """`files`: contents by absolute path, without those of the server at fixed places; `folders`: absolute paths, empty
    ones too; `settings`: checked."""

    files: dict[str, bytes]
    folders: list[str]
    settings: dict[str, Any]

    def kept(self, server: dict[str, bytes]) -> dict[str, bytes]:
        """The user's files. `server`: the files of the new server, by absolute path."""
        # A module may have been a .py file, which `import` prefers.
        modules = {path.partition(".")[0] for path in server if path.startswith("/lib/")}
        return {path: data for path, data in self.files.items() if path.partition(".")[0] not in modules}


def sort(name: object, files: dict[str, bytes], folders: list[str], other_settings: bool) -> Earlier:
    """Take the user's from all `files` and `folders` of the image called `name`; its settings too, unless there are
    `other_settings`. Raises ToolError."""
    if "/board.json" not in files and not any(path.startswith(_PACKAGE) for path in files):
        raise ToolError(
            f"{name} has no server in it: give an image of {PROGRAM} image, or a copy of a board's whole flash"
        )
    try:
        raw = b"{}" if other_settings else files.get(_SETTINGS, b"{}")
        settings = boards.parse_settings(raw, name)
        boards.check_settings(settings, [], name)
    except ToolError as error:
        raise ToolError(f"{error}: give others with --settings FILE") from None
    return Earlier(_users(files), [path for path in folders if path != _UPLOADS], settings)


def _users(files: dict[str, bytes]) -> dict[str, bytes]:
    passing = (f"{_UPLOADS}/", _PART, _PACKAGE)
    users = {path: data for path, data in files.items() if path not in _SERVER and not path.startswith(passing)}
    # A file that was being read while an upload replaced it, which was not complete yet: the board would put it back
    # at its next start (firmware/tftpd/uploads.py).
    for path in sorted(files, reverse=True):
        note = files.get(path.removesuffix(_ASIDE)) if path.startswith(f"{_UPLOADS}/") else None
        if path.endswith(_ASIDE) and note:
            users.setdefault(note.decode(errors="replace"), files[path])
    return users
