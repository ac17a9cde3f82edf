"""Uploads (WRQ) on the everyday board: what is accepted, what is refused, and that no file is ever incomplete."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from board import Board, flash_files
from client import Option, TftpError, Wire, ack, blocks, fetch, parse_oack, store
from served import SERVED, content
from tools import boards, filesystem
from tools.relay import Relay

everyday = pytest.mark.everyday_only("the code is the same, a start of a genuine board takes seconds")


@pytest.fixture(scope="module")
def writable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A shared board that takes uploads, also over existing files."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "sub").mkdir()
    for name in ("hello.txt", "size-5000", "size-100000"):
        (folder / name).write_bytes(SERVED[name])
    (folder / "sub/there").write_bytes(b"there")
    with Board(
        "--writable", "--flash-size", "8M", "--set", "overwrite=true", "--set", "log=debug", files=folder
    ) as board:
        yield board
        assert board.stop() == 0
    assert not any("Traceback" in line for line in board.console)


@pytest.fixture
def take(start: Callable[..., Board]) -> Callable[..., Board]:
    """take(*arguments) starts a board for this test alone that takes uploads of new files."""
    return lambda *arguments, **more: start("--writable", *arguments, **more)


def refusal(board: Board, name: str | bytes, *options: Option) -> TftpError:
    """The ERROR in answer to a WRQ for `name`."""
    with Wire(board.address) as wire:
        return TftpError(wire.ask(name, *options, opcode=2))


# -- what is taken -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [(), (("blksize", 8),), (("blksize", 1468),), (("blksize", 1468), ("windowsize", 4))]
)
def test_files_of_all_sizes_arrive_whole(writable: Board, options: tuple):
    for size in (0, 1, 7, 8, 9, 511, 512, 513, 1467, 1468, 1469, 2936, 5872, 20_000):
        data = content(size, size + 1)
        store(writable.address, "sizes", data, ("tsize", size), *options)
        assert fetch(writable.address, "sizes", ("blksize", 1468)) == data, size


def test_uploads_arrive_whole_on_every_kind_of_board(take):
    board = take("--set", "overwrite=true")
    for size, options in (
        (0, ()),
        (513, ()),
        (20_000, (("blksize", 1468), ("tsize", 20_000))),
        (40_000, (("blksize", 1428), ("windowsize", 16))),
    ):
        store(board.address, "new", content(size), *options)
        assert fetch(board.address, "new", ("blksize", 1468)) == content(size)


@pytest.mark.parametrize("windowsize", [1, 2, 3, 16, 64])
@pytest.mark.parametrize("blksize", [8, 512, 1428])
def test_files_arrive_whole_in_every_window(writable: Board, blksize: int, windowsize: int):
    data = content(30_000, blksize + windowsize)
    store(writable.address, "window", data, ("blksize", blksize), ("windowsize", windowsize))
    assert fetch(writable.address, "window") == data


def test_the_windowsize_is_what_the_receive_queue_holds(writable: Board):
    for asked, granted in ((1, 1), (4, 4), (16, 16), (65535, 16)):
        with Wire(writable.address) as wire:
            oack = parse_oack(wire.ask("queue", ("windowsize", asked), ("blksize", 60000), ("timeout", 7), opcode=2))
            assert oack == {"windowsize": str(granted), "blksize": "1468", "timeout": "7"}


def test_no_granted_option_means_ack_0(writable: Board):
    for options in ((), (("unknown", 1),), (("blksize", 7), ("tsize", "many"))):
        with Wire(writable.address) as wire:
            assert wire.ask("plain", *options, opcode=2) == ack(0)


def test_block_numbers_roll_over_and_the_file_is_whole(writable: Board):
    data = content(8 * 65_540 + 3)
    store(writable.address, "rollover", data, ("blksize", 8), ("windowsize", 16))
    assert fetch(writable.address, "rollover", ("blksize", 1468), ("windowsize", 16)) == data


def test_netascii_is_stored_with_the_original_line_ends(writable: Board):
    text = SERVED["text.txt"]
    stream = text.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    for options in ((), (("blksize", 8),), (("blksize", 9), ("windowsize", 4))):
        store(writable.address, "text", stream, *options, mode="netascii")
        assert fetch(writable.address, "text") == text


@pytest.mark.parametrize(
    "line",
    [
        "curl -sS -T FILE tftp://HOST:PORT/NAME",
        "curl -sS --tftp-blksize 1428 -T FILE tftp://HOST:PORT/NAME",
        "curl -sS --tftp-no-options -T FILE tftp://HOST:PORT/NAME",
        "tftp -m binary HOST PORT -c put FILE NAME",
        "atftp -p -l FILE -r NAME HOST PORT",
        "atftp --option blksize=1428 --option windowsize=8 --option tsize=0 -p -l FILE -r NAME HOST PORT",
        "busybox tftp -p -l FILE -r NAME HOST PORT",
        "busybox tftp -b 1468 -p -l FILE -r NAME HOST PORT",
    ],
)
def test_files_put_by_real_clients_arrive_whole(writable: Board, tmp_path: Path, line: str):
    host, port = writable.address[0], str(writable.address[1])
    words = [word.replace("=", " ") if line.startswith("atftp") else word for word in line.split()]
    if not shutil.which(words[0]):
        pytest.skip(f"{words[0]} is not installed (Debian: curl, tftp-hpa, atftp, busybox)")
    for size in (0, 1, 512, 1428, 100_000):
        if size == 0 and words[0] == "curl":
            continue  # sends no WRQ for an empty file
        data = content(size, size + 2)
        (tmp_path / "file").write_bytes(data)
        values = {"FILE": str(tmp_path / "file"), "NAME": "put", "HOST": host, "PORT": port}
        for key, value in values.items():
            words = [word.replace(key, value) for word in words]
        result = subprocess.run(words, capture_output=True, text=True, timeout=30)
        assert result.returncode == 0, result.stdout + result.stderr
        assert fetch(writable.address, "put") == data, size


def test_tftp_hpa_puts_text_as_netascii(writable: Board, tmp_path: Path):
    if not shutil.which("tftp"):
        pytest.skip("tftp is not installed (Debian: tftp-hpa)")
    (tmp_path / "text").write_bytes(SERVED["text.txt"])
    host, port = writable.address[0], str(writable.address[1])
    subprocess.run(
        ["tftp", "-m", "ascii", host, port, "-c", "put", str(tmp_path / "text"), "text"], check=True, timeout=30
    )
    assert fetch(writable.address, "text") == SERVED["text.txt"]


def test_names_are_matched_without_regard_to_case_and_in_folders(writable: Board):
    store(writable.address, "\\SUB\\There", b"new")
    assert fetch(writable.address, "sub/there") == b"new"
    store(writable.address, "SUB/other", b"other")
    assert fetch(writable.address, "sub/other") == b"other"


def test_the_journal_reports_a_complete_upload(writable: Board):
    seen = len(writable.console)
    store(writable.address, "told", content(2000))
    line = writable.wait_for('WRQ "/told" octet: done, 2000 bytes', after=seen)
    assert "0 resent" in line


@pytest.mark.parametrize("arguments", [["--set", "single_port=true"], ["--sockets", "1"], ["--sockets", "3"]])
@everyday
def test_many_uploads_and_downloads_at_once(take, arguments: list[str]):
    board = take("--set", "overwrite=true", *arguments)
    wrong: list[object] = []

    def one(number: int) -> None:
        try:
            for turn in range(3):
                data = content(20_000 + number, number + turn)
                store(board.address, f"many-{number}", data, ("blksize", 1000), ("windowsize", number % 5 + 1))
                if fetch(board.address, f"many-{number}", ("blksize", 1468), ("windowsize", 4)) != data:
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_uploads_are_off_by_default(start):
    error = refusal(start(), "new")
    assert error.code == 2 and "no uploads" in error.text


@everyday
def test_a_file_is_not_replaced_by_default(take):
    board = take()
    for name in ("hello.txt", "/HELLO.txt", "folder\\deep/er/FILE.bin"):
        assert refusal(board, name).code == 6
    store(board.address, "new", b"new")
    assert refusal(board, "new").code == 6
    assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]


@everyday
def test_only_the_listed_folders_take_uploads(take):
    board = take("--set", 'write_to=["/folder", "/missing"]', "--set", "overwrite=true")
    for name in ("new", "hello.txt", "boot/new", "folder2", "folders"):
        assert refusal(board, name).code == 2, name
    store(board.address, "missing/new", b"the server makes the folders of write_to")
    assert refusal(board, "folder/missing/new").code == 1
    store(board.address, "folder/new", b"new")
    store(board.address, "folder/deep/new", b"deeper")
    assert fetch(board.address, "folder/deep/new") == b"deeper"


@everyday
def test_only_the_listed_addresses_may_write(start):
    for ranges, allowed in (('["10.0.0.0/8", "127.0.0.2"]', False), ('["10.0.0.0/8", "127.0.0.0/31"]', True)):
        with start("--set", f"write_from={ranges}") as board, Wire(board.address) as wire:
            answer = wire.ask("new", opcode=2)
            assert answer == ack(0) if allowed else TftpError(answer).code == 2


@everyday
def test_only_the_listed_addresses_may_read(start):
    board = start("--set", 'read_from=["127.0.0.2/32"]')
    with Wire(board.address) as wire:
        assert TftpError(wire.ask("hello.txt")).code == 2
    with Wire(board.address) as wire:
        wire.socket.close()
        wire.socket = own_address("127.0.0.2")
        assert wire.ask("hello.txt")[:2] == b"\0\3"


def own_address(host: str) -> socket.socket:
    """A client socket on another address of this host."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.settimeout(2)
    return sock


