"""Counts of bytes as people type them, and back."""

import re
from fractions import Fraction

_UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
}

_DECIMAL = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("B", 1))


def bytes_from(text: str) -> int:
    """Reads a count of bytes: `150MB` (10**6 each), `1.5 GiB` (2**30), `4096`.

    Raises:
        ValueError: if it is no positive number with such a unit.

    Example:
        >>> bytes_from("150MB"), bytes_from("1.5 KiB"), bytes_from("4096")
        (150000000, 1536, 4096)
    """
    pattern = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*"
    found = re.fullmatch(pattern, text, re.ASCII)
    unit = None if found is None else _UNITS.get(found[2].lower())
    # Exact, where a float would round and overflow.
    count = 0 if found is None or unit is None else int(Fraction(found[1]) * unit)
    if count < 1:
        raise ValueError(
            f"no positive count of bytes such as 150MB or 1.5GiB: {text!r}"
        )
    return count


def bytes_text(count: int) -> str:
    """Writes a count exactly, in the largest decimal unit; `bytes_from` reads it back.

    Example:
        >>> bytes_text(150_000_000), bytes_text(1536)
        ('150MB', '1536B')
    """
    unit, size = next(found for found in _DECIMAL if count % found[1] == 0)
    return f"{count // size}{unit}"
