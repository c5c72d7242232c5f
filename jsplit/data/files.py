"""Small file habits that every source shares."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_line(error: BaseException) -> str:
    """Returns the kind and the text of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that takes the name `path` only when it is complete.

    Bytes go to a hidden name in the same folder (made if need be); the rename at the
    end is atomic, so no reader ever sees half a file. On any error the hidden file is
    removed and whatever `path` was is left alone.

    Raises:
        OSError: The folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: its files are private to their owner, and these are to be shared.
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with hidden.open("xb") as file:
            yield file
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
