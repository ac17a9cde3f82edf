"""wrq.py with a list of packets and a hand-moved clock; runs on CPython under pytest and inside MicroPython."""

from tftpd.netascii import NetasciiSink
from tftpd.packet import DISK_FULL, ILLEGAL, Refused
from tftpd.transfer import DONE

from simulated import Memory, UploadBench, karn, three_datagrams_for_each_request, waits_until_given_up

WINDOW_4 = ((b"blksize", b"8"), (b"windowsize", b"4"))


def lock_step(**more):
    """A plain WRQ that has been answered."""
    bench = UploadBench(**more)
    assert bench.blocks() == [0]
    return bench


def window_of_4(**more):
    """Eight-byte blocks, the OACK sent."""
    bench = UploadBench(*WINDOW_4, **more)
    assert bench.blocks() == ["OACK"]
    return bench


def refusal(bench, datagram):
    try:
        bench.receive(datagram)
    except Refused as error:
        return error.code
    return None


def eight(number):
    return b"%08d" % number


# -- the usual course --------------------------------------------------------------------------------------------------


def test_lock_step_acknowledges_each_block():
    bench = lock_step()
    assert bench.data(1, b"a" * 512) == [1]
    assert bench.data(2, b"b" * 512) == [2]
    assert not bench.sink.committed
    assert bench.data(3, b"c" * 9) == [3]
    assert bench.sink.committed
    assert bench.sink.data == b"a" * 512 + b"b" * 512 + b"c" * 9
    assert bench.transfer.delivered() == 1033
    assert bench.transfer.resent == 0
    assert bench.transfer.outcome is None and bench.transfer.dallying(bench.now)


def test_an_empty_block_ends_a_multiple_of_blksize_and_an_empty_file():
    bench = lock_step()
    bench.data(1)
    assert not bench.sink.committed
    assert bench.data(2, b"") == [2]
    assert bench.sink.committed and bench.sink.size == 512
    bench = lock_step()
    assert bench.data(1, b"") == [1]
    assert bench.sink.committed and bench.sink.size == 0


def test_the_file_is_committed_before_the_last_ack():
    bench = lock_step()
    order = []
    bench.sink.commit = lambda: order.append("commit")
    bench.transfer.receive(b"\0\3\0\1end", 7, bench.now)
    bench.transfer.send = lambda packet: order.append(bytes(packet)) or 4
    bench.transfer.pump()
    assert order == ["commit", b"\0\4\0\1"]


def test_a_window_is_acknowledged_at_its_end():
    bench = window_of_4()
    got = [bench.data(number, eight(number)) for number in range(1, 10)]
    assert got == [[], [], [], [4], [], [], [], [8], []]
    assert bench.data(10, b"end") == [10]
    assert bench.sink.data == b"".join([eight(number) for number in range(1, 10)]) + b"end"


def test_a_gap_is_answered_once_with_the_ack_of_the_last_good_block():
    bench = window_of_4()
    assert bench.data(1, eight(1)) == []
    assert bench.data(3, eight(3)) == [1]
    assert bench.data(4, eight(4)) == []
    # The client continues after block 1 with a window of four.
    assert [bench.data(number, eight(number)) for number in (2, 3, 4, 5)] == [[], [], [], [5]]
    assert bench.sink.data == b"".join([eight(number) for number in range(1, 6)])


def test_a_second_gap_is_answered_again():
    bench = window_of_4()
    assert bench.data(2, eight(2)) == [0]  # no OACK: atftp would take it for a sign that nothing was lost
    assert bench.data(1, eight(1)) == []
    assert bench.data(3, eight(3)) == [1]
    assert bench.data(2, eight(2)) == []
    assert bench.data(4, eight(4)) == [2]


def test_a_first_window_of_which_only_the_end_arrives_is_asked_for_again():
    bench = window_of_4()
    assert bench.data(4, eight(4)) == [0]


def test_block_numbers_roll_over_to_0():
    bench = UploadBench((b"blksize", b"8"))
    assert bench.blocks() == ["OACK"]
    for number in range(1, 65538):
        acks = bench.data(number & 0xFFFF, eight(number))
        assert acks == [number & 0xFFFF]
    assert bench.data(0, eight(65536)) == []  # stale
    assert bench.data(1, eight(65537)) == [1]  # its ACK was lost
    assert bench.data(2, b"end") == [2]
    assert bench.sink.size == 8 * 65537 + 3 and bench.sink.committed


