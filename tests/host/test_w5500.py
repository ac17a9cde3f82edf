"""The model of the W5500 (tools/emulators/w5500.py), by SPI frames as a driver sends them."""

import struct
from collections.abc import Callable

import pytest

from tools.emulators.w5500 import W5500

MAC = b"\2\0\0\0\0\7"
OTHER = b"\2\0\0\0\0\x08"
SENDER = b"\2\0\0\0\0\1"
COMMON, SOCKET, TX, RX = 0, 1, 2, 3  # blocks; those of socket N are 4 * N further
SECOND = 1e9


class Bench:
    """A chip, and all that its pins and its wire have shown."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.levels: list[bool] = []
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.chip = W5500(self.sent.append, self.levels.append, self._later)

    def _later(self, ns: float, do: Callable[[], None]) -> None:
        self._due.append((self.now + ns, len(self._due), do))

    def wait(self, ns: float) -> None:
        end = self.now + ns
        while self._due and min(self._due)[0] <= end:
            one = min(self._due)
            self._due.remove(one)
            self.now = one[0]
            one[2]()
        self.now = end

    def _frame(self, block: int, address: int, data: bytes, write: bool) -> bytes:
        self.chip.release()
        got = self.chip.exchange(struct.pack("!HB", address, block << 3 | write << 2) + data)
        assert len(got) == 3 + len(data)
        return got[3:]

    def read(self, block: int, address: int, count: int = 1) -> bytes:
        return self._frame(block, address, bytes(count), False)

    def write(self, block: int, address: int, data: bytes) -> None:
        self._frame(block, address, data, True)

    def number(self, address: int) -> int:
        """A register of socket 0 with 16 bits."""
        return int.from_bytes(self.read(SOCKET, address, 2), "big")

    def command(self, code: int) -> None:
        self.write(SOCKET, 1, bytes((code,)))
        assert self.read(SOCKET, 1) == b"\0", "a command is done once it reads as 0"

    def open(self, mode: int = 0x04, sizes: int = 16) -> None:
        for number in range(8):
            self.write(SOCKET + 4 * number, 0x1E, bytes((0 if number else sizes,)) * 2)
        self.write(COMMON, 0x09, MAC)
        self.write(SOCKET, 0, bytes((mode,)))
        self.command(0x01)

    def send(self, frame: bytes) -> None:
        """As a driver does, and wait for SENDOK."""
        place = self.number(0x24)
        self.write(TX, place, frame)
        self.write(SOCKET, 0x24, (place + len(frame) & 0xFFFF).to_bytes(2, "big"))
        self.command(0x20)
        self.wait(200_000)
        assert self.read(SOCKET, 2)[0] & 0x10
        self.write(SOCKET, 2, b"\x10")

    def receive(self) -> bytes | None:
        """The next frame, as a driver takes it."""
        if not self.number(0x26):
            return None
        place = self.number(0x28)
        size = int.from_bytes(self.read(RX, place, 2), "big")
        frame = self.read(RX, place + 2, size - 2)
        self.write(SOCKET, 0x28, (place + size & 0xFFFF).to_bytes(2, "big"))
        self.command(0x40)
        return frame


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.wait(2 * SECOND)  # the link is negotiated
    return bench


def frame(size: int = 60, target: bytes = MAC, kind: bytes = b"\x08\0", fill: int = 0) -> bytes:
    return (target + SENDER + kind + bytes(fill + at & 255 for at in range(size)))[:size]


def test_the_version_register_is_4(bench):
    assert bench.read(COMMON, 0x39) == b"\4"
    bench.write(COMMON, 0x39, b"\x55")
    assert bench.read(COMMON, 0x39) == b"\4"


def test_registers_have_the_values_of_the_datasheet_after_a_reset(bench):
    assert bench.read(COMMON, 0x19, 4) == b"\x07\xd0\x08\x28"
    assert bench.read(SOCKET + 8, 0x1E, 2) == b"\2\2"
    assert bench.read(SOCKET + 28, 0x2C, 2) == b"\xff\x40"


@pytest.mark.parametrize("pieces", [[3, 5], [1, 1, 1, 1, 1, 1, 1, 1], [2, 6], [4, 4]], ids=str)
def test_a_spi_frame_may_come_in_any_pieces(bench, pieces: list[int]):
    bench.write(COMMON, 0x0F, b"\x0a\1\2\3\4")
    whole = struct.pack("!HB", 0x0F, 0) + bytes(5)
    bench.chip.release()
    got = b""
    for count in pieces:
        got += bench.chip.exchange(whole[len(got) : len(got) + count])
    assert got == b"\0\0\0\x0a\1\2\3\4"


def test_a_bit_of_mr_resets_the_registers_and_leaves_the_link(bench):
    bench.open()
    bench.write(COMMON, 0, b"\x80")
    assert bench.read(COMMON, 0, 0x10) == bytes(0x10) and bench.read(SOCKET, 3) == b"\0"
    assert bench.read(COMMON, 0x2E)[0] & 1


def test_the_link_is_up_a_while_after_the_reset_pin_and_down_without_a_cable():
    bench = Bench()
    assert bench.read(COMMON, 0x2E) == b"\xb8"
    bench.wait(SECOND)
    bench.chip.reset()
    bench.wait(SECOND)
    assert bench.read(COMMON, 0x2E) == b"\xb8", "a second after the last reset"
    bench.wait(SECOND)
    assert bench.read(COMMON, 0x2E) == b"\xbf"
    bench.chip.link = False
    assert bench.read(COMMON, 0x2E) == b"\xb8"


def test_frames_are_sent_as_they_were_written(bench):
    bench.open()
    frames = [frame(size, OTHER, fill=size) for size in (60, 1514, 61, 1000)]
    for one in frames:
        bench.send(one)
    assert bench.sent == frames


def test_a_frame_takes_its_time_on_the_wire(bench):
    bench.open()
    bench.write(TX, 0, frame(1514))
    bench.write(SOCKET, 0x24, (1514).to_bytes(2, "big"))
    bench.command(0x20)
    bench.wait(122_000)
    assert bench.sent == [] and bench.read(SOCKET, 2) == b"\0" and bench.number(0x20) == 16384 - 1514
    bench.wait(1_200)  # (1514 + 24) bytes * 80 ns
    assert len(bench.sent) == 1 and bench.read(SOCKET, 2) == b"\x10" and bench.number(0x20) == 16384


def test_frames_come_with_their_length_and_the_pointers_go_round(bench):
    bench.open()
    for number in range(150):  # 150 * 1,516 bytes: the buffer and the 16 bits of its pointers are passed
        one = frame(1514 - number, fill=number)
        bench.chip.put(one)
        bench.send(one)
        assert bench.receive() == one and bench.receive() is None
    assert bench.sent[-1] == frame(1514 - 149, fill=149) and len(bench.sent) == 150


@pytest.mark.parametrize("sizes", [16, 8, 2])
def test_what_does_not_fit_the_buffer_is_lost_and_what_was_there_stays(bench, sizes: int):
    bench.open(sizes=sizes)
    frames = [frame(1022, fill=number) for number in range(40)]
    for one in frames:
        bench.chip.put(one)
    got = []
    while one := bench.receive():
        got.append(one)
    assert got == frames[: sizes * 1024 // 1024]
    bench.chip.put(frames[39])
    assert bench.receive() == frames[39]


def test_the_buffers_of_the_sockets_are_apart(bench):
    bench.write(TX + 4, 0, b"first")
    bench.write(TX + 8, 0, b"second")
    assert bench.read(TX + 4, 0, 5) == b"first" and bench.read(TX + 8, 2048, 6) == b"second"
    bench.write(SOCKET + 4, 0x1F, b"\0")
    assert bench.read(TX + 4, 0, 5) == bytes(5), "a socket without a buffer"


FILTER, NO_MULTICAST, NO_IPV6 = 0x80, 0x20, 0x10
MULTICAST = b"\1\0\x5e\0\0\xfb"


@pytest.mark.parametrize(
    ("mode", "heard"),
    [
        (0, "own other broadcast multicast ipv6"),
        (FILTER, "own broadcast multicast ipv6"),
        (FILTER | NO_IPV6, "own broadcast multicast"),
        (FILTER | NO_MULTICAST | NO_IPV6, "own broadcast"),
    ],
)
def test_the_filters_of_macraw(bench, mode: int, heard: str):
    bench.open(0x04 | mode)
    frames = {
        "own": frame(),
        "other": frame(target=OTHER),
        "broadcast": frame(target=b"\xff" * 6),
        "multicast": frame(target=MULTICAST),
        "ipv6": frame(kind=b"\x86\xdd"),
    }
    got = []
    for name, one in frames.items():
        bench.chip.put(one)
        if bench.receive():
            got.append(name)
    assert got == heard.split()


def test_the_interrupt_pin_is_low_until_the_driver_has_cleared_what_it_asked_to_be_told(bench):
    bench.open()
    bench.chip.put(frame())
    assert bench.levels == [], "masked"
    bench.write(COMMON, 0x18, b"\1")
    assert bench.levels == [False], "as soon as the mask is lifted"
    bench.write(SOCKET, 0x2C, b"\4")
    bench.chip.put(frame())
    assert bench.levels == [False] and bench.read(COMMON, 0x17) == b"\1"
    bench.write(SOCKET, 2, b"\x10")
    assert bench.levels == [False], "another bit"
    bench.write(SOCKET, 2, b"\4")
    assert bench.levels == [False, True] and bench.read(COMMON, 0x17) == b"\0"
    bench.send(frame())
    assert bench.levels == [False, True], "SENDOK is masked by Sn_IMR"
    bench.chip.put(frame())
    bench.chip.reset()
    assert bench.levels == [False, True, False, True]


def test_nothing_comes_or_goes_without_a_cable_or_with_the_socket_closed(bench):
    bench.open()
    bench.chip.link = False
    bench.send(frame())
    bench.chip.put(frame())
    assert bench.sent == [] and bench.receive() is None
    bench.chip.link = True
    bench.command(0x10)
    bench.chip.put(frame())
    assert bench.read(SOCKET, 3) == b"\0" and bench.receive() is None


def test_a_reset_in_the_middle_of_a_frame_sends_nothing(bench):
    bench.open()
    bench.write(TX, 0, frame())
    bench.write(SOCKET, 0x24, b"\0\x3c")
    bench.command(0x20)
    bench.chip.reset()
    bench.wait(SECOND)
    assert bench.sent == [] and bench.read(SOCKET, 2) == b"\0"


@pytest.mark.parametrize(("number", "mode"), [(0, 1), (0, 2), (1, 4)])
def test_other_sockets_and_modes_never_open(bench, number: int, mode: int):
    bench.write(SOCKET + 4 * number, 0, bytes((mode,)))
    bench.write(SOCKET + 4 * number, 1, b"\1")
    assert bench.read(SOCKET + 4 * number, 3) == b"\0"
