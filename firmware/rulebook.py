"""Checks the setting `rules`, and packs each rule into a few bytes for tftpd/rules.py. Loaded by
settings.py where rules are set; removes itself.

A packed rule is bytes: what it is for (1 reading, 2 writing, 3 both; 4 more if it refuses), the
pattern in small letters with a byte 6 for each `*`, a NUL, ranges with a space between them, and
behind one NUL each the names that it gives, with a byte from 1 to 5 for a placeholder, or the
words of the refusal.
"""

import json
import sys

from micropython import const

_REFUSES = const(4)
_MANY = const("\x06")
_BAD = const(999)  # no ASCII code
_KEYS = const(("name", "from", "op", "give", "text"))
_OPS = const(("read", "write", "both"))
_PLACEHOLDERS = const(
    ("name", "file", "*", "ip", "hexip")
)  # bytes 1 to 5; tftpd/rules.py gives values


def _name(value, key, is_text):
    """`value` (of `key`) without what components() drops from a name."""
    if not is_text(value, 1, 255):
        raise ValueError(key + " must be a text of 1 to 255 bytes")
    value = value.replace("\\", "/").lstrip("/")
    if any([part[:1] in ("", ".") for part in value.split("/")]):
        raise ValueError("%s: no such name is served" % key)
    return value


def _pattern(value):
    """`value` in small letters, with each range in its brackets written out."""
    done, *pieces = value.lower().split("[")
    done = done.replace("*", _MANY)
    for piece in pieces:
        members, bracket, rest = piece.partition("]")
        done += "["
        if members[:1] in ("!", "^"):
            done += "!"
            members = members[1:]
        codes = []
        while members:
            low = high = ord(members[0])
            if members[1:2] == "-" and members[2:]:
                high = ord(members[2])
                members = members[2:]
            codes.extend(range(low, high + 1) if low <= high < 128 else (_BAD,))
            members = members[1:]
        if not bracket or not codes or _BAD in codes or ord("]") in codes:
            raise ValueError("name: [ must be followed by ASCII characters and ]")
        done += "".join([chr(code) for code in codes]) + bracket + rest.replace("*", _MANY)
    return done


def _given(value, pattern, is_text):
    """A name to give, with a byte for each placeholder."""
    done, *pieces = _name(value, "give", is_text).split("{")
    for piece in pieces:
        key, brace, rest = piece.partition("}")
        if not brace or key not in _PLACEHOLDERS or (key == "*" and _MANY not in pattern):
            raise ValueError("give: no {%s} here" % key)
        done += chr(1 + _PLACEHOLDERS.index(key)) + rest
    return done


def packed(rules, is_text, are_ranges):
    """Return the `rules` (a list) as a list of bytes, and a list of complaints (str).

    A bad rule makes the board no more open than a good one would: it refuses what its pattern
    matches to all clients, and all names if the pattern is what is wrong.
    """
    del sys.modules["rulebook"]
    done = []
    complaints = []
    for rule in rules:
        pattern = _MANY
        what, ranges, given = 7, (), ("a wrong rule on the board refuses it",)
        try:
            if not isinstance(rule, dict):
                raise ValueError('must be like {"name": "*.cfg", "give": "cfg/{file}"}')
            pattern = _pattern(_name(rule.get("name"), "name", is_text))
            for key in rule:
                if key not in _KEYS:
                    raise ValueError("no %s in a rule" % json.dumps(key))
            op = rule.get("op", "both")
            if op not in _OPS:
                raise ValueError("op must be read, write or both")
            froms = rule.get("from", ())
            froms = [froms] if isinstance(froms, str) else froms
            if "from" in rule and not (froms and are_ranges(froms)):
                raise ValueError('from must be an address or a range such as "192.168.1.0/24"')
            give = rule.get("give")
            text = rule.get("text")
            if give == "deny":
                names = [text or ""]
            else:
                names = give if isinstance(give, list) else [give]
                names = [_given(name, pattern, is_text) for name in names]
            if not names or (text is not None and (give != "deny" or not is_text(text, 1, 128))):
                raise ValueError("text is for deny, 1 to 128 bytes; give is a name")
            what = 1 + _OPS.index(op) + (_REFUSES if give == "deny" else 0)
            ranges, given = froms, names
        except ValueError as wrong:
            complaints.append("rules: number %d: %s" % (len(done) + 1, wrong))
        texts = [chr(what) + pattern, " ".join(ranges)]
        texts.extend(given)
        done.append("\0".join(texts).encode())
    return done, complaints
