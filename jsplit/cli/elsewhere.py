"""The options of every command, and which other command has one that one has not."""

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import tyro

from jsplit.core.option import Described, options_of
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
                if option in flags_in(kind):
                    return name
    return None


def options_in(kind: Any) -> Iterator[tuple[str, Described, bool]]:
    """Every option of a command's dataclass and of what it is made of.

    Its name, what is known of it, and whether it can be said with `--no-`.
    """
    if kind is RunConfig:
        for name, known in all_options().items():
            yield name, known, known.types == {bool}
        return
    hints, options = get_type_hints(kind, include_extras=True), options_of(kind)
    for field in dataclasses.fields(kind):
        notes = get_args(hints[field.name])[1:]
        if dataclasses.is_dataclass(field.default):
            yield from options_in(type(field.default))
        elif tyro.conf.Positional not in notes:
            known = options[field.name]
            paired = known.types == {bool} and tyro.conf.FlagCreatePairsOff not in notes
            yield field.name, known, paired


def flags_in(kind: Any) -> Iterator[str]:
    """The flags of all of these."""
    for name, _, paired in options_in(kind):
        yield from map(flag, (name, f"no_{name}") if paired else (name,))
