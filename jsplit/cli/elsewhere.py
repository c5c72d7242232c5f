"""Which other command has an option that one has not."""

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import tyro

from jsplit.experiment.config import all_options, flag
from jsplit.experiment.run_config import RunConfig


def command_with(option: str) -> str | None:
    """The command that has this option, `run` before others; None if none has.

    Args:
        option: as it is typed, such as `--gate`.

    Example:
        >>> command_with("--gate"), command_with("--no-augment"), command_with("--x")
        ('run', 'run', None)
    """
    # Not above: it loads commands, of which this is a part.
    from jsplit.cli.main import COMMANDS

    for name in sorted(COMMANDS, key=lambda name: name != "run"):
        try:
            module = importlib.import_module(f"jsplit.cli.{name}")
        except ModuleNotFoundError:  # Of an extra that is not installed.
            continue
        for kind in vars(module).values():
            own = getattr(kind, "__module__", None) == module.__name__
            if own and isinstance(kind, type) and dataclasses.is_dataclass(kind):
                if option in _flags(kind):
                    return name
    return None


def _flags(kind: Any) -> Iterator[str]:
    """Every flag of a command's dataclass and of what it is made of."""
    if kind is RunConfig:
        for name, known in all_options().items():
            yield flag(name)
            if known.types == {bool}:
                yield flag(f"no_{name}")
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.default):
            yield from _flags(type(field.default))
        elif tyro.conf.Positional not in get_args(hints[field.name])[1:]:
            yield flag(field.name)
