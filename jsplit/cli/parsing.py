"""The words of a command line, and what to say of those that are not understood.

The parser finds out which flag has which text and prints `--help`; what a text means is
decided here, by the same rules as for files, and so is what to say of a wrong one.
"""

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from jsplit.cli.elsewhere import command_with, flags_in, options_in
from jsplit.cli.help_page import GROUPS, tidied
from jsplit.core.gates import GATES
from jsplit.core.option import Described, Option, options_of
from jsplit.errors import InputError
from jsplit.experiment.config import (
    all_options,
    flag,
    flat,
    from_mapping,
    of_other_gates,
    shortened,
    tables_of,
    unknown,
    wanted,
)
from jsplit.experiment.run_config import RunConfig

Command = TypeVar("Command")

DEVICE = dataclasses.replace(options_of(RunConfig)["device"].option, speed_only=False)
"""What is known of `--device`, for commands that are no run."""

Given = dict[str, Any]
"""Plain values of settings by name, as in a file."""


def settings(argv: Sequence[str]) -> Given:
    """The settings that `--config FILE` states, if it is given.

    Raises:
        InputError: if that file cannot be used.
    """
    file = option(argv, "--config")
    if file is None:
        return {}
    source = f"--config {file}"
    values = tables_of(Path(file), source, "configs/")
    try:
        from_mapping(values, source)
    except InputError:
        # Looked at now, when the gate's package has brought its settings.
        for name in sorted(values.keys() - all_options().keys()):
            if command_with(flag(name)) is not None:
                raise InputError(
                    f"{source}: {name} is no setting of a run; leave it out there, "
                    f"and say {flag(name)} on the command line"
                ) from None
        raise
    return values


def notes(argv: Sequence[str], config: RunConfig) -> list[str]:
    """What in the file that `--config` names has no effect on the run, for people."""
    sentences = of_other_gates(settings(argv), [config.gate.name])
    return [
        f"note: --config {option(argv, '--config')}: {sentence}; that has no effect"
        for sentence in sentences
    ]


def parse(
    default: Command,
    argv: Sequence[str],
    prog: str,
    description: str,
    base: Mapping[str, Any] | None = None,
) -> Command:
    """The command that the words ask for.

    Args:
        default: a dataclass, what is not said stays as it is there.
        argv: the words after the command's name.
        prog: that name.
        description: for `--help`.
        base: settings of the run in plain values, instead of the default's own; those
            of gates that are not chosen may be among them.

    Raises:
        InputError: if a word is not understood, a setting belongs to another gate, or
            the gate's package cannot be used.
    """
    gate = option(argv, "--gate")
    if gate is not None:
        # A gate of another package brings flags of its own.
        GATES.get(gate)
    shown = _shown(default, base or {})
    try:
        with contextlib.redirect_stderr(io.StringIO()), tidied():
            found, rest = tyro.cli(
                type(shown),
                args=list(argv),
                prog=prog,
                description=description,
                default=shown,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        # Every text is taken as it is, so only one that is missing can be refused.
        raise InputError(_missing(argv, type(default))) from None
    if rest:
        raise InputError(_not_known(rest[0], type(default)))
    command: Command = _made(default, _found(found), base or {})
    return command


def option(argv: Sequence[str], name: str) -> str | None:
    """The value of one option, read before the parser knows its defaults."""
    value = None
    for place, word in enumerate(argv):
        option, equals, text = word.partition("=")
        if option.startswith("--") and option.replace("_", "-") == name:
            value = text if equals else next(iter(argv[place + 1 :]), None)
    return value


class _Text(str):
    """What somebody typed, as no default is."""


class _Argument(NamedTuple):
    """An option as the parser takes it.

    Attributes:
        name: of its field.
        annotation: the type by which the parser takes it.
        value: its default, or what a file says.
        group: it is shown in; None for those that belong to none, such as words
            without a flag.
    """

    name: str
    annotation: Any
    value: Any
    group: str | None


def _shown(default: Any, base: Mapping[str, Any]) -> Any:
    """A dataclass for the parser: the default's options in groups, gates spread."""
    groups: dict[str | None, list[_Argument]] = {}
    for argument in _arguments(default, base):
        groups.setdefault(argument.group, []).append(argument)
    whole = groups.pop(None, [])
    for group, arguments in groups.items():
        assert group is not None
        box = _record(group, GROUPS.get(group, ""), arguments)
        kind: Any = type(box)
        unprefixed = tyro.conf.OmitArgPrefixes[kind]
        whole.append(_Argument(group, unprefixed, box, None))
    return _record(type(default).__name__, type(default).__doc__, whole)


def _record(name: str, about: str | None, arguments: Sequence[_Argument]) -> Any:
    fields = [(argument.name, argument.annotation) for argument in arguments]
    kind = dataclasses.make_dataclass(name, fields, frozen=True)
    kind.__doc__ = about
    return kind(**{argument.name: argument.value for argument in arguments})


def _arguments(default: Any, base: Mapping[str, Any]) -> Iterator[_Argument]:
    """Every option of a command: its own, then those of what it is made of."""
    kind: Any = type(default)
    if kind is RunConfig:
        values = {**flat(default), **base}
        for name, known in all_options().items():
            value = values.get(name, known.default)
            note = _of_gates(name)
            annotation = _annotation(known, gates=note)
            yield _Argument(name, annotation, value, known.option.group)
        return
    hints, known_here = get_type_hints(kind, include_extras=True), options_of(kind)
    parts = []
    for field in dataclasses.fields(kind):
        name, hint, value = field.name, hints[field.name], getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            parts.append(value)
            continue
        known = known_here[name]
        notes = [note for note in get_args(hint)[1:] if not isinstance(note, Option)]
        group = None if tyro.conf.Positional in notes else known.option.group
        yield _Argument(name, _annotation(known, notes), value, group)
    for part in parts:
        yield from _arguments(part, base)


def _of_gates(name: str) -> str:
    """What the help of a run's setting says of the gates that it is for."""
    owners = [choice.name for choice in GATES.values() if name in options_of(choice)]
    return f" Only with --gate {' or '.join(owners)}." if owners else ""


def _annotation(known: Described, notes: Sequence[Any] = (), gates: str = "") -> Any:
    """The type by which the parser takes a setting."""
    option = known.option
    # Its command says what is missing, by an example, so the parser takes an empty one.
    hint = "(required)" if known.default is dataclasses.MISSING else None
    argument = tyro.conf.arg(
        help=option.help + gates, metavar=option.metavar, help_behavior_hint=hint
    )
    if option.counted:
        return Annotated[tyro.conf.UseCounterAction[int], argument]
    if notes or not known.types <= set(_METAVARS):
        # A flag without a value, or words that the parser counts or gathers.
        (kind,) = known.types
        return Annotated[kind, argument, *notes]
    metavar = option.metavar or (
        f"{{{','.join(known.choices)}}}"
        if known.choices is not None
        else "|".join(said for kind, said in _METAVARS.items() if kind in known.types)
    )
    return Annotated[
        Any,
        argument,
        PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: _Text(words[0]),
            is_instance=lambda value: True,
            str_from_instance=lambda value: [str(value)],
        ),
    ]


