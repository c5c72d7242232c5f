"""The one way of writing a file: under its name it is the old one or the whole new one.

Bytes go to a temporary name in the same folder, are synced to the disk, and take their
name by one rename, so that neither a reader nor a power cut ever sees half a file. What
a killed process leaves behind is a temporary name, and `is_temporary` knows it.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_unfinished: set[Path] = set()
_perhaps_empty: list[tuple[Path, ...]] = []
_changing = threading.Lock()
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Opens a file that takes the name `path` when it is complete.

    On any error, a full disk among them, the temporary file is removed and whatever
    `path` was is left alone. Processes that write the same path do not meet: the last
    one to finish stays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "notes")
        >>> with replacing(path) as file:
        ...     _ = file.write(b"whole")
        >>> path.read_bytes()
        b'whole'

    Args:
        path: Of the file; its folder must exist.
        mode: Of the file from its first byte on, less the umask.

    Raises:
        OSError: The folder is missing or cannot be written.
    """
    # Not `tempfile`: its files are private to their owner, and these are to be shared.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with _changing:  # A stop finds the file or comes before it.
        file = open(temporary, "xb", opener=lambda name, how: os.open(name, how, mode))
        _unfinished.add(temporary)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        # A folder that went away took the file with it.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        with _changing:
            _unfinished.discard(temporary)
    _sync_folder(path.parent)


@contextlib.contextmanager
def unfinished(*paths: Path) -> Iterator[None]:
    """Names files or folders that a stop in here removes, see `discard_unfinished`."""
    with _changing:
        _unfinished.update(paths)
    try:
        yield
    finally:
        with _changing:
            _unfinished.difference_update(paths)


@contextlib.contextmanager
def removed_if_empty(folders: Sequence[Path]) -> Iterator[None]:
    """Removes folders, unless something is in them, on an error or a stop in here.

    What is refused has then written nothing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp(), "run")
        >>> with contextlib.suppress(ValueError):
        ...     with removed_if_empty([folder]):
        ...         folder.mkdir()
        ...         raise ValueError("the port is taken")
        >>> folder.exists()
        False

    Args:
        folders: that this process made, each in the next one.
    """
    folders = tuple(folders)
    with _changing:
        _perhaps_empty.append(folders)
    try:
        yield
    except Exception:
        _remove_empty(folders)
        raise
    finally:
        with _changing:
            _perhaps_empty.remove(folders)


def _remove_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # The first one in use keeps those above.
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()


def discard_unfinished() -> None:
    """Removes what is being made, before this process is ended from another thread.

    Whoever makes it waits from then on, at the latest where it would be finished.
    """
    _changing.acquire()
    for path in _unfinished:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            # A file system that broke keeps it; `is_temporary` knows such a file.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    for folders in reversed(_perhaps_empty):
        _remove_empty(folders)


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Writes a file in one step, as `replacing`."""
    with replacing(path, mode) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Writes a file of UTF-8 in one step, as `replacing`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a file of strict JSON in one step, as `replacing`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def is_temporary(name: str) -> bool:
    """Whether a file of this name is what a killed process left half written."""
    return _TEMPORARY.fullmatch(name) is not None


def _sync_folder(folder: Path) -> None:
    """Makes a rename last; a file system that cannot do that has its own way."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
