"""How the fields of a message are laid out in bytes.

A message holds a fixed prefix, then the fixed-size part of every field in order
(little-endian, without padding), then the variable parts of those fields that have one,
in the same order. The writer, the reader and the table in `docs/wire.md` follow from
the kinds of the fields: a kind says how a field is written, read and described.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

Fixed = tuple[Any, ...]


class FieldKind(NamedTuple):
    """How one field is written, read and described.

    Attributes:
        code: of `struct`, for the field's values in the fixed part.
        fixed_text: describes those; `{}` stands for the field's name.
        variable_text: describes its bytes in the variable part, if there are any.
        write: gives the values of the fixed part, and the bytes of the variable one.
        read: takes the values of the fixed part and the bytes that are left of the
            message, and gives the field's value and how many of those bytes it took. It
            raises a `ValueError` for what is never written.
    """

    code: str
    fixed_text: str
    variable_text: str
    write: Callable[[Any], tuple[Fixed, bytes]]
    read: Callable[[Fixed, memoryview], tuple[Any, int]]


def one(code: str, text: str) -> FieldKind:
    """One value of fixed size."""
    return FieldKind(
        code, "{} " + text, "", lambda v: ((v,), b""), lambda fixed, _: (fixed[0], 0)
    )


def several(code: str, text: str, make: Callable[[Fixed], Any] = tuple) -> FieldKind:
    """A tuple of values of fixed size, which the text names one by one."""
    return FieldKind(
        code, text, "", lambda v: (tuple(v), b""), lambda fixed, _: (make(fixed), 0)
    )


def flag() -> FieldKind:
    """Yes or no, in one byte."""

    def read(fixed: Fixed, _: memoryview) -> tuple[bool, int]:
        return bool(_at_most(1, fixed[0])), 0

    return FieldKind("B", "{} u8 (0 or 1)", "", lambda v: ((v,), b""), read)


def items(code: str, text: str, limit: int) -> FieldKind:
    """Up to 255 items of one size: their number first, the items in the variable part.

    Args:
        code: of `struct`, for one item.
        text: describes an item.
        limit: how many a reader accepts.
    """
    item = struct.Struct("<" + code)

    def write(values: tuple[Any, ...]) -> tuple[Fixed, bytes]:
        rows = (value if isinstance(value, tuple) else (value,) for value in values)
        return (len(values),), b"".join(item.pack(*row) for row in rows)

    def read(fixed: Fixed, rest: memoryview) -> tuple[Any, int]:
        length = _at_most(limit, fixed[0]) * item.size
        rows = item.iter_unpack(_first(length, rest))
        return tuple(row if len(row) > 1 else row[0] for row in rows), length

    return FieldKind("B", "number of {} u8", "for each of {}: " + text, write, read)


def data(code: str, text: str, limit: int) -> FieldKind:
    """Bytes: their number first, the bytes themselves in the variable part."""

    def read(fixed: Fixed, rest: memoryview) -> tuple[bytes, int]:
        length = _at_most(limit, fixed[0])
        return bytes(_first(length, rest)), length

    return FieldKind(
        code, "length of {} " + text, "{}", lambda v: ((len(v),), bytes(v)), read
    )


def utf8(code: str, text: str, limit: int) -> FieldKind:
    """Text: the number of its bytes first, its UTF-8 in the variable part."""
    kind = data(code, text, limit)

    def read(fixed: Fixed, rest: memoryview) -> tuple[str, int]:
        value, length = kind.read(fixed, rest)
        return value.decode(), length

    return kind._replace(
        variable_text="{}, UTF-8", write=lambda v: kind.write(v.encode()), read=read
    )


def rest() -> FieldKind:
    """Bytes: all that is left of the message."""
    return FieldKind(
        "", "", "{}", lambda v: ((), v), lambda _, rest: (bytes(rest), len(rest))
    )


def _at_most(limit: int, value: int) -> int:
    if value > limit:
        raise ValueError(f"{value} is above {limit}")
    return value


def _first(length: int, rest: memoryview) -> memoryview:
    if len(rest) < length:
        raise ValueError("the message is too short")
    return rest[:length]


class Layout:
    """The layout of one kind of message.

    Args:
        fields: the kind of each field by its name, in order.
        prefix: bytes that every message of this kind begins with.

    Attributes:
        fixed_bytes: of a message before its variable parts.
    """

    def __init__(self, fields: dict[str, FieldKind], prefix: bytes):
        self._fields = fields
        self._prefix = prefix
        self._structs = {
            name: struct.Struct("<" + k.code) for name, k in fields.items()
        }
        self.fixed_bytes = len(prefix) + sum(s.size for s in self._structs.values())

    def write(self, message: object) -> bytes:
        """The bytes of a message that has these fields."""
        fixed, variable = [self._prefix], []
        for name, kind in self._fields.items():
            values, more = kind.write(getattr(message, name))
            fixed.append(self._structs[name].pack(*values))
            variable.append(more)
        return b"".join(fixed + variable)

    def read(self, message: memoryview) -> dict[str, Any]:
        """The fields that `write` made these bytes of.

        Raises:
            ValueError, struct.error: if it did not make them of any.
        """
        at, rest, fields = len(self._prefix), message[self.fixed_bytes :], {}
        if message[:at] != self._prefix:
            raise ValueError(f"the message does not begin with {self._prefix!r}")
        for name, kind in self._fields.items():
            fixed = self._structs[name].unpack_from(message[: self.fixed_bytes], at)
            at += self._structs[name].size
            fields[name], taken = kind.read(fixed, rest)
            rest = rest[taken:]
        if len(rest):
            raise ValueError("the message is too long")
        return fields

    def describe(self) -> str:
        """All fields in the order of their bytes, as `docs/wire.md` has them."""
        fixed = [f'`"{self._prefix.decode()}"`'] if self._prefix else []
        fixed += [k.fixed_text.format(name) for name, k in self._fields.items()]
        variable = [k.variable_text.format(name) for name, k in self._fields.items()]
        return "; then ".join(filter(None, (", ".join(filter(None, fixed)), *variable)))
