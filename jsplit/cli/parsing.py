"""The words of a command line, and what to say of those that are not understood."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro

from jsplit.errors import InputError
from jsplit.experiment.config import RunConfig, read_toml, wanted

Command = TypeVar("Command")


def settings(argv: Sequence[str]) -> RunConfig:
    """The defaults of a run's settings: those of `--config FILE`, if it is given.

    Raises:
        InputError: if that file cannot be used.
    """
    file = option(argv, "--config")
    return RunConfig() if file is None else read_toml(Path(file))


def parse(
    default: Command, argv: Sequence[str], prog: str, description: str
) -> Command:
    """The command that the words ask for.

    Args:
        default: a dataclass, what is not said stays as it is there.
        argv: the words after the command's name.
        prog: that name.
        description: for `--help`.

    Raises:
        InputError: if a word is not understood.
    """
    fields = dict(_fields(type(default)))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command, unknown = tyro.cli(
                type(default),
                args=list(argv),
                prog=prog,
                description=description,
                default=default,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        text = _unboxed(said.getvalue())
        raise InputError(_misread(text, argv, fields)) from None
    if unknown:
        raise InputError(_unknown(unknown[0], fields))
    return command


def option(argv: Sequence[str], name: str) -> str | None:
    """The value of one option, read before the parser knows its defaults."""
    value = None
    for place, word in enumerate(argv):
        option, equals, text = word.partition("=")
        if option.startswith("--") and option.replace("_", "-") == name:
            value = text if equals else next(iter(argv[place + 1 :]), None)
    return value


def _fields(kind: Any) -> Iterator[tuple[str, Any]]:
    """Every setting of a command and of what it is made of: its name and type."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner = getattr(hint, "__origin__", hint)
        if dataclasses.is_dataclass(inner):
            yield from _fields(inner)
        else:
            yield name, hint


def _misread(text: str, argv: Sequence[str], fields: dict[str, Any]) -> str:
    """What the parser says of a value, in our words."""
    named = re.search(r"--[a-z-]+", text)
    if named is None:
        return f"{text}; see --help"
    value = option(argv, named[0])
    if value is None or "Missing" in text:
        return f"{named[0]} needs a value; see --help"
    kind = fields.get(named[0].removeprefix("--").replace("-", "_"))
    if kind is None:
        return f"{text}; see --help"
    return f"{named[0]} must be {wanted(kind)}, got {value!r}; see --help"


def _unknown(word: str, fields: dict[str, Any]) -> str:
    known = ["--" + name.replace("_", "-") for name in fields] + ["--no-augment"]
    if not word.startswith("-"):
        return f"{word!r} belongs to no option; see --help"
    near = difflib.get_close_matches(word.split("=")[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see --help"
    return f"unknown option {word!r}; {hint}"


def _unboxed(text: str) -> str:
    """What a parser's box says, as one line."""
    lines = [line.strip("│╭╮╰╯ ") for line in text.splitlines()]
    return " ".join(line for line in lines if line.strip("─-"))