@everyday
def test_an_upload_beyond_the_limit_is_refused_at_once_or_where_it_grows_too_large(take, tmp_path: Path):
    with take("--set", "write_limit=1000", "--save", str(tmp_path / "flash")) as board:
        assert refusal(board, "new", ("tsize", 1001)).code == 3
        with pytest.raises(TftpError, match="ERROR 3: file too large"):
            store(board.address, "new", content(1001))
        store(board.address, "just", content(1000), ("tsize", 1000))
    files = flash_files(tmp_path / "flash")
    assert files["/files/just"] == content(1000) and "/files/new" not in files
    assert not any(name.startswith("/.uploads/") for name in files)


@everyday
def test_an_upload_that_can_not_fit_is_refused_at_once(take):
    board = take("--flash-size", "4M")
    for size in (4_000_000, 4_294_967_296):
        error = refusal(board, "large", ("tsize", size))
        assert error.code == 3 and str(size) in error.text
    with Wire(board.address) as wire:
        assert parse_oack(wire.ask("fits", ("tsize", 100_000), opcode=2)) == {"tsize": "100000"}


@everyday
def test_concurrent_uploads_together_leave_keep_free(take):
    # 4 MiB of flash with 1.8 MB in it, of which uploads may have some 200 KB.
    board = take("--flash-size", "4M", "--set", "keep_free=1920000")
    assert refusal(board, "large", ("tsize", 1_000_000)).code == 3
    with Wire(board.address) as one, Wire(board.address) as other:
        blocks_taken = 0
        for wire, name in ((one, "one"), (other, "other")):
            parse_oack(wire.ask(name, ("blksize", 1468), opcode=2))
        packet = b""
        while packet[:2] != b"\0\5":
            blocks_taken += 1
            number = (blocks_taken + 1) // 2
            wire = one if blocks_taken % 2 else other
            wire.send(bytes((0, 3, number >> 8, number & 255)) + bytes(1468))
            packet = wire.receive()
        assert TftpError(packet).code == 3 and TftpError(packet).text == "the flash is full"
    assert 180_000 < blocks_taken * 1468 < 300_000
    store(board.address, "small", b"there is room again")


