"""The driver for SD cards against a model of a card, on CPython: firmware/sdcard.py, tools/emulators/sdcard.py."""

import random
from binascii import crc_hqx
from collections.abc import Callable
from pathlib import Path

import pytest
import sdcard

from tools.emulators.sdcard import Card, Character

BLOCKS = 4096
CONTENT = random.Random(20).randbytes(BLOCKS * 512)


class Registers:
    """Of a channel of DMA: `started` is called with what starts it."""

    def __init__(self, started: Callable[[], None]) -> None:
        self.values = [0] * 16
        self._started = started

    def __getitem__(self, number: int) -> int:
        return self.values[number]

    def __setitem__(self, number: int, value: int) -> None:
        alias = {7: 2, 11: 1, 15: 0}.get(number, number)
        self.values[alias] = value
        if number in (7, 11, 15):
            self._started()


class Bus:
    """What sdcard.Bus is on an RP2, without the time that it takes. Bytes come some at a time, as they do there."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.hz = 0
        self._buffers: list[bytearray] = []
        self.ring = bytearray(sdcard._RING)
        self.receives = Receiver(self)
        self.copies = Copies(self._copy)
        self.copies[2] = 512
        self.asked = 0
        self.mem = {0: 0}
        self.sum = 0

    def init(self, baudrate: int) -> None:
        self.hz = baudrate

    def select(self, on: bool) -> None:
        self.card.select(on)
        if not on:
            self.card.exchange(b"\xff")

    def write(self, data: bytes) -> None:
        self.card.exchange(bytes(data))

    def readinto(self, buffer: bytearray, value: int) -> None:
        buffer[:] = self.card.exchange(bytes((value,)) * len(buffer))

    def address(self, buffer: bytearray) -> int:
        if not any(one is buffer for one in self._buffers):
            self._buffers.append(buffer)
        return next(number for number, one in enumerate(self._buffers) if one is buffer) << 16

    def crc(self, buffer: bytearray, start: int) -> int:
        return crc_hqx(bytes(buffer[start : start + 512]), 0)

    def start(self, size: int) -> None:
        self.receives.values[1:3] = 0, sdcard._MOST
        self.asked = self.receives.sent = size

    def ask(self, size: int) -> None:
        self.asked += size
        self.receives.sent += size

    def stop(self) -> None:
        self.receives.sent = 0

    def _copy(self) -> None:
        source, target, count = self.copies[0], self.copies[1], self.copies.values[2]
        assert self._buffers[source >> 16] is self.ring
        data = bytes(self.ring[(source + i) % sdcard._RING] for i in range(count))
        at = target & 0xFFFF
        self._buffers[target >> 16][at : at + count] = data
        self.mem[0] = crc_hqx(data, self.mem[0])


class Copies(Registers):
    """Each transfer is done at once."""

    def __getitem__(self, number: int) -> int:
        return 0 if number == 2 else self.values[number]


class Receiver(Registers):
    """Each look at the count finds some more bytes that have come."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(lambda: None)
        self._bus = bus
        self.sent = 0  # bytes that the card was asked for and has not given yet

    def __getitem__(self, number: int) -> int:
        if number == 2 and self.sent:
            count = min(self.sent, 700)
            self.sent -= count
            for byte in self._bus.card.exchange(b"\xff" * count):
                self._bus.ring[self.values[1] % sdcard._RING] = byte
                self.values[1] += 1
            self.values[2] -= count
        return self.values[number]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "card.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def insert(image: Path) -> Callable[..., tuple[sdcard.SDCard, Card]]:
    """insert(**what Character has) puts a card in and starts it; returns the driver's object and the model's."""

    def one(**character: int | str) -> tuple[sdcard.SDCard, Card]:
        model = Card(image, Character(**character))  # pyright: ignore[reportArgumentType]
        driver = sdcard.SDCard(Bus(model))  # pyright: ignore[reportArgumentType]
        assert driver.ready(2000)
        return driver, model

    return one


def read(driver: sdcard.SDCard, number: int, count: int = 1) -> bytes:
    buffer = bytearray(512 * count)
    driver.readblocks(number, buffer)
    return bytes(buffer)


def part(number: int, count: int = 1) -> bytes:
    return CONTENT[512 * number : 512 * (number + count)]


@pytest.mark.parametrize("kind", ["v1", "v2", "sdhc"])
def test_every_kind_of_card_tells_its_size_and_reads_and_writes(insert, image: Path, kind: str):
    driver, _ = insert(kind=kind)
    assert driver.ioctl(4, 0) == BLOCKS and driver.ioctl(5, 0) == 512
    for number, count in ((0, 1), (1, 1), (2, 9), (BLOCKS - 1, 1), (700, 1), (100, 30), (130, 1)):
        assert read(driver, number, count) == part(number, count)
    new = random.Random(1).randbytes(3 * 512)
    driver.writeblocks(77, new)
    assert image.read_bytes() == CONTENT[: 77 * 512] + new + CONTENT[80 * 512 :]
    assert read(driver, 77, 3) == new
    assert read(driver, 76, 1) + read(driver, 77, 1) == part(76) + new[:512]


@pytest.mark.parametrize(
    "character",
    [
        {"answer": 8},
        {"answer": 500},
        {"access": 5000},
        {"gap": 300},
        {"gap": 0},
        {"gap": 1600},
        {"busy": 20000},
        {"start": 2000},
    ],
)
def test_slow_cards(insert, character: dict[str, int]):
    driver, _ = insert(**character)
    assert b"".join(read(driver, 9 + 3 * i, 3) for i in range(10)) == part(9, 30)
    driver.writeblocks(5, b"n" * 512)
    assert read(driver, 5) == b"n" * 512


def test_random_reads_and_writes_are_what_lies_on_the_card(insert, image: Path):
    driver, _ = insert(kind="v2", flip=37)
    chance = random.Random(3)
    expected = bytearray(CONTENT)
    number = 0
    for _ in range(3000):
        if chance.random() < 0.5:
            number = chance.randrange(BLOCKS - 20)
        count = chance.choice((1, 1, 2, 3, 11))
        if number + count > BLOCKS:
            number = 0
        if chance.random() < 0.1:
            data = chance.randbytes(512 * count)
            driver.writeblocks(number, data)
            expected[512 * number : 512 * (number + count)] = data
        else:
            assert read(driver, number, count) == expected[512 * number : 512 * (number + count)]
            number += count
    assert image.read_bytes() == expected


def test_a_file_longer_than_the_receiver_can_count_is_read_with_several_commands(insert, monkeypatch):
    monkeypatch.setattr(sdcard, "_LONGEST", 40_000)
    driver, _ = insert()
    starts = []
    start = driver._bus.start
    driver._bus.start = lambda size: (starts.append(size), start(size))
    for number in range(0, 400, 4):
        assert read(driver, number, 4) == part(number, 4)
    assert 5 <= len(starts) <= 6
