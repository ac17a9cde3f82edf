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
_MANY = const(0x2A)  # *
_OPEN = const(0x5B)  # [
_NOT = const(0x21)  # !
_REFUSES = const(4)


def _plain(name):
    """The name of a request (bytes) as rules see it: normalised, without the 0xFF of old PXE ROMs
    (Files.place). Raises Refused."""
    return "/".join(components(name.rstrip(b"\xff"))).encode()


def span(rule, name):
    """Return which bytes of `name` (in small letters) the last `*` in the pattern of `rule` stands
    for: (the first, behind the last). None if the name does not match."""
    at = 1  # in the pattern, which ends with a NUL
    here = 0  # in the name
    star = 0  # behind the last `*` so far, which stands for:
    first = behind = 0
    while True:
        one = rule[at]
        if one == _MANY:
            at += 1
            star = at
            first = behind = here
            if rule[at]:
                continue
            return first, len(name)
        if here == len(name):
            return None if one else (first, behind)
        end = at
        fits = one == _ANY or one == name[here]
        if one == _OPEN:
            other = rule[at + 1] == _NOT
            end = rule.find(b"]", at)
            fits = (name[here] in rule[at + 1 + other : end]) != other
        if fits:
            at = end + 1
            here += 1
            # A whole character of UTF-8 for ? and [!a].
            while one in (_ANY, _OPEN) and here < len(name) and name[here] & 0xC0 == 0x80:
                here += 1
        elif star:
            at = star
            here = behind = behind + 1
        else:
            return None


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


def _ruled(place, rules, opcode):
    """`place`, the method of Files or Uploads, under `rules`."""

    def ruled(name, host, found):
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

    return ruled


def rule(rules, files, uploads):
    """Have `files` (Files) and `uploads` (Uploads, or None) follow the `rules` (rulebook.py)."""
    files.place = _ruled(files.place, rules, RRQ)
    if uploads:
        uploads.place = _ruled(uploads.place, rules, WRQ)
    served = files.names.served

    def told(path, asked):
        """For the journal: also what was asked, if that is another name. Returns bytes or str."""
        path = served(path, asked)
        if not asked or path[1:].lower() == _plain(asked).lower():
            return path
        return "%s -> %s" % (quoted(asked), quoted(path))

    files.names.served = told