@everyday
def test_a_full_flash_gets_error_3_and_the_old_file_stays(take, tmp_path: Path):
    settings = ("--set", "overwrite=true", "--set", "keep_free=0")
    with take("--flash-size", "4M", *settings, "--save", str(tmp_path / "flash")) as board:
        for windowsize in (1, 16):
            with pytest.raises(TftpError, match=r"ERROR 3: the (flash|filesystem) is full"):
                store(board.address, "hello.txt", content(4_000_000), ("blksize", 1468), ("windowsize", windowsize))
            assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]
        # Two uploads fill it together: one may succeed, neither harms the old file of the other.
        with Wire(board.address) as idle:
            assert idle.ask("idle", opcode=2) == ack(0)
            idle.send(b"\0\3\0\1" + bytes(512))
            idle.receive()
            with pytest.raises(TftpError, match="ERROR 3"):
                store(board.address, "hello.txt", content(4_000_000), ("blksize", 1468), ("windowsize", 16))
        store(board.address, "hello.txt", b"there is room again")
        assert fetch(board.address, "hello.txt") == b"there is room again"
    files = flash_files(tmp_path / "flash")
    assert files["/files/hello.txt"] == b"there is room again"
    assert not any(name.startswith("/.uploads/") for name in files)
    assert not any("Traceback" in line for line in board.console)