def test_a_window_rolls_over_too():
    bench = window_of_4()
    bench.transfer.base = bench.transfer._acked = 65534
    assert bench.data(65535, eight(1)) == []
    assert bench.data(1, eight(3)) == [65535]
    assert [bench.data(number, eight(0)) for number in (0, 1, 2, 3)] == [[], [], [], [3]]


# -- repeats and strays ------------------------------------------------------------------------------------------------


def test_a_duplicate_block_is_acknowledged_again_and_not_written_again():
    bench = lock_step()
    bench.data(1, b"a" * 512)
    assert bench.data(1, b"a" * 512) == [1]  # ACK 1 was lost
    assert bench.data(2, b"b" * 512) == [2]
    assert bench.data(3, b"c") == [3]
    assert bench.data(3, b"c") == [3]
    assert bench.sink.data == b"a" * 512 + b"b" * 512 + b"c"
    assert bench.transfer.resent == 2


def test_the_duplicate_block_after_a_retransmitted_ack_is_not_answered():
    # The Sorcerer's Apprentice (RFC 1123 4.2.3.1): otherwise every later block would be sent twice.
    bench = lock_step()
    bench.data(1)
    assert bench.wait_until_due() == [1]
    assert bench.data(2) == [2]  # for the first ACK 1
    assert bench.data(2) == []  # for the second
    assert bench.data(3) == [3]
    assert bench.data(3) == [3]  # this time the ACK was lost


def test_a_retransmitted_window_is_acknowledged_once():
    bench = window_of_4()
    for number in (1, 2, 3, 4):
        bench.data(number, eight(number))
    # ACK 4 was lost: the client retransmits its window.
    assert [bench.data(number, eight(number)) for number in (1, 2, 3, 4)] == [[], [], [], [4]]
    assert bench.sink.size == 32


def test_a_block_beyond_the_window_is_a_gap_and_a_block_before_it_is_ignored():
    bench = window_of_4()
    for number in (32768, 65535, 0):
        assert bench.data(number, eight(number)) == [], number
    # atftp goes on to the next window when it gets a duplicate OACK.
    assert bench.data(5, eight(5)) == [0]
    assert bench.data(100, eight(100)) == []
    assert bench.data(1, eight(1)) == []
    assert bench.sink.data == eight(1)


def test_short_and_strange_datagrams_are_ignored():
    bench = lock_step()
    for junk in (
        b"",
        b"\0",
        b"\0\3",
        b"\0\3\0",
        b"\1\3\0\1x",
        b"\0\4\0\1",
        b"\0\1a\0octet\0",
        b"\0\6\0\1",
        b"\0\2\0\1",
    ):
        assert bench.receive(junk) == [], junk
    assert bench.data(1) == [1]


def test_a_block_longer_than_blksize_is_illegal():
    assert refusal(lock_step(), b"\0\3\0\1" + bytes(513)) == ILLEGAL
    assert refusal(window_of_4(), b"\0\3\0\1" + bytes(9)) == ILLEGAL


def test_a_full_flash_refuses_the_block_that_does_not_fit():
    bench = lock_step(sink=Memory(room=1000))
    assert bench.data(1) == [1]
    assert refusal(bench, b"\0\3\0\2" + bytes(512)) == DISK_FULL


def test_an_error_ends_the_transfer():
    bench = lock_step()
    bench.data(1)
    bench.receive(b"\0\5\0\0gave up\0")
    assert bench.transfer.outcome == "ended by the client"
    assert bench.transfer.peer_error == b"\0\0gave up\0"
    assert not bench.sink.committed


def test_an_error_after_the_last_block_does_not_undo_the_file():
    bench = lock_step()
    bench.data(1, b"end")
    bench.receive(b"\0\5\0\0late\0")
    assert bench.transfer.outcome is None
    bench.wait_until_due()
    assert bench.transfer.outcome == DONE


def test_no_block_is_taken_after_the_last():
    bench = lock_step()
    bench.data(1, b"end")
    assert bench.data(2, b"more") == []
    assert bench.sink.data == b"end"


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_lost_last_ack_is_repeated_while_the_transfer_dallies():
    bench = lock_step(timeout=2)
    bench.data(1, b"end")
    bench.now += 3999
    assert bench.data(1, b"end") == [1]
    assert bench.transfer.outcome is None
    bench.wait(1)
    assert bench.transfer.outcome == DONE


