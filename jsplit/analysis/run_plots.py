"""Pictures of a finished run: accuracy against traffic, and loss by epoch.

Both take the records of a run (see `jsplit.experiment.writers`), also those of a
resumed or diverged one, and write one picture in one step: PNG, or what the path's
suffix says.
"""

import itertools
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from jsplit.errors import InputError
from jsplit.runtime import atomic

STATES = {
    "L": ("#CC79A7", "D", "L: client learns alone"),
    "A": ("#0072B2", "o", "A: both sides train"),
    "B": ("#E69F00", "s", "B: client sends only"),
    "C": ("#009E73", "^", "C: server trains alone"),
}
"""Colour (of Okabe and Ito, told apart by the colour-blind), marker and legend."""

Records = Sequence[Mapping[str, Any]]


def accuracy_against_bytes(records: Records, path: Path, *, title: str) -> None:
    """Plots test accuracy against the bytes sent so far, by the paper's accounting.

    Args:
      records: one per epoch; an epoch without a finite `test_accuracy` is left out.
      path: the picture's file; its folder must exist.
      title: dataset, model and seed.

    Raises:
      InputError: there are no records.
    """
    figure, axes = _against_bytes()
    shown = _draw_states(axes, records)
    if shown:
        # Outside of the axes, where no point can be.
        figure.legend(
            loc="outside lower center",
            ncols=len(STATES),
            title=f"{_result(records)}; state (epochs):",
            frameon=False,
            fontsize="small",
            title_fontsize="small",
        )
    _finish_against_bytes(figure, axes, [records], path, title)


def both_against_bytes(
    records: Records, plain: Records, path: Path, *, title: str
) -> None:
    """Plots a run and plain split learning: test accuracy against the bytes sent.

    Args:
      records: of the run, one per epoch, by the paper's accounting.
      plain: likewise of plain split learning, which is drawn as a line.
      path: the picture's file; its folder must exist.
      title: dataset, model and seed.

    Raises:
      InputError: one of them has no records.
    """
    figure, axes = _against_bytes()
    sent, accuracy = _points(plain)
    axes.plot(
        sent,
        accuracy,
        color="black",
        linestyle="--",
        marker="D",
        markerfacecolor="white",
        markersize=5,
        linewidth=1,
        clip_on=False,
        label=f"plain split learning ({len(plain)})",
        zorder=1,
    )
    _draw_states(axes, records)
    figure.legend(
        loc="outside lower center",
        ncols=3,
        title=f"this run: {_result(records)}\nplain split learning: {_result(plain)}",
        frameon=False,
        fontsize="small",
        title_fontsize="small",
    )
    _finish_against_bytes(figure, axes, [records, plain], path, title)


def _against_bytes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.9), layout="constrained")
    return figure, figure.add_subplot()


def _draw_states(axes: Axes, records: Records) -> bool:
    """Draws each epoch with the marker of its state; whether there was one."""
    mebibytes, accuracy = _points(records)
    states = np.array([record.get("state") for record in records])
    shown = np.isfinite(mebibytes) & np.isfinite(accuracy)
    axes.plot(mebibytes[shown], accuracy[shown], color="0.75", linewidth=1, zorder=1)
    for state, (colour, marker, label) in STATES.items():
        mine = shown & (states == state)
        if mine.any():
            axes.scatter(
                mebibytes[mine],
                accuracy[mine],
                s=_marker_area(len(records)),
                color=colour,
                marker=marker,
                edgecolors="white",
                linewidths=0.5,
                clip_on=False,  # Whole at 0 and 100 %, too, where the axis ends.
                label=f"{label} ({mine.sum()})",
                zorder=2,
            )
    return bool(shown.any())


