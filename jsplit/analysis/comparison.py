"""Finished runs, put together so that they can be compared.

A setting is what runs have in common that differ in their seed alone; a run that was
given more epochs later is of another setting than those begun with so many. A group is
the settings that may stand beside one another: they differ in gate and codecs, and
agree in model, cut, clients, partition, data, epochs and recipe. Runs on one machine
and runs over a network may stand in one group, but not in one setting.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jsplit.analysis.results import FinishedRun
from jsplit.codecs import identity
from jsplit.core.gates import GATES
from jsplit.core.option import options_of
from jsplit.errors import InputError
from jsplit.experiment.canonical import canonical
from jsplit.experiment.config import RunConfig
from jsplit.experiment.plain import beyond_plain
from jsplit.experiment.quantities import counted
from jsplit.experiment.run_labels import beginning, beside_paper


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

    runs: tuple[FinishedRun, ...]

    @property
    def config(self) -> RunConfig:
        """Of the first seed, in the one way that is the same for all."""
        return canonical(self.runs[0].config)

    @property
    def networked(self) -> bool:
        """Whether these are runs over a network."""
        return self.runs[0].network is not None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its runs."""
        return tuple(run.config.seed for run in self.runs)

    @property
    def label(self) -> str:
        """In a few words: `loss 0.05`, `always, float32`."""
        return ", ".join([self.config.gate.label(), *self._beside_gate()])

    @property
    def kind(self) -> str:
        """The same but for the gate's number: what a line in a picture joins."""
        return ", ".join([self.config.gate.kind(), *self._beside_gate()])

    def _beside_gate(self) -> list[str]:
        config, usual, parts = self.config, RunConfig(), []
        if self.is_plain_coded:
            parts.append("float32")
        elif (config.codec, config.grad_codec) != (usual.codec, usual.grad_codec):
            parts.append(f"{config.codec} up, {config.grad_codec} down")
        parts += beside_paper(config)
        parts += beginning(config)
        parts += ["B by batch"] * (config.refresh_statistics != "running")
        if self.extended_from:
            parts.append(f"extended from {' and '.join(map(str, self.extended_from))}")
        parts += ["networked"] * self.networked
        return parts

    @property
    def extended_from(self) -> tuple[int, ...]:
        """Epochs after which these were to end before they were given more."""
        return self.runs[0].extended_from

    @property
    def is_plain_coded(self) -> bool:
        """Whether float32 crosses both ways."""
        return self.config.codec == self.config.grad_codec == identity().name

    @property
    def is_baseline(self) -> bool:
        """Whether this is plain split learning: always A, float32."""
        defended = self.config.nopeek or self.config.noise
        return not (self.config.gate.leaves_a or defended) and self.is_plain_coded

    @property
    def begun_with(self) -> tuple[str, str] | None:
        """Whose weights it begins with, and which of them; None for random ones."""
        config = self.config
        return None if config.init is None else (config.init, config.init_part)

    @property
    def accuracy(self) -> tuple[float, float | None] | None:
        """Mean over seeds and sample standard deviation, None for a single seed.

        None where a run was not evaluated, as one over a network need not be.
        """
        found = [run.summary["test_accuracy"] for run in self.runs]
        if None in found:
            return None
        deviation = statistics.stdev(found) if len(found) > 1 else None
        return statistics.fmean(found), deviation

    def reduction(self, name: str) -> Range:
        """One of `summary.json`'s reductions over the seeds."""
        found = [run.summary[name] for run in self.runs]
        middle = math.exp(statistics.fmean(map(math.log, found)))
        return Range(middle, min(found), max(found))

    @property
    def sent(self) -> float:
        """Bytes that cross in a whole training, mean over the seeds."""
        return statistics.fmean(run.summary["bytes"]["total"] for run in self.runs)

    def lost(self, baseline: "Setting | None") -> float | None:
        """Mean accuracy that is lost against another setting, as a fraction.

        None where there is no other, or it was not run with the same seeds: a mean over
        other seeds says as much about those as about the setting. Nor is there one
        without accuracies.
        """
        if baseline is None or baseline.seeds != self.seeds:
            return None
        if baseline.accuracy is None or self.accuracy is None:
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
    def runs(self) -> list[FinishedRun]:
        """All of them."""
        return [run for setting in self.settings for run in setting.runs]

    @property
    def clients(self) -> int:
        """How many there are in each run."""
        return self.settings[0].config.clients

    @property
    def baseline(self) -> Setting | None:
        """Plain split learning; None if it was not run.

        It begins with trained weights, with other first filters, or has what usually C
        has only where it was not run without.
        """
        return next((setting for setting in self.settings if setting.is_baseline), None)

    def plain_for(self, setting: Setting) -> Setting | None:
        """The plain split learning that a setting's accuracy is compared with.

        The group's; one with the setting's own first filters and nothing else where
        that was run with the same seeds, so that what those gain is no gain of sending
        less.
        """
        first = self.baseline
        if first is None:
            return None
        found = (
            plain
            for plain in self.settings
            if plain.is_baseline and not beyond_plain(plain.config)
            if plain.begun_with == first.begun_with and plain.seeds == setting.seeds
            if plain.extended_from == setting.extended_from
            if plain.config.first_filters == setting.config.first_filters
        )
        return next(found, first)

    def lost(self, setting: Setting) -> float | None:
        """Mean accuracy that a setting loses against `plain_for` it, as a fraction."""
        return setting.lost(self.plain_for(setting))

    def most_lost(self, setting: Setting) -> float | None:
        """The same, or against the baseline, if that is more."""
        known = (self.lost(setting), setting.lost(self.baseline))
        return max((lost for lost in known if lost is not None), default=None)

    def best(self, reduction: str, loss: float) -> Setting | None:
        """What reduces most at no more than so much mean accuracy lost, as `most_lost`.

        Only what begins with the weights that plain split learning begins with can be
        it: what trained others was sent as well, and is in no account.

        Plain split learning itself where nothing else does; None where it was not run.
        """
        able = [
            setting
            for setting in self.settings
            if self.is_able(setting)
            if (lost := self.most_lost(setting)) is not None and lost <= loss + 1e-9
        ]

        def worth(setting: Setting) -> tuple[float, float]:
            assert setting.accuracy is not None  # Else no loss were known.
            # Of equal reductions, which rounding may part, the most accurate.
            return round(setting.reduction(reduction).middle, 6), setting.accuracy[0]

        return max(able, key=worth, default=None)

    def is_able(self, setting: Setting) -> bool:
        """Whether a setting begins with the weights that plain split learning does."""
        plain = self.baseline
        return plain is not None and setting.begun_with == plain.begun_with


