"""The host side of micropython-tftpd: `python -m tools COMMAND`."""


class ToolError(Exception):
    """What went wrong and what to do about it, in one line; the command ends with it and a non-zero status."""
