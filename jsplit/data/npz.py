"""NumPy's `.npz` archives from people: opened, or refused in one line."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from jsplit.data.files import one_line
from jsplit.errors import InputError

_ARCHIVE = (b"PK\x03\x04", b"PK\x05\x06")
_ARRAY = b"\x93NUM"


@contextlib.contextmanager
def opened(path: Path, called: str) -> Iterator[NpzFile]:
    """Opens an archive; what fails while its arrays are read is refused, too.

    Nothing in a file is ever unpickled.

    Args:
        path: of the archive, whatever its ending.
        called: what refusals call it, such as `dataset 'mine.npz'`.

    Raises:
        InputError: The file cannot be read, is no archive of NumPy's, or is damaged.

    Example:
        >>> with opened(Path(np.__file__), "dataset 'a.npz'"):  # doctest: +ELLIPSIS
        ...     pass
        Traceback (most recent call last):
        jsplit.errors.InputError: dataset 'a.npz': it is no .npz archive of numpy; ...
    """
    try:
        # Opened here: NumPy leaves a file that it cannot read to the garbage collector.
        with path.open("rb") as file:
            _check_start(file.read(4), called)
            file.seek(0)
            stored = np.load(file, allow_pickle=False)
            with stored:
                yield stored
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise InputError(f"{called}: {reason}; check the path") from error
    except Exception as error:  # Any parser may fail on foreign bytes.
        raise InputError(
            f"{called}: it is damaged, or holds more than plain arrays "
            f"({one_line(error)}); write it anew with numpy.savez"
        ) from error


def plain(stored: NpzFile, name: str, called: str) -> np.ndarray:
    """One array of an opened archive.

    Args:
        stored: that archive.
        name: of the array.
        called: what refusals call the archive.

    Raises:
        InputError: It holds Python objects, as lists of unlike things become.
    """
    try:
        array: np.ndarray = stored[name]
    except ValueError as error:
        # NumPy says it in words alone; a damaged array is another ValueError.
        if "allow_pickle=False" not in str(error):
            raise
        raise InputError(
            f"{called}: {name} holds Python objects instead of plain values; write it "
            f"anew, labels by {name}.astype(int), names of classes by "
            f"{name}.astype(str)"
        ) from error
    return array


def _check_start(start: bytes, called: str) -> None:
    """Refuses what NumPy would take for a single array or for a pickle."""
    if start in _ARCHIVE:
        return
    fault = "it is no .npz archive of numpy"
    if start == _ARRAY:
        fault += ", but a single array, as numpy.save writes it"
    raise InputError(f"{called}: {fault}; write it with numpy.savez")
