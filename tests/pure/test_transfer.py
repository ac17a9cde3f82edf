"""transfer.py and rrq.py with a list of packets and a hand-moved clock; also runs inside MicroPython."""

from errno import ECONNREFUSED

from tftpd.files import ReadAhead
from tftpd.packet import Refused
from tftpd.transfer import DONE, PROBED

from simulated import Bench, Zeros, ack, karn, three_datagrams_for_each_request, waits_until_given_up

WINDOW_4 = ((b"blksize", b"8"), (b"windowsize", b"4"))


def lock_step(size: "int | Zeros" = 2000):
    return Bench(size if isinstance(size, Zeros) else bytes(size))


def ends_stuck(bench):
    """Run the transfer while the network takes no packet; returns the ERROR at its end, (code, text)."""
    while True:
        bench.now = max(bench.now, bench.transfer.due)
        try:
            bench.transfer.expired(bench.now)
        except Refused as refusal:
            return refusal.code, refusal.text
        assert bench.blocks(room=0) == [] and bench.transfer.outcome is None


def window_of_4(size=100):
    """A transfer in 8-byte blocks whose OACK is acknowledged; blocks 1 to 4 are in flight."""
    bench = Bench(bytes(size), *WINDOW_4)
    assert bench.blocks() == ["OACK"]
    assert bench.ack(0) == [1, 2, 3, 4]
    return bench


# -- the usual course --------------------------------------------------------------------------------------------------


def test_lock_step_sends_one_block_for_each_ack():
    bench = lock_step(1200)
    assert bench.blocks() == [1]
    assert bench.ack(1) == [2]
    assert bench.ack(2) == [3]
    assert bench.ack(3) == []
    assert bench.transfer.outcome == DONE
    assert bench.transfer.delivered() == 1200
    assert bench.transfer.resent == 0


def test_a_multiple_of_blksize_ends_with_an_empty_block():
    bench = lock_step(512)
    assert bench.flush() == [b"\0\3\0\1" + bytes(512)]
    bench.transfer.receive(ack(1), 4, bench.now)
    assert bench.flush() == [b"\0\3\0\2"]
    bench.ack(2)
    assert bench.transfer.outcome == DONE and bench.transfer.delivered() == 512


def test_an_empty_file_is_one_empty_block():
    bench = lock_step(0)
    assert bench.flush() == [b"\0\3\0\1"]
    bench.ack(1)
    assert bench.transfer.outcome == DONE and bench.transfer.delivered() == 0


def test_no_data_before_the_oack_is_acknowledged():
    bench = Bench(bytes(100), *WINDOW_4)
    assert bench.blocks() == ["OACK"]
    assert bench.ack(5) == []
    assert bench.ack(0) == [1, 2, 3, 4]


def test_a_window_follows_each_ack_of_its_last_block():
    bench = window_of_4(75)  # 9 blocks and 3 bytes
    assert bench.ack(4) == [5, 6, 7, 8]
    assert bench.ack(8) == [9, 10]
    bench.ack(10)
    assert bench.transfer.outcome == DONE and bench.transfer.delivered() == 75


def test_block_numbers_roll_over_to_0():
    bench = Bench(Zeros(8 * 65538 + 3), (b"blksize", b"8"))
    bench.blocks()
    bench.ack(0)
    sent = []
    for block in range(1, 65539):
        blocks = bench.ack(block & 0xFFFF)
        if block > 65533:
            sent += blocks
    assert sent == [65535, 0, 1, 2, 3]
    bench.ack(65539 & 0xFFFF)
    assert bench.transfer.outcome == DONE
    assert bench.transfer.delivered() == 8 * 65538 + 3


# -- repeats and strays ------------------------------------------------------------------------------------------------


def test_a_duplicate_ack_sends_nothing_in_lock_step():
    bench = lock_step()
    bench.blocks()
    assert bench.ack(1) == [2]
    assert bench.ack(1) == []
    assert bench.ack(1) == []
    assert bench.ack(2) == [3]


