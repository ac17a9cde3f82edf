"""The name rules of names.py; runs on CPython under pytest, and unchanged inside MicroPython (test_micropython.py)."""

from tftpd.names import components
from tftpd.packet import ACCESS, NOT_FOUND, Refused


def refusal(name):
    try:
        components(name)
    except Refused as error:
        return error.code
    return None


def test_separators_and_empty_components():
    for name in (b"boot/bcd", b"/boot/bcd", b"//boot//bcd", b"./boot/./bcd", b"\\boot\\bcd", b"boot\\/bcd/"):
        assert components(name) == ["boot", "bcd"], name


def test_dotdot_is_refused_wherever_it_stands():
    for name in (b"..", b"../boot.py", b"a/../../boot.py", b"a/..", b"..\\boot.py", b"/..//..\\x", b"a\\..\\b"):
        assert refusal(name) == ACCESS, name


def test_hidden_names_are_not_found():
    for name in (b".git/config", b"a/.secret", b"...", b"..a", b"\\.x"):
        assert refusal(name) == NOT_FOUND, name


def test_each_first_and_second_byte_of_utf8():
    for lead in range(0xC0, 0x100):
        more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
        for second in range(0x80, 0xC0):
            code = ((lead & (0x3F >> more)) << 6 | second & 0x3F) << 6 * (more - 1)
            least = (0, 0x80, 0x800, 0x10000)[more]
            well = lead < 0xF8 and least <= code < 0x110000 and not 0xD800 <= code < 0xE000
            name = b"a" + bytes([lead, second]) + bytes([0x80]) * (more - 1)
            if well and not 0x80 <= code < 0xA0:
                assert components(name) == [name.decode()], name
            else:
                assert refusal(name) == NOT_FOUND, name


def test_what_is_not_utf8_is_not_found():
    for name in (b"\xff", b"a\xc0\xafb", b"\xc0\xae\xc0\xae/x", b"\xed\xa0", b"x\x80", b"\xed\xa0\xae\xed\xb0\xae"):
        assert refusal(name) == NOT_FOUND, name


def test_utf8_is_a_name_like_any_other():
    assert components("Grüße/文件".encode()) == ["Grüße", "文件"]


def test_a_component_is_at_most_255_bytes():
    assert components(b"a" * 255) == ["a" * 255]
    assert refusal(b"a" * 256) == NOT_FOUND
    assert refusal(("ü" * 128).encode()) == NOT_FOUND


def test_control_characters_are_not_found():
    for name in (b"a\n", b"\x1b[2J", b"a/\x7f", b"\xc2\x9b2J", b"\x01files\x01a"):
        assert refusal(name) == NOT_FOUND, name
