"""Several processes, each with devices of its own, in one run.

Every process runs the same program on the same arrays, so all of them must take the
same decisions. Process 0 leads: it alone writes and prints. The functions here are how
the others learn what it found, and how all of them stop if one of them cannot go on.
In a run of one process they do nothing.

That they meet, and that one is gone, `jax.distributed` finds out. It then aborts from
C++, in many words; what can be said in one line before that is said here.
"""

import atexit
import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jsplit.errors import InputError, RunError

T = TypeVar("T")

AUTO = "auto"
"""For `joined`: whatever JAX detects from the cluster (Slurm, Open MPI, a TPU pod)."""

_ERRORS: tuple[type[Exception], ...] = (RunError, InputError)
_ROOM = 512  # bytes of what a process says of its failure
_SHUTDOWN = 30  # seconds that a process waits for the others at its end
_LINGER = 5  # seconds in which others that fail too say why, before JAX aborts them
_SILENCE = 100  # seconds without a heartbeat until JAX gives a process up
_LATER = 10**6  # seconds until JAX itself gives up meeting; `joined` does before
_AGAIN = (
    "start all of them again, with --resume and the run's --workdir to go on from its "
    "last checkpoint"
)

_agreed = threading.Event()
"""Set when all processes know that they end, and why: `together` failed on all."""


@contextlib.contextmanager
def joined(
    coordinator: str,
    process_id: int | None,
    num_processes: int | None,
    timeout: int,
    last_words: Callable[[str], object],
) -> Iterator[None]:
    """Joins this process to the others, before JAX is used for anything else.

    From here on they end together, and none with exit code 0 unless all were done. A
    process that fails by itself ends; the others then fail in what they compute with
    it, or JAX ends them: at once where process 0 is gone, else when heartbeats have
    been missing for `_SILENCE` seconds.

    Args:
        coordinator: `HOST:PORT` of process 0, or `auto`, where the next two are None.
        process_id: of this process.
        num_processes: of the run.
        timeout: seconds until the process ends with code 2 if they have not all come.
        last_words: takes the line for people before such an end.

    Raises:
        InputError: if JAX cannot start here.
        RunError: for what JAX raises, which may be that another process is gone.
    """
    problem = (
        f"--coordinator {coordinator}: after {timeout} s not all of "
        f"{num_processes or 'the'} processes had met there; start each with a "
        "--process-id of its own, at an address of process 0 that all of them reach, "
        "or give them a longer --coordinator-timeout"
    )
    patience = threading.Timer(timeout, _give_up, (last_words, problem))
    patience.daemon = True
    patience.start()
    try:
        _start(coordinator, process_id, num_processes)
    finally:
        patience.cancel()
    try:
        yield
    except BaseException as error:
        if not _agreed.is_set():
            # JAX would wait for the others at the end, then abort.
            atexit.register(_end, 2 if isinstance(error, InputError) else 1)
        # Gloo, between CPUs, fails with a ValueError where an array is read.
        if isinstance(error, jax.errors.JaxRuntimeError) or (
            type(error) is ValueError and "Gloo" in str(error)
        ):
            raise RunError(
                f"JAX failed ({str(error).strip()[:200]}); if another process of this "
                f"run is gone, {_AGAIN}"
            ) from error
        raise


def _give_up(last_words: Callable[[str], object], problem: str) -> None:
    try:
        last_words(problem)
    finally:
        os._exit(2)


def _end(code: int) -> None:
    time.sleep(_LINGER)
    os._exit(code)


