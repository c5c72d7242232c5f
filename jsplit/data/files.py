"""Small file habits that every source shares."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_line(error: BaseException) -> str:
    """Returns the kind and the text of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
