"""What can be chosen by name: jsplit's own, and what installed packages add to it.

A package adds to a registry by an entry point of its group, whose name is that of the
codec, gate or model it refers to:

    [project.entry-points."jsplit.codecs"]
    mine = "my_package:mine"
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from jsplit.errors import InputError

T = TypeVar("T")

Fault = Callable[[Any], str | None]
"""What is wrong with a value that a package gives, in words; None if nothing is."""


class Registry(MutableMapping[str, T]):
    """Values by the names they have on the command line and in records.

    A name is looked for among jsplit's own, then among what the program has registered
    (`registry["mine"] = value`), then among the entry points of installed packages. A
    package is imported only when a name of its own is looked up, so that one that is
    slow or broken does not disturb those who do not use it; it may import jsplit.

    **Formal guarantees** (each a test of that name in `tests/test_plugins.py`): looking
    up a name of jsplit's own imports no package; a package that cannot be loaded, that
    gives something else, or that takes a name of jsplit's own is refused by one line
    which names it; what was looked up once is the same value ever after.

    Iteration and `len` cover what is there already: jsplit's own, what was registered,
    and what was looked up before. `names` also covers what packages declare.

    Args:
        noun: what a value is called in errors, such as `codec`.
        group: of the entry points.
        own: jsplit's values by name, in the order of help and reports.
        fault: looks at what a package gives.

    Example:
        >>> numbers = Registry("number", "jsplit.numbers", {"one": 1}, instance_of(int))
        >>> numbers["two"] = 2
        >>> list(numbers), numbers["two"], "three" in numbers
        (['one', 'two'], 2, False)
    """

    def __init__(self, noun: str, group: str, own: Mapping[str, T], fault: Fault):
        self._noun, self._group, self._fault = noun, group, fault
        self._own, self._values = frozenset(own), dict(own)

    def __getitem__(self, name: str) -> T:
        """The value of that name.

        Raises:
            KeyError: if nobody has it.
            InputError: if a package has it and is to be refused.
        """
        declared = _declared(self._group, tuple(sys.path)).get(name, ())
        if name in self._own and declared:
            raise InputError(
                f"{self.described(name)} has a name of jsplit's own; rename it there, "
                f"or uninstall {_package(declared[0])}"
            )
        if name not in self._values and declared:
            self._values[name] = self._loaded(name, declared)
        return self._values[name]

    def __setitem__(self, name: str, value: T) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def names(self) -> list[str]:
        """All names, also those of packages that were not imported yet."""
        declared = _declared(self._group, tuple(sys.path))
        return list(dict.fromkeys([*self._values, *sorted(declared)]))

    def described(self, name: str) -> str:
        """A name with where it is from: `the codec 'mine' of the package mine 1.0`."""
        declared = _declared(self._group, tuple(sys.path)).get(name, ())
        packages = " and ".join(map(_package, declared))
        origin = f" of the package {packages}" if declared else ""
        return f"the {self._noun} {name!r}{origin}"

    def _loaded(self, name: str, declared: tuple[EntryPoint, ...]) -> T:
        if len(declared) > 1:
            raise InputError(
                f"{self.described(name)} is in each of these; uninstall all but one"
            )
        (entry,) = declared
        said, remedy = self.described(name), f"mend or uninstall {_package(entry)}"
        try:
            value = entry.load()
            fault = self._fault(value)
        # A package may fail in any way; whoever asked for it is told in one line.
        except Exception as error:
            lines = str(error).splitlines() or [""]
            kind = type(error).__name__
            raise InputError(
                f"{said} cannot be loaded ({kind}: {lines[0]}); {remedy}"
            ) from error
        if fault is None and value.name != name:
            fault = f"it calls itself {value.name!r}, and must have the same name"
        if fault is not None:
            raise InputError(f"{said} cannot be used: {fault}; {remedy}")
        loaded: T = value
        return loaded


def instance_of(kind: type) -> Fault:
    """The fault of everything but instances of a class.

    Example:
        >>> instance_of(int)(1), instance_of(int)("1")
        (None, 'it is of type str, not int')
    """

    def fault(value: Any) -> str | None:
        if isinstance(value, kind):
            return None
        return f"it is of type {type(value).__name__}, not {kind.__name__}"

    return fault


@functools.cache
def _declared(group: str, path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of a group by name, on a `sys.path`: reading them takes time."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=group):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _package(entry: EntryPoint) -> str:
    """The distribution that declares an entry point, with its version."""
    if entry.dist is None:
        return entry.value
    return f"{entry.dist.name} {entry.dist.version}"
