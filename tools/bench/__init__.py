"""Measure the server against other TFTP servers and against its budgets.

Prints two tables and writes all samples to a JSON file. Exit status 1 if a budget is exceeded.
"""

import argparse
import json
import os
import platform
import signal
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .. import BUILD, INSTALLED, ROOT, boards
from . import field, folder, gauge, http, measures, pauses, peers, pico, plots, processors
from .client import Client
from .measures import OURS, Budget, Case, Samples

Comparisons = list[tuple[Case, dict[str, Samples]]]  # throughput of each server by its name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, to see that everything works; the figures are rough"
    )
    parser.add_argument(
        "--field",
        action="store_true",
        help="also compare seven servers, measure the Pico W, and draw plots",
    )
    parser.set_defaults(keep=False)
    if not INSTALLED:
        parser.add_argument(
            "--keep",
            action="store_true",
            help="store the new figures of the speed gauge (gauge.json) and the plots (docs/bench/)",
        )
    parser.add_argument(
        "--output", type=Path, default=BUILD / "bench.json", metavar="FILE", help="default: build/bench.json"
    )


def run(arguments: argparse.Namespace) -> int:
    console = Console(width=None if os.isatty(1) else 150)
    busy = processors.busy()
    processors.for_servers()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the servers end too
    with console.status("starting") as status, ExitStack() as stack:
        served = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        served.chmod(0o755)  # peers may serve as another user
        measures.make_files(served)
        client = Client(served)
        status.update("the emulated ESP32-C3")
        gauged = gauge.budgets(arguments.keep)
        gauged += folder.budgets(1 if arguments.quick else 5)
        pico_figures: dict[str, Any] = {}
        for name in () if arguments.quick else pico.BOARDS:
            status.update(f"the emulated {name}, which takes up to {5 if arguments.field else 3} minutes")
            more, pico_figures[name] = pico.budgets(name, arguments.field)
            gauged += more
        http_figures: dict[str, Any] = {}
        for name in () if arguments.quick else http.BOARDS:
            status.update(f"HTTP of the emulated {name}")
            more, http_figures[name] = http.budgets(name)
            gauged += more
        status.update("heap and size")
        budgets = measures.heap(peers.free_port())
        board = stack.enter_context(peers.everyday_board(served, measures.FLASH_SIZE))
        ports, absent = _start_peers(stack, served, peers.DEBIAN)
        comparisons: Comparisons = []
        for case in measures.CASES:
            if case.together and not processors.two():
                continue  # the same as the other case
            status.update(case.what)
            what = f"throughput against {case.peer}, {case.what}"
            if case.peer in absent:
                budgets.append(Budget(what, None, "times", case.at_least, absent[case.peer], at_least=True))
                continue
            rounds = case.quick_rounds if arguments.quick else case.rounds
            samples = measures.compare(case, client, {OURS: board, case.peer: ports[case.peer]}, rounds)
            comparisons.append((case, samples))
            ratio = samples[OURS].against(samples[case.peer])
            method = f"median ratio of {rounds} interleaved rounds, {measures.FILES[case.name] >> 10:,} KiB"
            budgets.append(Budget(what, ratio, "times", case.at_least, method, at_least=True))
        status.update("clients that pause")
        budgets += pauses.budgets(board, 2 if arguments.quick else 5)
        rounds = 3 if arguments.quick else 15
        status.update("many clients, a large file, the relay")
        budgets += measures.many_clients(client, board, min(rounds, 7))
        if processors.two():
            budgets += measures.many_clients(client, board, min(rounds, 7), together=True)
        budgets.append(measures.far_reads(client, board, rounds))
        budgets.append(measures.relay_cost(client, board, rounds))
        status.update("HTTP of the everyday board")
        more, web = http.everyday(served, client, min(rounds, 7))
        budgets += more
        rows: list[field.Row] = []
        if arguments.field:
            processors.for_servers()
            others, missing = _start_peers(stack, served, peers.PYTHON)
            absent |= missing
            ports = {OURS: board, **ports, **others}
            status.update("all servers, on loopback")
            rows += field.throughput(client, ports, 7)
            rows += field.crowds(client, ports, 5)
            status.update("all servers, with loss and from far away: 8 minutes")
            rows += field.routes(served, ports)
            budgets += field.budgets(rows)
    budgets += gauged
    console.print(_comparison_table(comparisons))
    if rows:
        console.print(_field_table(rows))
        folder_of_plots = ROOT / "docs/bench" if arguments.keep else BUILD / "bench"
        plots.draw(rows, folder_of_plots)
        speeds = {boards.load(name)["product"]: http.speeds(one) for name, one in http_figures.items() if one}
        plots.draw_http(speeds, web, folder_of_plots)
    for name, figures in pico_figures.items():
        if figures:
            console.print(_pico_table(name, figures))
            console.print(pico.parts(figures))
    for name, reason in absent.items():
        console.print(f"{name} was not measured: {reason}", style="yellow")
    console.print(_budget_table(budgets))
    if busy:
        console.print("The machine was busy at the start: do not trust speeds and ratios.", style="yellow")
    _write(
        arguments.output,
        {"quick": arguments.quick, "busy": busy, "pico": pico_figures, "http": http_figures | {OURS: web}},
        comparisons,
        rows,
        budgets,
    )
    console.print(f"all samples: {arguments.output}")
    return int(any(budget.verdict == "FAIL" for budget in budgets))


