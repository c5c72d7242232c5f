"""A sweep file: the runs that it stands for.

[settings]                      # of every run, as in a file for --config
model = "cnn"

[[grid]]                        # one run for each combination of what is listed
gate = "loss"
threshold = [0.02, 0.05]
seed = [0, 1, 2]

[[grid]]                        # and as many grids as are wanted
gate = "always"
seed = [0, 1, 2]
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsplit.errors import InputError
from jsplit.experiment.config import (
    RunConfig,
    check,
    from_mapping,
    of_other_gates,
    tables_of,
)


class Planned(NamedTuple):
    """A run of a sweep.

    Attributes:
        name: of its folder, from what its grid sets: `gate=loss,threshold=0.05,seed=0`.
        config: with no `workdir`, which is the sweep's to choose.
    """

    name: str
    config: RunConfig


def read_sweep(path: Path) -> list[Planned]:
    """The runs of a sweep file, in its order.

    Raises:
        InputError: if it is missing, not TOML, or does not stand for runs.
    """
    return expand(tables_of(path, str(path), "configs/sweeps/"), str(path))


def expand(values: Mapping[str, Any], source: str) -> list[Planned]:
    """The runs that the content of a sweep file stands for, in its order.

    Args:
        values: the tables `settings` and `grid`.
        source: where they are from, for errors.

    Raises:
        InputError: naming `source` and what is wrong: an unknown table or setting, a
            value of the wrong type or outside its range, a setting of a gate that no
            run has, no grid or an empty one, or two runs that would have one name.
    """
    unknown = sorted(values.keys() - {"settings", "grid"})
    if unknown:
        raise InputError(
            f"{source}: unknown table or setting {unknown[0]!r}; settings of all runs "
            "go under [settings], those that vary under [[grid]]"
        )
    common, grids = values.get("settings", {}), values.get("grid", [])
    if not isinstance(common, dict):
        raise InputError(f"{source}: settings must be one table, [settings]")
    if not isinstance(grids, list) or not all(isinstance(grid, dict) for grid in grids):
        raise InputError(f"{source}: a grid stands in double brackets, [[grid]]")
    if not grids:
        raise InputError(f"{source} has no runs: add a [[grid]] with what is to vary")
    planned: dict[str, RunConfig] = {}
    for number, grid in enumerate(grids, 1):
        place = f"{source}, grid {number}"
        runs = _combinations(common, grid, place)
        _check_effect(grid, runs, place)
        for name, config in runs:
            if name in planned:
                raise InputError(f"{place}: two runs would be called {name}")
            planned[name] = config
    every = [Planned(name, config) for name, config in planned.items()]
    _check_effect(common, every, f"{source}, settings")
    return every


def _combinations(
    common: Mapping[str, Any], grid: Mapping[str, Any], place: str
) -> list[Planned]:
    axes = []
    for name, given in grid.items():
        choices = given if isinstance(given, list) else [given]
        if not choices:
            raise InputError(f"{place}: {name} has no values; give it at least one")
        axes.append([(name, choice) for choice in choices])
    runs = []
    for chosen in itertools.product(*axes):
        config = from_mapping({**common, **dict(chosen)}, place)
        if config.workdir is not None:
            raise InputError(
                f"{place}: workdir cannot be set, each run has a folder of its own; "
                "leave it out, and say jsplit sweep --folder FOLDER"
            )
        try:
            check(config)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        words = ",".join(f"{name}={_plain(choice)}" for name, choice in chosen)
        runs.append(Planned(words or "run", config))
    return runs


def _check_effect(
    given: Mapping[str, Any], runs: Sequence[Planned], place: str
) -> None:
    """Refuses settings of a gate that none of the runs has."""
    gates = list(dict.fromkeys(run.config.gate.name for run in runs))
    for sentence in of_other_gates(given, gates):
        raise InputError(
            f"{place}: {sentence}; leave out what affects none of its runs"
        )


def _plain(choice: Any) -> str:
    """A value as a part of a folder's name."""
    return re.sub(r"[^\w.:+-]+", "_", str(choice))
