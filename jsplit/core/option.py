"""What is known of a setting beside its type: the one place to say it.

A setting is a field of a frozen dataclass, annotated with an `Option`. Flags, the text
of `--help`, config files, checks, comparisons of runs and the sharing of compiled
programs all follow from there.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

MOST = 1_000_000
"""Of any count: far above what is used, far below what overflows."""


@dataclass(frozen=True)
class Option:
    """What is known of a setting beside its type.

    Attributes:
        help: whole sentences for `--help`.
        metavar: what its value is called there; None for the usual.
        group: of options that it is shown in there; None for what its dataclass says,
            for all of them in `GROUP`, or by group in `GROUPS`.
        choices: names that it may have, such as those of a registry, read when they are
            needed; None where the type says all.
        least: the smallest number that is possible.
        most: the largest one.
        above: a number that it must be greater than.
        below: a number that it must be less than.
        counted: whether its flag takes no value, and the number says how often the flag
            is given.
        named: its flag and key in files, where that is not the field's name.
        traced: whether compiled programs take it as an argument, so that runs that
            differ in it share one.
        speed_only: whether results do not depend on it, so that it may differ when a
            run is resumed.
        one_side: whether it concerns the server or one client of a networked run alone.
        beyond_a: whether a run that is always in state A does not depend on it.
        compared: whether runs that differ in it stand in one table.
    """

    help: str
    metavar: str | None = None
    group: str | None = None
    choices: Collection[str] | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    counted: bool = False
    named: str | None = None
    traced: bool = False
    speed_only: bool = False
    one_side: bool = False
    beyond_a: bool = False
    compared: bool = False


class Described(NamedTuple):
    """A setting of a dataclass.

    Attributes:
        field: its name there.
        types: that a value may have, such as `{int, NoneType}`.
        choices: names that it may have; None if it is no choice.
        default: what it is unless told otherwise.
        option: what else is known of it.
    """

    field: str
    types: frozenset[type]
    choices: Collection[str] | None
    default: Any
    option: Option


@functools.cache
def options_of(kind: Any) -> dict[str, Described]:
    """Every setting of a dataclass by its name on the command line and in files."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {}
    for field in dataclasses.fields(kind):
        kinds, *notes = typing.get_args(hints[field.name]) or (hints[field.name],)
        for option in notes:
            if isinstance(option, Option):
                names = _literals(kinds)
                group = option.group or _group_of(kind, field.name)
                option = dataclasses.replace(option, group=group)
                found[option.named or field.name] = Described(
                    field.name,
                    frozenset({str}) if names else _types(kinds),
                    names or option.choices,
                    field.default,
                    option,
                )
    return found


def _group_of(kind: Any, name: str) -> str | None:
    for group, names in getattr(kind, "GROUPS", {}).items():
        if name in names:
            return str(group)
    return getattr(kind, "GROUP", None)


def _literals(annotation: Any) -> tuple[str, ...]:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return ()


def _types(annotation: Any) -> frozenset[type]:
    if isinstance(annotation, types.UnionType):
        return frozenset(typing.get_args(annotation))
    return frozenset({annotation})
