"""`jsplit report`: what the finished runs of a folder say, as a page with pictures."""

import base64
import html
import math
import re
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from jsplit.analysis import plots
from jsplit.analysis.best_notes import LOSS, REDUCTIONS, doubts, paper_rows
from jsplit.analysis.comparison import Group, Setting, at_equal_traffic, controls
from jsplit.analysis.gate_styles import style_of
from jsplit.analysis.traffic import REPEATED, total, traffic_of
from jsplit.experiment.progress import states_in_words
from jsplit.experiment.quantities import counted, human_bytes, some_of


def page(groups: Sequence[Group], left_out: Sequence[str], out: Path) -> str:
    """The report as Markdown; its pictures are drawn into `out`."""
    every = [run for group in groups for run in group.runs]
    # One that knows its data, where there is one.
    run = next((run for run in every if run.fingerprint is not None), every[0])
    networked = sum(run.network is not None for run in every)
    data = run.summary["dataset"] or "data"
    seeds = sorted({run.config.seed for run in every})
    devices = sorted({run.summary["device"] for run in every})
    versions = sorted(
        {
            ", ".join(f"{name} {number}" for name, number in made.items())
            for made in (run.summary["versions"] for run in every)
        }
    )
    shape = "x".join(map(str, run.summary["image_shape"]))
    parts = [
        "# What the runs say",
        f"{len(every)} runs on {as_text(data)} ({run.summary['train_examples']:,} "
        f"training and {run.summary['test_examples']:,} test images of {shape}; "
        f"{as_text(run.summary['dataset_source'])}), seeds "
        f"{', '.join(map(str, seeds))}, on "
        f"{as_text('; '.join(devices))}. Versions: {as_text('; '.join(versions))}.",
        "Accuracies are of the test set after the last epoch: mean over seeds and "
        "sample standard deviation. Reductions are against always A in float32, by "
        "counting: communication in the paper's account (payload of activations and "
        "gradients), every byte as the wire format has it before its lossless stage, "
        "client computation in multiply-accumulates; where seeds differ, their "
        "geometric mean and their range. Points are of accuracy against plain split "
        "learning (always A in float32, and nothing else) with the same first filters "
        "and seeds, or where that was not run, against the first row.",
    ]
    if networked:
        parts.append(
            f"{networked} of the runs went over a network. Their clients alone know "
            "their data: here it was checked that they hold as many training images, "
            "of the same shape. Their bytes are the ledger's prediction; what crossed "
            "stands below each table."
        )
    if left_out:
        parts.append(
            f"Not finished and left out: {counted(len(left_out), 'run')} "
            f"({as_text(some_of(left_out))})."
        )
    parts += [
        "## Best reduction at no more than 0.5 points of accuracy lost",
        _best(groups, run.summary["dataset"] or ""),
    ]
    doubt = doubts(groups, run.summary["test_examples"])
    if doubt is not None:
        parts.append(as_text(doubt))
    if any(
        group.baseline is not None and not group.is_able(setting)
        for group in groups
        for setting in group.settings
    ):
        parts.append(
            "Runs begun with trained weights that plain split learning did not begin "
            "with are in the tables, and are no candidates here: what training those "
            "weights sent is in no account."
        )
    for number, group in enumerate(groups, 1):
        title = as_text(group.title)
        parts.append(f"## {title}")
        parts.append(_table(group))
        parts += _sent(group)
        parts += _crossed(group)
        parts += _equal_traffic(group)
        name = f"accuracy-{number}.png"
        if any(setting.accuracy is not None for setting in group.settings):
            beside = f"bytes-{number}.png"
            _draw_accuracy(group, out / name, out / beside)
            parts.append(f"![accuracy against reductions: {title}]({name})")
            parts.append(f"![accuracy against bytes: {title}]({beside})")
        name = f"states-{number}.png"
        rows = [
            (f"{setting.label}, seed {run.config.seed}", run.summary["states"])
            for setting in group.settings
            for run in setting.runs
        ]
        plots.strips(rows, out / name, title=group.title)
        parts.append(f"![states by epoch: {title}]({name})")
    return "\n\n".join(parts) + "\n"


