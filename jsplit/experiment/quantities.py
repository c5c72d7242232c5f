"""Numbers with what they count, for people."""

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Says how many there are of something whose plural ends in s, or in es after ss.

    Example:
        >>> counted(1, "run"), counted(12_000, "epoch"), counted(2, "process")
        ('1 run', '12000 epochs', '2 processes')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('ss') else 's'}"


def some_of(names: Sequence[str], most: int = 5) -> str:
    """Names in a row, the first of them and how many more where they are many.

    Example:
        >>> some_of(["a", "b"]), some_of(["a", "b", "c", "d"], most=2)
        ('a, b', 'a, b and 2 more')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


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
