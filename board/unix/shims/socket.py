"""`socket` for the everyday board: the Unix port's module with a limit on the number of sockets,
as on a real board, and another number for TCP port 80, which on a computer may be taken."""

import errno

import usocket
from usocket import *  # noqa: F403  # pyright: ignore[reportAssignmentType]

_limit = 0
_page_port = 80
_opened = []


def limit(number):
    """Allow at most `number` sockets at a time; 0 for no limit."""
    global _limit
    _limit = number


def instead_of_80(port):
    """Open that port where the board opens port 80."""
    global _page_port
    _page_port = port


def getaddrinfo(host, port, *more):
    return usocket.getaddrinfo(host, _page_port if port == 80 else port, *more)


def socket(*arguments):
    if _limit:
        _opened[:] = [one for one in _opened if one.fileno() >= 0]
        if len(_opened) >= _limit:
            raise OSError(errno.ENOMEM)  # as on a Pico W
    one = usocket.socket(*arguments)
    if _limit:
        _opened.append(one)
    return one