def self_contained(text: str, folder: Path) -> str:
    """The page as one HTML file, with its pictures in it."""
    # Names come from others' files: tags are text, see also `as_text`.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = body.replace(" ± ", "&nbsp;±&nbsp;")  # No line of a cell ends in between.
    # Wide ones scroll, by the keyboard too.
    body = body.replace("<table>", '<div class="table" tabindex="0"><table>')
    body = body.replace("</table>", "</table></div>")

    def embedded(found: re.Match[str]) -> str:
        picture = (folder / found[1]).read_bytes()
        return f'src="data:image/png;base64,{base64.b64encode(picture).decode()}"'

    body = re.sub(r'src="([^"]+)"', embedded, body)
    title = html.escape(text.split("\n", 1)[0].lstrip("# "))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    )


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;"
    "padding:0 1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse}"
    # Shadows at the edges that hide columns: at an end of the table a white cover,
    # which scrolls with it, lies over the shadow, which does not.
    ".table{overflow-x:auto;background:"
    "linear-gradient(90deg,#fff 60%,#fff0) 0/1.5rem 100% no-repeat local,"
    "linear-gradient(270deg,#fff 60%,#fff0) 100%/1.5rem 100% no-repeat local,"
    "linear-gradient(90deg,#0005,#0000) 0/1rem 100% no-repeat scroll,"
    "linear-gradient(270deg,#0005,#0000) 100%/1rem 100% no-repeat scroll}"
    "th,td{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child{text-align:left}"
    "img{max-width:100%}"
)


def _draw_accuracy(group: Group, savings: Path, sent: Path) -> None:
    points = [
        plots.Point(
            style_of(type(setting.config.gate)),
            setting.networked,
            setting.kind,
            setting.label,
            *accuracy,
            setting.reduction("communication_reduction").middle,
            setting.reduction("client_compute_reduction").middle,
            setting.sent,
        )
        for setting in group.settings
        if (accuracy := setting.accuracy) is not None
    ]
    plain = None if group.baseline is None else group.baseline.accuracy
    baseline = None if plain is None else plain[0]
    plots.accuracy_against_savings(
        points, savings, title=group.title, baseline=baseline, loss=LOSS
    )
    plots.accuracy_against_bytes(
        points,
        sent,
        title=group.title,
        baseline=baseline,
        loss=LOSS,
        anchors=anchors_of(group),
    )


def anchors_of(group: Group) -> list[plots.Anchor]:
    """The bytes of the training images, as pictures show them."""
    return [
        plots.Anchor(f"the training images, {how}", count, broken=how != "raw")
        for how, count in images_of(group).items()
    ]


def images_of(group: Group) -> dict[str, float]:
    """Bytes of the training images themselves: raw, and compressed if that is known."""
    summary = group.runs[0].summary
    count = summary["train_examples"]
    lossless = summary.get("lossless_image_bytes")
    return {"raw": float(count * math.prod(summary["image_shape"]))} | (
        {} if lossless is None else {"losslessly compressed": count * lossless}
    )


def _best(groups: Sequence[Group], dataset: str) -> str:
    rows = []
    for group in groups:
        row = [group.title]
        for reduction in REDUCTIONS:
            best = group.best(reduction, LOSS)
            row.append("nothing in float32 to compare with" if best is None else "")
            if best is not None:
                row[-1] = (
                    f"/{best.reduction(reduction).middle:.4g} ({best.label}, "
                    f"{_points(group.most_lost(best), 'not evaluated')})"
                )
        rows.append(row)
    rows += paper_rows(groups, dataset)
    return markdown(("runs", "communication", "client computation"), rows)


def _table(group: Group) -> str:
    rows, seed = [], group.settings[0].seeds[0]
    for setting in group.settings:
        shown = next(
            (run for run in setting.runs if run.config.seed == seed), setting.runs[0]
        )
        states = states_in_words(shown.summary["states"], longest=40)
        other = shown.config.seed != seed
        baseline, lost = group.plain_for(setting), group.lost(setting)
        unknown = baseline is None or None in (baseline.accuracy, setting.accuracy)
        why_not = "not evaluated" if unknown else "not the same seeds"
        rows.append(
            [
                setting.label,
                str(len(setting.runs)),
                _accuracy(setting),
                "" if baseline in (None, setting) else _points(lost, why_not),
                *(
                    str(setting.reduction(name))
                    for name in (
                        "communication_reduction",
                        "wire_reduction",
                        "client_compute_reduction",
                    )
                ),
                states + f" (seed {shown.config.seed})" * other,
            ]
        )
    return markdown(
        (
            "gate",
            "seeds",
            "accuracy, %",
            "points",
            "communication",
            "every byte",
            "computation",
            f"states, seed {seed}",
        ),
        rows,
    )


