"""A plan's picture: bytes against the cut, beside those of the images themselves."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from jsplit.analysis.plan_values import Plan
from jsplit.analysis.run_plots import finish, folded
from jsplit.codecs import CODECS
from jsplit.experiment.plan import codec_sizes
from jsplit.experiment.quantities import counted

LOOKS = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
)
"""Colours (of Okabe and Ito) and markers, round and round."""


def bytes_against_cut(plan: Plan, path: Path) -> None:
    """Plots what one example sends one way at each cut, a line for each size of codec.

    Args:
        plan: to draw.
        path: of the picture; its folder must exist.
    """
    figure = Figure(figsize=(8, 4.9), layout="constrained")
    axes = figure.add_subplot()
    numbers = [cut.number for cut in plan.cuts]
    groups = codec_sizes(plan.codecs, plan.chosen.shape)
    for place, names in enumerate(groups):
        colour, marker = LOOKS[place % len(LOOKS)]
        axes.plot(
            numbers,
            [CODECS[names[0]].payload_bits(cut.shape) / 8 for cut in plan.cuts],
            color=colour,
            marker=marker,
            label=_label(names),
        )
    anchors = [("images, raw", float(plan.data.image_bytes), "-")]
    if plan.lossless_bytes is not None:
        anchors.append(("images, lossless", plan.lossless_bytes, ":"))
    for label, count, style in anchors:
        axes.axhline(count, color="0.3", linestyle=style, linewidth=1, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_locator(LogLocator(subs=()))
    axes.set_xticks(
        numbers,
        [f"{cut.number}\n{cut.name}" for cut in plan.cuts],
        fontsize="small" if len(numbers) < 10 else "xx-small",
    )
    axes.margins(y=0.1)
    axes.set(xlabel="cut after block")
    axes.set_ylabel("bytes of an example, one way")
    axes.set_title(folded(_title(plan)), fontsize="medium")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    finish(figure, (axes,), path)


def _title(plan: Plan) -> str:
    shape = "x".join(map(str, plan.data.image_shape))
    # All cuts have that of the run, or none has one.
    narrow = plan.cuts[0].bottleneck
    through = f", through {counted(narrow, 'channel')}" if narrow else ""
    return (
        f"{plan.model} on {plan.data.name} ({shape}): what crosses once in B, and once "
        f"each way in A{through}"
    )


def _label(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" +{len(names) - 4}" if len(names) > 4 else "")