def controls() -> list[str]:
    """Gates that pay no heed to the loss."""
    return [name for name, choice in GATES.items() if choice.control]


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
    if setting.accuracy is None:
        return None
    others = [
        other
        for other in group.settings
        if other.networked == setting.networked and other.accuracy is not None
        if other.extended_from == setting.extended_from
        if other.config.gate.name == control or not other.config.gate.leaves_a
        if all(
            getattr(other.config, name) == getattr(setting.config, name)
            for name, known in options_of(RunConfig).items()
            if known.option.compared and name != "gate"
            if other.config.gate.leaves_a or not known.option.beyond_a
        )
    ]
    if not any(other.config.gate.name == control for other in others):
        return None
    found = []
    for run in setting.runs:
        curve = sorted(
            (
                math.log(same.summary["communication_reduction"]),
                same.summary["test_accuracy"],
            )
            for other in others
            for same in other.runs
            if same.config.seed == run.config.seed
        )
        at = math.log(run.summary["communication_reduction"])
        if not curve or not curve[0][0] <= at <= curve[-1][0]:
            return None
        sent, accuracies = np.asarray(curve).T
        expected = float(np.interp(at, sent, accuracies))
        found.append(run.summary["test_accuracy"] - expected)
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return statistics.fmean(found), deviation


def grouped(runs: Iterable[FinishedRun]) -> list[Group]:
    """Runs put together by what they have in common.

    Raises:
        InputError: if a setting was run twice with one seed.
    """
    options = options_of(RunConfig)
    # What data a run has is known from its fingerprint and its summary.
    beside = ["seed", *(name for name in options if options[name].option.one_side)]
    compared = [name for name in options if options[name].option.compared]
    settings: dict[tuple[Any, ...], list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: run.config.seed):
        config = _without(canonical(run.config), beside)
        config = dataclasses.replace(config, gate=config.gate.pooled())
        apart = config, run.network is not None, run.extended_from
        settings.setdefault(apart, []).append(run)
    groups: dict[RunConfig, list[Setting]] = {}
    for (config, *_), members in settings.items():
        setting = Setting(tuple(members))
        if len(set(setting.seeds)) < len(members):
            raise InputError(
                f"{setting.label} was run twice with the same seed, among "
                f"{', '.join(str(run.path) for run in members)}; move one of them away"
            )
        groups.setdefault(_without(config, compared), []).append(setting)
    ordered = sorted(
        groups, key=lambda config: (config.model, config.cut or 0, config.clients)
    )
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
    return (
        not setting.is_baseline,
        # The first of these is what others are compared with: the plainest.
        setting.is_baseline
        and (
            config.init is not None,
            len(beyond_plain(config)),
            config.first_filters != RunConfig.first_filters,
            setting.extended_from,
            setting.networked,
        ),
        list(GATES).index(config.gate.name),
        (config.gate.kind(), config.codec, config.grad_codec),
        (setting.begun_with or ("", ""), config.nopeek, config.noise),
        setting.networked,
        setting.reduction("communication_reduction").middle,
    )


def _without(config: RunConfig, names: Iterable[str]) -> RunConfig:
    """The config with some settings at their defaults."""
    default = RunConfig()
    return dataclasses.replace(
        config, **{name: getattr(default, name) for name in names}
    )


def _title(config: RunConfig, others: Sequence[RunConfig], cut: str) -> str:
    """What a group is, with all in which groups differ."""
    parts = [f"{config.model} cut after {cut}", counted(config.clients, "client")]
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
