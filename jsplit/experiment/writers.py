"""Where the record of each epoch goes: a JSON Lines file, TensorBoard, `console`.

A record is a flat mapping, one per epoch, with some or all of these names:

    epoch, epochs             1-based, and how many there will be
    state                     "A", "B" or "C": what the gate chose for this epoch
    train_loss, test_loss     nats per example
    train_accuracy, test_accuracy              fractions
    wire_bytes, wire_reduction                 every byte of training sent so far, and
                                               how many times less that is than always A
    paper_bytes, communication_reduction       likewise, payload alone (as the paper)
    client_compute_reduction                   of multiply-accumulates, likewise
    counted_bytes                              that crossed so far, scores, handshakes
                                               and repeats too, of a networked run
    gate_reason               why the epoch has its state, where the gate says so
    budget_left               bytes that the budget gate neither spent nor set aside
    clients                   connected just now, of a networked run
    absent                    those without which this epoch went on, of a networked run
    learning_rate, seconds, eta_seconds        seconds so far, and still to come

A writer skips a name that it does not know or that is missing.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from jsplit.errors import RunError
from jsplit.runtime.atomic import write_bytes

TAGS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "learning_rate": "train/learning_rate",
    "test_loss": "test/loss",
    "test_accuracy": "test/accuracy",
    "paper_bytes": "traffic/paper_bytes",
    "wire_bytes": "traffic/wire_bytes",
    "wire_reduction": "traffic/wire_reduction",
    "communication_reduction": "traffic/reduction",
    "client_compute_reduction": "compute/client_reduction",
    "budget_left": "traffic/budget_left",
    "seconds": "time/seconds",
}


class Writer(Protocol):
    """Takes the record of each epoch, in order, until it is closed."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Takes one epoch's record; on return it is where a reader can see it."""

    def close(self) -> None:
        """Ends the output; nothing may be written afterwards."""


class JsonlWriter:
    """Appends each record to a file as one line of strict JSON, synced to disk.

    Numbers that are not finite become null, which JSON does not have otherwise.
    """

    def __init__(self, path: Path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line; it survives a power cut from here on."""
        plain = {name: _plain(value) for name, value in record.items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def rewind(path: Path, epochs: int) -> list[dict[str, Any]]:
    """Cuts a JSON Lines file back to its first epochs, for a run that resumes there.

    What comes after those goes, torn or damaged lines too. The file changes in one
    step, and a missing file stays missing.

    Args:
      path: a file of `JsonlWriter`'s.
      epochs: how many records to keep.

    Returns:
      The records kept, `epochs` of them.

    Raises:
      RunError: if the file does not hold so many whole ones; it stays as it is.
    """
    path = Path(path)
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    records: list[dict[str, Any]] = []
    try:
        for line in lines[:epochs]:
            records.append(json.loads(line))
    except ValueError:
        pass  # Said below, as where lines are missing.
    if len(records) < epochs:
        raise RunError(
            f"{path}: line {len(records) + 1} is damaged or missing, before the "
            f"checkpoint of epoch {epochs}; put it back, or start anew in another "
            "--workdir"
        )
    if path.exists():
        write_bytes(path, b"".join(line + b"\n" for line in lines[:epochs]))
    return records


class TensorBoardWriter:
    """Writes scalars for TensorBoard, by epoch; `gate/state` is 0, 1, 2 for A, B, C.

    A resumed run goes on in the same folder: what an earlier process logged after
    `start_epoch` finished epochs is hidden. Events are written as they come, by
    tensorboardX's file writer but without its queue and thread, so that no record is
    lost to a kill. TensorBoard keeps float32, so byte counts above 16 MiB are rounded.
    """

    def __init__(self, folder: Path, start_epoch: int):
        # Not above: where PyTorch is installed, this imports all of it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        Path(folder).mkdir(parents=True, exist_ok=True)
        # Its name has whole seconds: a second writer within one must not overwrite.
        suffix = f".{os.getpid()}.{time.time_ns()}"
        self._events = EventsWriter(str(Path(folder) / "events"), suffix)
        self._add(start_epoch + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes the epoch's scalars; those that are None are left out."""
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = {TAGS[k]: v for k, v in record.items() if k in TAGS and v is not None}
        if record.get("state") in ("A", "B", "C"):
            scalars["gate/state"] = "ABC".index(record["state"])
        values = [
            Summary.Value(tag=t, simple_value=float(v)) for t, v in scalars.items()
        ]
        self._add(int(record["epoch"]), summary=Summary(value=values))

    def close(self) -> None:
        """Closes the event file."""
        self._events.close()

    def _add(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), step=step, **what))
        self._events.flush()


def _plain(value: Any) -> Any:
    """Turns NumPy and JAX scalars into Python's, and what is not finite into None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
