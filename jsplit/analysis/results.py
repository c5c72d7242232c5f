"""Finished runs, put together so that they can be compared.

A setting is what runs have in common that differ in their seed alone. A group is the
settings that may stand beside one another: they differ in gate and codecs, and agree in
model, cut, clients, partition, data, epochs and recipe.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.build import READ_BEYOND_A, canonical, check_kept_names
from jsplit.experiment.config import RunConfig
from jsplit.experiment.workdir import RunFolder

BESIDE_GATE = (
    *("codec", "grad_codec", "refresh_statistics", "refresh_augment"),
    *("nopeek", "noise", "mixup"),
)
"""Settings of what crosses and of what is made of it, whichever gate says when."""

SCHEDULE = (
    *("gate", "threshold", "loss_rule", "loss_reference", "warmup", "period"),
    *("sync_epochs", *BESIDE_GATE),
)
"""Settings in which the members of a group differ."""

NEEDED = (
    *("dataset", "dataset_source", "train_examples", "test_examples", "image_shape"),
    *("cut", "states", "test_accuracy", "device", "versions", "wire_reduction"),
    *("communication_reduction", "client_compute_reduction"),
)
"""Entries of a summary that comparing and reporting read."""


class Run(NamedTuple):
    """A finished run.

    Attributes:
        path: of its folder.
        config: it was made with.
        fingerprint: of its data.
        summary: what `summary.json` holds.
    """

    path: Path
    config: RunConfig
    fingerprint: str
    summary: dict[str, Any]


class Range(NamedTuple):
    """A reduction over seeds: geometric mean, least and largest."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        if self.most - self.least < 0.005 * self.middle:
            return f"/{self.middle:.4g}"
        return f"/{self.middle:.4g} ({self.least:.4g} to {self.most:.4g})"


