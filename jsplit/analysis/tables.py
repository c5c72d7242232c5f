"""Tables for people: a model's cuts, and a run beside plain split learning."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from jsplit.analysis.traffic import Traffic, total, traffic_of
from jsplit.experiment.progress import shortened
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


def of_summary(summary: Mapping[str, Any]) -> Table:
    """A run beside plain split learning (always A, float32)."""
    plain = summary["always_a_float32"]
    table = Table(title=f"states {shortened(summary['states'])}")
    for name in ("", "this run", "always A, float32", "reduction"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row(
        "test accuracy (best)",
        f"{summary['test_accuracy']:.2%} ({summary['best_test_accuracy']:.2%})",
        "not run",
        "",
    )
    rows = [("sent, paper's account", "paper_payload"), ("sent, every byte", "total")]
    for title, kind in rows:
        mine, other = summary["bytes"][kind], plain["bytes"][kind]
        table.add_row(
            title, human_bytes(mine), human_bytes(other), f"/{other / mine:.2f}"
        )
    for kind, mine in summary["bytes"].items():
        if isinstance(mine, dict) and any(
            (*mine.values(), *plain["bytes"][kind].values())
        ):
            up, down = (human_bytes(mine[way]) for way in ("up", "down"))
            were = plain["bytes"][kind]
            table.add_row(
                f"  {kind.replace('_', ' ')}",
                f"{up} up, {down} down",
                f"{human_bytes(were['up'])} up, {human_bytes(were['down'])} down",
                "",
            )
    table.add_row(
        "client computation",
        f"{summary['client_macs'] / 1e9:,.3f} GMAC",
        f"{plain['client_macs'] / 1e9:,.3f} GMAC",
        f"/{summary['client_compute_reduction']:.2f}",
    )
    table.add_row("seconds", f"{summary['seconds']:.1f}", "not run", "")
    return table


def of_network(summary: Mapping[str, Any]) -> Table:
    """A networked run in bytes: what was predicted, and what was counted.

    Each column adds up to the byte. The prediction is of training alone, so training
    is summed first and compared with it; evaluation, handshakes and what was sent again
    follow, and then every byte that crossed.
    """
    traffic = traffic_of(summary)
    table = Table(title=f"states {shortened(summary['states'])}; bytes")
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