@everyday
def test_names_that_can_not_be_a_file_are_refused(take):
    board = take("--set", "overwrite=true")
    for name in ("missing/new", "hello.txt/new", "hello.txt/a/b"):
        error = refusal(board, name)
        assert (error.code, error.text) == (1, "no such folder"), name
    for name in ("", "/", ".", "folder", "BOOT", "new/", "new\\", "folder/"):
        error = refusal(board, name)
        assert (error.code, error.text) == (2, "is a folder, not a file"), name


def test_a_second_writer_of_the_same_name_is_refused(writable: Board):
    with Wire(writable.address) as first:
        assert first.ask("twice", opcode=2) == ack(0)
        for name in ("twice", "/TWICE", ".\\Twice"):
            error = refusal(writable, name)
            assert error.code == 0 and "somebody is writing" in error.text
        first.send(b"\0\3\0\1first")
        assert first.receive() == ack(1)
        store(writable.address, "TWICE", b"second")  # while the first upload still dallies
        first.send(b"\0\3\0\1first")
        assert first.receive() == ack(1)
    assert fetch(writable.address, "twice") == b"second"


@pytest.mark.parametrize("again", [0, 1])
def test_the_same_file_put_twice_from_one_port_is_two_uploads(writable: Board, again: int):
    # tftp-hpa: two `put` in one session. The second comes within a second, while the first upload dallies.
    with Wire(writable.address) as wire:
        for data in (b"first", b"second"):
            wire.tid = wire.server
            for _ in range(1 + again):  # a repeated request before the first block is the same upload
                assert wire.ask("same", opcode=2) == ack(0)
            wire.send(b"\0\3\0\1" + data)
            while (packet := wire.receive()) == ack(0):
                pass
            assert packet == ack(1)
    assert fetch(writable.address, "same") == b"second"


def begin(board: Board, name: str, host: str, blocks: int) -> Wire:
    """A client at `host` that uploads so many blocks and says no more."""
    wire = Wire(board.address)
    wire.socket.close()
    wire.socket = own_address(host)
    answer = wire.ask(name, opcode=2)
    if answer != ack(0):
        raise TftpError(answer)
    for block in range(1, blocks + 1):
        wire.send(bytes((0, 3, 0, block)) + bytes(512))
        assert wire.receive() == ack(block)
    return wire


@everyday
@pytest.mark.parametrize(
    "blocks, host, wait, taken",
    [
        (0, "127.0.0.1", 0.4, True),  # Cisco IOS asks again from a new port
        (0, "127.0.0.2", 0.4, True),  # who has not answered may have a false address
        (1, "127.0.0.1", 0.1, False),
        (1, "127.0.0.1", 1.2, True),  # was restarted
        (1, "127.0.0.2", 1.2, False),
    ],
)
def test_who_gives_up_the_name_of_a_file_to_whom(writable: Board, blocks: int, host: str, wait: float, taken: bool):
    first = begin(writable, "contested", "127.0.0.1", blocks)
    time.sleep(wait)
    try:
        if taken:
            second = begin(writable, "CONTESTED", host, 0)
            second.send(b"\0\3\0\1of the second")
            assert second.receive() == ack(1)
            assert fetch(writable.address, "contested") == b"of the second"
        else:
            with pytest.raises(TftpError, match="ERROR 0: somebody is writing"):
                begin(writable, "contested", host, 0)
    finally:
        first.send(b"\0\5\0\0over\0")


