"""Compressed files: any schedule of loss delivers the exact bytes, any file comes whole or is refused, on CPython and
inside MicroPython (hypothesis)."""

import io
import subprocess
import tempfile
import zlib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tftpd import deflate
from tftpd.files import OctetSource, ReadAhead
from tftpd.options import Agreed
from tftpd.packet import Refused
from tftpd.transfer import DONE

from board import ROOT
from schedule import FATES, play
from simulated import Bench, Client, Files
from tools import compress
from tools.boards import micropython

RUN = [micropython(), str(Path(__file__).with_name("inflate_one.py")), "firmware", str(Path(__file__).parent)]
# Words that come again, from near and from far.
CONTENT = st.lists(
    st.binary(max_size=30)
    | st.integers(0, 40).map(lambda number: bytes(range(number, number + 40)) * 4)
    | st.integers(1, 300).map(bytes),
    max_size=60,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(
    data=CONTENT.map(lambda content: (content * (15_000 // (len(content) or 15_000) + 1))[:20_000]),
    blksize=st.integers(200, 600),
    windowsize=st.integers(1, 20),
    read_ahead=st.integers(0, 3000),
    alone=st.booleans(),
    fates=FATES,
)
def test_no_rollback_wants_more_than_is_kept(data, blksize, windowsize, read_ahead, alone, fates):
    asked = (b"blksize", b"%d" % blksize), (b"windowsize", b"%d" % windowsize)
    files = Files(blksize=600, read_ahead=read_ahead, windowsize=64)
    file = deflate.open(io.BytesIO(compress.pack(data)), files)
    agreed = Agreed(asked, 600, file.windowsize, file.seek(0, 2))
    file.seek(0)
    source, ahead = OctetSource(file, agreed), ReadAhead(max(600, read_ahead))
    windowsize = agreed.windowsize
    asked = (b"blksize", b"%d" % blksize), (b"windowsize", b"%d" % windowsize)
    bench = Bench(b"", *asked, retries=100, source=source, ahead=ahead, alone=alone)
    client = Client(blksize, windowsize, oack=True)
    play(bench, client, fates, most=10_000)
    assert bench.transfer.outcome == DONE
    assert client.data == data


def _read(file: bytes, piece: int, backs: list[int]) -> bytes | None:
    """What inflate_one.py reads of it; None where it is refused."""
    with tempfile.NamedTemporaryFile() as kept:
        Path(kept.name).write_bytes(file)
        command = [*RUN, kept.name, str(piece), *map(str, backs)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout + result.stderr
    return None if result.stdout.startswith("refused") else bytes.fromhex(result.stdout)


@settings(max_examples=30, deadline=None)
@given(
    data=CONTENT, wbits=st.integers(9, 15), piece=st.integers(8, 600), backs=st.lists(st.integers(0, 1200), max_size=20)
)
def test_micropython_inflates_what_the_tools_pack(data, wbits, piece, backs):
    backs = [min(back, 3 * piece) for back in backs]
    assert _read(compress.pack(data, wbits), piece, backs) == data


@settings(max_examples=30, deadline=None)
@given(data=CONTENT, level=st.integers(0, 9), piece=st.integers(8, 600))
def test_micropython_inflates_what_others_pack(data, level, piece):
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    assert _read(packer.compress(data) + packer.flush(), piece, []) == data


@settings(max_examples=60, deadline=None)
@given(data=CONTENT, flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=3))
def test_what_is_damaged_is_refused_or_still_whole(data, flips):
    file = bytearray(compress.pack(data))
    for where, bit in flips:
        file[int(where * (len(file) - 1))] ^= 1 << bit
    assert _read(bytes(file), 64, []) in (None, data)
    try:  # and likewise on CPython
        inflated = deflate.open(io.BytesIO(file), Files(blksize=64, read_ahead=64))
        size = inflated.seek(0, 2)
        inflated.seek(0)
        view = memoryview(bytearray(size + 1))
        assert bytes(view[: inflated.readinto(view)]) == data
    except Refused:
        pass
