"""`python -m tools COMMAND`. Each command is a module with add_arguments(parser) and run(arguments) -> exit status."""

import argparse
import importlib
import os
import sys
from typing import NoReturn

from . import ToolError, printable

COMMANDS = {
    "emulate": "boot an emulated board that serves a folder",
    "boards": "list the boards",
    "firmware": "download MicroPython's firmware for a board into the cache",
    "image": "build the one file to flash on a board",
    "flash": "flash that file on a board, and wait until the board serves",
    "deploy": "update a running board without flashing it: copy only what changed",
    "ls": "list the files of a running board",
    "get": "fetch files from a running board",
    "put": "store files on a running board",
    "rm": "remove files from a running board",
    "df": "show how much room a running board has",
    "check": "compare a running board with a folder",
    "monitor": "show a board's console live",
    "try-rules": "show what the rules for names make of a name, step by step",
    "bench": "measure the server against its budgets and against other servers",
}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ToolError(f"{message} (see {self.prog} --help)")


def main() -> int:
    listing = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="python -m tools",
        description=f"The host side of micropython-tftpd.\n\ncommands:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="COMMAND --help lists its options")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    if len(sys.argv) == 1:
        parser.print_help()
        return 0
    try:
        name = parser.parse_args(sys.argv[1:2]).command
        module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
        command = Parser(prog=f"python -m tools {name}", description=module.__doc__)
        module.add_arguments(command)
        status = module.run(command.parse_args(sys.argv[2:]))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ToolError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


sys.exit(main())
