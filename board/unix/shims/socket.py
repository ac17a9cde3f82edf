"""`socket` for the everyday board: the Unix port's module with a limit on the number of sockets,
as on a real board."""

import errno

import usocket
from usocket import *  # noqa: F403  # pyright: ignore[reportAssignmentType]

_limit = 0
_opened = []


def limit(number):
    """Allow at most `number` sockets at a time; 0 for no limit."""
    global _limit
    _limit = number


def socket(*arguments):
    if _limit:
        _opened[:] = [one for one in _opened if one.fileno() >= 0]
        if len(_opened) >= _limit:
            raise OSError(errno.ENOMEM)  # as on a Pico W
    one = usocket.socket(*arguments)
    if _limit:
        _opened.append(one)
    return one
