"""Show what the rules of the settings make of a name: each step, and what the client gets.

The answer comes from the board's own code, run on the everyday board without its network.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from . import ToolError, boards, filesystem, printable

_SECONDS = 60
_OPS = ("read", "write")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the name that the client asks for")
    parser.add_argument(
        "--from", dest="host", required=True, type=boards.parse_address, metavar="ADDRESS", help="the client's address"
    )
    parser.add_argument("--op", choices=_OPS, default="read", help="read or write (default: %(default)s)")
    parser.add_argument("--settings", type=boards.parse_path, metavar="FILE", help="the board's settings.json")
    parser.add_argument(
        "--files",
        type=boards.parse_path,
        metavar="DIR",
        help="the folder that the board serves; without it nothing is looked up",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting (docs/settings.md); may be repeated"
    )


def run(arguments: argparse.Namespace) -> int:
    settings = boards.read_settings(arguments.settings) if arguments.settings else {}
    settings = boards.check_settings(settings, arguments.set, arguments.settings)
    name, host, op = os.fsencode(arguments.name), arguments.host, arguments.op
    (told,) = answers(settings, arguments.files, [(name, host, op)])
    for title, text in [(op, f"{arguments.name} from {host}"), *describe(told, settings.get("rules") or [], host, op)]:
        print(f"{title:8}{printable(text)}")
    return 1 if isinstance(told["result"], str) else 0


def answers(settings: dict[str, Any], files: Path | None, questions: list[tuple[bytes, str, str]]) -> list[Any]:
    """What a board with these (checked) `settings` answers (board/unix/try_rules.py). Raises ToolError.

    files      the folder that it serves, None for an empty one
    questions  name, address of the client, "read" or "write"
    """
    board = boards.load("unix")
    layout = board["filesystem"]
    with tempfile.TemporaryDirectory(prefix="tftpd-") as name:  # of mode 0700: the settings may hold a password
        flash, empty = Path(name) / "flash.img", Path(name) / "empty"
        empty.mkdir()
        served = filesystem.served(files or empty, settings)
        for warning in served.warnings:
            boards.warn(warning)
        contents = served.files | filesystem.board_files(settings, board["settings"])
        contents["/boot.py"] = b""
        contents["/main.py"] = (boards.ROOT / "board/unix/try_rules.py").read_bytes()
        listed = [(list(one), host, op) for one, host, op in questions]
        contents["/questions.json"] = json.dumps({"look_up": files is not None, "questions": listed}).encode()
        blocks = 256 + sum(len(data) // 4000 + 3 for data in contents.values())  # ample
        size = blocks * layout["block_size"]
        flash.write_bytes(filesystem.build(layout, size, contents, folders=served.folders))
        command = boards.everyday(flash, layout, 8 << 20)
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise ToolError(f"the board has not answered within {_SECONDS} s") from None
    said = [line.removeprefix("answer ") for line in result.stdout.splitlines() if line.startswith("answer ")]
    if len(said) != len(questions):
        raise ToolError(f"the board has failed: {(result.stdout + result.stderr).strip().splitlines()[-1:]}")
    return [json.loads(line) for line in said]


def describe(told: dict[str, Any], rules: list[dict[str, Any]], host: str, op: str) -> list[tuple[str, str]]:
    """The steps of an answer, pairs of a title and a text."""
    lines = [("name", told["plain"])] if told["plain"] is not None else []
    why_not = {"op": f"not for {op}", "name": "another name", "from": f"not for {host}"}
    for number, outcome in told["rules"]:
        rule = rules[number - 1]
        what = " ".join([rule["name"], *(f"{key} {_listed(rule[key])}" for key in ("op", "from") if key in rule)])
        lines.append((f"rule {number}", f"{what}: {why_not.get(outcome) or 'gives ' + _listed(rule['give'])}"))
    if told["plain"] is not None and not (told["rules"] and told["rules"][-1][1] == "match"):
        lines.append(("rules", "none for this request: the name stays" if rules else "none are set"))
    lines += [("try", f"{name}: {_found(there)}") for name, there in told["names"]]
    return [*lines, ("result", _found(told["result"]))]


def _listed(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _found(there: Any) -> str:
    if isinstance(there, str):
        return f"refused, {there}"
    return there[0] if there[1] is None else f"{there[0]}, {there[1]:,} bytes"
