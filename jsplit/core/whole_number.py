"""Arguments that are whole numbers, and are not made such by cutting them short."""

import operator
from typing import Any


def whole_number(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """The value, if it is a whole number from `least` to `most`.

    Raises:
        ValueError: naming it otherwise.

    Example:
        >>> whole_number("batch_size", 2.5, least=1)
        Traceback (most recent call last):
        ValueError: batch_size must be a whole number, got 2.5
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}")
    return number