def test_a_repeated_request_repeats_the_oack():
    bench = window_of_4()
    assert bench.transfer.repeat_request(bench.now) and bench.blocks() == ["OACK"]
    bench.data(1, eight(1))
    assert bench.transfer.repeat_request(bench.now) and bench.blocks() == [1]
    bench.now += 1500  # a client that was restarted
    assert not bench.transfer.repeat_request(bench.now)


def test_an_unproven_client_gets_three_datagrams_for_each_request():
    three_datagrams_for_each_request(UploadBench(), 0)
    three_datagrams_for_each_request(UploadBench(*WINDOW_4), "OACK")


def test_blocks_that_prove_no_address_bring_an_unproven_client_no_more_datagrams():
    bench = window_of_4()
    sent = []
    for number in (2, 3, 4, 2, 3, 4):  # gaps: a spoofed sender can make these too
        sent += bench.data(number, eight(number))
    for _ in range(20):
        sent += bench.wait(300)
    assert len(sent) == 2


def test_a_gap_is_not_answered_after_three_datagrams_to_an_unproven_client():
    bench = window_of_4()
    assert bench.wait_until_due() == bench.wait_until_due() == ["OACK"]
    assert bench.data(2, eight(2)) == []


def test_a_retransmitted_ack_measures_no_round_trip():
    # Karn's rule: the block may answer the first copy.
    bench = lock_step()
    karn(bench, bench.data, repeated=1)


def test_a_client_that_falls_silent_is_given_up():
    bench = lock_step(timeout=2, retries=8)
    bench.data(1)
    waits_until_given_up(bench)
    assert not bench.sink.committed


def test_duplicates_of_an_old_block_do_not_keep_the_transfer_alive():
    bench = lock_step(timeout=1, retries=3)
    bench.data(1)
    for _ in range(100):
        bench.wait(50)
        bench.data(1)
    assert bench.transfer.outcome == "the client does not answer"


def test_the_wait_adapts_to_the_round_trip_time():
    for rtt, low, high in ((1, 20, 25), (10, 30, 50), (100, 120, 320)):
        bench = lock_step()
        for block in range(1, 20):
            bench.now += rtt
            assert bench.data(block) == [block]
        assert low <= bench.transfer.due - bench.now <= high, rtt


def test_the_wait_for_a_block_begins_after_the_write():
    bench = lock_step()

    def write(data):
        bench.took = 400

    bench.sink.write = write
    bench.data(1)
    assert bench.wait(419) == []
    assert bench.wait(1) == [1]


# -- a network that takes no packet ------------------------------------------------------------------------------------


def test_a_full_network_causes_no_retransmission():
    bench = lock_step()
    bench.transfer.receive(b"\0\3\0\1" + bytes(512), 516, bench.now)
    assert bench.blocks(room=0) == []
    assert bench.wait_until_due() == [1]
    assert bench.transfer.resent == 0
    assert bench.sink.size == 512


def test_the_last_ack_waits_for_a_full_network():
    bench = lock_step()
    bench.transfer.receive(b"\0\3\0\1end", 7, bench.now)
    assert bench.blocks(room=0) == []
    assert bench.wait_until_due() == [1]
    bench.wait_until_due()
    assert bench.transfer.outcome == DONE


# -- netascii ----------------------------------------------------------------------------------------------------------


def decoded(stream, size):
    """The output of NetasciiSink for `stream` in blocks of `size` bytes."""
    memory = Memory()
    sink = NetasciiSink(memory)
    for at in range(0, len(stream), size):
        sink.write(memoryview(stream)[at : at + size])
    sink.commit()
    assert memory.committed
    return memory.data


def test_netascii_line_ends_at_every_block_border():
    for text in (b"", b"\n", b"\r", b"\r\n", b"\n\n\r\r\n\r", b"a\nb\rc\r\nd", b"\r" * 20 + b"\n" * 20):
        stream = text.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
        for size in range(1, 12):
            assert decoded(stream, size) == text, (text, size)


def test_bytes_that_are_not_valid_netascii_are_kept():
    for stream in (b"\r", b"a\rb", b"\r\r\n", b"\n", b"\0", b"\r\r\0", b"\xff\r"):
        wanted = stream.replace(b"\r\n", b"\n").replace(b"\r\0", b"\r")
        for size in (1, 2, 3):
            assert decoded(stream, size) == wanted, (stream, size)
