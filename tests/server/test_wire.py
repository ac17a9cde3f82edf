"""The protocol on the wire, datagram by datagram: a test for each line of docs/protocol.md's tables."""

import json
import socket
import time

import pytest

from board import Board
from client import TftpError, Wire, ack, blocks, fetch, parse_oack, request
from served import SERVED
from tools import boards

everyday = pytest.mark.everyday_only("its arguments and its addresses are those of the everyday board")

# -- modes -------------------------------------------------------------------------------------------------------------


@pytest.mark.also_on_pico
@pytest.mark.parametrize("mode", ["octet", "OCTET", "Octet", "binary", "BINARY"])
def test_octet_is_taken_in_any_case_and_binary_is_its_alias(board: Board, mode: str):
    assert fetch(board.address, "size-513", mode=mode) == SERVED["size-513"]


@pytest.mark.parametrize("mode", ["netascii", "NetASCII"])
@pytest.mark.parametrize("options", [(), (("blksize", 8),), (("blksize", 1468), ("windowsize", 4))])
def test_netascii_converts_line_ends(board: Board, mode: str, options: tuple):
    wanted = SERVED["text.txt"].replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    sizes = dict(options)
    board.skip_if_too_slow(len(wanted) / sizes.get("blksize", 512) / sizes.get("windowsize", 1))
    assert fetch(board.address, "text.txt", *options, mode=mode) == wanted


@pytest.mark.also_on_pico
@pytest.mark.parametrize("mode", ["mail", "", "octetx", "image", "\xff"])
def test_other_modes_are_illegal(board: Board, mode: str):
    with Wire(board.address) as wire, pytest.raises(TftpError, match="ERROR 4: mode"):
        raise TftpError(wire.ask("hello.txt", mode=mode))


# -- RFC 2347, 2348, 2349, 7440 ----------------------------------------------------------------------------------------


@pytest.mark.also_on_pico
def test_no_option_granted_means_data_at_once(board: Board):
    for options in ((), (("unknown", "1"),), (("blksize", "7"),), (("multicast", ""),)):
        with Wire(board.address) as wire:
            assert wire.ask("hello.txt", *options) == b"\0\3\0\1" + SERVED["hello.txt"]


@pytest.mark.also_on_pico
def test_the_oack_holds_the_granted_options_in_the_order_asked(board: Board):
    with Wire(board.address) as wire:
        answer = wire.ask(
            "size-513", ("TimeOut", 7), ("nonsense", 1), ("tsize", 0), ("blksize", 1024), ("windowsize", 2)
        )
        assert answer == b"\0\6TimeOut\x007\0tsize\x00513\0blksize\x001024\0windowsize\x002\0"


@pytest.mark.also_on_pico
@pytest.mark.parametrize(
    "asked, granted", [(8, 8), (512, 512), (1428, 1428), (1468, 1468), (8192, 1468), (65464, 1468)]
)
def test_blksize_is_granted_up_to_the_limit_and_used(board: Board, asked: int, granted: int):
    with Wire(board.address) as wire:
        assert parse_oack(wire.ask("size-5000", ("blksize", asked))) == {"blksize": str(granted)}
        assert wire.ack(0) == b"\0\3\0\1" + SERVED["size-5000"][:granted]


@pytest.mark.parametrize("seconds", [1, 5, 255])
def test_timeout_is_echoed_exactly(board: Board, seconds: int):
    with Wire(board.address) as wire:
        assert parse_oack(wire.ask("hello.txt", ("timeout", seconds))) == {"timeout": str(seconds)}


@pytest.mark.also_on_pico
def test_tsize_is_the_real_size_whatever_was_sent(board: Board):
    for sent in (0, 1, 4096, 4294967295, 18446744073709551615):
        with Wire(board.address) as wire:
            assert parse_oack(wire.ask("size-5000", ("tsize", sent))) == {"tsize": "5000"}


