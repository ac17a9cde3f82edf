"""Emulators of real boards that run the genuine MicroPython firmware: one program a family, all with one contract.

`python -m tools.emulators.picow IMAGE.uf2 ...`, `python -m tools.emulators.qemu --chip CHIP FLASH.bin ...`, and evb.
- Standard output is the board's serial console, and nothing else.
- Datagrams to --host and --port reach the board's port 69 and are answered (bridge.py). So do connections to --tcp.
- SIGINT is Ctrl-C on the console. The program exits with status 0 when the console shows that the server stopped, or
  after a time limit. SIGTERM is a power cut: the program exits at once, with the flash as it is at that moment.
- A reset of the board reboots it inside the emulator.
- An error is one line on standard error and status 1.
"""

import argparse
import selectors
import signal
import sys
from collections.abc import Callable

from .. import ToolError
from .bridge import Bridge
from .console import Console

_MDNS = 5353  # the port of RFC 6762
_DHCP = 67  # the server's port of RFC 2131


class Wiring:
    """Connects an emulated board to its network, its console and the signals of this process.

    over  True once the emulator should exit
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        to_board: Callable[[bytes], object],
        to_console: Callable[[bytes], object],
        patience: float,
    ) -> None:
        """
        arguments   host, port, board_port, board_address, mdns, tcp, dhcp, serial (add_arguments)
        to_board    delivers an Ethernet frame to the board
        to_console  delivers console input to the board
        patience    seconds that the board may take to stop after SIGINT
        """
        self.selector = selectors.DefaultSelector()
        place = arguments.host, arguments.port, arguments.board_port
        self.bridge = Bridge(self.selector, *place, to_board, arguments.board_address)
        if arguments.mdns is not None:
            self.bridge.listen(arguments.mdns, _MDNS, "--mdns")
        if arguments.dhcp is not None:
            self.bridge.listen(arguments.dhcp, _DHCP, "--dhcp")
        if arguments.tcp:
            self.bridge.forward(arguments.tcp)
        self.console = Console(self.selector, to_console, arguments.serial)
        self._patience = patience
        self._unplugged = False
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._unplug)

    def _interrupt(self, *_: object) -> None:
        self.console.interrupt(self._patience)

    def _unplug(self, *_: object) -> None:
        self._unplugged = True

    @property
    def over(self) -> bool:
        return self._unplugged or self.console.over

    def poll(self, seconds: float) -> None:
        """Forward data from the host; wait at most `seconds` for it."""
        for key, _ in self.selector.select(seconds):
            key.data()
        self.bridge.turn()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all emulators share."""
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, required=True, help="UDP port forwarded to the board")
    parser.add_argument(
        "--board-port", type=int, default=69, metavar="PORT", help="port on the board (default: %(default)s)"
    )
    parser.add_argument("--board-address", metavar="ADDR", help="what the board has, if it does not get one by DHCP")
    parser.add_argument("--mdns", type=int, metavar="PORT", help="also forward this UDP port to the board's mDNS")
    parser.add_argument("--tcp", type=int, metavar="PORT", help="also forward this TCP port to the same of the board")
    parser.add_argument(
        "--dhcp", type=int, metavar="PORT", help="broadcast what comes to this UDP port to the board's DHCP port"
    )
    parser.add_argument(
        "--serial", type=int, metavar="PORT", help="also offer the console to mpremote connect socket://127.0.0.1:PORT"
    )


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    """Run an emulator as a program. Never returns."""
    try:
        run(parser.parse_args())
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
