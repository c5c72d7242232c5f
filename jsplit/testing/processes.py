"""A networked run as real processes: a server and its clients, which may be killed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jsplit
from jsplit.experiment.config import RunConfig, flat

ROOT = Path(jsplit.__file__).parent.parent
"""Where the processes run, so that they import this package and no other."""


def words_for(config: RunConfig) -> list[str]:
    """The words of a command line that say these settings."""
    words = []
    for name, value in flat(config).items():
        if value == flat(RunConfig()).get(name) or value is None:
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, str(value)]
    return words


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def process(
    *words: object, cache: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `jsplit` with these words, in a process that ends with the context."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
        "GRPC_VERBOSITY": "ERROR",
    }
    with open(log, "ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "jsplit", *map(str, words)],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=out,
            stderr=out,
        )
    with child:
        try:
            yield child
        finally:
            child.kill()


class NetworkProcesses:
    """A server and its clients as processes, which can be killed and started again."""

    def __init__(
        self,
        config: RunConfig,
        path: Path,
        cache: Path,
        certs: Path | None,
        serve: Sequence[object] = (),
        join: Sequence[object] = (),
    ):
        self.config, self.path, self.cache = config, path, cache
        self.certs, self.serve, self.join = certs, serve, join
        self.address = f"127.0.0.1:{free_port()}"
        self.stack = contextlib.ExitStack()
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "NetworkProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def names(self) -> list[str]:
        """The names of server and clients, the server first."""
        return ["server", *(f"client-{n}" for n in range(self.config.clients))]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Starts a process, or starts it again."""
        trust = (
            ("--insecure",) if self.certs is None else ("--certs", self.certs / name)
        )
        common = (*words_for(self.config), "--workdir", self.path / name, *trust)
        if name == "server":
            words = ("serve", "--listen", self.address, "--resume", *self.serve)
        else:
            number = name.removeprefix("client-")
            words = ("join", "--server", self.address, "--client", number, *self.join)
        self.running[name] = self.stack.enter_context(
            process(*words, *common, cache=self.cache, log=self.path / f"{name}.log")
        )
        return self.running[name]

    def kill(self, name: str) -> None:
        """Kills a process without a chance to save anything."""
        self.running[name].send_signal(signal.SIGKILL)
        self.running[name].wait()

    def wait(self, seconds: float = 240) -> dict[str, int]:
        """Every process's exit code."""
        deadline = time.monotonic() + seconds
        return {
            name: child.wait(max(deadline - time.monotonic(), 0.1))
            for name, child in self.running.items()
        }

    def log(self, name: str) -> str:
        """All that a process has printed so far."""
        path = self.path / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def run_in_processes(
    config: RunConfig,
    path: Path,
    cache: Path,
    certs: Path | None,
    serve: Sequence[object] = (),
    join: Sequence[object] = (),
    seconds: float = 240,
) -> None:
    """An undisturbed run of real processes, in so many seconds.

    Raises:
        RuntimeError: with what they printed, if one of them failed.
    """
    with NetworkProcesses(config, path, cache, certs, serve, join) as started:
        for name in started.names():
            started.start(name)
        codes = started.wait(seconds)
        if set(codes.values()) != {0}:
            raise RuntimeError("\n".join(map(started.log, started.names())))
