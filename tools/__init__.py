"""The host side of micropython-tftpd: `python -m tools COMMAND`."""


class ToolError(Exception):
    """What went wrong and what to do about it, in one line; the command ends with it and a non-zero status."""


def printable(text: str) -> str:
    """`text` on one line, with an escape for each character that does not print: control characters, which a terminal
    obeys, and those that turn or hide what is beside them (U+202E, U+200B)."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