def test_a_stale_or_future_ack_is_ignored():
    bench = lock_step(5000)
    bench.blocks()
    bench.ack(1)
    bench.ack(2)
    for block in (0, 1, 4, 5, 9, 65535, 32768):
        assert bench.ack(block) == [], block
    assert bench.ack(3) == [4]


def test_an_ack_inside_the_window_goes_back_once():
    bench = window_of_4()
    assert bench.ack(2) == [3, 4, 5, 6]
    # edk2 repeats the ACK for every datagram after the gap.
    assert bench.ack(2) == []
    assert bench.ack(2) == []
    assert bench.ack(6) == [7, 8, 9, 10]


def test_an_ack_of_the_block_before_the_window_goes_back_once():
    bench = window_of_4()
    bench.ack(4)
    assert bench.ack(4) == [5, 6, 7, 8]
    assert bench.ack(4) == []
    assert bench.ack(8) == [9, 10, 11, 12]


def test_a_duplicate_ack_of_a_retransmitted_window_does_not_double_the_next_one():
    # The Sorcerer's Apprentice with windows: a duplicate ACK may cost one retransmitted window, not all later ones.
    bench = window_of_4()
    bench.ack(4)
    assert bench.ack(4) == [5, 6, 7, 8]
    assert bench.ack(8) == [9, 10, 11, 12]
    assert bench.ack(8) == []


def test_an_ack_after_going_back_may_skip_what_had_arrived():
    bench = window_of_4()
    bench.ack(4)
    bench.wait_until_due()  # retransmits 5 to 8, which had arrived: only the ACK was delayed
    assert bench.ack(8) == [9, 10, 11, 12]


def test_a_second_gap_goes_back_again():
    bench = window_of_4()
    assert bench.ack(1) == [2, 3, 4, 5]
    assert bench.ack(3) == [4, 5, 6, 7]


def test_long_acks_are_accepted_and_short_ones_ignored():
    bench = lock_step()
    bench.blocks()
    for junk in (b"", b"\0", b"\0\4", b"\0\4\0", b"\1\4\0\1", b"\0\3\0\1", b"\0\1\0\1", b"\0\6\0\1"):
        assert bench.receive(junk) == [], junk
    assert bench.receive(ack(1) + b"Windows boot manager") == [2]


def test_an_error_ends_the_transfer():
    bench = lock_step()
    bench.blocks()
    bench.ack(1)
    bench.receive(b"\0\5\0\3disk full\0")
    assert bench.transfer.outcome == "ended by the client"
    assert bench.transfer.peer_error == b"\0\3disk full\0"


def test_an_error_after_the_oack_is_a_probe():
    for probe in (b"\0\5\0\x08User aborted the transfer\0", b"\0\5\0\0TFTP Aborted\0"):
        bench = Bench(bytes(100), (b"tsize", b"0"))
        bench.blocks()
        bench.receive(probe)
        assert bench.transfer.outcome == PROBED
    bench = Bench(bytes(100), (b"tsize", b"0"))
    bench.blocks()
    bench.ack(0)
    bench.receive(b"\0\5\0\3Disk full\0")
    assert bench.transfer.outcome == "ended by the client", "a client that acknowledged the OACK wanted data"


def test_a_repeated_request_repeats_the_last_reply():
    bench = Bench(bytes(100), *WINDOW_4)
    assert bench.blocks() == ["OACK"]
    assert bench.transfer.repeat_request(bench.now) and bench.blocks() == ["OACK"]
    bench = lock_step()
    assert bench.blocks() == [1]
    assert bench.transfer.repeat_request(bench.now) and bench.blocks() == [1]
    bench.ack(1)
    bench.now += 500  # a delayed duplicate
    assert bench.transfer.repeat_request(bench.now) and bench.blocks() == [2]


def test_a_request_of_a_restarted_client_begins_a_new_transfer():
    bench = lock_step()
    bench.blocks()
    bench.ack(1)
    bench.now += 1500
    assert not bench.transfer.repeat_request(bench.now)


# -- time --------------------------------------------------------------------------------------------------------------


def test_the_wait_for_an_ack_begins_after_the_reads():
    bench = lock_step()
    bench.took = 400
    assert bench.blocks() == [1]
    assert bench.wait(649) == []
    assert bench.wait(1) == [1]


