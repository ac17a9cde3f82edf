"""Send a file to a device that waits for one, such as a router in its boot loader: ask until it takes it, over TFTP.

Boot loaders know no options of TFTP, so none are asked for.
"""

import argparse
import re
import time

from . import ToolError, boards, remote

_UNITS = {"ms": 0.001, "": 1, "s": 1, "m": 60}


def _parse_seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|)", text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"not a time: {text}; it is a number with ms, s or m, such as 1s")
    return seconds


def _parse_address(text: str) -> tuple[str, int]:
    host, colon, port = text.partition(":")
    if not host or "/" in text or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise argparse.ArgumentTypeError(f"not the address of a device: {text}; it is HOST or HOST:PORT")
    return host, int(port or 69)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=boards.parse_path, metavar="FILE")
    parser.add_argument("address", type=_parse_address, metavar="ADDRESS", help="of the device: HOST or HOST:PORT")
    parser.add_argument("--name", help="what the file is called there (default: as it is here)")
    parser.add_argument(
        "--every",
        type=_parse_seconds,
        default=1.0,
        metavar="TIME",
        help="time between two questions, and until a lost block is sent again (default: 1s)",
    )
    parser.add_argument(
        "--until",
        type=_parse_seconds,
        default=60.0,
        metavar="TIME",
        help="how long to ask, and how long the device may be silent (default: 60s)",
    )


def run(arguments: argparse.Namespace) -> int:
    device = remote.Tftp(*arguments.address)
    device.options = False
    device.repeat = arguments.every
    end = time.monotonic() + arguments.until
    name = arguments.name or arguments.file.name
    with remote.progress() as begin:
        told = begin(name)
        while True:
            device.patience = max(arguments.every, end - time.monotonic())
            try:
                with arguments.file.open("rb") as file:
                    device.write(name, file, told)
                return 0
            except OSError as error:
                raise ToolError(f"can't read {arguments.file}: {error.strerror}") from None
            except remote.Lost as error:  # the network is down while the device starts
                if isinstance(error, remote.Busy) or time.monotonic() + arguments.every >= end:
                    raise
                time.sleep(arguments.every)