def _points(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """MiB sent so far, and test accuracy, by epoch; NaN where one is not known."""
    mebibytes = _column(records, "paper_bytes") / 2**20
    return mebibytes, _column(records, "test_accuracy")


def _result(records: Records) -> str:
    """The last epoch that has a score, in words."""
    mebibytes, accuracy = _points(records)
    shown = np.flatnonzero(np.isfinite(mebibytes) & np.isfinite(accuracy))
    if not shown.size:
        return "no score"
    last = shown[-1]
    return (
        f"after epoch {records[last]['epoch']}: {accuracy[last]:.1%}, "
        f"{mebibytes[last]:.4g} MiB"
    )


def _finish_against_bytes(
    figure: Figure, axes: Axes, runs: Sequence[Records], path: Path, title: str
) -> None:
    sent, accuracy = np.concatenate([_points(records) for records in runs], axis=1)
    if _spans_decades(sent[np.isfinite(sent) & np.isfinite(accuracy)], 50):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.margins(x=0.06, y=0.12)
    within_percent(axes)
    axes.set(title=folded(title), ylabel="test accuracy")
    axes.set_xlabel("activations and gradients sent so far (MiB, paper's accounting)")
    finish(figure, (axes,), path)


def within_percent(axes: Axes) -> None:
    """Shows fractions as per cent, from 0 to 100 at most; all must be drawn before."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def loss_by_epoch(records: Records, path: Path, *, title: str) -> None:
    """Plots train and test loss by epoch, over a strip of the gate's states.

    Losses that are not finite leave a gap, with a cross at the foot.

    Args:
      records: one per epoch.
      path: the picture's file; its folder must exist.
      title: dataset, model and seed.

    Raises:
      InputError: there are no records.
    """
    epochs = _column(records, "epoch")
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes, strip = figure.subplots(2, sharex=True, height_ratios=[14, 1])
    marker = "." if len(records) <= 40 else ""
    curves = [("train", "black", "-"), ("test", "0.5", "--")]
    losses = []
    for name, colour, line in curves:
        loss = _column(records, f"{name}_loss")
        losses.append(loss[np.isfinite(loss)])
        axes.plot(epochs, loss, line, color=colour, marker=marker, label=name)
    # A server hears of no loss where its clients learn alone.
    told = np.array([record.get("train_loss", 0.0) is not None for record in records])
    alone = np.array([record.get("state") == "L" for record in records])
    lost = ~np.isfinite(_column(records, "train_loss")) & (told | ~alone)
    if lost.any():
        axes.plot(
            epochs[lost],
            np.zeros(lost.sum()),
            color="#D55E00",
            marker="x",
            linestyle="",
            clip_on=False,
            transform=axes.get_xaxis_transform(),
            label="train loss not finite",
        )
    if _spans_decades(np.concatenate(losses), 100):
        axes.set_yscale("log")
    axes.legend()
    axes.set(title=folded(title), ylabel="loss (nats per example)")
    _draw_strip(strip, epochs, [record.get("state") for record in records])
    finish(figure, (axes,), path)


def _draw_strip(axes: Axes, epochs: np.ndarray, states: Sequence[str | None]) -> None:
    """Fills one box for each run of equal states, with its letter where it fits."""
    total = epochs[-1] - epochs[0] + 1
    pairs = zip(epochs, states, strict=True)
    for state, run in itertools.groupby(pairs, key=lambda pair: pair[1]):
        if state in STATES:
            run_epochs = [epoch for epoch, _ in run]
            left, right = run_epochs[0] - 0.5, run_epochs[-1] + 0.5
            axes.axvspan(left, right, color=STATES[state][0], linewidth=0)
            if (right - left) / total > 0.02:
                middle = (left + right) / 2
                axes.text(middle, 0.45, state, ha="center", va="center")
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.set(yticks=[], ylim=(0, 1), xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(
        handles=[
            Patch(color=colour, label=label)
            for state, (colour, _, label) in STATES.items()
            if state in states
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -1.6),
        ncols=4,
        frameon=False,
    )


def _column(records: Records, name: str) -> np.ndarray:
    if not records:
        raise InputError("no epochs to plot: the run has no records; train it first")
    values = [record.get(name) for record in records]
    return np.array([math.nan if v is None else float(v) for v in values])


def _spans_decades(values: np.ndarray, ratio: float) -> bool:
    """Whether a logarithmic axis shows these better than a linear one."""
    return bool(
        values.size and values.min() > 0 and values.max() > ratio * values.min()
    )


def _marker_area(count: int) -> float:
    return 45 if count <= 40 else 20


def folded(title: str) -> str:
    """A title in lines that the picture is wide enough for."""
    return literal(textwrap.fill(title, 68))


def literal(text: str) -> str:
    """Text that a picture shows as it is, its `$` no formula's."""
    return text.replace("$", r"\$")


def finish(
    figure: Figure, every: Sequence[Axes], path: Path, *, grid: bool = True
) -> None:
    """Gives all axes the same plain look, and writes the picture in one step.

    Args:
        figure: to write.
        every: its axes.
        path: of the file; its folder must exist.
        grid: whether to draw lines behind.
    """
    for axes in every:
        if grid:
            axes.grid(color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    # The suffix last: it says the format.
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        with atomic.unfinished(temporary):
            figure.savefig(temporary, dpi=150)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
