"""Rows of plain values as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""CSV with a line of names, which are those of the first row; None is left empty.

    Raises:
        IndexError: if there is no row.
        ValueError: if a row has a name that the first does not.

    Example:
        >>> as_csv([{"cut": 1, "said": "a, b"}, {"cut": None, "said": "c"}])
        'cut,said\n1,"a, b"\n,c\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # Names of files need not be text that a file in UTF-8 can hold.
    return text.getvalue().encode(errors="backslashreplace").decode()
