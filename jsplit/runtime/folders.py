"""Where this system wants a user's files, and folders that only their owner reads."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from jsplit.errors import InputError

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Bits of a mode that let anybody but the owner in."""


def user_cache() -> Path:
    """The folder for what can be made again: on Linux `~/.cache/jsplit`.

    Raises:
        RuntimeError: If the user has no home, and $XDG_CACHE_HOME names no other.
    """
    # Of an extra: neither `import jsplit` nor a training from Python comes here.
    from platformdirs import user_cache_path

    return user_cache_path("jsplit").expanduser()


@contextlib.contextmanager
def private(path: Path, option: str, notify: Callable[[str], None]) -> Iterator[None]:
    """Keeps a folder, and all that is written meanwhile, to its owner.

    The folder has mode 0700 from here on, and each file in it loses what others may do
    with it. Until the context is left the process has a umask of 077, whatever it had
    before, so that files are private which libraries make: checkpoints, memory maps,
    event files. The umask is the process's: threads share it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> folder.chmod(0o755)
        >>> with private(folder, "--workdir", lambda line: None):
        ...     _ = (folder / "labels").write_bytes(b"3")
        >>> oct((folder / "labels").stat().st_mode)[-3:]
        '600'

    Args:
        path: of the folder, which exists.
        option: that names it, for errors.
        notify: takes the line that says that others could read it so far.

    Raises:
        InputError: if the folder is another user's, is one that all users share
            (sticky, as /tmp), or lies on a file system that keeps others out of
            nothing.
    """
    try:
        _check_own(path, option)
        if _restrict(path):
            notify(f"others could read {path}; from now on only its owner can")
        for inside in path.rglob("*"):
            if not inside.is_symlink():
                _restrict(inside)
        if path.stat().st_mode & OTHERS:
            raise InputError(
                f"{option} {path}: its file system cannot keep other users out; name "
                "a folder on another"
            )
    except OSError as error:
        raise InputError(
            f"{option} {path} cannot be made private: {error.strerror} "
            f"({error.filename}); name another folder"
        ) from error
    before = os.umask(OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def _check_own(path: Path, option: str) -> None:
    found = path.stat()
    if found.st_mode & stat.S_ISVTX:
        raise InputError(f"{option} {path} is shared by all users; name a folder in it")
    if found.st_uid != os.geteuid():
        raise InputError(
            f"{option} {path} belongs to another user, who could read what is kept "
            "there; name a folder of your own"
        )


def _restrict(path: Path) -> bool:
    """Takes from others what they may do; returns whether there was anything."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS:
        path.chmod(mode & ~OTHERS)
    return bool(mode & OTHERS)
