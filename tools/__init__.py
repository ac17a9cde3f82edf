"""The host side of micropython-tftpd: `python -m tools COMMAND`."""


class ToolError(Exception):
    """Says in one line what went wrong and what to do. The command prints it and exits with a non-zero status."""


def printable(text: str) -> str:
    """`text` on one line, with non-printing characters escaped: control characters, which a terminal would obey, and
    characters that reverse or hide their neighbours (U+202E, U+200B)."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
