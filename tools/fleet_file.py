"""The TOML file of a fleet: which boards there are, and what each is to serve (docs/fleet.md)."""

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import ToolError, boards, compress, monitor, remote

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # only Python 3.10 needs it

_PARALLEL = 8
_LIMIT_S = 600
_MOST_BYTES = 1 << 20
_SECRETS = ("password", "setup_password", "http_password")


@dataclass(frozen=True)
class Board:
    """A board as the file has it.

    device    its serial port, None for one that is reached over the network only
    address   (scheme, host, port), as of remote.parse(); None for one without
    facts     of its type, from board.json; None if the file does not say
    files     the folder that it is to serve
    compress  which files to store compressed, None for none
    delete    whether files that are not in the folder are removed
    settings  those that it is to have, with secrets if it is reached by wire
    password  for HTTP
    limit     seconds until it is given up
    """

    name: str
    device: str | None
    address: tuple[str, str, int] | None
    facts: dict[str, Any] | None
    files: Path
    compress: str | None
    delete: bool
    settings: dict[str, Any]
    password: str | None
    limit: int

    @property
    def where(self) -> str:
        return self.device or (remote.url_of(*self.address) if self.address else "")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ToolError(f"must be a text, not {_shown(value)}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ToolError(f"must be true or false, not {_shown(value)}")
    return value


def _number(most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise ToolError(f"must be a whole number from 1 to {most}, not {_shown(value)}")
        return value

    return check


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ToolError(f"must be a table, not {_shown(value)}")
    return value


def _compress(value: Any) -> str:
    if value not in (compress.AUTO, compress.ALL):
        raise ToolError(f'must be "{compress.AUTO}" or "{compress.ALL}", not {_shown(value)}')
    return value


def _settings(value: Any) -> dict[str, Any]:
    for name, one in _table(value).items():
        if name in _SECRETS:
            raise ToolError(f"{name} is a secret: name a variable of the environment that has it, in `secrets`")
        try:
            json.dumps(one, allow_nan=False)
        except (TypeError, ValueError):
            raise ToolError(f"{name} can't be {_shown(one)}") from None
    return value


def _secrets(value: Any) -> dict[str, str]:
    for name, variable in _table(value).items():
        if name not in _SECRETS:
            near = boards.nearest(name, _SECRETS)
            raise ToolError(f"no secret is called {json.dumps(name)}{near or ': they are ' + ', '.join(_SECRETS)}")
        if not isinstance(variable, str) or not variable:
            raise ToolError(f"{name} must be the name of a variable of the environment, not {_shown(variable)}")
    return value


def _shown(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)[:80]


# What [defaults] may have, and a board, with what checks it.
_DEFAULTS: dict[str, Callable[[Any], Any]] = {
    "board": lambda value: boards.load(_text(value)),
    "files": lambda value: boards.parse_path(_text(value)),
    "compress": _compress,
    "delete": _flag,
    "limit": _number(86400),
    "settings": _settings,
    "secrets": _secrets,
}
_BOARD = {
    "device": lambda value: monitor.parse_device(_text(value)),
    "address": lambda value: remote.parse(_text(value)),
    **_DEFAULTS,
}
_TOP: dict[str, Callable[[Any], Any]] = {"parallel": _number(256), "defaults": _table, "boards": _table}


def load(path: Path, names: list[str]) -> tuple[list[Board], int]:
    """The boards of a file whose names match one of `names`, with * and ?, all without; and how many are done at once.
    Raises ToolError, which names the board and the key."""
    try:
        text = boards.read_bytes(path, _MOST_BYTES).decode()
        told = tomllib.loads(text)
    except UnicodeError:
        raise ToolError(f"{path} is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ToolError(f"{path} is not TOML: {error}") from None
    top = _checked(told, _TOP, str(path), "")
    defaults = _checked(top.get("defaults", {}), _DEFAULTS, str(path), "defaults.")
    every = {
        name: _merged(defaults, _checked(_under(table, path, name), _BOARD, str(path), f"boards.{name}."))
        for name, table in top.get("boards", {}).items()
    }
    if not every:
        raise ToolError(f"{path}: it has no board: give each a table [boards.NAME]")
    _check_places(every, path)
    chosen = [name for name in every if not names or any(fnmatch.fnmatchcase(name, one) for one in names)]
    for one in names:
        if not any(fnmatch.fnmatchcase(name, one) for name in chosen):
            raise ToolError(f"{path}: no board is called {one}{boards.nearest(one, every)}")
    return [_board(name, every[name], path) for name in chosen], top.get("parallel", _PARALLEL)


def _under(table: Any, path: Path, name: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ToolError(f"{path}: boards.{name} must be a table, not {_shown(table)}")
    return table


def _checked(table: dict[str, Any], keys: dict[str, Callable[[Any], Any]], path: str, where: str) -> dict[str, Any]:
    result = {}
    for key, value in table.items():
        if key not in keys:
            near = boards.nearest(key, keys) or f": there are {', '.join(keys)}"
            raise ToolError(f"{path}: {where}{key}: no such key{near}")
        try:
            result[key] = keys[key](value)
        except (ToolError, argparse.ArgumentTypeError) as error:
            raise ToolError(f"{path}: {where}{key}: {error}") from None
    return result


def _merged(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    tables = {key: {**defaults.get(key, {}), **own.get(key, {})} for key in ("settings", "secrets")}
    return {**defaults, **own, **tables}


def _check_places(every: dict[str, dict[str, Any]], path: Path) -> None:
    # Raise ToolError unless each board can be reached, by ways that no other board has.
    taken: dict[Any, str] = {}
    for name, board in every.items():
        if not board.keys() & {"device", "address"}:
            raise ToolError(f"{path}: boards.{name}: it needs a device (its serial port) or an address")
        if "files" not in board:
            raise ToolError(f"{path}: boards.{name}: it needs files, the folder to serve")
        if "device" in board and "firmware" not in board.get("board", {}):
            raise ToolError(f"{path}: boards.{name}: with a device it needs board, a type that has a serial port")
        if "device" not in board and board["address"][0] == "tftp" and board.get("delete"):
            raise ToolError(f"{path}: boards.{name}.delete: TFTP can't remove files, give an http:// address")
        for key in ("device", "address"):
            if (place := board.get(key)) and taken.setdefault(place, name) != name:
                raise ToolError(f"{path}: boards.{name}.{key}: that is the {key} of {taken[place]}, too")


def _board(name: str, board: dict[str, Any], path: Path) -> Board:
    device, address, secrets = board.get("device"), board.get("address"), board["secrets"]
    if not device:  # over the network only HTTP wants one
        wanted = "http_password" if address and address[0] == "http" else ""
        secrets = {key: variable for key, variable in secrets.items() if key == wanted}
    values = {}
    for key, variable in secrets.items():
        values[key] = os.environ.get(variable, "")
        if not values[key]:
            raise ToolError(f"{path}: boards.{name}.secrets.{key}: the variable {variable} is not set, or empty")
    settings = board["settings"] | (values if device else {})
    if settings:
        boards.check_settings(settings, [], f"{path}: boards.{name}.settings")
    folder = path.parent / board["files"]
    if not folder.is_dir():
        raise ToolError(f"{path}: boards.{name}.files: {folder} is not a folder")
    if board.get("delete") and not any(folder.iterdir()):  # as after a build that failed
        raise ToolError(f"{path}: boards.{name}.delete: {folder} is empty, so this would remove all from the board")
    return Board(
        name,
        device,
        address,
        board.get("board"),
        folder,
        board.get("compress"),
        board.get("delete", False),
        settings,
        values.get("http_password"),
        board.get("limit", _LIMIT_S),
    )