def test_the_wait_adapts_to_the_round_trip_time():
    for rtt, low, high in ((1, 20, 25), (10, 30, 50), (100, 120, 320)):
        bench = Bench(bytes(100_000))
        bench.blocks()
        for block in range(1, 20):
            bench.now += rtt
            assert bench.ack(block) == [block + 1]
        assert low <= bench.transfer.due - bench.now <= high, rtt


def test_a_repeat_comes_after_the_wait_and_not_before():
    bench = lock_step()
    assert bench.blocks() == [1]
    assert bench.wait(249) == []
    assert bench.wait(1) == [1]


def test_the_wait_doubles_up_to_the_timeout():
    bench = Bench(bytes(2000), timeout=2, retries=8)
    bench.blocks()
    bench.ack(1)
    waits = waits_until_given_up(bench)
    assert set(waits[7:-1]) == {2000}


def test_the_negotiated_timeout_is_the_longest_wait():
    bench = Bench(bytes(2000), (b"timeout", b"1"))
    bench.blocks()
    bench.ack(0)
    waits = []
    for _ in range(10):
        before = bench.now
        bench.wait_until_due()
        waits.append(bench.now - before)
    assert max(waits) == 1000


def test_a_repeated_packet_measures_no_round_trip():
    # Karn's rule: the ACK may answer the first copy.
    bench = lock_step(5000)
    bench.blocks()
    karn(bench, bench.ack, repeated=2)


def test_a_doubled_wait_comes_down_although_every_window_loses_a_packet():
    # No round trip is measured: every ACK that makes progress is for a block that was sent twice.
    bench = window_of_4(200)
    bench.now += 10
    bench.ack(4)
    first = bench.transfer.due - bench.now
    for block in range(5, 20):
        assert bench.wait_until_due()[0] == block  # the ACK was lost
        bench.now += 10
        bench.ack(block)  # of the retransmission only the first block arrived
    assert bench.transfer.due - bench.now <= 4 * first


def test_a_window_is_repeated_from_the_first_block_not_acknowledged():
    bench = window_of_4()
    bench.ack(4)
    assert bench.wait_until_due() == [5, 6, 7, 8]
    assert bench.transfer.resent == 4


def test_the_last_ack_lost_is_a_transfer_done():
    bench = lock_step(600)
    bench.blocks()
    bench.ack(1)
    repeats = 0
    while bench.transfer.outcome is None:
        repeats += bench.wait_until_due() == [2]
    assert repeats > 5
    assert bench.transfer.outcome == DONE


def test_a_file_of_one_block_that_is_never_acknowledged_is_not_done():
    bench = lock_step(100)
    bench.blocks()
    while bench.transfer.outcome is None:
        bench.wait_until_due()
    assert bench.transfer.outcome == "the client does not answer"


def test_an_unproven_client_gets_three_datagrams_for_each_request():
    three_datagrams_for_each_request(Bench(bytes(5000)), 1)
    three_datagrams_for_each_request(Bench(bytes(5000), *WINDOW_4), "OACK")


def test_the_next_block_is_read_while_the_server_waits_for_the_ack():
    bench = lock_step(5000)
    bench.blocks()
    assert bench.ack(1) == [2]
    assert bench.source.reads == [1, 2, 3]
    assert bench.ack(2) == [3]
    assert bench.source.reads == [1, 2, 3, 4]
    assert bench.wait_until_due() == [3]  # a retransmission reads the old block again
    assert bench.source.reads == [1, 2, 3, 4, 3]


def test_a_window_is_read_several_blocks_at_a_time():
    bench = window_of_4(300)
    assert bench.source.reads == [1, 2, 3, 4]
    assert bench.ack(4) == [5, 6, 7, 8]
    assert bench.source.reads == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert bench.ack(6) == [7, 8, 9, 10]  # the buffer holds 9 to 12 by now: 7 and 8 are read again
    assert bench.source.reads[12:16] == [7, 8, 9, 10]


