"""Compares this server with six others: by blksize and windowsize, with many clients, with loss, and with delay.

A server that does not grant the requested options has no figure in that row. The strict client in client.c measures
the times; it retransmits its last packet after a second of silence.
"""

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import ToolError
from ..relay import Relay
from . import processors
from .client import Client
from .measures import FILES, OURS, Budget

BLKSIZES = (512, 1428, 8192)
WINDOWSIZES = (1, 4, 16, 64)
CLIENTS = (1, 8, 32)
LOSSES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1)  # probability, each way
ROUND_TRIPS_MS = (0, 2, 5, 20, 100)
_WINDOWED = 8  # windowsize of the second half of the routes
_BLKSIZE = 1428
PATIENCE = 30  # seconds; a slower transfer counts as not delivered
_NEVER = 2.0 * PATIENCE  # its time, where a number is needed
_NEAR_MS = 5  # round trip up to which servers are measured in turns; above, they mostly wait, and run at the same time
_ROUNDS = 3  # of those in turns
_SEEDS = 15  # at most, for random loss: which block of a window is lost matters more than how many
_SPEND = 4  # seconds for all seeds
_EQUAL = 0.95  # as in measures: noise lets two equal servers differ by so much


@dataclass(frozen=True)
class Route:
    """The file and the network of one row of the tables."""

    loss: float
    round_trip_ms: float
    file: str
    windowsize: int

    @property
    def what(self) -> str:
        how = f"windowsize {self.windowsize}" if self.windowsize > 1 else "lock-step"
        net = f"{self.loss * 100:g} % loss each way" if self.loss else f"{self.round_trip_ms:g} ms of round trip"
        if self.loss and self.round_trip_ms:
            net += f", {self.round_trip_ms:g} ms of round trip"
        return f"{net}, {FILES[self.file] >> 10:,} KiB, {how}"


@dataclass
class Row:
    """A row with its figures.

    samples  server: values, one a round or seed, in `unit`; None: not delivered within PATIENCE
    granted  server: "blksize x windowsize" if it granted other values than requested, or its error; it has no samples
    """

    what: str
    unit: str
    facts: dict[str, Any]
    samples: dict[str, list[float | None]] = field(default_factory=dict)
    granted: dict[str, str] = field(default_factory=dict)

    def typical(self, server: str) -> float | None:
        """The median; with loss the mean, because a user remembers the one long wait in ten transfers.

        None if the server did not deliver in half of the rounds or more.
        """
        values = self.samples[server]
        if sum(one is None for one in values) * 2 >= len(values):
            return None
        numbers = [_NEVER if one is None else one for one in values]
        return statistics.mean(numbers) if self.facts.get("loss") else statistics.median(numbers)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _routes() -> Iterator[Route]:
    for windowsize in (1, _WINDOWED):
        for file in ("lossy.bin", "mebi.bin"):
            for loss in LOSSES[1:]:
                yield Route(loss, 0, file, windowsize)
            for round_trip in ROUND_TRIPS_MS:
                # 735 round trips of 100 ms exceed PATIENCE.
                if windowsize > 1 or round_trip <= 20 or file == "lossy.bin":
                    yield Route(0, round_trip, file, windowsize)
        yield Route(0.1, 5, "mebi.bin", windowsize)


def throughput(client: Client, ports: dict[str, int], rounds: int) -> list[Row]:
    """MB/s (10^6 bytes) over blksize and windowsize, the servers in turns. Raises ToolError."""
    processors.for_clients()
    size = FILES["speed.bin"]
    rows = []
    for blksize in BLKSIZES:
        for windowsize in WINDOWSIZES:
            row = Row(
                f"blksize {blksize}, windowsize {windowsize}", "MB/s", {"blksize": blksize, "windowsize": windowsize}
            )
            for number in range(rounds + 1):
                for server in list(ports) if number % 2 else reversed(ports):
                    started = client.start(ports[server], "speed.bin", blksize=blksize, windowsize=windowsize)
                    try:
                        got = client.finish(started)
                    except ToolError as error:  # an OACK with options not requested, or wrong content
                        row.granted[server] = str(error).removeprefix("a fetch failed: ")
                        continue
                    if (got.blksize, got.windowsize) != (blksize, windowsize):
                        row.granted[server] = f"{got.blksize} x {got.windowsize}"
                    elif number:
                        row.samples.setdefault(server, []).append(size / got.seconds / 1e6)
            rows.append(row)
    return rows


