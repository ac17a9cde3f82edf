"""Draws the plots of docs/performance.md from the tables of field.py."""

import statistics
from pathlib import Path
from typing import Any

from .. import ToolError
from .field import Row
from .measures import FILES, OURS

_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")
_RTO_MARGIN_S = 0.020  # firmware/tftpd/transfer.py
_BLKSIZE = 1428


def _pyplot() -> Any:
    try:
        import matplotlib  # pyright: ignore[reportMissingImports]  # in the extra bench
    except ImportError:
        raise ToolError("the plots need matplotlib: make bench installs it (the extra bench of the package)") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    return pyplot


def draw_http(boards: dict[str, dict[str, float]], web: dict[str, list[float]], folder: Path) -> None:
    """http.png in `folder`: MB/s by board and by what was measured, and on the everyday board by server. Raises
    ToolError."""
    pyplot = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(1, len(boards) + 1, figsize=(11, 3), layout="constrained", squeeze=False)
    shown = {**boards, "Everyday board": {server: statistics.median(values) for server, values in web.items()}}
    for axis, (name, speeds) in zip(axes[0], shown.items(), strict=True):
        bars = axis.barh(list(speeds), list(speeds.values()), color=[_colour(what) for what in speeds])
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
        axis.set(title=name, xlabel="MB/s", xlim=(0, 1.25 * max(speeds.values())))
        axis.tick_params(axis="y", labelsize=8)
        axis.invert_yaxis()
    figure.savefig(folder / "http.png", dpi=100)
    pyplot.close(figure)


def _colour(what: str) -> str:
    if what.startswith(("GET", OURS)):
        return _COLOURS[0]
    return _COLOURS[1] if what.startswith("TFTP") else _COLOURS[-1]


def draw(rows: list[Row], folder: Path) -> None:
    """throughput.png, loss.png and delay.png in `folder`. Raises ToolError."""
    pyplot = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    servers = list(dict.fromkeys(server for row in rows for server in row.samples))
    colours: dict[str, str] = dict(zip(servers, _COLOURS, strict=False))
    for name, make in (("throughput", _throughput), ("loss", _loss), ("delay", _delay)):
        figure = make(pyplot, rows, colours)
        figure.savefig(folder / f"{name}.png", dpi=100)
        pyplot.close(figure)


def _style(server: str, colours: dict[str, str]) -> dict[str, Any]:
    ours = server == OURS
    return {
        "color": colours[server],
        "marker": "o",
        "markersize": 4,
        "linewidth": 2.5 if ours else 1.2,
        "zorder": 2 + ours,
    }


def _throughput(pyplot: Any, rows: list[Row], colours: dict[str, str]) -> Any:
    rows = [row for row in rows if "blksize" in row.facts]
    sizes = list(dict.fromkeys(row.facts["blksize"] for row in rows))
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(11, 4), layout="constrained")
    for axis, blksize in zip(axes, sizes, strict=True):
        for server in colours:
            here = [row for row in rows if row.facts["blksize"] == blksize and server in row.samples]
            axis.plot(
                [row.facts["windowsize"] for row in here],
                [row.typical(server) for row in here],
                label=server,
                **_style(server, colours),
            )
        axis.set(title=f"blksize {blksize}", xlabel="windowsize", xscale="log", ylim=(0, None))
        axis.set_xticks(
            sorted({row.facts["windowsize"] for row in rows}), sorted({row.facts["windowsize"] for row in rows})
        )
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("MB/s on loopback")
    axes[0].legend(fontsize=8)
    return figure


def _curves(axis: Any, rows: list[Row], colours: dict[str, str], x: str, factor: float) -> None:
    for server in colours:
        here = (
            [row for row in rows if row.typical(server) is not None]
            if all(server in row.samples for row in rows)
            else []
        )
        axis.plot(
            [row.facts[x] * factor for row in here],
            [row.typical(server) for row in here],
            label=server,
            **_style(server, colours),
        )


def _two(pyplot: Any, rows: list[Row], colours: dict[str, str], x: str, factor: float, label: str) -> Any:
    """Time for 256 KiB over `x`, in lock-step and with a window, with the model of docs/performance.md."""
    windows = sorted({row.facts["windowsize"] for row in rows})
    figure, axes = pyplot.subplots(1, len(windows), figsize=(11, 4), layout="constrained", sharey=True)
    for axis, windowsize in zip(axes, windows, strict=True):
        here = [row for row in rows if row.facts["windowsize"] == windowsize]
        _curves(axis, here, colours, x, factor)
        model = [model_seconds(row.facts, here[0].typical(OURS) or 0) for row in here]
        axis.plot([row.facts[x] * factor for row in here], model, "k--", linewidth=1, label="model", zorder=4)
        axis.set(title="lock-step" if windowsize == 1 else f"windowsize {windowsize}", xlabel=label, yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds for 256 KiB, blksize 1428")
    axes[0].legend(fontsize=8)
    return figure


def _loss(pyplot: Any, rows: list[Row], colours: dict[str, str]) -> Any:
    rows = [row for row in rows if row.facts.get("file") == "lossy.bin" and not row.facts["round_trip_ms"]]
    return _two(pyplot, sorted(rows, key=lambda row: row.facts["loss"]), colours, "loss", 100, "% lost each way")


def _delay(pyplot: Any, rows: list[Row], colours: dict[str, str]) -> Any:
    rows = [row for row in rows if row.facts.get("file") == "lossy.bin" and not row.facts["loss"]]
    return _two(pyplot, rows, colours, "round_trip_ms", 1, "round-trip time, ms")


def model_seconds(facts: dict[str, Any], base: float) -> float:
    """Seconds for a file over a route by the model of docs/performance.md; `base`: seconds without loss and delay."""
    window, loss, round_trip = facts["windowsize"], facts["loss"], facts["round_trip_ms"] / 1000
    blocks = FILES[facts["file"]] // _BLKSIZE + 1
    turn = base / blocks * window  # cost of a window without the network
    repeat = round_trip + turn + _RTO_MARGIN_S
    gap = (window - 1) * loss * (round_trip + turn / 2)
    tail = (1 / (1 - loss) ** 2 - 1) * repeat
    return blocks / window * (round_trip + turn + gap + tail)
