"""Pictures of many runs side by side: accuracy against savings, and states by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import (
    Formatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    StrMethodFormatter,
)

from jsplit.analysis.label_placement import place_labels
from jsplit.analysis.run_plots import (
    STATES,
    finish,
    folded,
    literal,
    within_percent,
)
from jsplit.core.gate_choice import Style

HOLLOW = "hollow, broken line: over a network"
"""What the legend says of networked runs."""

CLEARANCE = 5.5
"""Of a number from the middle of a point, in points of 1/72 inch."""


class Point(NamedTuple):
    """A setting's mean over its seeds.

    Attributes:
        style: of its gate.
        networked: whether these are runs over a network, which are drawn hollow.
        kind: a line joins points of one kind, which differ in the gate's number.
        label: in words, such as `loss 0.05`.
        accuracy: of the test set, a fraction.
        deviation: of that over seeds; None for a single one.
        communication: factor that it is reduced by.
        computation: likewise, of the client.
        sent: bytes that cross in the whole training.
    """

    style: Style
    networked: bool
    kind: str
    label: str
    accuracy: float
    deviation: float | None
    communication: float
    computation: float
    sent: float


class Anchor(NamedTuple):
    """Something to hold bytes against, such as the images themselves.

    Attributes:
        label: in words.
        sent: bytes.
        broken: whether the line is.
    """

    label: str
    sent: float
    broken: bool


def accuracy_against_savings(
    points: Sequence[Point],
    path: Path,
    *,
    title: str,
    baseline: float | None,
    loss: float,
) -> None:
    """Plots accuracy against both reductions, every gate on one picture.

    Each point has a number, and the legend says what that is. Runs over a network have
    hollow markers and broken lines.

    Args:
        points: at least one; a line joins those of one kind by what they reduce.
        path: of the picture; its folder must exist.
        title: of what the points have in common.
        baseline: accuracy of plain split learning, a line; None if it is not known.
        loss: of accuracy, a second line so far below it.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, [point.communication for point in points]),
        (right, [point.computation for point in points]),
    )
    left.set_xlabel("communication reduced by (paper's account)")
    right.set_xlabel("client computation reduced by")
    text = StrMethodFormatter("/{x:g}")
    _finish_accuracy(figure, panels, text, points, path, title, baseline, loss)


def accuracy_against_bytes(
    points: Sequence[Point],
    path: Path,
    *,
    title: str,
    baseline: float | None,
    loss: float,
    anchors: Sequence[Anchor] = (),
) -> None:
    """Plots accuracy against every byte of a training, beside what else takes bytes.

    Args:
        points: at least one.
        path: of the picture; its folder must exist.
        title: of what the points have in common.
        baseline: accuracy of plain split learning, a line; None if it is not known.
        loss: of accuracy, a second line so far below it.
        anchors: upright lines.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    for anchor in anchors:
        axes.axvline(anchor.sent / 2**20, **_upright(anchor))
    axes.set_xlabel("every byte that crosses in the whole training (MiB)")
    upright = [
        Line2D([], [], label=anchor.label, **_upright(anchor)) for anchor in anchors
    ]
    panels = ((axes, [point.sent / 2**20 for point in points]),)
    text = FuncFormatter(lambda count, _: f"{count:,.12g}")
    _finish_accuracy(figure, panels, text, points, path, title, baseline, loss, upright)


def _upright(anchor: Anchor) -> dict[str, Any]:
    """How an anchor is drawn, unlike level lines."""
    line = "--" if anchor.broken else "-"
    return {"color": "#0072B2", "linewidth": 1.5, "linestyle": line}


def _finish_accuracy(
    figure: Figure,
    panels: Sequence[tuple[Axes, Sequence[float]]],
    formatter: Formatter,
    points: Sequence[Point],
    path: Path,
    title: str,
    baseline: float | None,
    loss: float,
    more: Sequence[Line2D] = (),
) -> None:
    """Draws the points into each panel, numbers them, and writes the picture."""
    for axes, across in panels:
        _scatter(axes, points, across, formatter)
        if baseline is not None:
            axes.axhline(baseline, **_line("-"))
            axes.axhline(baseline - loss, **_line(":"))
    first, _ = panels[0]
    first.set(ylabel="test accuracy, mean over seeds")
    within_percent(first)
    figure.suptitle(folded(title))
    handles = [
        Line2D(
            [],
            [],
            label=literal(f"{number}  {point.label}"),
            **_look(point.style, networked),
        )
        for number, point in enumerate(points, 1)
        for networked in (point.networked,)
    ]
    if baseline is not None:
        handles += [
            Line2D([], [], label="plain split learning", **_line("-")),
            Line2D([], [], label=f"{100 * loss:g} points below", **_line(":")),
        ]
    if any(point.networked for point in points):
        handles.append(Line2D([], [], label=HOLLOW, linestyle=""))
    _key(figure, [*handles, *more])
    # Only now it is known where every point comes to lie.
    figure.draw_without_rendering()
    for axes, across in panels:
        _number(axes, points, across)
    finish(figure, [axes for axes, _ in panels], path)


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
    names = [literal(name) for name, _ in rows]
    axes.set_yticks(range(len(rows)), names, fontsize="small")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlim=(0.5, longest + 0.5), ylim=(len(rows) - 0.4, -0.6), xlabel="epoch")
    figure.legend(
        handles=[
            Patch(color=colour, label=label) for colour, _, label in STATES.values()
        ],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize="small",
    )
    figure.suptitle(folded(title), fontsize="medium")
    finish(figure, (axes,), path, grid=False)


def reconstructions(
    rows: Sequence[tuple[str, np.ndarray]], path: Path, *, title: str
) -> None:
    """Shows images below one another, such as originals and what was guessed of them.

    Args:
        rows: for each what it shows, and as many images `[n, h, w, c]`, pixels from 0
            to 1; those of neither one channel nor three as the mean of all.
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
            # Of four channels the last would be taken for opacity.
            colour = image.shape[-1] == 3
            axes.imshow(image if colour else image.mean(axis=-1), cmap="gray")
            axes.images[0].set_clim(0, 1)
    figure.suptitle(folded(title), fontsize="medium")
    left = 1.4 / (1.6 + 0.8 * count)
    figure.subplots_adjust(left, 0.02, 0.98, wspace=0.05, hspace=0.05)
    finish(figure, (), path)


