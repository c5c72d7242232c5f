"""`jsplit privacy`: what the server learns from what the runs of a folder sent."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsplit.analysis import plots
from jsplit.analysis.comparison import Group, Setting
from jsplit.analysis.report import as_text, markdown
from jsplit.analysis.results import FinishedRun
from jsplit.data import Dataset
from jsplit.errors import InputError
from jsplit.experiment.build import Experiment, build, share_program
from jsplit.experiment.quantities import counted
from jsplit.experiment.workdir import RunFolder
from jsplit.runtime import atomic, device

FORMAT = "jsplit-privacy-4"

Figures = dict[str, Any]


def attackable(
    runs: Sequence[FinishedRun],
) -> tuple[list[FinishedRun], list[FinishedRun]]:
    """The runs whose images are here, and networked ones, which cannot be attacked.

    Raises:
        InputError: if none can.
    """
    there = [run for run in runs if run.network is None]
    left_out = [run for run in runs if run.network is not None]
    if not there:
        raise InputError(
            f"{left_out[0].path} is the server's folder of a networked run, and the "
            "images stayed with its clients; name runs of jsplit run or jsplit sweep"
        )
    return there, left_out


def check_checkpoints(runs: Iterable[FinishedRun]) -> None:
    """Refuses a run that cannot be attacked before any other is."""
    from jsplit.analysis.privacy.view import last_checkpoint

    for run in runs:
        last_checkpoint(RunFolder(run.path), run.config.all_epochs)


def left_to_attack(group: Group, *, again: bool) -> list[FinishedRun]:
    """The runs that were not attacked before, or in part; all of them if `again`."""
    plain = _begins(group)
    return [
        run
        for run in group.runs
        if again
        or not kept_file(run).exists()
        or ("first" not in read_figures(run) and run in plain)
    ]


def attacks(
    group: Group, left: Iterable[FinishedRun], dataset: Callable[[], Dataset]
) -> Iterator[tuple[FinishedRun, Figures]]:
    """Attacks each run when its turn comes, and keeps what was found beside it."""
    plain = _begins(group)
    earlier: Experiment | None = None
    for run in left:
        # However the run was computed, it is attacked on one device.
        config = dataclasses.replace(run.config, mesh=False, lossless=False)
        experiment = build(config, dataset())
        if earlier is not None:
            experiment = share_program(experiment, earlier)
        earlier = experiment
        yield run, _audited(experiment, run, first=run in plain)


def _plain(group: Group) -> Setting | None:
    """The setting whose first epoch stands for those of all; None where none can.

    A client that learned alone first never sent anything by its first part.
    """
    able = [each for each in group.settings if not each.config.local_epochs]
    if group.baseline in able:
        return group.baseline
    return next(iter(able), None)


def _begins(group: Group) -> Sequence[FinishedRun]:
    """The runs whose first epoch is attacked, too."""
    plain = _plain(group)
    return () if plain is None else plain.runs


def _audited(experiment: Experiment, run: FinishedRun, *, first: bool) -> Figures:
    # Here, because only here the extra is known to be there.
    from jsplit.analysis.privacy.audit import audit
    from jsplit.analysis.privacy.view import ended

    found = audit(ended(experiment, RunFolder(run.path)), first=first)
    plots.reconstructions(
        [
            (f"{what}, {name} epoch", rows[name])
            for name in found.images
            for what, rows in (("sent", found.images), ("guessed", found.guesses))
        ],
        run.path / "privacy.png",
        title=f"{run.path.name}: {Setting((run,)).label}, seed {run.config.seed}",
    )
    figures = {"format": FORMAT, "device": device.describe(), **found.figures}
    atomic.write_json(kept_file(run), figures)
    return figures


def kept_file(run: FinishedRun) -> Path:
    """Where the figures of a run's attack are kept."""
    return run.path / "privacy.json"


def read_figures(run: FinishedRun) -> Figures:
    """The figures of a run that was attacked.

    Raises:
        InputError: if they are damaged or of another version.
    """
    try:
        figures: Figures = json.loads(kept_file(run).read_text(encoding="utf-8"))
        if figures["format"] != FORMAT:
            raise ValueError(f"format {figures['format']!r}")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{kept_file(run)} is not of this version ({error}); jsplit privacy "
            "--again makes it anew"
        ) from error
    return figures


def line(figures: Figures) -> str:
    """A run's figures in one line, for the terminal."""
    last = figures["last"]
    return (
        f"reconstruction {last['inversion']['ssim']:.3f} (blind "
        f"{last['blind']['ssim']:.3f})  distance correlation "
        f"{last['distance_correlation']['value']:.3f}  at least "
        f"{last['information']['bits']:.2f} bits"
    )


COLUMNS: dict[str, tuple[Callable[[Figures], float], int]] = {
    "MSE": (lambda view: view["inversion"]["mse"], 4),
    "PSNR, dB": (lambda view: view["inversion"]["psnr"], 2),
    "SSIM": (lambda view: view["inversion"]["ssim"], 3),
    "distance correlation": (lambda view: view["distance_correlation"]["value"], 3),
    "information, bits at least": (lambda view: view["information"]["bits"], 2),
}
"""Of a view, and with how many decimals."""


