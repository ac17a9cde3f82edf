"""`--compress`: what is stored as NAME.gz, and how image, emulate and deploy tell and check it."""

import gzip
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from board import ROOT, Board
from client import fetch
from served import content
from tools import ToolError, boards, compress, filesystem, firmware, image

TEXT = b"a line that comes again and again\n" * 2000
FILES = {"/files/text": TEXT, "/files/random": content(20_000), "/files/small": b"small " * 100, "/files/empty": b""}


@given(data=st.binary(max_size=3000) | st.binary(max_size=50).map(lambda part: part * 900), wbits=st.integers(9, 15))
def test_what_is_packed_is_a_gzip_file_with_its_window_noted(data: bytes, wbits: int):
    packed = compress.pack(data, wbits)
    assert gzip.decompress(packed) == data
    assert packed[12:17] == b"WB\x01\x00" + bytes((wbits,))
    whole = zlib.decompressobj(-wbits)  # not even zlib needs more of a window for it
    assert whole.decompress(packed[17:]) == data and len(whole.unused_data) == 8


def test_the_same_file_is_packed_the_same_way_each_time():
    assert compress.pack(TEXT) == compress.pack(TEXT), "else deploy would copy it again"


def test_auto_takes_what_saves_a_tenth_and_a_block_of_flash():
    files, saved = compress.shrink(FILES, "auto", 4096)
    assert files.keys() == {"/files/text.gz", "/files/random", "/files/small", "/files/empty"}
    packed = files["/files/text.gz"]
    assert gzip.decompress(packed) == TEXT and len(packed) < 1000
    assert f"1 of 4 files are compressed, and inflated again to compare: 68,000 bytes are {len(packed)}, 100 %" in saved
    assert "a window of 4 KB of heap" in saved


def test_all_takes_what_shrinks_at_all():
    files, _ = compress.shrink(FILES, "all", 4096)
    assert files.keys() == {"/files/text.gz", "/files/random", "/files/small.gz", "/files/empty"}


def test_a_tenth_is_a_tenth():
    # Random bytes shrink by nothing, zeros to nothing: a file of both by the part of the zeros.
    for zeros, name in ((9_000, "x"), (11_000, "x.gz")):
        data = content(100_000 - zeros) + bytes(zeros)
        assert compress.shrink({"x": data}, "auto", 4096)[0].keys() == {name}


def test_nothing_is_compressed_whose_name_is_taken_or_too_long():
    files = {"/f/a": TEXT, "/f/A.GZ": b"x", "/f/b.gz": TEXT, "/f/" + "x" * 253: TEXT, "/f/" + "x" * 252: TEXT}
    result, _ = compress.shrink(files, "all", 4096)
    assert result.keys() == {"/f/a", "/f/A.GZ", "/f/b.gz", "/f/" + "x" * 253, "/f/" + "x" * 252 + ".gz"}


def test_nothing_to_gain_is_said():
    assert compress.shrink({"/f/a": content(9000)}, "auto", 4096) == (
        {"/f/a": content(9000)},
        "nothing is worth compressing",
    )


def test_a_file_that_does_not_come_back_as_it_was_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compress, "pack", lambda data: gzip.compress(data[:-1]))
    with pytest.raises(ToolError, match="/files/text is not the same after it was compressed and inflated"):
        compress.shrink(FILES, "auto", 4096)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "served"
    where.mkdir()
    for path, data in FILES.items():
        (where / Path(path).name).write_bytes(data)
    return where


def test_what_the_folder_has_is_named_as_packed(folder: Path):
    served = filesystem.served(folder, {}, "auto")
    assert served.packed == {"/files/text"} and "/files/text.gz" in served.files and served.saved
    served = filesystem.served(folder, {})
    assert served.files == FILES and not served.packed and not served.saved


def test_an_image_holds_the_compressed_file_and_tells_what_was_saved(folder: Path, tmp_path: Path):
    board = boards.load("rpi_pico_w")
    if not (firmware.cache() / "firmware" / board["firmware"][0]["file"]).exists():
        pytest.skip("no base image of the Pico W in the cache")
    output = tmp_path / "x.uf2"
    command = [sys.executable, "-m", "tools", "image", "--board", "rpi_pico_w", "--files", str(folder)]
    command += ["-o", str(output)]
    result = subprocess.run([*command, "--compress", "auto"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "1 of 4 files are compressed" in result.stdout
    files = image.files_in(firmware.read_base(output.read_bytes(), output))
    assert gzip.decompress(files["/files/text.gz"]) == TEXT and "/files/text" not in files
    result = subprocess.run([*command, "--compress", "some"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "invalid choice: 'some' (choose from" in result.stderr


def test_the_everyday_board_serves_it_and_what_is_kept_goes_first(folder: Path, tmp_path: Path):
    keep = ("--save", str(tmp_path / "flash"), "--flash-size", "2M")
    with Board(*keep, files=folder) as board:
        assert fetch(board.address, "text") == TEXT
    (folder / "new").write_bytes(TEXT[::-1])
    with Board(*keep, "--compress", "auto", files=folder) as board:
        assert any("2 of 5 files are compressed" in line for line in board.console)
        assert fetch(board.address, "text") == TEXT and fetch(board.address, "new") == TEXT[::-1]
    layout = boards.load("unix")["filesystem"]
    names = filesystem.names(layout, (tmp_path / "flash").read_bytes())
    assert {name for name in names if name.startswith("/files/")} == {*FILES, "/files/new.gz"}