def test_transfers_that_share_the_buffer_do_not_mix():
    ahead = ReadAhead(40)
    ones, twos = [Bench(bytes([n]) * 200, *WINDOW_4, ahead=ahead) for n in (1, 2)]
    for bench in (ones, twos):
        assert bench.blocks() == ["OACK"]
    for block in (0, 4, 8, 12, 16, 20, 24):
        for bench, byte in ((ones, 1), (twos, 2)):
            bench.transfer.receive(ack(block), 4, bench.now)
            for packet in bench.flush():
                assert packet[4:] == bytes([byte]) * len(packet[4:])
    assert ones.wait_until_due() == twos.wait_until_due() == [25, 26]


# -- the only active transfer: pump() serves its client in a loop ------------------------------------------------------


class Quick(Bench):
    """A client that acknowledges each window at once, and then sends the datagrams of `also`.

    step  ms by which the clock advances each time it is read
    """

    def __init__(self, *arguments, also=(), **more):
        self.step = 0
        super().__init__(*arguments, **more)
        self._words = []
        self._also = list(also)

    def clock(self):
        self.now += self.step
        return super().clock()

    def _send(self, packet):
        if packet[1] == 3 and (
            len(self._sent) % self.windowsize == self.windowsize - 1 or len(packet) < 4 + self.blksize
        ):
            self._words.append(b"\0\4" + bytes(packet[2:4]))
        return super()._send(packet)

    def _hear(self, inbox):
        word = self._words.pop() if self._words else self._also.pop() if self._also else None
        if isinstance(word, Exception):
            raise word
        if word is None:
            return None
        inbox[: len(word)] = word
        return len(word)

    def go(self, ms=40):
        """Run pump() once, for up to `ms`; returns the wire numbers of all blocks."""
        self.transfer.until = self.now + ms
        return self.blocks()


def test_a_quick_client_gets_the_whole_file_in_one_pump():
    for windowsize in (1, 4):
        data = bytes(range(256)) * 3
        bench = Quick(data, (b"windowsize", b"%d" % windowsize), (b"blksize", b"8"), ahead=ReadAhead(50))
        assert bench.blocks() == ["OACK"]
        bench.transfer.receive(ack(0), 4, bench.now)
        assert bench.go() == list(range(1, 98))
        assert bench.transfer.outcome == DONE
        assert (bench.transfer.delivered(), bench.transfer.resent) == (768, 0)
        assert bench.source.reads == list(range(1, bench.source.block))  # each once


def test_pump_returns_in_time_for_other_transfers():
    bench = Quick(bytes(512 * 100))
    bench.step = 1
    sent = bench.go()
    assert 15 < len(sent) < 25
    assert bench.transfer.outcome is None
    sent += bench.go()
    assert 30 < len(sent) < 50
    assert sent == list(range(1, len(sent) + 1))


def test_datagrams_of_a_quick_client_other_than_the_expected_ack_send_nothing():
    for word in (b"\0\5\0\3", b"\0\4\1\0", b"\0\1a\0", b"\0\4", OSError(113, "no route")):
        bench = Quick(bytes(2000), also=[word])
        bench.windowsize = 1000  # the client sends no ACK of its own
        assert bench.go() == [1]
        assert bench.transfer.base == 0
        assert bench.transfer.outcome == ("ended by the client" if word == b"\0\5\0\3" else None)


# -- a network that takes no packet ------------------------------------------------------------------------------------


def test_a_full_network_causes_no_retransmission():
    bench = Bench(bytes(100), *WINDOW_4)
    bench.blocks()
    bench.transfer.receive(ack(0), 4, bench.now)
    assert bench.blocks(room=2) == [1, 2]
    assert bench.wait_until_due() == [3, 4]
    assert bench.transfer.resent == 0
    assert bench.source.reads[:4] == [1, 2, 3, 4]


def test_a_network_that_never_takes_anything_ends_the_transfer():
    bench = lock_step()
    assert bench.blocks(room=0) == []
    assert ends_stuck(bench) == (0, "can't send blocks of 512 bytes")
    assert bench.now == 1000 + 24_000  # timeout x retries


