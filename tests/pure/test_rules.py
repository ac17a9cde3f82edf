"""The setting `rules`, its check and what it gives; runs on CPython under pytest, and unchanged inside MicroPython
(test_micropython.py)."""

import settings
from tftpd.packet import ACCESS, NOT_FOUND, RRQ, WRQ, Refused
from tftpd.rules import _plain, given, rule, ruled, span

HOST = "192.168.1.50"


def packed(*rules):
    chosen = settings.defaults()
    assert settings.update(chosen, {"rules": list(rules)}) == []
    return chosen["rules"]


def gives(rules, name, opcode=RRQ, host=HOST):
    """The names that packed rules give, the words of a refusal, or None."""
    try:
        names = given(rules, opcode, _plain(name.encode()), host)
    except Refused as refusal:
        assert refusal.code == ACCESS
        return refusal.text
    return names and [one.decode() for one in names]


def test_patterns():
    for pattern, names, others in (
        (
            "boot.img",
            ("boot.img", "BOOT.IMG", "/boot.img", "\\boot.img", "./boot.img"),
            ("boot.im", "boot.imgs", "a/boot.img"),
        ),
        ("*.sbn", ("a.sbn", "sip/a.sbn", "a.SBN", "x.sbn.sbn"), ("sbn", "a.sbn2", "a.sb")),
        ("*", ("", "a", "a/b"), ()),
        ("pxe/*", ("pxe/a", "PXE/a/b"), ("pxe", "xpxe/a")),
        ("*/b/*c", ("a/b/c", "a/b/b/c", "x/y/b/zc"), ("b/c", "a/b/cd", "/b/c")),
        ("a?c", ("abc", "a/c", "aüc", "a文c"), ("ac", "abbc", "aüüc")),
        ("[abc]x", ("ax", "CX"), ("dx", "x", "abx", "[x", "]x")),
        ("[0-9a-c]x", ("0x", "5x", "Bx"), ("dx", "-x")),
        ("[A-C]", ("a", "B"), ("d",)),
        ("[!0-9]x", ("ax", "!x", "üx", "文x"), ("0x", "x")),
        ("[^0-9]x", ("ax",), ("0x",)),
        ("[-x]", ("-", "x"), ("a",)),
        ("[x-]", ("-", "x"), ("a",)),
        ("[*?]", ("*", "?"), ("a",)),
        ("\\Boot\\*", ("Boot/BCD", "\\boot\\bcd"), ("BCD",)),
        ("*ü", ("ü", "aü"), ("u", "üa")),
    ):
        (one,) = packed({"name": pattern, "give": "given"})
        for name in names:
            assert gives([one], name) == ["given"], (pattern, name)
        for name in others:
            assert gives([one], name) is None, (pattern, name)


def test_the_last_star_is_what_it_stands_for():
    for pattern, name, stands in (
        ("*.kpxe.0", "undionly.kpxe.0", "undionly"),
        ("EFI/BOOT/*", "efi/Boot/x86_64-efi/a.mod", "x86_64-efi/a.mod"),
        ("01-*", "01-AA-bb", "AA-bb"),
        ("*/*.cfg", "a/b/c.cfg", "b/c"),
        ("*", "", ""),
        ("x*", "x", ""),
        ("*?", "aü", "a"),
        ("**a", "bca", "bc"),
    ):
        (one,) = packed({"name": pattern, "give": "<{*}>"})
        assert gives([one], name) == ["<" + stands + ">"], (pattern, name)
        first, behind = span(one, name.encode().lower()) or (0, -1)
        assert name.encode()[first:behind].decode() == stands


def test_placeholders():
    rules = packed({"name": "cfg/*", "give": ["{name}", "a/{file}", "{ip}/{file}{file}", "x-{hexip}.img", "{*}"]})
    assert gives(rules, "/Cfg/sub/Boot.img") == [
        "Cfg/sub/Boot.img",
        "a/Boot.img",
        "192.168.1.50/Boot.imgBoot.img",
        "x-C0A80132.img",
        "sub/Boot.img",
    ]
    assert "x-01020304.img" in (gives(rules, "cfg/x", host="1.2.3.4") or ())


def test_a_name_with_braces_is_no_placeholder():
    rules = packed({"name": "*", "give": "{file}/{ip}/{*}"})
    assert gives(rules, "{ip}") == ["{ip}/192.168.1.50/{ip}"]


