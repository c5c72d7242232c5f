"""What a client keeps on disk: its newest weights, each under their digest."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jsplit.errors import InputError, Refusal, RunError
from jsplit.experiment.description import ModelDescription, write_description
from jsplit.experiment.weights import CLIENT_WEIGHTS, to_bytes
from jsplit.net.client_session import STORED_WEIGHTS
from jsplit.runtime.atomic import write_bytes
from jsplit.typing import PyTree, Variables
from jsplit.wire import digest_of, weights_from_bytes, weights_to_bytes
from jsplit.wire.messages import NAME_BYTES, UNNAMED

_SUFFIX = ".part"

RUN = "run"
"""The file that says which run a client's folder belongs to."""

DATA = "examples.sha256"
"""The file with the fingerprint of the examples that the client began its run with."""

_OURS = re.compile(
    r"([0-9a-f]{32}\.part|run|examples\.sha256|over|model\.json|client\.msgpack)"
    r"((\.[0-9a-f]{32})?\.tmp)?"
)


class ClientStateStore:
    """Client weights in a folder of the client's, which survive `kill -9`.

    Weights are written under a temporary name, synced and renamed, so no torn file can
    come about. Those that are damaged later are not offered to the server.

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
        self._stored = [bytes.fromhex(path.stem) for path in whole]

    @property
    def stored(self) -> tuple[bytes, ...]:
        """The digests of the weights, the newest last."""
        return tuple(self._stored[-STORED_WEIGHTS:])

    @property
    def run(self) -> bytes:
        """The run that the folder belongs to; `UNNAMED` while it belongs to none."""
        path = self._folder / RUN
        name = path.read_bytes() if path.exists() else UNNAMED
        return name if len(name) == NAME_BYTES else UNNAMED

    def check_data(self, fingerprint: str) -> None:
        """Refuses other examples than those that the client began its run with.

        The server has the labels of those, in their order, and asks for none again. A
        folder that belongs to no run yet, or that an older jsplit made, takes any.

        Raises:
            InputError: if they are others.
        """
        path = self._folder / DATA
        if self.run == UNNAMED or not path.exists():
            return
        if path.read_bytes() != fingerprint.encode("ascii"):
            raise InputError(
                f"--workdir {self._folder} belongs to a run in which this client began "
                "with other examples than are given now, or with the same in another "
                "order; bring those back, or name a new --workdir for a new run"
            )

    def bind_to_run(self, run: bytes, fingerprint: str) -> None:
        """Notes that the folder belongs to this run, and to examples of it."""
        if self.run != run or not (self._folder / DATA).exists():
            # In this order: without a run, the examples bind nobody.
            self._write(self._folder / DATA, fingerprint.encode("ascii"))
            self._write(self._folder / RUN, run)

    def result(self, settings: str) -> bytes:
        """What `save_result` was given with these settings; empty without it."""
        path, asked = self._folder / "over", digest_of(settings.encode())
        kept = path.read_bytes() if path.exists() else b""
        return kept.removeprefix(asked) if kept.startswith(asked) else b""

    def save_result(self, settings: str, message: bytes) -> None:
        """Keeps the server's message that the run with these settings is over."""
        self._write(self._folder / "over", digest_of(settings.encode()) + message)

    def save_model(self, description: ModelDescription, variables: Variables) -> None:
        """Keeps the part that the run ended with, as `load_run` reads it.

        Args:
            description: of what goes in and what comes out.
            variables: of the part.
        """
        with self._usable():
            write_bytes(self._folder / CLIENT_WEIGHTS, to_bytes(variables))
            write_description(self._folder, description)

    def save(self, weights: PyTree) -> bytes:
        """Stores weights, drops the oldest beyond the limit; returns their digest."""
        data = weights_to_bytes(weights)
        digest = digest_of(data)
        if digest not in self._stored:
            self._write(self._path(digest), data)
        self.mark_used(digest)
        return digest

    def mark_used(self, digest: bytes) -> None:
        """Counts these weights as the newest."""
        if digest in self._stored:
            self._stored.remove(digest)
            with self._usable():
                os.utime(self._path(digest))
        self._stored.append(digest)
        while len(self._stored) > STORED_WEIGHTS:
            with self._usable():
                self._path(self._stored.pop(0)).unlink(missing_ok=True)

    def load(self, digest: bytes, like: PyTree) -> PyTree:
        """Loads weights that are stored; `like` has their structure, shapes and dtypes.

        Raises:
            Refusal: NO_COMMON_POINT if they are not.
        """
        if digest not in self._stored:
            raise Refusal(
                "NO_COMMON_POINT", "the server names weights that are not here"
            )
        with self._usable():
            data = self._path(digest).read_bytes()
        return weights_from_bytes(data, like)

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