@dataclasses.dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone, by seed."""

    runs: tuple[Run, ...]

    @property
    def config(self) -> RunConfig:
        """Of the first seed, in the one way that is the same for all."""
        return canonical(self.runs[0].config)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its runs."""
        return tuple(run.config.seed for run in self.runs)

    @property
    def label(self) -> str:
        """In a few words: `loss 0.05`, `always, float32`."""
        config = self.config
        numbers = {
            "loss": f" {config.threshold:g}",
            "periodic": f" {config.period}",
            "freeze": f" {config.sync_epochs}",
        }
        gate, comma, rest = self.kind.partition(",")
        return gate + numbers.get(config.gate, "") + comma + rest

    @property
    def kind(self) -> str:
        """The same but for the gate's number: what a line in a picture joins."""
        config = self.config
        parts = [config.gate]
        if config.gate == "loss":
            parts += [config.loss_rule] * (config.loss_rule != "abs")
            usual = dataclasses.replace(config, loss_reference=None).reference
            parts += [config.reference] * (config.reference != usual)
            parts += [f"warm-up {config.warmup}"] * (config.warmup > 0)
        if self.is_plain_coded:
            parts.append("float32")
        elif (config.codec, config.grad_codec) != ("float8", "float8"):
            parts.append(f"{config.codec} up, {config.grad_codec} down")
        parts += [f"NoPeek {config.nopeek:g}"] * (config.nopeek > 0)
        parts += [f"noise {config.noise:g}"] * (config.noise > 0)
        parts += [f"mixup {config.mixup:g}"] * (config.mixup > 0)
        parts += ["B by batch"] * (config.refresh_statistics != "running")
        parts += ["B augmented"] * config.refresh_augment
        return ", ".join(parts)

    @property
    def is_plain_coded(self) -> bool:
        """Whether float32 crosses both ways."""
        return self.config.codec == self.config.grad_codec == "identity"

    @property
    def is_baseline(self) -> bool:
        """Whether this is plain split learning: always A, float32."""
        defended = self.config.nopeek or self.config.noise
        return self.config.gate == "always" and self.is_plain_coded and not defended

    @property
    def accuracy(self) -> tuple[float, float | None]:
        """Mean over seeds and sample standard deviation; None for a single seed."""
        found = [run.summary["test_accuracy"] for run in self.runs]
        deviation = statistics.stdev(found) if len(found) > 1 else None
        return statistics.fmean(found), deviation

    def reduction(self, name: str) -> Range:
        """One of `summary.json`'s reductions over the seeds."""
        found = [run.summary[name] for run in self.runs]
        middle = math.exp(statistics.fmean(map(math.log, found)))
        return Range(middle, min(found), max(found))

    def lost(self, baseline: "Setting | None") -> float | None:
        """Mean accuracy that is lost against another setting, as a fraction.

        None where there is no other, or it was not run with the same seeds: a mean over
        other seeds says as much about those as about the setting.
        """
        if baseline is None or baseline.seeds != self.seeds:
            return None
        return baseline.accuracy[0] - self.accuracy[0]


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings that may be compared: plain split learning first, if it is there.

    Attributes:
        title: what they have in common, as far as groups differ in it.
        settings: in the order of gate and traffic.
    """

    title: str
    settings: tuple[Setting, ...]

    @property
    def runs(self) -> list[Run]:
        """All of them."""
        return [run for setting in self.settings for run in setting.runs]

    @property
    def clients(self) -> int:
        """How many there are in each run."""
        return self.settings[0].config.clients

    @property
    def baseline(self) -> Setting | None:
        """Plain split learning; None if it was not run."""
        return next((it for it in self.settings if it.is_baseline), None)

    def best(self, reduction: str, loss: float) -> Setting | None:
        """What reduces most at no more than so much mean accuracy lost.

        Plain split learning itself where nothing else does; None where it was not run.
        """
        able = [
            setting
            for setting in self.settings
            if (lost := setting.lost(self.baseline)) is not None and lost <= loss + 1e-9
        ]

        def worth(setting: Setting) -> tuple[float, float]:
            # Of equal reductions, which rounding may part, the most accurate.
            return round(setting.reduction(reduction).middle, 6), setting.accuracy[0]

        return max(able, key=worth, default=None)


CONTROLS = ("periodic", "freeze")
"""Gates that pay no heed to the loss."""


def at_equal_traffic(
    group: Group, setting: Setting, control: str
) -> tuple[float, float | None] | None:
    """How much more accurate a setting is than a control that sends as much.

    For each seed the control's accuracy is read off between its own runs with that
    seed, linearly in the logarithm of the reduction of communication; always A with
    the same codecs is the control that sends most.

    Returns:
        Mean and sample standard deviation over seeds of the difference in accuracy,
        the latter None for a single seed; None where the control was not run on both
        sides of the setting's traffic with every one of its seeds.
    """
    others = [
        other
        for other in group.settings
        if other.config.gate in (control, "always")
        and all(
            getattr(other.config, it) == getattr(setting.config, it)
            for it in BESIDE_GATE
            if other.config.gate != "always" or it not in READ_BEYOND_A
        )
    ]
    if not any(other.config.gate == control for other in others):
        return None
    found = []
    for run in setting.runs:
        curve = sorted(
            (
                math.log(it.summary["communication_reduction"]),
                it.summary["test_accuracy"],
            )
            for other in others
            for it in other.runs
            if it.config.seed == run.config.seed
        )
        at = math.log(run.summary["communication_reduction"])
        if not curve or not curve[0][0] <= at <= curve[-1][0]:
            return None
        sent, accuracies = np.asarray(curve).T
        expected = float(np.interp(at, sent, accuracies))
        found.append(run.summary["test_accuracy"] - expected)
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return statistics.fmean(found), deviation


def read(path: Path, *, partial: bool) -> tuple[list[Run], list[str]]:
    """All finished runs below a folder, and the names of those that are not.

    Args:
        path: the folder.
        partial: whether unfinished ones are left out; else they are refused.

    Raises:
        InputError: if there is no folder, no finished run, an unfinished one, a damaged
            summary, or runs on different data.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder; name one with runs below it")
    runs, unfinished = [], []
    for config in sorted(path.rglob("config.json")):
        folder = RunFolder(config.parent)
        name = str(folder.path.relative_to(path))
        if not folder.summary.exists():
            unfinished.append(name)
            continue
        _, settings, dataset = workdir.read_workdir(folder.path)
        check_kept_names(settings, folder.path)
        fingerprint = dataset.get("fingerprint", "")
        runs.append(Run(folder.path, settings, fingerprint, _summary(folder)))
    if not runs:
        raise InputError(
            f"{path} has no finished run below it"
            + (f", but {len(unfinished)} unfinished" if unfinished else "")
            + "; make some with jsplit run or jsplit sweep"
        )
    if unfinished and not partial:
        raise InputError(
            f"{len(unfinished)} of {len(runs) + len(unfinished)} runs in {path} are "
            f"not finished ({unfinished[0]}); go on with them, or say --partial"
        )
    _check_data(runs, path)
    return runs, unfinished


