"""Compiled programs, kept on disk for the next run of the command line.

JAX does the work: its key is made of the program, the versions of jaxlib and XLA, the
flags, and the device with all its features (for a CPU: its name and every instruction
set), so that one folder may serve several machines. This module says where, how much,
and what to do where that is not possible.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jsplit.runtime.folders import user_cache

OFF = "off"
LIMIT = 2**28
"""Bytes that the folder may hold; what was not used for longest goes first."""

SECONDS = 0.01
"""What takes no longer to compile is not worth a file."""


@contextlib.contextmanager
def kept(folder: str | None, notify: Callable[[str], None]) -> Iterator[None]:
    """Takes compiled programs from a folder, and leaves new ones there.

    A folder that JAX was given already (JAX_COMPILATION_CACHE_DIR) is used as it was
    set up. One that cannot be written is said in a line, and nothing is kept.

    Args:
        folder: None for `default()`; `OFF` for none, not even JAX's.
        notify: takes the line for people.
    """
    if folder is None and _setting("jax_compilation_cache_dir"):
        yield
        return
    settings: dict[str, object] = {"jax_enable_compilation_cache": False}
    if folder != OFF:
        path = Path(folder or "~")
        try:
            # A folder of our own: what others keep there is theirs to tidy.
            path = path.expanduser() / "jsplit" if folder else default()
            _make_ready(path)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
            reason = getattr(error, "strerror", None) or error
            notify(
                f"compiled programs are not kept: {path}: {reason}; "
                "name another --compile-cache, or off"
            )
        else:
            settings = {
                "jax_enable_compilation_cache": True,
                "jax_compilation_cache_dir": str(path),
                "jax_compilation_cache_max_size": LIMIT,
                "jax_persistent_cache_min_compile_time_secs": SECONDS,
                "jax_persistent_cache_min_entry_size_bytes": 0,
            }
    unasked = _setting("jax_logging_level") in (None, "NOTSET")
    if jax.default_backend() == "cpu" and unasked:
        # With AVX-512, XLA takes a preference that it adds itself (prefer-no-gather)
        # for an instruction set that the CPU lacks, and prints 2,000 characters of
        # error for every program that it then loads and runs all the same
        # (openxla/xla#44565). What really fails is raised, not logged.
        settings["jax_logging_level"] = "CRITICAL"
    before = {name: _setting(name) for name in settings}
    with contextlib.ExitStack() as undo:
        # JAX looks at these once, at its first compilation.
        undo.callback(compilation_cache.reset_cache)
        for name, value in settings.items():
            undo.callback(jax.config.update, name, before[name])
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield


def _setting(name: str) -> Any:
    return getattr(jax.config, name)


def default() -> Path:
    """Where programs are kept unless told otherwise."""
    return user_cache() / "xla"


def _make_ready(path: Path) -> None:
    """Makes the folder, private to its user, and removes half-written programs.

    JAX writes a program, then the time of its last use: a program without a time is
    what a killed process left, and JAX would stumble over it in every later run.
    (Another process that writes it just now compiles it once more, no worse.)

    Raises:
        OSError: if the folder cannot be made or written.
    """
    # Who may write here may run code as this user.
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, os.strerror(13))
    for program in path.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("-cache") + "-atime")
        if not used.exists():
            program.unlink(missing_ok=True)