def test_a_block_larger_than_a_frame_that_is_never_taken_ends_the_transfer_sooner():
    bench = Bench(bytes(100_000), (b"blksize", b"30000"))
    bench.blocks()
    bench.transfer.receive(ack(0), 4, bench.now)
    assert bench.blocks(room=0) == []
    assert ends_stuck(bench) == (0, "can't send blocks of 30000 bytes")
    assert bench.now == 1000 + 3000


# -- delayed answers, and answers that measure no round trip -----------------------------------------------------------


def repeats_of_a_client_that_pauses(bench, pauses, echoes=True):
    """The number of retransmissions to a client that answers within 1 ms, but delays every fifth ACK by the next of
    `pauses` (ms). With `echoes` it acknowledges every copy of a block."""
    block = bench.blocks()[0]
    for pause in pauses:
        for _ in range(5):
            bench.now += 1
            (block,) = bench.ack(block)
        copies = 1
        end = bench.now + pause
        while bench.transfer.due < end:
            assert bench.wait_until_due() == [block]
            copies += 1
        bench.now = max(bench.now, end)
        following = bench.ack(block)
        for _ in range(copies - 1 if echoes else 0):
            assert bench.ack(block) == []
        (block,) = following
    return bench.transfer.resent


def test_a_client_that_pauses_is_given_more_time():
    for pauses in ([30, 300], [100, 300, 200], [299, 300, 150], [45, 170, 300, 300], [61, 121, 241, 300], [150] * 40):
        assert repeats_of_a_client_that_pauses(lock_step(200_000), pauses) <= 3, pauses


def test_an_ack_that_comes_too_soon_after_a_retransmission_gives_the_client_more_time():
    bench = lock_step(200_000)
    (block,) = bench.blocks()
    for _ in range(40):  # a round trip of 100 ms
        bench.now += 100
        (block,) = bench.ack(block)
    due = bench.transfer.due - bench.now
    assert bench.wait_until_due() == [block]
    bench.now += 10
    (block,) = bench.ack(block)
    bench.now += 100
    bench.ack(block)
    assert bench.transfer.due - bench.now >= due + 100


def test_needed_retransmissions_give_the_client_no_more_time():
    bench = lock_step(200_000)
    (block,) = bench.blocks()
    for _ in range(20):
        bench.now += 2
        (block,) = bench.ack(block)
        assert bench.wait_until_due() == [block]  # lost
        bench.now += 2
        (block,) = bench.ack(block)
        bench.now += 2
        (block,) = bench.ack(block)
    for _ in range(20):
        bench.now += 2
        (block,) = bench.ack(block)
    assert bench.transfer.due - bench.now < 30


def test_duplicate_acks_of_a_retransmitted_window_give_the_client_no_more_time():
    # edk2 acknowledges every duplicate block; here the ACK of the whole window was lost.
    bench = window_of_4(2000)
    for last in (4, 8, 12):
        first = last - 3
        assert bench.wait_until_due() == [first, first + 1, first + 2, last]
        for _ in range(4):
            bench.now += 1
            bench.ack(last)
    for last in range(16, 200, 4):
        bench.now += 1
        bench.ack(last)
    assert bench.transfer.due - bench.now < 30


def test_a_round_trip_far_above_all_others_counts_as_a_doubling():
    bench = lock_step(200_000)
    (block,) = bench.blocks()
    for _ in range(20):
        bench.now += 1
        (block,) = bench.ack(block)
    bench.transfer._measured(400)
    assert bench.transfer.due - bench.now < 30
    (again,) = bench.ack(block)
    assert again == block + 1 and bench.transfer.due - bench.now < 60


def test_the_wait_follows_a_growing_round_trip_time():
    bench = lock_step(Zeros(2_000_000))
    (block,) = bench.blocks()
    for _ in range(2000):
        bench.now += 1
        bench.transfer.receive(ack(block), 4, bench.now)
        (block,) = bench.blocks()
    for _ in range(1000):
        bench.now += 80
        (block,) = bench.ack(block & 0xFFFF)
    assert 80 < bench.transfer.due - bench.now < 200