def crowds(client: Client, ports: dict[str, int], rounds: int) -> list[Row]:
    """MB/s of all clients together, lock-step at blksize 1428. Raises ToolError."""
    processors.for_clients()
    size = FILES["speed.bin"]
    rows = [Row(f"{number} client{'s' * (number > 1)}", "MB/s", {"clients": number}) for number in CLIENTS]
    for _ in range(rounds):
        for row in rows:
            for server, port in ports.items():
                number = row.facts["clients"]
                started = [client.start(port, "speed.bin", blksize=_BLKSIZE) for _ in range(number)]
                try:
                    fetches = [client.finish(process) for process in started]
                except ToolError as error:
                    row.granted[server] = str(error).removeprefix("a fetch failed: ")
                    continue
                wall = max(got.ended for got in fetches) - min(got.began for got in fetches)
                row.samples.setdefault(server, []).append(number * size / wall / 1e6)
    return rows


def routes(folder: Path, ports: dict[str, int]) -> list[Row]:
    """Seconds over networks with loss or delay."""
    processors.for_clients()  # on the server's processor the relay would wait until the server is idle
    rows = {route: Row(route.what, "s", asdict(route)) for route in _routes()}
    client = Client(folder, PATIENCE)
    windowed = {server for server, port in ports.items() if _grants_windows(client, port)}

    def takes(server: str, route: Route) -> bool:
        return route.windowsize == 1 or server in windowed

    near = [route for route in rows if not route.loss and route.round_trip_ms <= _NEAR_MS]
    for route in near:
        servers = [server for server in ports if takes(server, route)]
        for number in range(_ROUNDS):
            for server in servers if number % 2 else reversed(servers):
                value = _over_route(client, ports[server], route, number)
                rows[route].samples.setdefault(server, []).append(value)
    far = [route for route in rows if route not in near]
    with ProcessPoolExecutor(len(ports), multiprocessing.get_context("spawn")) as pool:
        measured = {
            server: pool.submit(_over_routes, folder, port, [route for route in far if takes(server, route)])
            for server, port in ports.items()
        }
        for server, result in measured.items():
            for route, values in result.result().items():
                rows[route].samples[server] = values
    return list(rows.values())


def _grants_windows(client: Client, port: int) -> bool:
    asked = {"blksize": _BLKSIZE, "windowsize": _WINDOWED}
    return client.finish(client.start(port, "lossy.bin", **asked)).windowsize == _WINDOWED


def _over_routes(folder: Path, port: int, far: list[Route]) -> dict[Route, list[float | None]]:
    """Each route with as many seeds as _SPEND allows; with one if it has no loss."""
    client = Client(folder, PATIENCE)
    measured: dict[Route, list[float | None]] = {}
    for route in far:
        values = measured[route] = []
        until = time.monotonic() + _SPEND
        while not values or (route.loss and len(values) < _SEEDS and time.monotonic() < until):
            values.append(_over_route(client, port, route, len(values)))
    return measured


def _over_route(client: Client, port: int, route: Route, seed: int) -> float | None:
    """Seconds; None if the file was not delivered in time."""
    with Relay(port, loss=route.loss, delay_ms=route.round_trip_ms / 2, seed=seed) as relay:
        try:
            return client.fetch(relay.port, route.file, blksize=_BLKSIZE, windowsize=route.windowsize).seconds
        except ToolError:
            return None


def budgets(rows: list[Row]) -> list[Budget]:
    """The lead over the best other server: in each table, the row where it is smallest."""
    result = []
    for what, wanted, limit in (
        ("lock-step on loopback", lambda facts: facts.get("windowsize") == 1 and "loss" not in facts, _EQUAL),
        ("loss", lambda facts: facts.get("loss"), 5),
        ("round-trip time", lambda facts: "loss" in facts and not facts["loss"] and facts["round_trip_ms"], _EQUAL),
    ):
        ratios = [
            (_ahead(row), row.what)
            for row in rows
            if wanted(row.facts) and any(row.typical(one) for one in row.samples if one != OURS)
        ]
        ratio, worst = min(ratios)
        result.append(
            Budget(
                f"ahead of the best other server, {what}",
                ratio,
                "times",
                limit,
                f"worst of {len(ratios)} rows: {worst}",
                True,
            )
        )
    for row in rows:
        facts = row.facts
        if facts.get("loss") == 0.02 and facts["windowsize"] == _WINDOWED and facts["file"] == "lossy.bin":
            result.append(
                Budget(
                    f"ahead of the best windowed server, {row.what}",
                    _ahead(row),
                    "times",
                    3,
                    f"256 KiB, means of up to {_SEEDS} seeds",
                    True,
                )
            )
        if facts.get("loss") == 0.1 and facts["round_trip_ms"]:
            limit = 10 if facts["windowsize"] == _WINDOWED else None
            result.append(Budget(row.what, row.typical(OURS), "s", limit, f"mean of up to {_SEEDS} seeds"))
    return result


def _ahead(row: Row) -> float:
    """Our lead over the best other server as a ratio: above 1 if we are faster."""
    medians = {server: row.typical(server) or _NEVER for server in row.samples}
    ours = medians.pop(OURS)
    return ours / max(medians.values()) if row.unit == "MB/s" else min(medians.values()) / ours
