"""Files that are stored as NAME.gz and served as NAME too."""

import gzip
import random
import zlib
from pathlib import Path

import pytest

from board import Board
from client import TftpError, Wire, blocks, fetch, parse_oack, patient_fetch
from served import content
from tools import compress
from tools.relay import Relay

REAL = b"".join(content(40, seed) * 20 + bytes(200) + content(150, seed + 1000) for seed in range(120))  # 138,000 bytes
TEXT = b"one\ntwo\r\nthree\rfour\n" * 300
WHOLE = {
    "real.bin": REAL,
    "folder/Deep/real.bin": REAL[:70_000],
    "empty": b"",
    "one": b"1",
    "size-1024": REAL[:1024],
    "size-4404": REAL[:4404],
    "text.txt": TEXT,
}


def packed(data: bytes, wbits: int = 12) -> bytes:
    return compress.pack(data, wbits)


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def compressed(board_name: str, tmp_path_factory: pytest.TempPathFactory):
    """A board that serves WHOLE, all of it compressed, and some foreign and strange files."""
    if board_name == "hardware":
        pytest.skip("a real board has the files of --served")
    files = {f"{name}.gz": packed(data) for name, data in WHOLE.items()}
    files |= {
        "foreign.gz": gzip.compress(REAL[:30_000]),  # its name is in its header
        "both": b"plain",
        "both.gz": packed(b"compressed"),
        "CAPITALS.GZ": packed(b"in capitals"),
        "twice.gz.gz": packed(packed(b"twice")),
        "members.gz": gzip.compress(REAL[:5000]) + gzip.compress(REAL[:5000]),
        "folder.gz/inside": b"a folder",
    }
    folder = put(tmp_path_factory.mktemp("compressed"), files)
    with Board("--board", board_name, files=folder) as running:
        yield running
        assert running.stop() == 0


def options(blksize: int, windowsize: int) -> list[tuple[str, object]]:
    return [("blksize", blksize), ("windowsize", windowsize), ("tsize", 0)]


@pytest.mark.parametrize(("blksize", "windowsize"), [(512, 1), (1468, 1), (1468, 4), (1428, 64), (8, 3), (1024, 16)])
def test_each_comes_whole_with_its_real_size(compressed: Board, blksize: int, windowsize: int):
    for name, data in WHOLE.items():
        if len(data) // blksize > 5000:
            continue
        with Wire(compressed.address) as wire:
            oack = wire.ask(name, *options(blksize, windowsize))
            assert parse_oack(oack).get("tsize") == (str(len(data)) if data else None)
            assert b"".join(blocks(wire, oack)) == data, name


def test_without_options_too(compressed: Board):
    assert fetch(compressed.address, "size-1024") == REAL[:1024]
    assert fetch(compressed.address, "empty") == b""


def test_by_its_own_name_it_comes_as_it_is(compressed: Board):
    assert fetch(compressed.address, "real.bin.gz") == packed(REAL)
    assert fetch(compressed.address, "twice.gz.gz") == packed(packed(b"twice"))
    assert fetch(compressed.address, "twice.gz") == packed(b"twice")
    with pytest.raises(TftpError) as refusal:
        fetch(compressed.address, "twice")  # inflated once, not twice
    assert refusal.value.code == 1


def test_a_file_goes_before_its_compressed_one(compressed: Board):
    assert fetch(compressed.address, "both") == b"plain"
    assert fetch(compressed.address, "both.gz") == packed(b"compressed")


@pytest.mark.parametrize("name", ["REAL.BIN", "Real.Bin", "\\real.bin", "//real.bin", "./real.bin"])
def test_the_name_may_be_written_in_any_way(compressed: Board, name: str):
    assert fetch(compressed.address, name, ("blksize", 1468)) == REAL


def test_case_matters_neither_in_the_suffix_nor_in_folders(compressed: Board):
    assert fetch(compressed.address, "capitals") == b"in capitals"
    assert fetch(compressed.address, "FOLDER/DEEP/REAL.BIN", ("blksize", 1468)) == REAL[:70_000]


def test_a_folder_with_such_a_name_is_not_found(compressed: Board):
    with pytest.raises(TftpError) as refusal:
        fetch(compressed.address, "folder.gz")
    assert refusal.value.code == 2
    assert fetch(compressed.address, "folder.gz/inside") == b"a folder"
    with pytest.raises(TftpError) as refusal:
        fetch(compressed.address, "folders")
    assert refusal.value.code == 1