@everyday
def test_a_request_alone_writes_nothing_to_the_flash(take, tmp_path: Path):
    image = tmp_path / "flash"
    with take("--save", str(image)) as board:
        for number in range(8):
            with Wire(board.address) as wire:
                wire.ask(f"forged-{number}", opcode=2)
    data = image.read_bytes()
    assert ".uploads" not in filesystem._open(boards.load("unix")["filesystem"], len(data), data).listdir("/")


def free_blocks(image: Path) -> int:
    layout = boards.load("unix")["filesystem"]
    data = image.read_bytes()
    return len(data) // layout["block_size"] - len(filesystem.used_blocks(layout, data))


@everyday
@pytest.mark.parametrize("size, count", [(520, 60), (100, 200), (5000, 30)])
def test_uploads_leave_free_what_they_shall(start, tmp_path: Path, size: int, count: int):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/hello.txt").write_bytes(b"hello")
    image = tmp_path / "flash"
    arguments = ("--flash-size", "384K", "--save", str(image), "--writable")
    with start(*arguments, "--set", "keep_free=65536", files=tmp_path / "files") as board:
        stored = 0
        for number in range(count):
            try:
                store(board.address, f"file-{number}", content(size))
                stored += 1
            except TftpError as error:
                assert error.code == 3
        assert 5 < stored < count
    assert free_blocks(image) * 4096 >= 65536


@everyday
def test_the_space_of_an_aborted_upload_is_free_at_once(start, tmp_path: Path):
    (tmp_path / "hello.txt").write_bytes(b"hello")
    with start("--flash-size", "512K", "--writable", files=tmp_path) as board:
        one, two = begin(board, "one", "127.0.0.1", 200), begin(board, "two", "127.0.0.1", 1)
        one.send(b"\0\5\0\0gave up\0")
        board.wait_for("gave up")
        for block in range(2, 256):
            two.send(bytes((0, 3, 0, block)) + bytes(512))
            assert two.receive() == ack(block)
        two.send(b"\0\3\1\0end")
        assert two.receive() == ack(256)
        store(board.address, "three", content(100_000), ("blksize", 1468))


@everyday
def test_only_its_client_writes_to_the_folder_of_a_client(start, tmp_path: Path):
    for name in ("127.0.0.2", "1.2.3.4.d", "incoming"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "boot.cfg").write_bytes(name.encode())
    write = ("--set", 'write_from=["127.0.0.0/8"]', "--set", "overwrite=true")
    board = start("--set", "client_folders=true", *write, files=tmp_path)
    for name in ("127.0.0.2/boot.cfg", "127.0.0.2/new", "/./127.0.0.2//new", "\\127.0.0.2\\new"):
        error = refusal(board, name)
        assert (error.code, error.text) == (2, "the folder of another client"), name
    with Wire(board.address) as wire:
        assert TftpError(wire.ask("127.0.0.2/boot.cfg")).code == 2
    store(board.address, "incoming/new", b"new")
    store(board.address, "1.2.3.4.d/new", b"no address")
    with begin(board, "boot.cfg", "127.0.0.2", 0) as owner:
        owner.send(b"\0\3\0\1by its owner")
        assert owner.receive() == ack(1)
    wire = Wire(board.address)
    wire.socket.close()
    wire.socket = own_address("127.0.0.2")
    assert wire.ask("127.0.0.2/boot.cfg")[4:] == b"by its owner"
    wire.send(ack(1))