@pytest.mark.also_on_pico
def test_no_tsize_for_an_empty_file_nor_in_netascii(board: Board):
    with Wire(board.address) as wire:
        assert parse_oack(wire.ask("empty", ("tsize", 0), ("blksize", 1000))) == {"blksize": "1000"}
        assert wire.ack(0) == b"\0\3\0\1"
    with Wire(board.address) as wire:
        assert parse_oack(wire.ask("text.txt", ("tsize", 0), ("blksize", 1000), mode="netascii")) == {"blksize": "1000"}


@pytest.mark.also_on_pico
@pytest.mark.parametrize("asked, granted", [(1, 1), (2, 2), (64, 64), (65535, 64)])
def test_windowsize_is_granted_up_to_the_limit_and_used(board: Board, asked: int, granted: int):
    with Wire(board.address) as wire:
        assert parse_oack(wire.ask("size-5000", ("windowsize", asked), ("blksize", 8))) == {
            "windowsize": str(granted),
            "blksize": "8",
        }
        wire.send(ack(0))
        assert [wire.receive()[3] for _ in range(granted)] == list(range(1, granted + 1))
        wire.send(b"\0\5\0\0enough\0")


@pytest.mark.parametrize("windowsize", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("blksize", [8, 512, 1428, 1468])
@pytest.mark.parametrize("name", ["empty", "size-8", "size-5000", "size-100000"])
def test_files_arrive_whole_in_every_window(board: Board, name: str, blksize: int, windowsize: int):
    board.skip_if_too_slow(len(SERVED[name]) / blksize / windowsize)
    assert fetch(board.address, name, ("blksize", blksize), ("windowsize", windowsize)) == SERVED[name]


@pytest.mark.parametrize(
    "off, left",
    [
        ({"0.0.0.0/0": "all"}, {}),
        ({"127.0.0.0/8": ["blksize", "tsize"]}, {"windowsize": "4", "timeout": "2"}),
        ({"10.0.0.0/8": "all", "127.0.0.1": ["windowsize"]}, {"blksize": "1000", "timeout": "2", "tsize": "513"}),
        ({"10.0.0.0/8": "all"}, {"blksize": "1000", "windowsize": "4", "timeout": "2", "tsize": "513"}),
    ],
)
def test_options_that_are_off_for_a_client_are_not_granted(start, off: dict, left: dict):
    # Old PXE ROMs fail on an OACK.
    with start("--set", f"options_off={json.dumps(off)}") as board, Wire(board.address) as wire:
        first = wire.ask("size-513", ("blksize", 1000), ("WindowSize", 4), ("timeout", 2), ("tsize", 0))
        if left:
            assert {key.lower(): value for key, value in parse_oack(first).items()} == left
        else:
            assert first == b"\0\3\0\1" + SERVED["size-513"][:512]


def test_settings_set_the_limits(start):
    with start("--set", "blksize=600", "--set", "windowsize=3") as board, Wire(board.address) as wire:
        oack = parse_oack(wire.ask("size-5000", ("windowsize", 16), ("blksize", 1468)))
        assert oack == {"windowsize": "3", "blksize": "600"}


# -- blocks ------------------------------------------------------------------------------------------------------------


def test_block_numbers_roll_over_and_the_file_is_whole(board: Board):
    assert fetch(board.address, "rollover.bin", ("blksize", 8), ("windowsize", 64)) == SERVED["rollover.bin"]


@pytest.mark.also_on_pico
def test_a_multiple_of_blksize_ends_with_an_empty_block(board: Board):
    with Wire(board.address) as wire:
        assert wire.ask("size-1024") == b"\0\3\0\1" + SERVED["size-1024"][:512]
        assert wire.ack(1) == b"\0\3\0\2" + SERVED["size-1024"][512:]
        assert wire.ack(2) == b"\0\3\0\3"
        wire.send(ack(3))
        assert wire.silent()


@pytest.mark.also_on_pico
def test_a_duplicate_ack_sends_nothing_in_lock_step(board: Board):
    with Wire(board.address) as wire:
        wire.ask("size-100000")
        for block in (1, 2, 3):
            for _ in range(3):  # no more: a Pico W queues 4 datagrams
                wire.send(ack(block))
            assert wire.receive()[3] == block + 1
        assert wire.silent(0.015)  # no duplicates before the timer expires


@pytest.mark.also_on_pico
def test_one_ack_on_a_gap_rolls_the_window_back(board: Board):
    # U-Boot sends one ACK of the last good block, then waits for 5 s.
    with Wire(board.address) as wire:
        wire.ask("size-100000", ("windowsize", 4))
        wire.send(ack(0))
        assert [wire.receive()[3] for _ in range(4)] == [1, 2, 3, 4]
        wire.send(ack(2))
        assert [wire.receive()[3] for _ in range(4)] == [3, 4, 5, 6]


def test_many_acks_on_a_gap_roll_the_window_back_once(board: Board):
    # edk2 sends an ACK for every datagram out of order.
    with Wire(board.address) as wire:
        wire.ask("size-100000", ("windowsize", 8))
        wire.send(ack(0))
        for _ in range(8):
            wire.receive()
        for _ in range(7):
            wire.send(ack(1))
        assert [wire.receive()[3] for _ in range(8)] == [2, 3, 4, 5, 6, 7, 8, 9]
        assert wire.silent(0.015)


def test_a_lost_block_is_retransmitted_in_well_under_a_second(board: Board):
    with Wire(board.address, timeout=0.5) as wire:
        wire.ask("size-5000")
        first = wire.ack(1)
        assert wire.receive() == first  # block 2 again, without an ACK


@pytest.mark.also_on_pico
def test_long_acks_are_accepted(board: Board):
    # The Windows boot manager sends more bytes after the block number.
    with Wire(board.address) as wire:
        wire.ask("size-5000")
        wire.send(ack(1) + b"and more")
        assert wire.receive()[:4] == b"\0\3\0\2"


def test_short_and_strange_datagrams_on_a_transfer_do_not_disturb_it(board: Board):
    with Wire(board.address) as wire:
        packet = wire.ask("size-5000")
        got = packet[4:]
        for block in range(1, 10):
            for junk in (b"", b"\0", b"\0\4", b"\0\4\0", b"\0\3\0\1junk", b"\xff" * 600, request("hello.txt")):
                wire.send(junk)
            while packet[3] != block + 1:  # the timer may have expired meanwhile: duplicates
                packet = wire.ack(block)
            got += packet[4:]
        assert got == SERVED["size-5000"]


# -- last ACK, probes, repeated requests ------------------------------------------------------------------------------


def test_the_last_block_is_repeated_until_its_ack_and_counts_as_done(start):
    with start("--set", "timeout=1", "--set", "retries=2") as board, Wire(board.address) as wire:
        wire.ask("size-513")
        last = wire.ack(1)
        assert wire.receive() == last and wire.receive() == last
        assert ": done, 513 bytes" in board.wait_for("size-513")
        assert "ERROR" not in board.console[-1]


def test_a_size_probe_ended_by_the_client_is_not_logged_as_an_error(board: Board):
    for goodbye in (b"\0\5\0\0TFTP Aborted\0", b"\0\5\0\x08User aborted the transfer\0"):  # iPXE, edk2
        seen = len(board.console)
        with Wire(board.address) as wire:
            assert parse_oack(wire.ask("size-5000", ("tsize", 0))) == {"tsize": "5000"}
            wire.send(goodbye)
            client = f":{wire.socket.getsockname()[1]} RRQ"
            assert "probed, no data wanted" in board.wait_for(client, after=seen)
            assert wire.silent(0.3)


@pytest.mark.also_on_pico
def test_a_repeated_request_gets_the_same_reply_from_the_same_tid(board: Board):
    with Wire(board.address) as wire:
        first = wire.ask("size-5000", ("blksize", 1000))
        tid = wire.tid
        assert wire.ask("size-5000", ("blksize", 1000)) == first and wire.tid == tid
        assert wire.ack(0)[:4] == b"\0\3\0\1"


@pytest.mark.also_on_pico
def test_a_different_name_from_the_same_port_is_a_new_transfer(board: Board):
    with Wire(board.address) as wire:
        wire.ask("size-5000")
        assert wire.ask("hello.txt") == b"\0\3\0\1" + SERVED["hello.txt"]


# -- TIDs --------------------------------------------------------------------------------------------------------------


@pytest.mark.also_on_pico
def test_each_transfer_has_a_tid_of_its_own(board: Board):
    wires = [Wire(board.address) for _ in range(8)]
    for wire in wires:
        wire.ask("size-5000")
    # Two sockets for each transfer, as long as the board has enough.
    sockets = 3 if board.name == "hardware" else boards.load(board.name)["udp_sockets"] or 99
    assert len({wire.tid for wire in wires} | {board.address}) >= 1 + min(8, sockets // 2)
    for wire in wires:
        wire.send(b"\0\5\0\0enough\0")
        wire.socket.close()


def test_a_stranger_on_a_tid_gets_error_5_and_the_transfer_goes_on(board: Board):
    with Wire(board.address) as wire, Wire(board.address) as stranger:
        wire.ask("size-5000")
        for datagram in (ack(1), b"\0\3\0\1x", request("hello.txt"), b"\0\0"):
            stranger.socket.sendto(datagram, wire.tid)
            assert stranger.error().code == 5
        stranger.socket.sendto(b"\0\5\0\0no error to an error\0", wire.tid)
        assert stranger.silent(0.2)
        packet = wire.ack(1)
        while packet[3] == 1:
            packet = wire.receive()
        assert packet[:4] == b"\0\3\0\2"


def test_single_port_answers_from_the_listening_port(start):
    with start("--set", "single_port=true") as board:
        with Wire(board.address) as one, Wire(board.address) as two:
            for wire in (one, two):
                wire.ask("size-5000")
                assert wire.tid == board.address
            assert one.ack(1)[:4] == two.ack(1)[:4] == b"\0\3\0\2"
        assert fetch(board.address, "size-100000", ("windowsize", 16)) == SERVED["size-100000"]


@everyday
def test_a_refusal_comes_from_a_port_of_its_own_if_one_is_free(start):
    # RFC 1350 section 4: Apache Commons Net drops an answer from port 69.
    for arguments, own in ((), True), (("--set", "single_port=true"), False), (("--sockets", "1"), False):
        with start(*arguments) as board:
            for _ in range(3):
                with Wire(board.address) as wire:
                    assert TftpError(wire.ask("missing")).code == 1
                    assert (wire.tid != board.address) is own
                    wire.tid = board.address


@everyday
def test_late_acks_of_a_finished_client_on_a_shared_port_get_no_error_5(start):
    # On a Pico W with default settings the next request from the same port would get an ERROR 5 first.
    with start("--sockets", "3") as board, Wire(board.address) as other, Wire(board.address) as wire:
        other.ask("size-5000")
        for _ in range(3):
            assert wire.ask("hello.txt")[:4] == b"\0\3\0\1"
            assert wire.tid == other.tid, "the port is not shared"
            for _ in range(3):
                wire.send(ack(1))
            assert wire.silent(0.1)
        with Wire(board.address) as stranger:
            stranger.socket.sendto(ack(1), other.tid)
            assert stranger.error().code == 5
        wire.tid = wire.server


@everyday
def test_a_transfer_with_the_last_socket_hears_its_client_alone(start):
    # As on a Pico W with dhcp_proxy: such a socket is connected, which saves a third of the time of a block.
    with start("--sockets", "2") as board:
        wire, other, stranger = (Wire(board.address) for _ in range(3))
        wire.ask("size-5000")
        assert wire.tid != board.address
        stranger.socket.sendto(ack(1), wire.tid)
        assert stranger.silent(0.2)
        other.ask("size-5000")
        assert other.tid == board.address, "others can't share the port"
        assert wire.ack(1)[:4] == other.ack(1)[:4] == b"\0\3\0\2"
        assert board.stop() == 0
        for one in (wire, other):
            while (packet := one.receive())[:2] == b"\0\3":
                pass
            assert packet[:4] == b"\0\5\0\0", "the server tells both that it stops"
            one.socket.close()
        stranger.socket.close()
    with start("--sockets", "2") as board:
        for _ in range(3):
            assert fetch(board.address, "size-100000", ("windowsize", 4)) == SERVED["size-100000"]


@everyday
def test_a_duplicate_last_ack_is_not_answered_on_a_single_port(start):
    with start("--set", "single_port=true") as board, Wire(board.address) as wire:
        for _ in range(3):
            wire.ask("hello.txt")
            wire.send(ack(1))
            wire.send(ack(1))
            assert wire.silent(0.1)


@everyday
def test_a_request_from_the_port_of_a_server_is_not_answered(start):
    # A spoofed WRQ "from" port 69 of another such server would make the two exchange packets.
    with start("--set", "single_port=true", "--writable") as board:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forged:
            forged.bind(("127.0.0.2", board.address[1]))
            forged.settimeout(0.3)
            for opcode in (1, 2):
                forged.sendto(request("hello.txt", opcode=opcode), board.address)
                with pytest.raises(TimeoutError):
                    forged.recvfrom(600)
        assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.also_on_pico
@pytest.mark.parametrize(
    "asked, name",
    [
        ("hello.txt", "hello.txt"),
        ("/hello.txt", "hello.txt"),
        ("//hello.txt", "hello.txt"),
        ("./hello.txt", "hello.txt"),
        ("HELLO.TXT", "hello.txt"),
        ("\\Boot\\BCD", "Boot/BCD"),
        ("boot/BCD.Other", "boot/bcd.other"),
        ("FOLDER\\deep/ER//file.BIN", "folder/deep/er/file.bin"),
        ("Grüße.txt", "Grüße.txt"),
        ("x" * 255, "x" * 255),
        ("with space.txt", "with space.txt"),
        (b"hello.txt\xff", "hello.txt"),  # old PXE ROMs with some DHCP servers
        (b"Boot\\bcd\xff", "Boot/BCD"),
    ],
)
def test_names_that_are_found(board: Board, asked: str | bytes, name: str):
    assert fetch(board.address, asked) == SERVED[name]


@pytest.mark.also_on_pico
@pytest.mark.parametrize(
    "asked, code",
    [
        ("missing", 1),
        ("folder/missing", 1),
        ("missing/folder/file", 1),
        ("hello.txt/x", 1),
        (".hidden", 1),
        ("folder/.hidden", 1),
        ("x" * 256, 1),
        (b"\xff\xfe", 1),
        (b"\xc0\xae\xc0\xae/boot.py", 1),
        ("..", 2),
        ("../boot.py", 2),
        ("../settings.json", 2),
        ("folder/../../boot.py", 2),
        ("..\\main.py", 2),
        ("folder", 2),
        ("folder/deep/", 2),
        ("", 2),
        ("/", 2),
        ("boot.py", 1),
        ("/main.py", 1),
        ("/lib/tftpd/server.mpy", 1),
        ("settings.json", 1),
        ("/files/hello.txt", 1),
        ("%2e%2e/boot.py", 1),
        ("C:\\boot.py", 1),
    ],
)
def test_names_that_are_refused(board: Board, asked: str, code: int):
    with Wire(board.address) as wire:
        answer = TftpError(wire.ask(asked))
        assert answer.code == code and answer.text


@pytest.mark.also_on_pico
def test_uploads_are_refused(board: Board):
    with Wire(board.address) as wire:
        answer = TftpError(wire.ask("new.txt", opcode=2))
        assert answer.code == 2 and "upload" in answer.text


# -- garbage, and datagrams that get no answer -------------------------------------------------------------------------


def test_garbage_from_the_address_of_a_client_does_not_end_its_transfer(board: Board):
    with Wire(board.address) as wire:
        first = wire.ask("size-5000")
        for garbage in (b"x", b"\0\5\0\0to the wrong port\0"):
            wire.socket.sendto(garbage, board.address)
        assert b"".join(blocks(wire, first)) == SERVED["size-5000"]


@pytest.mark.also_on_pico
@pytest.mark.parametrize("datagram", [b"\0\0", b"\0\7", b"\0\1", b"\0\1a\0octet", b"\0\2a\0octet"])
def test_garbage_on_the_listening_port_is_an_illegal_operation(board: Board, datagram: bytes):
    with Wire(board.address) as wire:
        wire.send(datagram)
        assert wire.error().code == 4


@pytest.mark.parametrize("datagram", [b"", b"\0", b"\0\5", b"\0\5\0\1file not found\0", b"\0\5" + b"x" * 2000])
def test_errors_and_truncated_datagrams_are_not_answered(board: Board, datagram: bytes):
    with Wire(board.address) as wire:
        wire.send(datagram)
        assert wire.silent(0.2)


@pytest.mark.also_on_pico
@pytest.mark.parametrize("datagram", [b"\0\3\0\1data", b"\0\3", b"\0\4\0\1", b"\0\6x\0y\0"])
def test_data_acks_and_oacks_on_the_listening_port_are_not_answered(board: Board, datagram: bytes):
    # A client that acknowledges an ERROR would get ERRORs for ever.
    with Wire(board.address) as wire:
        wire.send(datagram)
        assert wire.silent(0.2)


@pytest.mark.also_on_pico
@pytest.mark.parametrize("size", [513, 516, 600, 1024, 1468])
def test_a_request_padded_with_nuls_is_served(board: Board, size: int):
    with Wire(board.address) as wire:
        wire.send(request("size-5000", ("blksize", 1000)).ljust(size, b"\0"))
        assert parse_oack(wire.receive()) == {"blksize": "1000"}


@pytest.mark.parametrize("size", [513, 514, 1472, 65_507])
def test_an_over_long_request_is_illegal(board: Board, size: int):
    if size > 1472 and board.name != "unix":
        pytest.skip("a real board's network stack drops a datagram in so many fragments")
    with Wire(board.address) as wire:
        wire.send(b"\0\1" + b"a" * (size - 9) + b"\0octet\0")
        assert wire.error().code == 4


def test_an_unproven_client_gets_at_most_three_datagrams(start):
    with start("--set", "timeout=1", "--set", "retries=4") as board, Wire(board.address) as wire:
        first = wire.ask("size-5000", ("blksize", 1468), ("windowsize", 16))
        assert [wire.receive(), wire.receive()] == [first] * 2
        assert wire.silent(2)
        wire.socket.sendto(request("size-5000", ("blksize", 1468), ("windowsize", 16)), board.address)
        assert [wire.receive() for _ in range(3)] == [first] * 3
        assert wire.silent(1.5)
        assert "the client does not answer" in board.wait_for("size-5000")


@everyday
def test_port_unreachable_ends_a_transfer_at_once(board: Board):
    # Linux reports an ICMP "port unreachable" to the socket; the boards' network stacks do not.
    seen = len(board.console)
    wire = Wire(board.address)
    wire.ask("size-5000", ("blksize", 1000))
    wire.ack(0)
    client = board.seen_as(wire)
    wire.socket.close()
    started = time.monotonic()
    assert "nobody is on the client's port" in board.wait_for(client, after=seen)
    assert time.monotonic() - started < 2


@everyday
def test_dead_transfers_of_a_client_give_way_to_its_next_request(start):
    with start("--set", "transfers=8") as board:
        dead = [Wire(board.address) for _ in range(8)]
        for wire in dead:
            wire.ask("size-5000")
            wire.ack(1)
        with pytest.raises(TftpError, match="busy"):
            fetch(board.address, "hello.txt")
        time.sleep(1.1)
        with Wire(board.address) as other:
            other.socket.close()
            other.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            other.socket.bind(("127.0.0.2", 0))
            other.socket.settimeout(2)
            assert "busy" in TftpError(other.ask("hello.txt")).text, "another host's request must not end them"
            other.tid = other.server
        assert fetch(board.address, "hello.txt") == SERVED["hello.txt"]
        board.wait_for("has not answered, and gives way")
        for wire in dead:
            wire.__exit__()


def test_the_board_listens_only_on_the_address_it_is_given(board: Board):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.settimeout(0.3)
        elsewhere.sendto(request("hello.txt"), ("127.0.0.2", board.address[1]))
        with pytest.raises(OSError):
            elsewhere.recvfrom(1000)
