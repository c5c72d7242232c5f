"""Accuracy against every byte sent, for runs of different length in one picture.

    python -m benchmarks.pareto runs/small_cifar10 --out docs/assets/small_cifar10.png

A report draws a picture for each length of a training, number of clients and network.
This one puts all rows of one network and one data set side by side, because a server
that learns for more epochs from what it stored sends nothing for them. Plain split
learning has a marker of its own and a line through its lengths. Upright lines are the
bytes of the training images themselves.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jsplit.analysis import plots
from jsplit.analysis.comparison import Setting, grouped
from jsplit.analysis.gate_styles import style_of
from jsplit.analysis.report import LOSS, anchors_of
from jsplit.analysis.results import read_results
from jsplit.experiment.config import RunConfig
from jsplit.experiment.quantities import counted


def main(argv: Sequence[str] | None = None) -> None:
    """Reads finished runs and draws them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of finished runs")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    asked = parser.parse_args(argv)
    runs, _ = read_results(asked.folder, partial=False)
    groups = grouped(runs)
    points = [point_of(setting) for group in groups for setting in group.settings]
    plots.accuracy_against_bytes(
        points,
        asked.out,
        title=f"{runs[0].summary['dataset']}, {runs[0].config.model}: {len(runs)} runs",
        baseline=None,
        loss=LOSS,
        anchors=max(map(anchors_of, groups), key=len),
    )
    print(f"written: {asked.out}")


def point_of(setting: Setting) -> plots.Point:
    """A row, named by what makes it unlike others, its clients and its epochs."""
    config, accuracy = setting.config, setting.accuracy
    assert accuracy is not None
    clients = "" if config.clients == 1 else f", {config.clients} clients"
    if config.partition != "iid":
        clients += f", {config.partition}"
    if config.topology != RunConfig.topology:
        clients += f", {config.topology}"
    seeds = counted(len(setting.seeds), "seed")
    label = f"{setting.label}{clients}, {config.epochs} epochs, {seeds}"
    return plots.Point(
        style_of(type(config.gate)),
        setting.networked,
        f"{setting.label}{clients}",
        label,
        *accuracy,
        1.0,
        1.0,
        setting.sent,
    )


if __name__ == "__main__":
    main()
