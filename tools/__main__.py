"""`mptftpd COMMAND`. Each command is a module with add_arguments(parser) and run(arguments) -> exit status."""

import argparse
import importlib
import os
import sys
from typing import NoReturn

from . import PROGRAM, ToolError, boards, printable, version

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
    "push": "send a file to a device that waits for one, as routers do",
    "rm": "remove files from a running board",
    "df": "show how much room a running board has",
    "check": "compare a running board with a folder",
    "fleet": "bring many boards to the state that a file describes",
    "monitor": "show a board's console live",
    "try-rules": "show what the rules for names make of a name, step by step",
    "doctor": "say what this computer lacks, and how to mend it",
    "completion": "print what makes the shell complete these commands",
    "bench": "measure the server against its budgets and against other servers",
}
# Exit statuses; docs/commands.md describes them.
FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


class UsageError(ToolError):
    """The command line is wrong."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def make_parser(words: list[str]) -> Parser:
    """The parser of all commands. Only the one among the `words` of the command line has its options: its module alone
    is imported."""
    chosen = next((word for word in words if word in COMMANDS), "")
    parser = Parser(
        prog=PROGRAM,
        description=f"The host side of micropython-tftpd. {PROGRAM} COMMAND --help lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"micropython-tftpd {version()}")
    parser.set_defaults(prog=PROGRAM)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == chosen:
            module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
            command.description = module.__doc__
            command.set_defaults(run=module.run, prog=command.prog)
            module.add_arguments(command)
            command.add_argument("--quiet", action="store_true", help="show no progress, only the result and warnings")
    return parser


def complete() -> None:
    """Answer the shell (completion.py). Never returns."""
    import argcomplete

    argcomplete.autocomplete(make_parser(os.environ["COMP_LINE"].split()))


def main() -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if "_ARGCOMPLETE" in os.environ:
            complete()
        parser = make_parser(sys.argv[1:])
        if len(sys.argv) == 1:
            parser.print_help()
            return 0
        arguments, unknown = parser.parse_known_args()
        if unknown:
            raise UsageError(f"unrecognized arguments: {' '.join(unknown)} (see {arguments.prog} --help)")
        if arguments.quiet:
            boards.be_quiet()
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ToolError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
