"""Several processes, each with devices of its own, in one run.

Every process runs the same program on the same arrays, so all of them must take the
same decisions. Process 0 leads: it alone writes and prints. The functions here are how
the others learn what it found, and how all of them stop if one of them cannot go on.
In a run of one process they do nothing.

`joined` first has the processes meet on plain sockets. JAX's own runtime waits for them
too, but if one does not come, or the port is taken, it kills the process from C++. The
sockets stay open: the end of one is how the others notice that a process is gone,
whatever they are waiting for.
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
from typing import Any, TypeVar

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
_SILENCE = 300  # seconds that a process may be suspended until JAX gives it up
_NOTICE = 1  # seconds in which the death of another process is noticed for what it is
_GREETING = 5  # seconds that a connection may take in all to say who it is
_PAUSE = 0.2  # seconds between two tries to reach process 0
_LEAVING, _GONE = b"l", b"g"
_AGAIN = (
    "start all of them again, with --resume and the run's --workdir to go on from its "
    "last checkpoint"
)


@contextlib.contextmanager
def joined(
    coordinator: str,
    process_id: int | None,
    num_processes: int | None,
    timeout: int,
    last_words: Callable[[str], object],
) -> Iterator[None]:
    """Joins this process to the others, before JAX is used for anything else.

    From here on they end together. If one leaves, by its end or by any exception, and
    another does not within `_SHUTDOWN` seconds, or if one is killed, the rest end at
    once with exit code 1, wherever they are. (JAX's runtime lives in process 0: when
    that one is killed, JAX may abort the rest before they have said why, with a code
    of its own, not 0. With `auto`, where there are no addresses to meet at, JAX alone
    ends them, later and in its own words.)

    Args:
        coordinator: `HOST:PORT` of process 0, or `auto`, where the next two are None.
        process_id: of this process.
        num_processes: of the run.
        timeout: seconds to wait for the others.
        last_words: takes the line for people before such an end.

    Raises:
        InputError: if they do not all come in time, or do not fit together; on all of
            those that came.
        RunError: for what JAX raises, which may be that another process is gone.
    """
    lines = []
    if coordinator != AUTO:
        assert process_id is not None and num_processes is not None
        lines = _meet(coordinator, process_id, num_processes, timeout)
    watch = _Watch(lines, last_words)
    try:
        _start(coordinator, process_id, num_processes, timeout)
        yield
    except BaseException as error:
        # If it failed for the death of another, the watch says so and ends it here.
        time.sleep(_NOTICE)
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise RunError(
                f"JAX failed ({str(error).strip()[:200]}); if another process of this "
                f"run is gone, {_AGAIN}"
            ) from error
        raise
    finally:
        if not watch.leave():
            # JAX would wait for those that are gone, then abort from C++.
            atexit.register(os._exit, 1)


def _start(
    coordinator: str, process_id: int | None, num_processes: int | None, timeout: int
) -> None:
    # JAX's handler of SIGTERM would swallow the signal that asks for a stop.
    jax.config.update("jax_enable_preemption_service", False)
    # It warns of every proxy variable in the environment, on every start.
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    try:
        jax.distributed.initialize(
            None if coordinator == AUTO else coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=_SILENCE,
            shutdown_timeout_seconds=_SHUTDOWN,
        )
    except ValueError as error:
        if coordinator != AUTO:
            raise InputError(
                f"--coordinator {coordinator}: JAX cannot start here ({error})"
            ) from error
        raise InputError(
            f"--coordinator {coordinator}: jax detects no cluster here ({error}); "
            "name process 0: --coordinator HOST:PORT --process-id I --num-processes N"
        ) from error


class _Watch:
    """Ends this process when another one is gone; process 0 watches all, they it."""

    def __init__(
        self, lines: list[socket.socket], last_words: Callable[[str], object]
    ) -> None:
        self._lines = lines
        self._last_words = last_words
        self._left: list[socket.socket] = []
        self._leaving = threading.Event()
        self._deciding = threading.Lock()
        self._threads = [
            threading.Thread(target=self._listen, args=(line,), daemon=True)
            for line in lines
        ]
        for thread in self._threads:
            thread.start()

    def leave(self) -> bool:
        """Waits for the others to leave too; whether they all did."""
        with self._deciding:
            self._leaving.set()
        _tell(self._lines, _LEAVING)
        for thread in self._threads:
            thread.join(2 * _SHUTDOWN)  # The others wait for this one, then say so.
        return len(self._left) == len(self._lines)

    def _listen(self, line: socket.socket) -> None:
        line.settimeout(None)
        try:
            word = line.recv(1)
        except OSError:
            word = b""  # Killed: its system reset the connection.
        if word == _LEAVING:
            self._left.append(line)
            self._leaving.wait(_SHUTDOWN)
        with self._deciding:
            if self._leaving.is_set():
                return
            try:
                _tell(self._lines, _GONE)
                self._last_words(f"another process of this run is gone; {_AGAIN}")
                if len(self._lines) > 1:  # Process 0, without which JAX aborts them.
                    time.sleep(_NOTICE)
            finally:
                os._exit(1)


def check_devices() -> None:
    """Starts JAX on all processes.

    Raises:
        InputError: if they do not have as many devices.
    """
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
        raise
    for line in multihost_utils.process_allgather(said):
        if line[0]:
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


def gathered(tree: Any, axis: int) -> Any:
    """Arrays that are spread over processes, whole in the memory of process 0.

    They come in slices along `axis`, which must not be shared over devices: no device
    ever holds a whole one. Arrays that this process holds itself come back as they are.
    The other processes must call this too; they get None.
    """
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return tree
    first = jax.tree.leaves(tree)[0]
    everywhere = jax.sharding.NamedSharding(
        first.sharding.mesh, jax.sharding.PartitionSpec()
    )

    def at(tree: Any, number: jax.Array) -> Any:
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, axis), tree
        )

    slice_of = jax.jit(at, out_shardings=everywhere)
    parts = []
    for number in range(first.shape[axis]):
        part = slice_of(tree, np.int32(number))
        if leads():
            parts.append(jax.tree.map(np.asarray, part))
    if not leads():
        return None
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis), *parts)


def _meet(
    coordinator: str, process_id: int, count: int, timeout: int
) -> list[socket.socket]:
    """Returns when every process has come; process 0 counts them.

    Returns:
        Connections: from process 0 to every other one, from the others to it.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    if process_id:
        address = (host.strip("[]"), int(port))
        return [_report(coordinator, address, process_id, count, deadline)]
    return _await(coordinator, (host.strip("[]"), int(port)), count, deadline)