def test_a_foreign_file_comes_whole(compressed: Board):
    assert fetch(compressed.address, "foreign", ("blksize", 1468)) == REAL[:30_000]


def test_netascii_of_a_compressed_file(compressed: Board):
    wanted = TEXT.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    assert fetch(compressed.address, "text.txt", mode="netascii") == wanted
    assert fetch(compressed.address, "text.txt", ("blksize", 1468), ("windowsize", 4), mode="netascii") == wanted


def test_several_members_are_refused(compressed: Board):
    # The second begins where the first ends, which is known when that has been read.
    with pytest.raises(TftpError) as refusal:
        fetch(compressed.address, "members")
    assert refusal.value.code == 2 and "damaged, or not of one piece" in refusal.value.text


def test_probes_for_the_size_cost_nothing(compressed: Board):
    for _ in range(60):  # more than there are places for
        with Wire(compressed.address) as wire:
            assert parse_oack(wire.ask("real.bin", ("tsize", 0)))["tsize"] == str(len(REAL))
            wire.send(b"\0\5\0\0enough\0")
            wire.tid = wire.server


def test_a_request_that_is_repeated_gets_the_same_answer(compressed: Board):
    with Wire(compressed.address) as wire:
        first = wire.ask("real.bin", ("tsize", 0))
        assert wire.ask("real.bin", ("tsize", 0)) == first


def test_a_rollback_sends_the_same_blocks_again(compressed: Board):
    with Wire(compressed.address) as wire:
        granted = parse_oack(wire.ask("real.bin", *options(1468, 4)))
        windowsize = int(granted["windowsize"])
        first = 1
        packet = wire.ack(0)
        for lost in (1, 2, 3, 4, 1, 1, 4):
            window = [packet]
            while len(window) < windowsize:
                window.append(wire.receive())
            for number, one in enumerate(window, first):
                assert one == bytes((0, 3, number >> 8, number & 255)) + REAL[1468 * (number - 1) : 1468 * number]
            first += min(lost, windowsize) - 1
            packet = wire.ack(first - 1)


@pytest.mark.parametrize("percent", [1, 5, 10])
@pytest.mark.parametrize("windowsize", [1, 8])
def test_it_comes_whole_over_a_bad_network(compressed: Board, windowsize: int, percent: int):
    compressed.skip_if_too_slow(1000)
    chance = percent / 100
    with Relay(compressed.address[1], loss=chance, duplicate=chance, reorder=chance, delay_ms=1, seed=percent) as relay:
        got = patient_fetch(("127.0.0.1", relay.port), "real.bin", ("blksize", 1428), ("windowsize", windowsize))
        assert got == REAL
        assert relay.lost > 0


def test_many_at_once(compressed: Board):
    wires = [Wire(compressed.address) for _ in range(3)]  # more than these do not fit into an ESP32-C3
    firsts = [wire.ask("real.bin", ("blksize", 1468), ("windowsize", 2)) for wire in wires]
    streams = [blocks(wire, first) for wire, first in zip(wires, firsts, strict=True)]
    got = [b""] * len(wires)
    while any(parts := [next(stream, b"") for stream in streams]):  # a block each, in turns
        got = [whole + part for whole, part in zip(got, parts, strict=True)]
    assert got == [REAL] * len(wires)


# -- damage ------------------------------------------------------------------------------------------------------------


def damaged(seed: int, data: bytes) -> bytes:
    chance = random.Random(seed)
    file = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        file[chance.randrange(len(file))] ^= 1 << chance.randrange(8)
    return bytes(file)


def test_no_damaged_file_is_taken_for_a_good_one(start, tmp_path: Path):
    good = packed(REAL[:20_000])
    files = {f"{seed}.gz": damaged(seed, good) for seed in range(60)}
    files |= {f"cut-{length}.gz": good[:length] for length in (0, 1, 10, 17, 18, 25, 100, len(good) - 1)}
    files |= {
        f"end-{number}.gz": good[:-number] + bytes([good[-number] ^ 1]) + good[len(good) - number + 1 :]
        for number in range(1, 9)
    }
    board: Board = start("--set", "transfers_per_client=4", files=put(tmp_path, files))
    refused = 0
    for name in files:
        try:
            assert fetch(board.address, name.removesuffix(".gz"), ("blksize", 1468)) == REAL[:20_000], name
            assert not name.startswith(("cut", "end")), name
        except TftpError as error:
            assert error.code == 2 and error.text == "the compressed file is damaged, or not of one piece", name
            refused += 1
        assert fetch(board.address, name, ("blksize", 1468)) == files[name]
    assert refused > 60  # the others have lost a time, a flag or a name that nobody reads