def test_the_first_match_wins_and_what_it_gives_is_no_new_request():
    rules = packed(
        {"name": "a", "give": "b"},
        {"name": "b", "give": "c"},
        {"name": "a", "give": "d"},
    )
    assert gives(rules, "a") == ["b"]
    assert gives(rules, "b") == ["c"]
    assert gives(rules, "c") is None


def test_from_and_op():
    rules = packed(
        {"name": "*", "from": "10.0.0.0/8", "op": "write", "give": "one"},
        {"name": "*", "from": ["192.168.1.50", "172.16.0.0/12"], "op": "read", "give": "two"},
        {"name": "*", "op": "both", "from": ["192.168.1.0/24"], "give": "three"},
    )
    assert gives(rules, "x", RRQ, "10.0.0.1") is None
    assert gives(rules, "x", WRQ, "10.0.0.1") == ["one"]
    assert gives(rules, "x", RRQ) == gives(rules, "x", RRQ, "172.31.0.1") == ["two"]
    assert gives(rules, "x", WRQ) == gives(rules, "x", RRQ, "192.168.1.51") == ["three"]
    assert gives(rules, "x", WRQ, "172.16.0.1") is None


def test_deny_refuses_with_its_text_or_its_number():
    rules = packed({"name": "a", "give": "deny"}, {"name": "*", "op": "write", "give": "deny", "text": "go away, ü"})
    assert gives(rules, "a") == gives(rules, "A", WRQ) == "denied by rule 1"
    assert gives(rules, "b", WRQ) == "go away, ü"
    assert gives(rules, "b") is None


def test_deny_in_another_spelling_of_a_name_is_still_denied():
    rules = packed({"name": "secret/*", "give": "deny"})
    for name in ("secret/x", "/secret/x", "//SECRET//x/", "\\secret\\x", "./secret/./x", "secret/x/", "Secret\\/x\\"):
        assert gives(rules, name) == "denied by rule 1", name
    try:
        given(rules, RRQ, _plain(b"secret/x\xff"), HOST)  # as old PXE ROMs send it
        raise AssertionError
    except Refused as refusal:
        assert refusal.code == ACCESS


GOOD = {"name": "x", "give": "y"}


def complaint(*rules):
    chosen = settings.defaults()
    return "; ".join(settings.update(chosen, {"rules": list(rules)})), chosen["rules"]


def test_a_bad_rule_is_named_with_its_number():
    for bad, words in (
        ("x", "must be like"),
        ({}, "name must be a text of 1 to 255 bytes"),
        ({"name": 7, "give": "y"}, "name must be"),
        ({"name": "", "give": "y"}, "name must be"),
        ({"name": "a\n", "give": "y"}, "name must be"),
        ({"name": "x" * 256, "give": "y"}, "name must be"),
        ({"name": "x"}, "give must be a text of 1 to 255 bytes"),
        ({"name": "x", "give": 7}, "give must be"),
        ({"name": "x", "give": ["y", None]}, "give must be"),
        ({"name": "x", "give": "a\0"}, "give must be"),
        ({"name": "x", "give": "\x01"}, "give must be"),
        ({"name": "x", "give": []}, "give"),
        ({"name": "x", "give": "{nope}"}, "give: no {nope} here"),
        ({"name": "x", "give": "{}"}, "give: no {} here"),
        ({"name": "x", "give": "{ip"}, "give: no {ip} here"),
        ({"name": "x", "give": "{*}"}, "give: no {*} here"),
        ({"name": "x", "give": "a/../../b"}, "give: no such name is served"),
        ({"name": "x", "give": ".uploads/{file}"}, "give: no such name is served"),
        ({"name": "x", "give": "/"}, "give: no such name is served"),
        ({"name": "x", "give": "a//{file}"}, "give: no such name is served"),
        ({"name": "a/", "give": "y"}, "name: no such name is served"),
        ({"name": "../a", "give": "y"}, "name: no such name is served"),
        ({"name": "a[bc", "give": "y"}, "[ must be followed by"),
        ({"name": "a[]", "give": "y"}, "[ must be followed by"),
        ({"name": "[[]", "give": "y"}, "[ must be followed by"),
        ({"name": "a[!]", "give": "y"}, "[ must be followed by"),
        ({"name": "a[c-a]", "give": "y"}, "[ must be followed by"),
        ({"name": "a[ü]", "give": "y"}, "[ must be followed by"),
        ({"name": "a[a-\U0010ffff]", "give": "y"}, "[ must be followed by"),
        ({"name": "a[+-^]", "give": "y"}, "[ must be followed by"),  # has ] in it
        ({"name": "x", "form": "10.0.0.1", "give": "y"}, 'no "form" in a rule'),
        ({"name": "x", "from": "10.0.0.300", "give": "y"}, "from must be an address or a range"),
        ({"name": "x", "from": [], "give": "y"}, "from must be"),
        ({"name": "x", "from": None, "give": "y"}, "from must be"),
        ({"name": "x", "from": {"10.0.0.1": 1}, "give": "y"}, "from must be"),
        ({"name": "x", "op": "get", "give": "y"}, "op must be read, write or both"),
        ({"name": "x", "op": ["read"], "give": "y"}, "op must be read, write or both"),
        ({"name": "x", "op": True, "give": "y"}, "op must be read, write or both"),
        ({"name": "x", "give": "y", "text": "words"}, "text is for deny"),
        ({"name": "x", "give": "deny", "text": ""}, "text is for deny"),
        ({"name": "x", "give": "deny", "text": 7}, "text is for deny"),
        ({"name": "x", "give": "deny", "text": "x" * 129}, "text is for deny"),
    ):
        said, rules = complaint(GOOD, bad, GOOD)
        assert said.startswith("rules: number 2: ") and words in said, (bad, said)
        assert len(rules) == 3 and rules[0] == rules[2], bad


