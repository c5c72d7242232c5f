"""The plain run that a `--loss-budget` is against: read once, and kept."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jsplit.core.budget_choice import BudgetGate
from jsplit.core.plain_curve import PlainCurve
from jsplit.errors import InputError
from jsplit.experiment.compare_folder import plain_folder
from jsplit.experiment.config import differences, flag
from jsplit.experiment.description import read_description
from jsplit.experiment.plain import beyond_plain
from jsplit.experiment.run_config import RunConfig
from jsplit.experiment.workdir import RunFolder, path_of, read_workdir

_SAME = ("epochs", "model", "augment")
"""Settings without which training losses of two runs say nothing of each other."""

_PLAIN = "--gate always, --codec identity and --grad-codec identity"


def with_curve(config: RunConfig, fingerprint: str | None) -> RunConfig:
    """The config with what the run that its `--against` names has recorded.

    From then on that run is not needed any more. A config that names none, or holds
    what one recorded, stays as it is.

    Args:
        config: of a new run.
        fingerprint: of its data; None where only clients know it.

    Raises:
        InputError: if there is no such run, it is not finished or not plain split
            learning, it differs in what its losses depend on, or its epochs were not
            all scored.
    """
    gate = config.gate
    if not isinstance(gate, BudgetGate) or gate.against is None:
        return config
    if gate.curve is not None:
        return config
    path = path_of(gate.against, "--against")
    curve = _read(gate.against, path, config, fingerprint)
    return dataclasses.replace(
        config, gate=dataclasses.replace(gate, against=curve.text())
    )


def with_kept_curve(config: RunConfig, kept: RunConfig) -> RunConfig:
    """The config with what an earlier start of the same run had read.

    Args:
        config: as asked for now; its `--against` may name a run that is gone.
        kept: in the run's folder.
    """
    gate, before = config.gate, kept.gate
    if not (isinstance(gate, BudgetGate) and isinstance(before, BudgetGate)):
        return config
    if before.curve is None or gate.against != before.curve.run:
        return config
    return dataclasses.replace(
        config, gate=dataclasses.replace(gate, against=before.against)
    )


def outcome_line(summary: Mapping[str, Any]) -> str | None:
    """How a finished run met its loss budget, for people; None if it had none.

    Example:
        >>> outcome_line({"goal": {"loss_budget": 0.5, "against": "runs/plain",
        ...     "plain_test_accuracy": 0.72, "points_below": 0.75}})
        '0.75 points below runs/plain (72.00%): misses --loss-budget 0.5 by 0.25 points'

    Args:
        summary: of the run.
    """
    goal = summary.get("goal")
    if goal is None:
        return None
    run = f"{goal['against']} ({goal['plain_test_accuracy']:.2%})"
    below, budget = goal["points_below"], goal["loss_budget"]
    asked = f"--loss-budget {budget:g}"
    if below is None:
        return f"nobody scored the run, so whether {asked} holds is not known"
    where = f"{abs(below):.2f} points {'below' if below > 0 else 'above'} {run}"
    # Both are counts of examples over as many: what differs by less is rounding.
    if below <= budget + 1e-4:
        return f"{where}: within {asked}"
    return f"{where}: misses {asked} by {below - budget:.2f} points"


def _read(
    name: str, path: Path, config: RunConfig, fingerprint: str | None
) -> PlainCurve:
    """The curve of the run in a folder, once it is known to be one to compare with."""
    if not RunFolder(path).config.exists():
        raise InputError(
            f"--against {name} holds no run (no config.json); name the folder of a "
            f"finished run of {_PLAIN}"
        )
    try:
        folder, plain, data = read_workdir(path)
        description = read_description(path)
    except InputError as error:
        raise InputError(f"--against {name} cannot be used: {error}") from error
    if other := beyond_plain(plain):
        remedy = f"name one of {_PLAIN} alone"
        if plain_folder(path).config.exists():
            remedy = f"the one beside it is {plain_folder(Path(name)).path}"
        raise InputError(
            f"--against {name} is no plain run: it has "
            f"{' and '.join(map(_said, other.items()))}; {remedy}"
        )
    if not folder.summary.exists():
        raise InputError(
            f"--against {name} is not finished; go on with it by jsplit run --resume "
            f"--workdir {name}"
        )
    differing = [
        line
        for line in differences(plain, config)
        if line.partition(" ")[0] in map(flag, _SAME)
    ]
    theirs = data.get("fingerprint")
    if None not in (theirs, fingerprint) and theirs != fingerprint:
        differing.append(f"its data is other data ({data.get('source')})")
    if differing:
        raise InputError(
            f"--against {name} is of another training ({'; '.join(differing)}); make a "
            "plain run with this run's settings"
        )
    if description is None:
        raise InputError(
            f"--against {name} does not say its classes (no model.json); name a run of "
            "this version"
        )
    return _curve(name, folder, plain.epochs, description.num_classes)


def _curve(name: str, folder: RunFolder, epochs: int, classes: int) -> PlainCurve:
    """What the records in a finished run's folder say, epoch by epoch."""
    try:
        summary = json.loads(folder.summary.read_text(encoding="utf-8"))
        examples = int(summary["train_examples"])
        lines = folder.metrics.read_text(encoding="utf-8").splitlines()
        records = [dict(json.loads(line)) for line in lines]
        if [record["epoch"] for record in records] != list(range(1, epochs + 1)):
            raise ValueError(f"not the records of {epochs} epochs")
        losses = [record["train_loss"] for record in records]
        scores = [record.get("test_accuracy") for record in records]
        if None in losses:
            raise ValueError("a loss that is not finite")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--against {name} has records that are damaged ({error}); put them back, "
            "or make that run again"
        ) from error
    if None in scores:
        raise InputError(
            f"--against {name} has no test accuracy of epoch {scores.index(None) + 1}; "
            "name a run that was scored after every epoch"
        )
    return PlainCurve(name, classes, examples, _kept(losses), _kept(scores))


def _said(setting: tuple[str, Any]) -> str:
    """A setting as it is typed."""
    name, value = setting
    if value is True:
        return flag(name)
    return f"{flag(name)} {getattr(value, 'name', value)}"


def _kept(numbers: Sequence[Any]) -> tuple[float, ...]:
    """As the text of a curve holds them, and the gate."""
    return tuple(float(str(np.float32(number))) for number in numbers)