def _await(
    coordinator: str, address: tuple[str, int], count: int, deadline: float
) -> list[socket.socket]:
    """Process 0: waits for each of the others, and tells all of them how it went."""
    timeout = round(deadline - time.monotonic())
    came: set[int] = set()
    connections: list[socket.socket] = []
    with (
        _listener(coordinator, address[1]) as server,
        contextlib.ExitStack() as stack,
    ):
        _check_own(coordinator, address, deadline)
        try:
            while len(came) < count - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                connection = server.accept()[0]
                until = min(deadline, time.monotonic() + _GREETING)
                greeting = _greeting(connection, until)
                if greeting is None:
                    connection.close()  # Not one of ours: anybody can knock.
                    continue
                number, said = greeting
                connections.append(stack.enter_context(connection))
                if said != count:
                    raise InputError(
                        f"process {number} was told of {said} processes and process 0 "
                        f"of {count}; give all the same --num-processes"
                    )
                if number in came:
                    raise InputError(
                        f"two processes came as --process-id {number}; give each its "
                        f"own, 0 to {count - 1}"
                    )
                came.add(number)
        except TimeoutError as error:
            missing = ", ".join(map(str, sorted(set(range(1, count)) - came)))
            problem = (
                f"--coordinator {coordinator}: after {timeout} s process {missing} of "
                f"0 to {count - 1} had not come; start all of them, or give them a "
                "longer --coordinator-timeout"
            )
            _tell(connections, f"no {problem}\n".encode())
            raise InputError(problem) from error
        except InputError as error:
            _tell(connections, f"no {error}\n".encode())
            raise
        _tell(connections, b"go\n")
        stack.pop_all()  # They stay open.
    return connections


def _listener(coordinator: str, port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise InputError(
            f"--coordinator {coordinator}: port {port} cannot be opened here "
            f"({error.strerror}); take another, the same for every process, unless "
            "one with --process-id 0 runs already: each needs its own"
        ) from error


def _check_own(coordinator: str, address: tuple[str, int], deadline: float) -> None:
    """Refuses an address that does not lead to process 0 itself: JAX would abort."""
    until = min(deadline, time.monotonic() + _GREETING)
    try:
        _connected(coordinator, address, until).close()
    except InputError as error:
        raise InputError(
            f"--coordinator {coordinator} does not lead to this machine, which has "
            f"--process-id 0 ({error.__cause__}); name an address of it that every "
            "process reaches"
        ) from error


def _greeting(connection: socket.socket, until: float) -> tuple[int, int] | None:
    """Which process this is and how many it was told of; None if it is none."""
    try:
        name, number, count = _line(connection, until).split()
        fits = name == "jsplit" and 0 < int(number) < int(count)
        return (int(number), int(count)) if fits else None
    except (OSError, ValueError):
        return None


def _tell(connections: list[socket.socket], word: bytes) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):  # Gone already.
            connection.sendall(word)


def _report(
    coordinator: str, address: tuple[str, int], number: int, count: int, deadline: float
) -> socket.socket:
    """Any other process: reports to process 0 and waits for its word."""
    timeout = round(deadline - time.monotonic())
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(_connected(coordinator, address, deadline))
        try:
            connection.sendall(f"jsplit {number} {count}\n".encode())
            # Its time may have begun later than ours.
            word, _, problem = _line(connection, deadline + timeout).partition(" ")
        except (OSError, UnicodeDecodeError):
            word, problem = "", ""
        if word == "no":
            raise InputError(problem)
        if word != "go":
            raise InputError(
                f"--coordinator {coordinator}: what answers there is not process 0 of "
                "this run, or has just given up; look at process 0, or take another "
                "port, the same for every process"
            )
        stack.pop_all()  # It stays open.
    return connection


def _connected(
    coordinator: str, address: tuple[str, int], deadline: float
) -> socket.socket:
    """A connection to process 0, which may start later than this one."""
    timeout = round(deadline - time.monotonic())
    while True:
        left = max(deadline - time.monotonic(), 0.001)
        try:
            return socket.create_connection(address, timeout=left)
        except (OSError, UnicodeError) as error:
            if time.monotonic() + _PAUSE > deadline:
                reason = getattr(error, "strerror", None) or error
                raise InputError(
                    f"--coordinator {coordinator} could not be reached in {timeout} s "
                    f"({reason}); start process 0 there, or give a "
                    "longer --coordinator-timeout"
                ) from error
        time.sleep(_PAUSE)


def _line(connection: socket.socket, until: float) -> str:
    """One line, up to a limit: what comes from a network may be anything.

    Raises:
        TimeoutError: if it has not come by then, however many bytes did.
    """
    got = b""
    while not got.endswith(b"\n") and len(got) < _ROOM:
        connection.settimeout(max(until - time.monotonic(), 0.001))
        byte = connection.recv(1)
        if not byte:
            break
        got += byte
    return got.decode().strip()