def _start_peers(stack: ExitStack, folder: Path, names: Iterable[str]) -> tuple[dict[str, int], dict[str, str]]:
    """The ports of the peers that run, and the reasons why others don't."""
    ports, absent = {}, {}
    for name in names:
        try:
            ports[name] = stack.enter_context(peers.peer(name, folder))
        except peers.NotMeasured as reason:
            absent[name] = str(reason)
    return ports, absent


def _field_table(rows: list[field.Row]) -> Table:
    table = Table(title="All servers: medians, with loss means; the best in each row bold", title_justify="left")
    servers = list(dict.fromkeys(server for row in rows for server in (*row.samples, *row.granted)))
    table.add_column("case")
    for server in servers:
        table.add_column(server, justify="right")
    for row in rows:
        medians = {server: row.typical(server) for server in row.samples}
        known = [value for value in medians.values() if value is not None]
        best = (max if row.unit == "MB/s" else min)(known, default=0)
        cells = []
        for server in servers:
            value = medians.get(server)
            if server not in medians:
                granted = row.granted.get(server, "no window")  # the JSON file has the whole message
                cells.append(f"({granted})" if len(granted) < 15 else "(failed)")
            else:
                text = f"> {field.PATIENCE}" if value is None else f"{value:.3g}"
                cells.append(f"[bold]{text}[/]" if value == best else text)
        table.add_row(f"{row.what} ({row.unit})", *cells)
    return table


def _pico_table(name: str, figures: dict[str, Any]) -> Table:
    table = Table(title=f"Emulated {name}, by its own clock", title_justify="left")
    for heading in ("blksize", "windowsize", "round trip, ms", "us a block", "KB/s", "of the bound"):
        table.add_column(heading, justify="right")
    for blksize, windowsize, round_trip_us, spent in figures["block"]:
        least = pico.bound(figures, blksize, windowsize) + round_trip_us / windowsize
        kilobytes = f"{blksize / spent * 1000:,.0f}"
        row = (blksize, windowsize, round_trip_us // 1000, f"{spent:,.0f}", kilobytes, f"{least / spent:.2f}")
        table.add_row(*map(str, row))
    return table


def _comparison_table(comparisons: Comparisons) -> Table:
    table = Table(title="MB/s: median (lowest\N{EN DASH}highest)", title_justify="left")
    for heading in ("case", "everyday board", "peer", "", "ratio"):
        table.add_column(heading, justify="left" if heading in ("case", "peer") else "right")
    for case, samples in comparisons:
        form = ".3f" if case.loss else ".1f"
        ours, theirs = samples[OURS], samples[case.peer]
        table.add_row(case.what, ours.text(form), case.peer, theirs.text(form), f"{ours.against(theirs):.2f}")
    return table


def _budget_table(budgets: list[Budget]) -> Table:
    table = Table(title="Budgets", title_justify="left")
    for heading in ("what", "figure", "budget", "verdict", "method"):
        table.add_column(heading, justify="right" if heading in ("figure", "budget") else "left")
    colours = {"PASS": "green", "FAIL": "bold red"}
    for budget in budgets:
        sign = "≥" if budget.at_least else "≤"
        limit = "" if budget.limit is None else f"{sign} {_number(budget.limit, budget.unit)}"
        figure = "" if budget.figure is None else f"{_number(budget.figure, budget.unit)} {budget.unit}"
        colour = colours.get(budget.verdict, "yellow")
        table.add_row(budget.what, figure, limit, f"[{colour}]{budget.verdict}[/]", budget.method)
    return table


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f}" if unit == "bytes" and value == int(value) else f"{value:,.2f}"


def _write(
    path: Path, how: dict[str, Any], comparisons: Comparisons, rows: list[field.Row], budgets: list[Budget]
) -> None:
    result: dict[str, Any] = {
        **how,
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "comparisons": [
            {
                "what": case.what,
                "peer": case.peer,
                "file": measures.FILES[case.name],
                "blksize": case.blksize,
                "windowsize": case.windowsize,
                "loss": case.loss,
                "one_processor": case.together or not processors.two(),
                "unit": "MB/s",
                "samples": {server: one.values for server, one in samples.items()},
            }
            for case, samples in comparisons
        ],
        "field": [row.as_json() for row in rows],
        "budgets": [budget.as_json() for budget in budgets],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
