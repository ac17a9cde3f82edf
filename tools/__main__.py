"""`python -m tools COMMAND`: one module a command, each with add_arguments(parser) and run(arguments) -> exit status."""

import argparse
import sys
from typing import NoReturn

from . import ToolError, bench, emulate

COMMANDS = {"emulate": emulate, "bench": bench}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ToolError(f"{message} (see {self.prog} --help)")


def main() -> int:
    parser = Parser(prog="python -m tools", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    try:
        arguments = parser.parse_args()
        return arguments.run(arguments)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


sys.exit(main())