def test_an_error_stands_where_the_last_block_would(start, tmp_path: Path):
    data = REAL[: 5 * 1024 + 100]
    file = bytearray(packed(data))
    file[-8] ^= 1  # CRC32
    board: Board = start("--set", "blksize=1024", "--set", "read_ahead=0", files=put(tmp_path, {"x.gz": bytes(file)}))
    with Wire(board.address) as wire:
        wire.ask("x", ("blksize", 1024), ("tsize", 0))
        for number in range(1, 6):
            assert wire.ack(number - 1)[4:] == data[1024 * (number - 1) : 1024 * number]
        answer = wire.ack(5)
        assert answer[:4] == b"\0\5\0\2", answer
    board.wait_for('"/x.gz" octet blksize=1024 tsize=5220: the compressed file is damaged, or not of one piece')


def test_what_is_before_the_first_byte_is_zeros_and_nothing_of_the_heap(start, tmp_path: Path):
    # Distances that reach behind the start of the window, as an uploader might make them to read the heap.
    known = bytes(range(32, 127)) * 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -12, 9, zlib.Z_DEFAULT_STRATEGY, known)
    data = packer.compress(known[:1500]) + packer.flush()
    trailer = zlib.crc32(bytes(1500)).to_bytes(4, "little") + (1500).to_bytes(4, "little")
    file = b"\x1f\x8b\x08\0\0\0\0\0\2\3" + data + trailer
    board: Board = start(files=put(tmp_path, {"crafted.gz": file, "real.bin.gz": packed(REAL), "hello.txt": b"hello"}))
    for _ in range(3):
        assert fetch(board.address, "real.bin", ("blksize", 1468)) == REAL  # so that the heap was in use
        assert fetch(board.address, "crafted", ("blksize", 512)) == bytes(1500)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_as_many_as_fit_leave_the_board_what_its_network_needs(start, tmp_path: Path):
    # An ESP32-C3 heard nobody any more with five of them, whose heap its Wi-Fi lacked.
    board: Board = start("--set", "transfers=12", files=put(tmp_path, {"x.gz": packed(REAL), "plain": REAL[:5000]}))
    wires = [Wire(board.address) for _ in range(10)]
    answers = [wire.ask("x", ("blksize", 1468)) for wire in wires]
    assert answers[0][:2] == b"\0\6"
    refusals = [TftpError(answer).text for answer in answers if answer[:2] == b"\0\5"]
    assert set(refusals) <= {"no memory just now, try again"}
    assert fetch(board.address, "plain", ("blksize", 1468)) == REAL[:5000]
    for wire in wires:
        wire.__exit__()
    assert fetch(board.address, "x", ("blksize", 1468)) == REAL


@pytest.mark.everyday_only("its heap can be chosen")
def test_where_there_is_no_room_for_a_second_one_it_is_told_to_try_again(start, tmp_path: Path):
    board: Board = start("--heap", "176K", "--set", "read_ahead=5900", files=put(tmp_path, {"x.gz": packed(REAL)}))
    with Wire(board.address) as first:
        begun = first.ask("x", ("blksize", 1468))
        others = [Wire(board.address) for _ in range(6)]
        answers = [wire.ask("x", ("blksize", 1468)) for wire in others]
        refusals = [TftpError(answer) for answer in answers if answer[:2] == b"\0\5"]
        assert refusals and {(one.code, one.text) for one in refusals} == {(0, "no memory just now, try again")}
        for wire in others:
            wire.__exit__()
        assert b"".join(blocks(first, begun)) == REAL
    board.wait_for("done")
    assert fetch(board.address, "x", ("blksize", 1468)) == REAL


@pytest.mark.everyday_only("its heap can be chosen")
def test_a_window_that_never_fits_is_said_to(start, tmp_path: Path):
    far = content(20_000, 1) + content(20_000, 2) + content(20_000, 1)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    files = {"far.gz": packer.compress(far) + packer.flush(), "near.gz": packed(far)}
    board: Board = start("--heap", "180K", "--set", "read_ahead=5900", files=put(tmp_path, files))
    with pytest.raises(TftpError) as refusal:
        fetch(board.address, "far", ("blksize", 1468))
    assert refusal.value.code == 2 and "window of 32 KB" in refusal.value.text
    assert fetch(board.address, "near", ("blksize", 1468)) == far