@everyday
@pytest.mark.parametrize("name", ["x" * 245, "y" * 255, "d" * 200 + "/" + "e" * 100 + "/" + "f" * 150])
def test_a_file_with_a_long_name_is_replaced_while_it_is_read(start, tmp_path: Path, name: str):
    path = tmp_path / "files" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(SERVED["size-5000"])
    (tmp_path / "files/hello.txt").write_bytes(b"hello")
    image = tmp_path / "flash"
    arguments = ("--writable", "--set", "overwrite=true", "--save", str(image))
    with start(*arguments, files=tmp_path / "files") as board:
        with Wire(board.address) as wire:
            first = wire.ask(name)
            store(board.address, name, b"new")
            assert b"".join(blocks(wire, first)) == SERVED["size-5000"]
        assert fetch(board.address, name) == b"new"
    assert not any(where.startswith("/.uploads/") for where in flash_files(image))


@everyday
def test_a_long_name_moved_aside_comes_back_after_a_power_cut(take, tmp_path: Path):
    layout = boards.load("unix")["filesystem"]
    left = {"/.uploads/00000001": b"/files/" + b"z" * 250, "/.uploads/00000001.old": b"the old one"}
    left |= {"/.uploads/00000002": b"/files/nothing was moved"}
    (tmp_path / "flash").write_bytes(filesystem.build(layout, 8 << 20, left))
    with take("--save", str(tmp_path / "flash")) as board:
        assert fetch(board.address, "z" * 250) == b"the old one"
    assert not any(name.startswith("/.uploads/") for name in flash_files(tmp_path / "flash"))


@everyday
def test_the_board_still_answers_after_a_large_block_was_asked_for(start):
    # The listening port needs a large buffer for this upload, and a small one again after its end.
    board = start("--heap", "198048", "--set", "single_port=true", "--set", "blksize=32768", "--writable")
    for _ in range(3):
        with Wire(board.address) as wire:
            wire.ask("large", ("blksize", 32768), opcode=2)
            wire.send(b"\0\5\0\0enough\0")
        for _ in range(3):
            assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]


def test_a_block_longer_than_agreed_is_illegal(writable: Board):
    for options, size in (((), 513), ((), 1400), ((), 60_000), ((("blksize", 1000),), 1001)):
        with Wire(writable.address) as wire:
            wire.ask("long", *options, opcode=2)
            wire.send(b"\0\3\0\1" + bytes(size))
            assert wire.error().code == 4
    with pytest.raises(TftpError, match="ERROR 1"):
        fetch(writable.address, "long")


# -- readers of a replaced file, clients that go away ------------------------------------------------------------------


def test_readers_of_the_old_file_get_all_of_it(writable: Board):
    # The file is replaced twice, so that each of two readers reads an old version without a name.
    versions = [content(60_000, seed) for seed in (1, 2, 3)]
    store(writable.address, "versions", versions[0])
    with Wire(writable.address) as one, Wire(writable.address) as two:
        first_of_one = one.ask("versions")
        store(writable.address, "versions", versions[1], ("windowsize", 8))
        first_of_two = two.ask("versions")
        store(writable.address, "versions", versions[2], ("windowsize", 8))
        # These would overwrite the old versions if LittleFS counted their blocks as free.
        for number in range(100):
            store(
                writable.address, f"filler-{number % 3}", content(60_000, number), ("blksize", 1468), ("windowsize", 8)
            )
        assert b"".join(blocks(one, first_of_one)) == versions[0]
        assert b"".join(blocks(two, first_of_two)) == versions[1]
    assert fetch(writable.address, "versions") == versions[2]


@everyday
def test_a_replaced_file_is_removed_after_its_last_reader(take, tmp_path: Path):
    with take("--set", "overwrite=true", "--save", str(tmp_path / "flash")) as board:
        with Wire(board.address) as one, Wire(board.address) as two:
            firsts = [wire.ask("size-5000") for wire in (one, two)]
            store(board.address, "size-5000", b"new")
            for wire, first in zip((one, two), firsts, strict=True):
                assert b"".join(blocks(wire, first)) == SERVED["size-5000"]
        board.wait_for("RRQ")
        time.sleep(0.1)
    assert not any(name.startswith("/.uploads/") for name in flash_files(tmp_path / "flash"))