_METAVARS = {int: "INT", float: "FLOAT", str: "STR", type(None): "None"}


def _found(shown: Any) -> Given:
    """What the parser found, out of its groups."""
    values: Given = {}
    for name, value in vars(shown).items():
        values |= vars(value) if dataclasses.is_dataclass(value) else {name: value}
    return values


def _made(default: Any, found: Mapping[str, Any], base: Mapping[str, Any]) -> Any:
    """The command from what the parser found."""
    kind: Any = type(default)
    known = options_of(kind)
    if kind is RunConfig:
        mine = {name: found[name] for name in all_options()}
        return _settings(default, mine, base)
    values = {}
    for field in dataclasses.fields(kind):
        usual = getattr(default, field.name)
        values[field.name] = (
            _made(usual, found, base)
            if dataclasses.is_dataclass(usual)
            else _read(field.name, known[field.name], found[field.name])
        )
    return kind(**values)


def _settings(
    default: RunConfig, found: Mapping[str, Any], base: Mapping[str, Any]
) -> RunConfig:
    known, before = all_options(), {**flat(default), **base}
    values = {name: _read(name, known[name], value) for name, value in found.items()}
    gate = values["gate"]
    of_gates = {
        name: choice for choice in GATES.values() for name in options_of(choice)
    }
    for name, choice in of_gates.items():
        if name in options_of(GATES[gate]):
            continue
        usual = before.get(name, known[name].default)
        if isinstance(found[name], _Text) or found[name] != usual:
            raise InputError(
                f"{flag(name)} is for --gate {choice.name}, and this is --gate {gate}; "
                "leave one of them out"
            )
        # A default, or from the file, of which `notes` says that it has no effect.
        del values[name]
    return from_mapping(values, "the command line")


def _read(name: str, known: Described, value: Any) -> Any:
    """The value that a text stands for; of a default, itself."""
    if not isinstance(value, _Text):
        return value
    text = str(value)
    if text == "None" and type(None) in known.types:
        return None
    if known.choices is not None and text not in known.choices:
        raise InputError(unknown(name, text, known.choices))
    kind = next(kind for kind in (int, float, str) if kind in known.types)
    try:
        return kind(text)
    except ValueError:
        raise InputError(
            f"{flag(name)} must be {wanted(known)}, got {shortened(text)}; see --help"
        ) from None


def _missing(argv: Sequence[str], kind: type) -> str:
    """Which of the flags has no value."""
    takes = {
        flag(name)
        for name, known, _ in options_in(kind)
        if not (known.types == {bool} or known.option.counted)
    }
    for word, after in zip(argv, [*argv[1:], "--"], strict=True):
        if word.replace("_", "-") in takes and after.startswith("--"):
            return f"{word.replace('_', '-')} needs a value; see --help"
    return "these flags cannot be read; see --help"


def _not_known(word: str, kind: type) -> str:
    if not word.startswith("-"):
        return f"{word!r} belongs to no option; see --help"
    typed = word.split("=")[0].replace("_", "-")
    other = command_with(typed)
    # Words that are alike by chance are no help where another command has this one.
    near = difflib.get_close_matches(
        typed, flags_in(kind), 1, 0.6 if other is None else 0.85
    )
    hints = [] if other is None else [f"{typed} is an option of jsplit {other}"]
    hints += [f"did you mean {found}?" for found in near]
    hint = "; ".join(hints) or "see --help"
    return f"unknown option {word!r}; {hint}"
