"""Numbers with what they count, for people."""

import re

_UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
}


def counted(number: int, noun: str) -> str:
    """Says how many there are of something whose plural ends in s, or in es after ss.

    Example:
        >>> counted(1, "run"), counted(12_000, "epoch"), counted(2, "process")
        ('1 run', '12000 epochs', '2 processes')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('ss') else 's'}"


def human_bytes(count: int) -> str:
    """Formats a count of bytes in binary units.

    Example:
        >>> human_bytes(999), human_bytes(1536), human_bytes(20 * 2**20)
        ('999 B', '1.5 KiB', '20.0 MiB')
    """
    units = iter(("KiB", "MiB", "GiB", "TiB"))
    value, unit = float(count), "B"
    # What would round to 1024.0 goes to the next unit.
    while value >= (1024 if unit == "B" else 1023.95) and unit != "TiB":
        value, unit = value / 1024, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def bytes_from(text: str) -> int:
    """Reads a count of bytes: `150MB` (10**6 each), `1.5 GiB` (2**30), `4096`.

    Raises:
        ValueError: if it is no positive number with such a unit.

    Example:
        >>> bytes_from("150MB"), bytes_from("1.5 KiB"), bytes_from("4096")
        (150000000, 1536, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", text)
    unit = None if found is None else _UNITS.get(found[2].lower())
    count = 0 if found is None or unit is None else int(float(found[1]) * unit)
    if count < 1:
        raise ValueError(
            f"no positive count of bytes such as 150MB or 1.5GiB: {text!r}"
        )
    return count