@pytest.mark.parametrize("goodbye", [b"\0\5\0\0enough\0", None])
@everyday
def test_an_aborted_upload_leaves_no_file(take, tmp_path: Path, goodbye: bytes | None):
    image = tmp_path / "flash"
    with take("--set", "overwrite=true", "--set", "timeout=1", "--set", "retries=2", "--save", str(image)) as board:
        wire = Wire(board.address)
        wire.ask("hello.txt", opcode=2)
        for block in range(1, 30):
            wire.send(bytes((0, 3, 0, block)) + bytes(512))
            assert wire.receive() == ack(block)
        if goodbye:
            wire.send(goodbye)
        wire.socket.close()
        board.wait_for("ended by the client" if goodbye else "the client does not answer")
        assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]
        store(board.address, "hello.txt", b"by another")  # the name is free again
    files = flash_files(image)
    assert files["/files/hello.txt"] == b"by another"
    assert not any(name.startswith("/.uploads/") for name in files), (sorted(files), board.console[-8:])


@everyday
def test_a_server_that_stops_sends_an_error_and_leaves_no_part_of_an_upload(take, tmp_path: Path):
    with take("--save", str(tmp_path / "flash")) as board, Wire(board.address) as wire:
        wire.ask("new", opcode=2)
        wire.send(b"\0\3\0\1" + bytes(512))
        assert wire.receive() == ack(1)
        assert board.stop() == 0
        assert wire.error().text == "the server stops"
    assert not any("/new" in name or "/.uploads/" in name for name in flash_files(tmp_path / "flash"))


@everyday
def test_the_next_start_cleans_up_after_a_power_cut(take, files: Path, tmp_path: Path):
    # The state after a power cut between the two renames of an upload: one unfinished upload, and one old file that was
    # moved aside for its reader while the new one did not have its name yet.
    layout = boards.load("unix")["filesystem"]
    left = {
        "/.uploads/00000007": b"half an upl",
        "/.uploads/00000003": b"/files/old.txt",
        "/.uploads/00000003.old": b"the old one",
        "/.uploads/00000002": b"/files/old.txt",
        "/.uploads/00000002.old": b"an older one",
        "/.uploads/00000001": b"/files/hello.txt",
        "/.uploads/00000001.old": b"an older hello",
    }
    (tmp_path / "flash").write_bytes(filesystem.build(layout, 8 << 20, left))
    with take("--save", str(tmp_path / "flash")) as board:
        assert fetch(board.address, "old.txt") == b"the old one"
        assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]
        store(board.address, "new", b"new")
    assert not any(name.startswith("/.uploads/") for name in flash_files(tmp_path / "flash"))


@everyday
def test_an_uploaded_file_is_there_after_the_next_start(take, tmp_path: Path):
    with take("--save", str(tmp_path / "flash")) as board:
        store(board.address, "kept", content(3000))
    with take("--save", str(tmp_path / "flash")) as board:
        assert fetch(board.address, "kept") == content(3000)


# -- repeats -----------------------------------------------------------------------------------------------------------


def test_a_repeated_request_gets_the_same_reply_from_the_same_tid(writable: Board):
    with Wire(writable.address) as wire:
        first = wire.ask("repeated", ("blksize", 1000), opcode=2)
        tid = wire.tid
        assert wire.ask("repeated", ("blksize", 1000), opcode=2) == first and wire.tid == tid
        wire.send(b"\0\3\0\1end")
        assert wire.receive() == ack(1)


@everyday
def test_an_unproven_client_gets_at_most_three_datagrams(take):
    board, wire = take("--set", "timeout=1", "--set", "retries=3"), Wire(("127.0.0.1", 0))
    wire.server = wire.tid = board.address
    first = wire.ask("reflected", ("blksize", 1468), opcode=2)
    assert [wire.receive(), wire.receive()] == [first] * 2
    assert wire.silent(2)
    wire.socket.close()
    board.wait_for('WRQ "/reflected" octet blksize=1468: the client does not answer')


def test_a_stranger_on_a_tid_gets_error_5_and_the_upload_goes_on(writable: Board):
    with Wire(writable.address) as wire, Wire(writable.address) as stranger:
        wire.ask("strangers", opcode=2)
        for datagram in (b"\0\3\0\1forged", b"\0\3\0\1" + bytes(512), ack(1)):
            stranger.socket.sendto(datagram, wire.tid)
            assert stranger.error().code == 5
        stranger.socket.sendto(b"\0\5\0\0no error to an error\0", wire.tid)
        wire.send(b"\0\3\0\1true")
        while (packet := wire.receive()) == ack(0):
            pass  # retransmitted by the timer
        assert packet == ack(1)
    assert fetch(writable.address, "strangers") == b"true"


