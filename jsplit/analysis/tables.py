"""Tables for people: a model's cuts, and a run beside plain split learning."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from jsplit.analysis.traffic import Traffic, total, traffic_of
from jsplit.experiment.progress import states_in_words
from jsplit.experiment.quantities import human_bytes
from jsplit.models import Block, cuts


def show(table: Table) -> None:
    """Prints a table, at full width where the output is no terminal to fold it."""
    width = None if sys.stdout.isatty() else 120
    Console(width=width, highlight=False).print(table)


def of_cuts(
    model: str, blocks: tuple[Block, ...], shape: tuple[int, int, int]
) -> Table:
    """What each cut of a model sends and computes, for images of one shape."""
    table = Table(title=f"{model}, one example of {'x'.join(map(str, shape))}")
    for name in (
        "cut",
        "after",
        "smashed",
        "KiB f32",
        "KiB f8",
        "client params",
        "client MMACs",
        "client share",
    ):
        table.add_column(name, justify="left" if name == "after" else "right")
    for cut in cuts(blocks, shape):
        table.add_row(
            str(cut.number),
            cut.name,
            "x".join(map(str, cut.smashed_shape)),
            f"{cut.values * 4 / 1024:.2f}",
            f"{cut.values / 1024:.2f}",
            f"{cut.client_params:,}",
            f"{cut.client_macs / 1e6:.2f}",
            f"{cut.client_share:.1%}",
        )
    return table


def of_summary(
    summary: Mapping[str, Any], plain: Mapping[str, Any] | None = None
) -> Table:
    """A run beside plain split learning (always A, float32), in 80 columns.

    Args:
        summary: of the run.
        plain: of a run of plain split learning with the same data, seed and epochs;
            None where none was made. Its bytes and computation are counted in any case.
    """
    counted = summary["always_a_float32"]
    table = Table(
        title=_by_epoch(summary["states"]),
        caption="plain split learning: every epoch in A, float32 both ways",
    )
    for name in ("", "this run", "plain split\nlearning", "difference"):
        table.add_column(name, justify="left" if not name else "right")
    lost = None if plain is None else summary["test_accuracy"] - plain["test_accuracy"]
    table.add_row(
        "test accuracy",
        f"{summary['test_accuracy']:.2%}",
        "not run" if plain is None else f"{plain['test_accuracy']:.2%}",
        "" if lost is None else f"{100 * lost:+.2f} points",
    )
    table.add_row(
        "  best of all epochs",
        f"{summary['best_test_accuracy']:.2%}",
        "" if plain is None else f"{plain['best_test_accuracy']:.2%}",
        "",
    )
    rows = [("sent, paper's account", "paper_payload"), ("sent, every byte", "total")]
    for title, kind in rows:
        _add_bytes(table, title, summary["bytes"][kind], counted["bytes"][kind])
    for kind, mine in summary["bytes"].items():
        if isinstance(mine, dict):
            for way, count in mine.items():
                title = f"  {kind.replace('_', ' ')}, {way}"
                _add_bytes(table, title, count, counted["bytes"][kind][way])
    table.add_row(
        "client computation",
        *_macs(summary["client_macs"], counted["client_macs"]),
        f"/{summary['client_compute_reduction']:,.2f}",
    )
    table.add_row(
        "seconds",
        f"{summary['seconds']:,.1f}",
        "not run" if plain is None else f"{plain['seconds']:,.1f}",
        "",
    )
    return table


def _by_epoch(states: str) -> str:
    """The title of a table: the states of the run, no longer than two lines."""
    return f"states by epoch: {states_in_words(states, longest=100)}"


def _add_bytes(table: Table, title: str, mine: int, other: int) -> None:
    """Adds a row of what was sent, unless neither run sends such."""
    if mine or other:
        reduced = f"/{other / mine:,.2f}" if mine and other else ""
        table.add_row(title, human_bytes(mine), human_bytes(other), reduced)


def _macs(*counts: int) -> list[str]:
    """Multiply-accumulates for people, all in the unit that fits the largest.

    Example:
        >>> _macs(75_600_000, 3_000_000), _macs(2 * 10**15, 4 * 10**14)
        (['0.076 GMAC', '0.003 GMAC'], ['2.000 PMAC', '0.400 PMAC'])
    """
    units = ((10**15, "PMAC"), (10**12, "TMAC"), (10**9, "GMAC"))
    size, name = next((unit for unit in units if max(counts) >= unit[0]), units[-1])
    return [f"{count / size:,.3f} {name}" for count in counts]


def of_network(summary: Mapping[str, Any]) -> Table:
    """A networked run in bytes: what was predicted, and what was counted.

    Each column adds up to the byte. The prediction is of training alone, so training
    is summed first and compared with it; evaluation, handshakes and what was sent again
    follow, and then every byte that crossed.
    """
    traffic = traffic_of(summary)
    table = Table(title=f"{_by_epoch(summary['states'])}; bytes")
    for name in ("", "predicted", "crossed", "spared by compression", "difference"):
        table.add_column(name, justify="left" if not name else "right")

    def add(row: Traffic, indent: str = "", *, last: bool = False) -> None:
        found = (row.predicted, row.crossed, row.saved, row.difference)
        cells = ("" if count is None else f"{count:,}" for count in found)
        table.add_row(indent + row.name, *cells, end_section=last)

    training = total("training", traffic.training)
    for row in traffic.training:
        add(row, "  ")
    add(training, last=True)
    for row in traffic.overhead:
        add(row, "  ")
    add(total("beside training", traffic.overhead), last=True)
    add(traffic.everything, last=True)
    plain = summary["always_a_float32"]["bytes"]["total"]
    table.add_row("training, always A in float32", f"{plain:,}")
    table.add_row(
        "training reduced by",
        *(f"/{plain / found:.2f}" for found in (training.predicted, training.crossed)),
        end_section=True,
    )
    accuracy = summary["test_accuracy"]
    score = "no score" if accuracy is None else f"{accuracy:.2%}"
    table.add_row("test accuracy", score)
    table.add_row("seconds", f"{summary['seconds']:.1f}")
    return table