def page(groups: Sequence[Group], note: str | None = None) -> str:
    """The comparison as Markdown, with a note on runs that it leaves out."""
    runs = [run for group in groups for run in group.runs]
    summary = runs[0].summary
    read = {run.path: read_figures(run) for run in runs}
    every = list(read.values())
    shape = "x".join(map(str, summary["image_shape"]))
    devices = sorted({figures["device"] for figures in every})
    seeds = sorted({run.config.seed for run in runs})
    parts = [
        "# What the server learns from what was sent",
        f"{counted(len(runs), 'run')} on {as_text(summary['dataset'])} "
        f"({as_text(summary['dataset_source'])}), "
        f"images of {shape}, seeds {', '.join(map(str, seeds))}; attacked on "
        f"{as_text('; '.join(devices))}. Means over seeds and "
        "sample standard deviations.",
        "The server is honest but curious, and is given the client part and the "
        f"held-out images ({_span(every, 'public_images')}). It trains a decoder "
        "on what those become at the cut, augmented and coded as in the run, and "
        f"applies it to {_span(every, 'private_images')} examples, of all clients in "
        "turn, as they were "
        "sent in the last epoch that sent any (`first epoch`: with the weights that "
        "training begins with). MSE, PSNR and SSIM compare its guesses with what "
        "entered the client part, pixels from 0 to 1, without the black around crops; "
        "a blind guess is the mean of the held-out images. Distance correlation is 0 "
        f"for independence (of shuffled pairs it is {_mean(every, _shuffled)}). "
        "Information is a neural lower bound, which cannot exceed "
        f"{_ceiling(every):.2f} bits with so many examples, "
        "and varies by about "
        f"{_mean(every, lambda one: one['last']['information']['deviation'])} from "
        "critic to critic. Labels are sent to the server once, in every run; the last "
        "column is for who would keep them at home: how often the nearest of the "
        "public examples, by the gradient that comes back in the last epoch, has the "
        "same label; it is of runs that end in A.",
    ]
    parts += [] if note is None else [as_text(note[:1].upper() + note[1:]) + "."]
    for group in groups:
        parts += [f"## {as_text(group.title)}", _table(group, read)]
    return "\n\n".join(parts) + "\n"


def _table(group: Group, read: Mapping[Path, Figures]) -> str:
    blind = [read[run.path]["last"]["blind"] for run in group.runs]
    rows = [
        [
            *("blind guess", "", "", "", ""),
            _mean(blind, lambda one: one["mse"], 4),
            _mean(blind, lambda one: one["psnr"], 2),
            _mean(blind, lambda one: one["ssim"], 3),
            *("", "", ""),
        ]
    ]
    plain = _plain(group)
    if plain is not None:
        rows.append(
            [
                f"first epoch ({plain.label})",
                *(str(len(plain.runs)), "", "", ""),
                *_cells([read[run.path]["first"] for run in plain.runs]),
                "",
            ]
        )
    for setting in group.settings:
        found = [read[run.path] for run in setting.runs]
        rows.append(
            [
                setting.label,
                str(len(setting.runs)),
                _mean([run.summary for run in setting.runs], _accuracy, 2),
                str(setting.reduction("communication_reduction")),
                _mean(found, lambda one: one["epochs_sent"], 0),
                *_cells([figures["last"] for figures in found]),
                _labels(found),
            ]
        )
    return markdown(
        (
            *("gate", "seeds", "test accuracy, %", "communication", "epochs sent"),
            *COLUMNS,
            "labels from gradients, %",
        ),
        rows,
    )


def _span(every: Sequence[Figures], name: str) -> str:
    """A count of the last epochs, or the least and the most: batches stay whole."""
    counts = sorted({figures["last"][name] for figures in every})
    return " to ".join(map(str, counts[:1] + counts[1:][-1:]))


def _ceiling(every: Sequence[Figures]) -> float:
    return max(figures["last"]["information"]["ceiling"] for figures in every)


def _accuracy(summary: Figures) -> float:
    return float(100 * summary["test_accuracy"])


def _shuffled(figures: Figures) -> float:
    return float(figures["last"]["distance_correlation"]["shuffled"])


def _labels(found: Sequence[Figures]) -> str:
    """Of runs that ended in A; others have no such figure."""
    if any("labels_from_gradients" not in figures["last"] for figures in found):
        return ""
    return _mean(found, lambda one: 100 * one["last"]["labels_from_gradients"], 1)


def _cells(views: Sequence[Figures]) -> list[str]:
    return [_mean(views, pick, places) for pick, places in COLUMNS.values()]


def _mean(
    found: Sequence[Figures], pick: Callable[[Figures], float], places: int = 2
) -> str:
    values = [float(pick(figures)) for figures in found]
    mean = f"{statistics.fmean(values):.{places}f}"
    if len(values) == 1 or places == 0:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{places}f}"
