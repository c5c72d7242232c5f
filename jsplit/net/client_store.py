"""The client's own durable memory: its newest parts, each under its digest."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jsplit.errors import InputError, Refusal, RunError
from jsplit.net.client_session import SHELF
from jsplit.runtime.atomic import write_bytes
from jsplit.typing import PyTree
from jsplit.wire import digest_of, part_bytes, part_of
from jsplit.wire.messages import NAME_BYTES, NOBODY

_SUFFIX = ".part"

_OURS = re.compile(r"([0-9a-f]{32}\.part|run|over)((\.[0-9a-f]{32})?\.tmp)?")


class Shelf:
    """Client parts in a folder of the client's; what it holds survives `kill -9`.

    A part is written under a temporary name, synced and renamed. A torn one cannot
    come about, and one that is damaged later is not offered.

    Args:
        folder: of this client and this run alone, held by this process; made if
            missing.

    Raises:
        InputError: if the folder cannot be used, or holds what is not a client's.
        RunError: by any method, if it cannot be used any more.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            inside = [
                path for path in folder.iterdir() if not _OURS.fullmatch(path.name)
            ]
            if inside and not (folder / "run").exists():
                raise InputError(
                    f"--workdir {folder} holds {inside[0].name}, which is not a "
                    "client's; name a new folder"
                )
            # Found out now, and not after an epoch.
            with tempfile.TemporaryFile(dir=folder) as trial:
                trial.write(b"?")
                trial.flush()
                os.fsync(trial.fileno())
            for torn in folder.glob("*.tmp"):
                if _OURS.fullmatch(torn.name):
                    torn.unlink()
            whole = [path for path in folder.glob("*" + _SUFFIX) if _is_whole(path)]
        except OSError as error:
            raise InputError(
                f"--workdir {folder}: {error.strerror}; name another folder"
            ) from error
        whole.sort(key=lambda path: path.stat().st_mtime_ns)
        self._held = [bytes.fromhex(path.stem) for path in whole]

    @property
    def held(self) -> tuple[bytes, ...]:
        """Digests, the newest last."""
        return tuple(self._held[-SHELF:])

    @property
    def run(self) -> bytes:
        """The run that the folder belongs to; `NOBODY` while it belongs to none."""
        path = self._folder / "run"
        name = path.read_bytes() if path.exists() else NOBODY
        return name if len(name) == NAME_BYTES else NOBODY

    def belong_to(self, run: bytes) -> None:
        """From now on the folder is this run's."""
        if self.run != run:
            self._write(self._folder / "run", run)

    def ending(self, settings: str) -> bytes:
        """What `end` was given with these settings; empty before, or with others."""
        path, asked = self._folder / "over", digest_of(settings.encode())
        kept = path.read_bytes() if path.exists() else b""
        return kept.removeprefix(asked) if kept.startswith(asked) else b""

    def end(self, settings: str, message: bytes) -> None:
        """Keeps the server's word that the run with these settings is over."""
        self._write(self._folder / "over", digest_of(settings.encode()) + message)

    def put(self, part: PyTree) -> bytes:
        """Keeps a part; returns its digest. The oldest beyond `SHELF` goes."""
        data = part_bytes(part)
        digest = digest_of(data)
        if digest not in self._held:
            self._write(self._path(digest), data)
        self.use(digest)
        return digest

    def use(self, digest: bytes) -> None:
        """Counts a part as the newest."""
        if digest in self._held:
            self._held.remove(digest)
            with self._usable():
                os.utime(self._path(digest))
        self._held.append(digest)
        while len(self._held) > SHELF:
            with self._usable():
                self._path(self._held.pop(0)).unlink(missing_ok=True)

    def get(self, digest: bytes, like: PyTree) -> PyTree:
        """A part that is held; `like` has its structure, shapes and dtypes.

        Raises:
            Refusal: NO_COMMON_POINT if it is not.
        """
        if digest not in self._held:
            raise Refusal("NO_COMMON_POINT", "the server names a part that is not here")
        with self._usable():
            data = self._path(digest).read_bytes()
        return part_of(data, like)

    def _write(self, path: Path, data: bytes) -> None:
        with self._usable():
            write_bytes(path, data)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"--workdir {self._folder}: {error.strerror}; see to that, and start "
                "this client again with the same command"
            ) from error

    def _path(self, digest: bytes) -> Path:
        return self._folder / (digest.hex() + _SUFFIX)


def _is_whole(path: Path) -> bool:
    return digest_of(path.read_bytes()).hex() == path.stem