# -- a bad network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [0, 1, 2, 5, 10])
@pytest.mark.parametrize("windowsize", [1, 8])
def test_uploads_arrive_whole_over_a_bad_network(writable: Board, windowsize: int, percent: int):
    chance = percent / 100
    with Relay(writable.address[1], loss=chance, duplicate=chance, reorder=chance, delay_ms=1, seed=percent) as relay:
        data = content(60_000, percent)
        options = (("blksize", 512), ("windowsize", windowsize))
        store(("127.0.0.1", relay.port), "lossy", data, *options, patience=0.05)
        assert fetch(writable.address, "lossy", ("blksize", 1468), ("windowsize", 8)) == data
        assert (relay.lost > 0) == (percent > 0)


@pytest.mark.parametrize("delay_ms", [2, 20, 100])
@pytest.mark.parametrize("windowsize", [1, 8])
def test_uploads_arrive_whole_from_far_away(writable: Board, windowsize: int, delay_ms: int):
    # Also reordered. At the longest delay the round trip is several times as long as a window takes to send.
    with Relay(writable.address[1], loss=0.03, reorder=0.05, delay_ms=delay_ms, seed=delay_ms) as relay:
        data = content(15_000, delay_ms)
        options = (("blksize", 1000), ("windowsize", windowsize))
        store(("127.0.0.1", relay.port), "far", data, *options, patience=0.05 + 3 * delay_ms / 1000)
    assert fetch(writable.address, "far", ("blksize", 1468), ("windowsize", 8)) == data


@everyday
def test_an_upload_over_a_failing_network_is_whole_or_leaves_the_old_file(take):
    board = take("--set", "overwrite=true", "--set", "timeout=1", "--set", "retries=1")
    new = b"new " * 400
    for loss in ((0.5, 0.5), (0.9, 0.0), (0.0, 0.8)):
        before, outcome = fetch(board.address, "hello.txt"), None
        with Relay(board.address[1], loss=loss, seed=7) as relay:
            try:
                store(("127.0.0.1", relay.port), "hello.txt", new, ("windowsize", 4), patience=0.05)
            except (TftpError, TimeoutError) as error:
                outcome = error
        after = fetch(board.address, "hello.txt")
        assert after == new or (outcome and after == before), loss
        if outcome:
            time.sleep(1.1)  # until the board has given the upload up too


def test_a_duplicating_network_does_not_double_the_traffic(writable: Board):
    seen = len(writable.console)
    with Relay(writable.address[1], duplicate=1) as relay:
        store(("127.0.0.1", relay.port), "double", content(50_000), patience=0.1)
        passed = relay.passed
    line = writable.wait_for('WRQ "/double"', after=seen)
    assert int(line.split(", ")[-1].split()[0]) <= 100, line
    assert passed < 98 * 2 * 4  # 98 blocks and their ACKs, each duplicated by the relay, with a margin of two
    assert fetch(writable.address, "double") == content(50_000)


def test_atftp_uploads_with_windows_over_a_lossy_network(writable: Board, tmp_path: Path):
    if not shutil.which("atftp"):
        pytest.skip("atftp is not installed (Debian: atftp)")
    (tmp_path / "file").write_bytes(content(30_000))
    options = ["--option", "windowsize 8", "--option", "blksize 1000"]
    for seed in range(1, 5):  # with some of these seeds block 1 is lost, with some the OACK
        with Relay(writable.address[1], loss=(0.1, 0.0), seed=seed) as relay:
            command = [
                "atftp",
                *options,
                "-p",
                "-l",
                str(tmp_path / "file"),
                "-r",
                "atftp",
                "127.0.0.1",
                str(relay.port),
            ]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert result.returncode == 0, (seed, result.stderr)
        assert fetch(writable.address, "atftp") == content(30_000)