def test_a_duplicate_ack_measures_no_round_trip():
    bench = lock_step(200_000)
    (block,) = bench.blocks()
    for _ in range(16):
        bench.now += 1
        (block,) = bench.ack(block)
    for _ in range(16):
        bench.ack(block - 1)  # duplicate
        bench.now += 19
        (block,) = bench.ack(block)
    bench.now += 1
    bench.ack(block)
    assert bench.transfer.due - bench.now < 25


def test_a_large_block_that_is_refused_once_after_seconds_of_silence_is_sent_again():
    bench = Bench(bytes(100_000), (b"blksize", b"30000"))
    bench.blocks()
    bench.ack(0)
    while bench.now < 5000:
        assert bench.wait_until_due() == [1]
    bench.now = bench.transfer.due
    bench.transfer.expired(bench.now)
    assert bench.blocks(room=0) == []
    assert bench.wait_until_due() == [1] and bench.transfer.outcome is None


def test_a_refused_send_uses_up_none_of_an_unproven_clients_datagrams():
    bench = lock_step()
    for _ in range(5):
        assert bench.blocks(room=0) == []
        bench.now = bench.transfer.due
        bench.transfer.expired(bench.now)
    three_datagrams_for_each_request(bench, 1)


# -- the end -----------------------------------------------------------------------------------------------------------


def unreachable(bench):
    """Make every send fail with "port unreachable"."""

    def send(packet):
        raise OSError(ECONNREFUSED, "")

    bench.transfer.send = send


def test_port_unreachable_ends_the_transfer_at_once():
    bench = lock_step()
    bench.blocks()
    bench.ack(1)
    unreachable(bench)
    bench.wait_until_due()
    assert bench.transfer.outcome == "nobody is on the client's port any more"


def test_port_unreachable_after_the_last_block_was_sent_counts_as_done():
    bench = lock_step(700)
    bench.blocks()
    bench.ack(1)
    unreachable(bench)
    bench.wait_until_due()
    assert bench.transfer.outcome == DONE and bench.transfer.delivered() == 700


def test_a_last_block_that_is_never_acknowledged_counts_as_delivered():
    bench = lock_step(2075)
    bench.blocks()
    for block in range(1, 5):
        bench.ack(block)
    while bench.transfer.outcome is None:
        assert bench.transfer.delivered() == 2048
        bench.wait_until_due()
    assert bench.transfer.outcome == DONE and bench.transfer.delivered() == 2075


def test_the_same_request_after_the_last_block_was_sent_is_a_new_one():
    bench = lock_step(700)
    bench.blocks()
    assert bench.transfer.repeat_request(bench.now) and bench.blocks() == [1]
    assert bench.ack(1) == [2]
    assert not bench.transfer.repeat_request(bench.now)


def test_a_short_timeout_does_not_shorten_the_time_to_give_up():
    bench = Bench(bytes(2000), (b"timeout", b"1"), retries=10)
    bench.blocks()
    bench.ack(0)
    bench.wait(29_000)
    assert bench.transfer.outcome is None
    assert bench.ack(1) == [2]


def test_a_timer_that_expired_before_the_last_ack_does_not_end_the_transfer():
    bench = lock_step()
    bench.blocks()
    judged = bench.now
    bench.now += 5
    bench.ack(1)
    bench.transfer.expired(judged)
    assert bench.transfer.outcome is None


def test_losses_at_the_start_give_the_client_no_more_time():
    bench = lock_step(200_000)
    (block,) = bench.blocks()
    assert bench.wait_until_due() == [block]  # the first packet was lost
    for _ in range(20):
        bench.now += 1
        (block,) = bench.ack(block)
    assert bench.transfer.due - bench.now < 30


def test_needed_retransmissions_take_back_the_extra_time():
    bench = lock_step(200_000)
    assert repeats_of_a_client_that_pauses(bench, [150]) >= 1
    (block,) = bench.ack(bench.transfer.top)
    waits = []
    for _ in range(8):
        waits.append(bench.transfer.due - bench.now)
        assert bench.wait_until_due() == [block]  # lost, each time
        bench.now += 1
        (block,) = bench.ack(block)
        bench.now += 1
        (block,) = bench.ack(block)
    assert waits[0] > 500 and waits[-1] < 50, waits
