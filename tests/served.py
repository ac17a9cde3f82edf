"""The files that the boards of the suite serve."""

import random
from pathlib import Path


def content(size: int, seed: int = 1) -> bytes:
    """`size` random bytes; `seed` tells one content from another."""
    return random.Random(seed).randbytes(size)


# Every file that the shared board serves: content by name.
SERVED = {
    "hello.txt": b"Hello from your board.\n",
    "empty": b"",
    **{f"size-{size}": content(size, size) for size in (1, 8, 511, 512, 513, 1024, 1468, 2936, 4404, 5000, 100_000)},
    "mebi.bin": content(1 << 20),
    "rollover.bin": content(8 * 65_536 + 100),
    "text.txt": b"one\ntwo\r\nthree\rfour\n" * 300,
    "Boot/BCD": b"Windows asks for \\boot\\bcd",
    "boot/bcd.other": b"another folder that differs in case only",
    "folder/deep/er/file.bin": content(700),
    "Grüße.txt": b"Umlaute",
    "x" * 255: b"the longest name",
    "with space.txt": b"a space",
}


def make_files(folder: Path) -> None:
    """Write SERVED into `folder`, and a hidden file that must not be served."""
    for name, data in SERVED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / ".hidden").write_bytes(b"hidden")
