"""Rules for names: a rule gives another name in place of the one that a client asks for, or
refuses it. Loaded only where the setting `rules` is set. docs/rules.md explains them, rulebook.py
how they are packed.

What a rule gives is looked up like the name of a request: no rule reaches what is not served.
"""

from micropython import const

from .access import Ranges
from .journal import quoted
from .names import components
from .packet import ACCESS, RRQ, WRQ, Refused

_ANY = const(0x3F)  # ?
_OPEN = const(0x5B)  # [
_NOT = const(0x21)  # !
_MANY = const(b"\x06")  # *
_REFUSES = const(4)


def _plain(name):
    """The name of a request (bytes) as rules see it: normalised, without the 0xFF of old PXE ROMs
    (Files.place). Raises Refused."""
    return "/".join(components(name.rstrip(b"\xff"))).encode()


def _ends(piece, name, at):
    """Where `piece`, a pattern without `*`, ends in `name` from `at` on; -1 if it does not fit."""
    here = 0
    while here < len(piece):
        if at >= len(name):
            return -1
        one = piece[here]
        fits = one == _ANY or one == name[at]
        if one == _OPEN:
            other = piece[here + 1] == _NOT
            members = here + 1 + other
            here = piece.find(b"]", here)
            fits = (name[at] in piece[members:here]) != other
        if not fits:
            return -1
        here += 1
        at += 1
        # A whole character of UTF-8 for ? and [!a].
        while one in (_ANY, _OPEN) and at < len(name) and name[at] & 0xC0 == 0x80:
            at += 1
    return at


def span(rule, name):
    """Return which bytes of `name` (in small letters) the last `*` in the pattern of `rule` stands
    for: (the first, behind the last). None if the name does not match."""
    piece, *pieces = rule[1 : rule.find(b"\0")].split(_MANY)
    first = begin = 0
    end = _ends(piece, name, 0)
    while pieces:
        if end < 0:
            return None
        first = begin = end
        piece = pieces.pop(0)
        # Search a plain one in one go: the client chooses how long the name is.
        plain = b"?" not in piece and b"[" not in piece
        if not pieces:  # it must end the name
            begin = max(begin, len(name) - len(piece) * (1 if plain else 4))
        elif plain:
            begin = name.find(piece, begin)
        end = -1
        while 0 <= begin <= len(name):
            end = _ends(piece, name, begin)
            if end == len(name) or (pieces and end >= 0):
                break
            if plain:
                return None
            end = -1
            begin += 1
    return (first, begin) if end == len(name) else None


def given(rules, opcode, name, host):
    """Return the names (list of bytes) that the first rule for `name` (bytes, as _plain() gives
    them) gives; None without one. `opcode`: RRQ or WRQ. Raises Refused."""
    small = name.lower()
    for number, rule in enumerate(rules, 1):
        found = span(rule, small) if rule[0] & opcode else None
        if found:
            ranges, *names = rule.split(b"\0")[1:]
            if ranges and host not in Ranges(ranges.decode().split(" ")):
                continue
            if rule[0] & _REFUSES:
                raise Refused(ACCESS, names[0].decode() or "denied by rule %d" % number)
            hexip = "".join(["%02X" % int(one) for one in host.split(".")])
            last = name.split(b"/")[-1]
            values = name, last, name[found[0] : found[1]], host.encode(), hexip.encode()
            for one, value in enumerate(values, 1):  # which has none of these bytes itself
                names = [text.replace(bytes((one,)), value) for text in names]
            return names
    return None


def ruled(place, rules, opcode):
    """`place`, the method of Files or Uploads, under `rules`. `opcode`: RRQ or WRQ."""

    def chosen(name, host, found):
        if opcode == WRQ and name[-1:] in b"/\\":
            return place(name, host, found)  # which refuses a folder
        names = given(rules, opcode, _plain(name), host)
        if names is None:
            return place(name, host, found)
        if opcode == WRQ:
            return place(names[0], host, found)
        ways = []
        for name in names:
            try:
                ways += place(name, host, found)
            except Refused:
                if not ways and name is names[-1]:
                    raise
        return ways

    return chosen


def rule(rules, files):
    """Have `files` (Files) follow the `rules` (rulebook.py)."""
    files.place = ruled(files.place, rules, RRQ)
    served = files.names.served

    def told(path, asked):
        """For the journal: also what was asked, if that is another name. Returns bytes or str."""
        path = served(path, asked)
        if not asked or path[1:].lower() == _plain(asked).lower():
            return path
        return "%s -> %s" % (quoted(asked), quoted(path))

    files.names.served = told
