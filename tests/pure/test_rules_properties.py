"""Properties of the rules for names, with hypothesis: patterns against fnmatch, and settings of any kind."""

import fnmatch
import json

import hypothesis
import settings
from hypothesis import strategies as st
from tftpd.names import components
from tftpd.packet import RRQ, WRQ, Refused
from tftpd.rules import given, span

SET = st.text("ab/-", min_size=1, max_size=3).map(lambda one: one.strip("-") or "a")
PIECE = (
    st.sampled_from(["a", "b", "A", "ü", "文", ".", "/", "*", "*", "?"])
    | SET.map("[{}]".format)
    | SET.map("[!{}]".format)
)
PATTERN = st.lists(PIECE, max_size=7).map(lambda pieces: "x" + "".join(pieces) + "a")
NAME = st.text("abAü文./-!", max_size=9).map(lambda middle: "x" + middle + "a")
HOSTS = ["10.0.0.7", "10.0.0.8", "192.168.1.50"]


def accepted(rules: object) -> list[bytes] | None:
    chosen = settings.defaults()
    return None if settings.update(chosen, {"rules": rules}) else chosen["rules"]


def outcome(rules: list[bytes], opcode: int, name: str, host: str) -> list[bytes] | str | None:
    try:
        return given(rules, opcode, name.encode(), host)
    except Refused as refusal:
        return refusal.text


@hypothesis.settings(max_examples=600, deadline=None)
@hypothesis.given(PATTERN, NAME)
def test_patterns_are_those_of_the_shell(pattern: str, name: str):
    packed = accepted([{"name": pattern, "give": "y"}])
    hypothesis.assume(packed is not None)
    assert packed
    found = span(packed[0], name.lower().encode())
    assert (found is not None) == fnmatch.fnmatchcase(name.lower(), pattern.lower())
    if found and "*" in pattern:  # put in its place, what the last star stands for gives the name again
        stands = name.lower().encode()[found[0] : found[1]].decode()
        head, _, tail = pattern.lower().rpartition("*")
        stands = stands.replace("[", "[[]")
        assert fnmatch.fnmatchcase(name.lower(), head + stands + tail)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(HOSTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
GIVE = st.lists(st.sampled_from(["{name}", "{file}", "{ip}", "{hexip}", "pxe/", "a", "."]), min_size=1, max_size=4).map(
    "".join
)
RULE = st.fixed_dictionaries(
    {
        "name": PATTERN | st.sampled_from(["*", "x*", "*.a"]),
        "give": GIVE | st.lists(GIVE, min_size=1, max_size=3) | st.just("deny"),
    },
    optional={
        "from": st.sampled_from([*HOSTS, "10.0.0.0/8", ["10.0.0.8", "192.0.0.0/8"]]),
        "op": st.sampled_from(["read", "write", "both"]),
    },
)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(ANY | st.lists(ANY | st.dictionaries(st.sampled_from(["name", "from", "op", "give", "text"]), ANY)))
def test_no_value_makes_the_check_fail(value: object):
    chosen = settings.defaults()
    complaints = settings.update(chosen, {"rules": value})
    if value is not None:
        assert all(type(one) is bytes for one in chosen["rules"])
        assert len(complaints) <= len(chosen["rules"])


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
    st.lists(RULE, min_size=1, max_size=4),
    st.integers(0, 3),
    st.sampled_from(["name", "from", "op", "give", "text", "nmae"]),
    ANY,
    st.sampled_from([RRQ, WRQ]),
    NAME,
    st.sampled_from(HOSTS),
)
def test_a_bad_rule_opens_nothing(rules, number: int, key: str, value: object, opcode: int, name: str, host: str):
    good = accepted(rules)
    hypothesis.assume(good is not None)
    bad = json.loads(json.dumps(rules))
    bad[number % len(bad)][key] = value
    chosen = settings.defaults()
    hypothesis.assume(settings.update(chosen, {"rules": bad}))
    assert good
    with_bad = outcome(chosen["rules"], opcode, name, host)
    assert isinstance(with_bad, str) or with_bad == outcome(good, opcode, name, host)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.lists(RULE, max_size=4), st.text("a./\\{}*ipx", min_size=1, max_size=9), st.sampled_from(HOSTS))
def test_what_is_given_holds_no_placeholder_and_no_part_that_climbs(rules, name: str, host: str):
    packed = accepted(rules)
    hypothesis.assume(packed is not None)
    try:
        plain = "/".join(components(name.encode()))
    except Refused:
        return
    names = outcome(packed or [], RRQ, plain, host)
    for one in names if isinstance(names, list) else ():
        assert min(one, default=32) >= 32
        assert b".." not in one.split(b"/")