def grouped(runs: Iterable[Run]) -> list[Group]:
    """Runs put together by what they have in common.

    Raises:
        InputError: if a setting was run twice with one seed.
    """
    settings: dict[RunConfig, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.config.seed):
        config = _without(canonical(run.config), ("seed",))
        settings.setdefault(config, []).append(run)
    groups: dict[RunConfig, list[Setting]] = {}
    for config, members in settings.items():
        setting = Setting(tuple(members))
        if len(set(setting.seeds)) < len(members):
            raise InputError(
                f"{setting.label} was run twice with the same seed, among "
                f"{', '.join(str(run.path) for run in members)}; move one of them away"
            )
        groups.setdefault(_without(config, SCHEDULE), []).append(setting)
    ordered = sorted(groups, key=lambda it: (it.model, it.cut or 0, it.clients))
    return [
        Group(
            _title(config, ordered, groups[config][0].runs[0].summary["cut"]),
            tuple(sorted(groups[config], key=_order)),
        )
        for config in ordered
    ]


def _order(setting: Setting) -> tuple[Any, ...]:
    """Plain split learning first; then by gate, then by traffic."""
    config = setting.config
    gates = ("always", "loss", "periodic", "freeze")
    return (
        not setting.is_baseline,
        gates.index(config.gate),
        (config.loss_rule, config.loss_reference, config.codec, config.grad_codec),
        (config.nopeek, config.noise),
        setting.reduction("communication_reduction").middle,
    )


def _without(config: RunConfig, names: Iterable[str]) -> RunConfig:
    """The config with some settings at their defaults."""
    default = RunConfig()
    return dataclasses.replace(config, **{it: getattr(default, it) for it in names})


def _title(config: RunConfig, others: Sequence[RunConfig], cut: str) -> str:
    """What a group is, with all in which groups differ."""
    clients = f"{config.clients} client" + "s" * (config.clients > 1)
    parts = [f"{config.model} cut after {cut}", clients]
    if config.clients > 1:
        parts.append(config.topology)
    parts += [config.partition] * (config.partition != "iid")
    parts.append(f"{config.epochs} epochs")
    said = ("model", "cut", "clients", "topology", "partition", "epochs")
    for field in dataclasses.fields(RunConfig):
        values = {getattr(other, field.name) for other in others}
        if field.name not in said and len(values) > 1:
            parts.append(f"{field.name} {getattr(config, field.name)}")
    return ", ".join(parts)


def _summary(folder: RunFolder) -> dict[str, Any]:
    try:
        summary = json.loads(folder.summary.read_text(encoding="utf-8"))
        missing = [name for name in NEEDED if name not in dict(summary)]
        if missing:
            raise ValueError(f"no {missing[0]}")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder.summary} is not a simulated run's ({error}); move that run away"
        ) from error
    return summary


def _check_data(runs: Sequence[Run], path: Path) -> None:
    first = runs[0]
    for run in runs:
        if run.fingerprint != first.fingerprint:
            raise InputError(
                f"runs in {path} are on different data ({_data(first)} and "
                f"{_data(run)}); report on each kind in a folder of its own"
            )


def _data(run: Run) -> str:
    summary = run.summary
    shape = "x".join(map(str, summary["image_shape"]))
    return f"{summary['dataset']}, {summary['train_examples']} images of {shape}"