def _start(coordinator: str, process_id: int | None, num_processes: int | None) -> None:
    if coordinator != AUTO:
        _check_host(coordinator)
    if process_id == 0:
        _check_free(coordinator)
    # JAX's handler of SIGTERM would swallow the signal that asks for a stop.
    jax.config.update("jax_enable_preemption_service", False)
    # It warns of every proxy variable in the environment, on every start.
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    try:
        jax.distributed.initialize(
            None if coordinator == AUTO else coordinator,
            num_processes,
            process_id,
            initialization_timeout=_LATER,
            heartbeat_timeout_seconds=_SILENCE,
            shutdown_timeout_seconds=_SHUTDOWN,
        )
    except ValueError as error:
        problem = f"JAX cannot start here ({error})"
        if coordinator == AUTO:
            problem = (
                f"jax detects no cluster here ({error}); name process 0: "
                "--coordinator HOST:PORT --process-id I --num-processes N"
            )
        raise InputError(f"--coordinator {coordinator}: {problem}") from error


def _check_host(coordinator: str) -> None:
    """Refuses a name that leads nowhere: JAX would wait for it in silence."""
    host = coordinator.rpartition(":")[0].strip("[]")
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--coordinator {coordinator}: this machine finds no address for {host!r}; "
            "name an address of process 0 that every process reaches"
        ) from error


def _check_free(coordinator: str) -> None:
    """Refuses a port that JAX could not open: it would crash."""
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise InputError(
            f"--coordinator {coordinator}: port {port} cannot be opened here "
            f"({error.strerror}); take another, the same for every process, unless "
            "one with --process-id 0 runs already: each needs its own"
        ) from error


def check_devices(num_processes: int | None) -> None:
    """Starts JAX on all processes.

    Args:
        num_processes: as this process was told, or None.

    Raises:
        InputError: on all, if one was told otherwise than process 0, or if they do not
            have as many devices.
    """
    with together():
        if num_processes not in (None, jax.process_count()):
            raise InputError(
                f"told of {num_processes} processes, and process 0 of "
                f"{jax.process_count()}; give all the same --num-processes"
            )
    counts = np.bincount([device.process_index for device in jax.devices()])
    if len(set(counts)) > 1:
        raise InputError(
            f"every process needs as many devices, but processes 0 to "
            f"{len(counts) - 1} have {', '.join(map(str, counts))}"
        )


def leads() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether it is so on any process; all must ask."""
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Where one process fails, all do; nothing inside may wait for other processes.

    Raises:
        InputError: on the other processes, if one left with an InputError.
        RunError: on the other processes, if one left with any other exception.
    """
    if jax.process_count() == 1:
        yield
        return
    said = np.zeros(_ROOM, np.uint8)
    try:
        yield
    except BaseException as error:
        kind = 2 if isinstance(error, InputError) else 1
        text = f"process {jax.process_index()}: {error or type(error).__name__}"
        line = bytes([kind]) + " ".join(text.split()).encode()[: _ROOM - 1]
        said[: len(line)] = np.frombuffer(line, np.uint8)
        multihost_utils.process_allgather(said)
        _agreed.set()
        raise
    for line in multihost_utils.process_allgather(said):
        if line[0]:
            _agreed.set()
            text = bytes(line[1:]).rstrip(b"\0").decode(errors="ignore")
            raise _ERRORS[line[0] - 1](text)


def share(make: Callable[[], T]) -> T:
    """What process 0 makes, on every process.

    Args:
        make: called by process 0 alone; gives a JSON value.

    Raises:
        InputError, RunError: as `together`, if it raises.
    """
    if jax.process_count() == 1:
        return make()
    text = b""
    with together():
        if leads():
            text = json.dumps(make()).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.frombuffer(text.ljust(size, b"\0"), np.uint8)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))


def from_leader(tree: T) -> T:
    """Process 0's arrays, on every process: to the bit, whatever their own were."""
    if jax.process_count() == 1:
        return tree
    # As bytes: JAX adds the others' zeros, which would turn -0.0 into 0.0.
    own = jax.tree.map(np.asarray, tree)
    sent = multihost_utils.broadcast_one_to_all(
        jax.tree.map(lambda leaf: np.frombuffer(leaf.tobytes(), np.uint8), own)
    )
    return jax.tree.map(
        lambda leaf, like: leaf.view(like.dtype).reshape(like.shape), sent, own
    )