def _sent(group: Group) -> list[str]:
    """Every byte of a training, beside those of the images themselves."""
    images = images_of(group)
    sizes = ", ".join(f"{human_bytes(round(n))} {how}" for how, n in images.items())
    rows = [
        [
            setting.label,
            human_bytes(round(setting.sent)),
            *(f"{setting.sent / count:.3g}" for count in images.values()),
        ]
        for setting in group.settings
    ]
    return [
        "Every byte of the training, before the lossless stage of the wire, and how "
        f"many times the training images themselves: {sizes}.",
        markdown(("gate", "sent", *(f"of them {how}" for how in images)), rows),
    ]


def _crossed(group: Group) -> list[str]:
    """What the networked runs of a group counted beside what was predicted."""
    rows = []
    for setting in group.settings:
        for run in setting.runs:
            if run.network is None:
                continue
            traffic = traffic_of(run.summary)
            training = total("training", traffic.training)
            assert training.predicted is not None  # No run is without training.
            again = [row for row in traffic.overhead if row.name.startswith(REPEATED)]
            others = [row for row in traffic.overhead if row not in again]
            rows.append(
                [
                    f"{setting.label}, seed {run.config.seed}",
                    human_bytes(training.predicted),
                    human_bytes(training.crossed),
                    human_bytes(training.saved),
                    human_bytes(total("beside", others).crossed),
                    human_bytes(total(REPEATED, again).crossed),
                    ", ".join(map(str, run.network["absent_epochs"])),
                ]
            )
    if not rows:
        return []
    return [
        "Over the network. Of training: what the ledger predicted, what crossed of it, "
        "and what compression spared, or was not sent to a client that was away. "
        "Besides, evaluation and handshakes crossed, and what was repeated after "
        "disturbances. Last, the epochs of A and B without each client.",
        markdown(
            (
                "run",
                "predicted",
                "crossed",
                "spared",
                "besides",
                "repeated",
                "epochs absent",
            ),
            rows,
        ),
    ]


def _equal_traffic(group: Group) -> list[str]:
    """Gates that heed the loss beside the controls, where both were run."""
    others, rows = controls(), []
    for setting in group.settings:
        if setting.config.gate.control or not setting.config.gate.leaves_a:
            continue
        found = [at_equal_traffic(group, setting, control) for control in others]
        if any(found):
            sent = str(setting.reduction("communication_reduction"))
            rows.append([setting.label, sent, *map(_difference, found)])
    if not rows:
        return []
    return [
        "Points of accuracy that a gate is above the controls where those send as "
        "much, between their own runs with the same seed:",
        markdown(("gate", "communication", *others), rows),
    ]


def _difference(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "not run there"
    mean, deviation = found
    return f"{100 * mean:+.2f}" + _spread(deviation)


def _accuracy(setting: Setting) -> str:
    if setting.accuracy is None:
        return "not evaluated"
    mean, deviation = setting.accuracy
    return f"{100 * mean:.2f}" + _spread(deviation)


def _spread(deviation: float | None) -> str:
    return "" if deviation is None else f" ± {100 * deviation:.2f}"


def _points(lost: float | None, why_not: str) -> str:
    return why_not if lost is None else f"{0.0 - 100 * lost:+.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(as_text(text) for text in line)} |" for line in lines
    )


def as_text(text: str) -> str:
    r"""Text that Markdown shows as it is: no tag, link, picture or emphasis.

    Example:
        >>> print(as_text("x<img src=q>.npz, ![a](b) of fashion_mnist"))
        x\<img src=q\>.npz, !\[a\](b) of fashion_mnist
    """
    text = " ".join(text.encode(errors="backslashreplace").decode().split())
    # An underscore within a word is one anyway.
    return re.sub(r"[\\`*\[\]<>&|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