def _scatter(
    axes: Axes, points: Sequence[Point], across: Sequence[float], formatter: Formatter
) -> None:
    kinds: dict[tuple[str, bool], list[tuple[float, Point]]] = {}
    for x, point in zip(across, points, strict=True):
        kinds.setdefault((point.kind, point.networked), []).append((x, point))
    for joined in kinds.values():
        joined.sort()
        first = joined[0][1]
        line, _, _ = axes.errorbar(
            [x for x, _ in joined],
            [point.accuracy for _, point in joined],
            [point.deviation or 0.0 for _, point in joined],
            linewidth=1,
            capsize=3,
            **_look(first.style, first.networked),
        )
        # Points are whole at 0 and 100 %, too, where the axis ends; bars end there.
        line.set_clip_on(False)
    axes.set_xscale("log")
    # Over more than three decades numbers between their ends would run together.
    wide = max(across) > 1000 * min(across)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter(formatter)
    axes.xaxis.set_minor_locator(LogLocator(subs=()))
    axes.margins(x=0.12, y=0.15)


def _line(style: str) -> dict[str, Any]:
    """How a level line is drawn."""
    return {"color": "0.3", "linewidth": 1, "linestyle": style}


def _look(style: Style, networked: bool) -> dict[str, Any]:
    """How a line and its markers are drawn; a hollow one leaves what is below seen."""
    return {
        "color": style.colour,
        "marker": style.marker,
        "linestyle": "--" if networked else "-",
        "markersize": 9 if networked else 6,
        "markerfacecolor": "none" if networked else style.colour,
    }


def _number(axes: Axes, points: Sequence[Point], across: Sequence[float]) -> None:
    """Writes each point's number beside it, none over another; limits must be final."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = 72 / figure.dpi
    labels = [
        axes.annotate(
            str(number),
            (x, point.accuracy),
            textcoords="offset points",
            xytext=(0, 0),
            ha="center",
            va="center",
            fontsize="x-small",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={
                "arrowstyle": "-",
                "color": point.style.colour,
                "linewidth": 0.5,
                "shrinkA": 0,
                "shrinkB": CLEARANCE - 1,
            },
            in_layout=False,
        )
        for number, (x, point) in enumerate(zip(across, points, strict=True), 1)
    ]
    at = axes.transData.transform([label.xy for label in labels]) * scale
    # With a gap of 3 points from one to the next.
    extents = [Text.get_window_extent(label).size for label in labels]
    bounds = axes.get_window_extent().get_points() * scale
    places = place_labels(at, np.array(extents) * scale + 3, bounds, CLEARANCE)
    for label, offset in zip(labels, places - at, strict=True):
        label.set_position(tuple(offset))


def _key(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Puts the legend below the axes, in as many columns as fit, and makes room."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    # A letter of this size takes 0.065 inches, and the sample before it 0.5.
    columns = max(1, min(5, int(figure.get_figwidth() / (0.5 + 0.065 * longest))))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.18 * rows)
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize="small",
    )
