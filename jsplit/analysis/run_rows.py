"""Finished runs as rows of plain values, for programs that go on from a report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsplit.analysis.comparison import Group
from jsplit.experiment.config import flat

SETTINGS = "config"
"""Below this name stand the settings of a run, as in its `config.json`."""


def rows_of(groups: Sequence[Group], folder: Path) -> list[dict[str, Any]]:
    """A row for each run, in the order of the report; all rows have the same columns.

    First what the report says of a run: `run` is the path of its folder, `table` the
    heading of the table that has it, `setting` its row there, which runs of other seeds
    share, and `extended_from` the epochs that it was to have before it was given more.
    Then all entries of its `summary.json`, then its settings; what lies deeper in those
    files is named by its path, as in `bytes.total` and `config.threshold`. A list is
    written as JSON, and what a run does not have is None.

    Args:
        groups: the runs.
        folder: below which their folders are.
    """
    found = [
        {
            "run": str(run.path.relative_to(folder)),
            "table": group.title,
            "setting": setting.label,
            "extended_from": json.dumps(run.extended_from),
            **dict(_leaves(run.summary)),
            **dict(_leaves({SETTINGS: flat(run.config)})),
        }
        for group in groups
        for setting in group.settings
        for run in setting.runs
    ]
    # In the order in which they first come; settings last, though runs of several gates
    # and over a network have entries of their own.
    every = list(dict.fromkeys(name for row in found for name in row))
    columns = sorted(every, key=lambda name: name.startswith(f"{SETTINGS}."))
    return [{name: row.get(name) for name in columns} for row in found]


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            is_list = isinstance(value, list | tuple)
            yield f"{path}{name}", json.dumps(value) if is_list else value
