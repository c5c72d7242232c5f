"""Pictures of many runs side by side: accuracy against savings, and states by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, PercentFormatter, StrMethodFormatter

from jsplit.analysis.run_plots import STATES, finish, folded
from jsplit.core.gates import Style


class Point(NamedTuple):
    """A setting's mean over its seeds.

    Attributes:
        gate: of one name, which the legend has once.
        style: the gate's colour and marker.
        kind: a line joins points of one kind, which differ in the gate's number.
        label: in words, such as `loss 0.05`.
        accuracy: of the test set, a fraction.
        deviation: of that over seeds; None for a single one.
        communication: factor that it is reduced by.
        computation: likewise, of the client.
    """

    gate: str
    style: Style
    kind: str
    label: str
    accuracy: float
    deviation: float | None
    communication: float
    computation: float


def accuracy_against_savings(
    points: Sequence[Point],
    path: Path,
    *,
    title: str,
    baseline: float | None,
    loss: float,
) -> None:
    """Plots accuracy against both reductions, every gate on one picture.

    Args:
        points: at least one; a line joins those of one kind by what they reduce.
        path: of the picture; its folder must exist.
        title: of what the points have in common.
        baseline: accuracy of plain split learning, a line; None if it is not known.
        loss: of accuracy, a second line so far below it.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _scatter(left, points, [point.communication for point in points])
    _scatter(right, points, [point.computation for point in points])
    for axes in (left, right):
        if baseline is not None:
            axes.axhline(
                baseline, color="0.3", linewidth=1, label="plain split learning"
            )
            axes.axhline(
                baseline - loss,
                color="0.3",
                linewidth=1,
                linestyle=":",
                label=f"{100 * loss:g} points below",
            )
    left.set(ylabel="test accuracy, mean over seeds")
    left.set_xlabel("communication reduced by (paper's account)")
    right.set_xlabel("client computation reduced by")
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.legend(loc="lower left", fontsize="small")
    figure.suptitle(folded(title))
    finish(figure, (left, right), path)


def strips(rows: Sequence[tuple[str, str]], path: Path, *, title: str) -> None:
    """Draws the states of each run by epoch, a strip each.

    Args:
        rows: for each run what it is called, and its states, such as `AABCC`.
        path: of the picture; its folder must exist.
        title: of what the runs have in common.
    """
    longest = max(len(states) for _, states in rows)
    colours = {state: colour for state, (colour, _, _) in STATES.items()}
    figure = Figure(figsize=(10, 1.3 + 0.22 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (_, states) in enumerate(rows):
        axes.bar(
            np.arange(1, len(states) + 1),
            0.8,
            width=1.0,
            bottom=place - 0.4,
            color=[colours[state] for state in states],
            linewidth=0,
        )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize="small")
    axes.set(xlim=(0.5, longest + 0.5), ylim=(len(rows) - 0.4, -0.6), xlabel="epoch")
    axes.legend(
        handles=[
            Patch(color=colour, label=label) for colour, _, label in STATES.values()
        ],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=3,
        frameon=False,
        fontsize="small",
    )
    axes.set_title(folded(title), loc="left", fontsize="medium")
    finish(figure, (axes,), path, grid=False)


def reconstructions(
    rows: Sequence[tuple[str, np.ndarray]], path: Path, *, title: str
) -> None:
    """Shows images below one another, such as originals and what was guessed of them.

    Args:
        rows: for each what it shows, and as many images `[n, h, w, c]`, pixels from 0
            to 1, of one channel or three.
        path: of the picture; its folder must exist.
        title: of the run.
    """
    count = max(len(images) for _, images in rows)
    figure = Figure(figsize=(1.6 + 0.8 * count, 0.6 + 0.85 * len(rows)))
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(grid, rows, strict=True):
        line[0].set_ylabel(
            name.replace(", ", "\n"), rotation=0, ha="right", va="center"
        )
        for axes in line:
            axes.set(xticks=(), yticks=(), frame_on=False)
        for axes, image in zip(line, images, strict=False):
            axes.imshow(
                image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray"
            )
            axes.images[0].set_clim(0, 1)
    figure.suptitle(folded(title), fontsize="medium")
    left = 1.4 / (1.6 + 0.8 * count)
    figure.subplots_adjust(left, 0.02, 0.98, wspace=0.05, hspace=0.05)
    finish(figure, (), path)


def _scatter(axes: Axes, points: Sequence[Point], across: Sequence[float]) -> None:
    for gate, (colour, marker) in {point.gate: point.style for point in points}.items():
        mine = [
            (x, point)
            for x, point in zip(across, points, strict=True)
            if point.gate == gate
        ]
        for place, kind in enumerate(dict.fromkeys(point.kind for _, point in mine)):
            joined = sorted((x, point) for x, point in mine if point.kind == kind)
            axes.errorbar(
                [x for x, _ in joined],
                [point.accuracy for _, point in joined],
                [point.deviation or 0.0 for _, point in joined],
                color=colour,
                marker=marker,
                linewidth=1,
                capsize=3,
                label=gate if place == 0 else None,
            )
        for x, point in mine:
            axes.annotate(
                point.label.removeprefix(gate).strip(" ,"),
                (x, point.accuracy),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize="x-small",
                color=colour,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("/{x:g}"))
    axes.xaxis.set_minor_locator(LogLocator(subs=()))
    axes.margins(x=0.12, y=0.15)