def test_a_bad_rule_refuses_what_it_may_have_meant_and_the_others_stay_in_force():
    said, rules = complaint(
        {"name": "first", "give": "1"},
        {"name": "cfg/*", "from": "10.0.0.0/33", "give": "x"},
        {"name": "cfg/a", "give": "2"},
        {"name": "b[", "give": "deny"},
        {"name": "last", "give": "3"},
    )
    assert said.count("rules: number") == 2 and "number 2: from" in said and "number 4: name" in said
    assert gives(rules, "first") == ["1"]
    assert gives(rules, "cfg/a", WRQ, "1.1.1.1") == gives(rules, "last") == "a wrong rule on the board refuses it"
    said, rules = complaint({"name": "cfg/*", "give": "{x}"}, {"name": "b", "give": "2"})
    assert gives(rules, "b") == ["2"] and gives(rules, "c") is None


def test_what_is_no_list_of_rules_refuses_everything():
    for value in ({}, {"name": "x", "give": "y"}, "x", 7, True, [GOOD] * 65):
        chosen = settings.defaults()
        (said,) = settings.update(chosen, {"rules": value})
        assert said.startswith("rules must be a list of at most 64 rules"), said
        assert gives(chosen["rules"], "anything") == "a wrong rule on the board refuses it"


def test_no_rules():
    for value in (None, []):
        chosen = settings.defaults()
        assert settings.update(chosen, {"rules": value}) == [] and not chosen["rules"]


class Store:
    """As Files or Uploads, with names that are there."""

    def __init__(self, *there):
        self.there = there
        self.names = self

    def place(self, name, host, found):
        if name not in self.there:
            raise Refused(NOT_FOUND, "file not found")
        return [name]

    def served(self, path, asked):
        return path


def test_a_list_gives_those_that_are_there_and_an_upload_the_first():
    files, uploads = Store(b"b", b"c", b"z"), Store(b"a", b"z", b"z/")
    rules = packed({"name": "x", "give": ["a", "b", "c", "d"]}, {"name": "y", "give": ["e", "f"]})
    rule(rules, files)
    uploads.place = ruled(uploads.place, rules, WRQ)  # as waiting.py does
    assert files.place(b"/x", HOST, {}) == [b"b", b"c"]
    assert uploads.place(b"/x", HOST, {}) == [b"a"]
    assert files.place(b"z", HOST, {}) == uploads.place(b"z", HOST, {}) == [b"z"]
    assert uploads.place(b"z/", HOST, {}) == [b"z/"]  # it refuses a folder itself
    for store in (files, uploads):
        try:
            store.place(b"y", HOST, {})
            raise AssertionError
        except Refused as refusal:
            assert refusal.code == NOT_FOUND


def test_the_journal_shows_what_was_given_where_it_is_another_name():
    files = Store()
    rule(packed(GOOD), files)
    assert files.served(b"/b/x", b"B\\X\xff") == b"/b/x"
    assert files.served(b"/b/x", b"/c/x") == '"/c/x" -> "/b/x"'
    assert files.served(b"/b", b'a" -> "b') == '"a\\" -> \\"b" -> "/b"'