def test_hundreds_of_transfers_leave_the_heap_flat(start, tmp_path: Path):
    files = {"x.gz": packed(REAL[:20_000]), "bad.gz": packed(REAL[:20_000])[:-1] + b"\1", "hello.txt": b"hello"}
    board: Board = start("--set", "log=debug", files=put(tmp_path, files))
    fetch(board.address, "x", ("blksize", 1468))
    used = [board.heap_when_idle() for _ in range(3)]
    for number in range(150):
        if number % 3:
            assert fetch(board.address, "x", ("blksize", 1468), ("windowsize", number % 5 + 1)) == REAL[:20_000]
        else:
            with pytest.raises(TftpError):
                fetch(board.address, "bad", ("blksize", 1468))
    assert min(board.heap_when_idle() for _ in range(3)) <= max(used) + 1024


# -- folders of clients, uploads ---------------------------------------------------------------------------------------


@pytest.mark.everyday_only("its clients have addresses of their own")
def test_the_folder_of_the_client_goes_before_the_common_tree(start, tmp_path: Path):
    files = {
        "127.0.0.1/a.gz": packed(b"own a"),
        "a": b"common a",
        "127.0.0.1/b": b"own b",
        "127.0.0.1/b.gz": packed(b"own b, compressed"),
        "c.gz": packed(b"common c"),
        "127.0.0.2/d.gz": packed(b"of another"),
    }
    with start("--set", "client_folders=true", files=put(tmp_path, files)) as board:
        assert fetch(board.address, "a") == b"own a"
        assert fetch(board.address, "b") == b"own b"
        assert fetch(board.address, "c") == b"common c"
        assert fetch(board.address, "127.0.0.1/a") == b"own a"
        for name in ("d", "127.0.0.2/d"):
            with pytest.raises(TftpError):
                fetch(board.address, name)
    with start("--set", "client_folders=only", files=tmp_path) as board:
        assert fetch(board.address, "a") == b"own a"
        with pytest.raises(TftpError):
            fetch(board.address, "c")


def upload(board: Board, name: str, data: bytes) -> None:
    with Wire(board.address) as wire:
        answer = wire.ask(name, ("blksize", 1024), opcode=2)
        for number, at in enumerate(range(0, len(data) + 1, 1024), 1):
            if answer[:2] == b"\0\5":
                raise TftpError(answer)
            wire.send(bytes((0, 3, number >> 8, number & 255)) + data[at : at + 1024])
            answer = wire.receive()
        wire.tid = wire.server


def test_an_upload_does_not_hide_a_compressed_file_unless_it_may_overwrite(start, tmp_path: Path):
    files = put(tmp_path, {"x.gz": packed(b"old")})
    with start("--writable", files=files) as board:
        for name in ("x", "X", "x.gz"):
            with pytest.raises(TftpError) as refusal:
                upload(board, name, b"new")
            assert refusal.value.code == 6, name
        assert fetch(board.address, "x") == b"old"
    with start("--writable", "--set", "overwrite=true", files=files) as board:
        upload(board, "x", b"new")
        assert fetch(board.address, "x") == b"new"  # plain goes before compressed
        assert fetch(board.address, "x.gz") == packed(b"old")


def test_a_compressed_file_that_is_uploaded_is_served_inflated(start, tmp_path: Path):
    board: Board = start("--writable", files=put(tmp_path, {"hello.txt": b"hello"}))
    with pytest.raises(TftpError):
        fetch(board.address, "new")
    upload(board, "new.gz", packed(REAL[:9000]))
    assert fetch(board.address, "new") == REAL[:9000]
    assert fetch(board.address, "NEW") == REAL[:9000]
    upload(board, "new.gz.gz", packed(b"rubbish")[:-5])
    assert fetch(board.address, "new.gz") == packed(REAL[:9000])


def test_one_that_is_replaced_while_it_is_read_is_read_to_its_end(start, tmp_path: Path):
    board: Board = start("--writable", "--set", "overwrite=true", files=put(tmp_path, {"x.gz": packed(REAL)}))
    with Wire(board.address) as wire:
        begun = wire.ask("x", ("blksize", 1468))
        upload(board, "x.gz", packed(b"new"))
        assert b"".join(blocks(wire, begun)) == REAL
    assert fetch(board.address, "x") == b"new"
