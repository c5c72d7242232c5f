"""The bytes that crossed the network, counted where the server reads and writes.

What an undisturbed run would not have sent is kept apart as `repeated`: the bytes of an
epoch that was rolled back, of a connection made anew, of an answer sent twice. The rest
must equal the ledger's prediction to the byte, but for what compression saved.
"""

import collections
import mmap
import threading
from pathlib import Path
from typing import Any

from jsplit.accounting.ledger import DIRECTIONS
from jsplit.errors import RunError
from jsplit.wire import CODING_BYTES
from jsplit.wire.messages import (
    ClientWeights,
    Done,
    Goodbye,
    Hello,
    Labels,
    Message,
    Plan,
    Tensor,
    Waiting,
    WeightsKept,
    Welcome,
    write_message,
)

Counts = collections.Counter[tuple[str, str]]
"""Bytes by kind and direction."""

KINDS: dict[type, str] = {
    Hello: "handshake",
    Welcome: "handshake",
    Done: "handshake",
    Goodbye: "handshake",
    Waiting: "handshake",
    Labels: "labels",
    ClientWeights: "client_parts",
    WeightsKept: "control",
    Plan: "control",
}
"""What the bytes of a message count as; a Tensor's count by its direction."""


_TOTALS_BYTES = 8 * len(DIRECTIONS)


def open_totals(path: Path) -> memoryview:
    """Opens the two totals of a `TrafficCounter` in a file.

    What is written there outlives `kill -9` at once, as the kernel has it by then; a
    power cut may take some of it.

    Raises:
        RunError: if the file cannot be used.
    """
    try:
        with open(path, "a+b") as file:
            # Zeros are written: on a full disk a hole in the file would end the process
            # without an error.
            file.write(bytes(max(0, _TOTALS_BYTES - file.tell())))
            file.flush()
            return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    except OSError as error:
        raise RunError(
            f"{path}: {error.strerror}; see to that, or start a new run in another "
            "--workdir"
        ) from error


class TrafficCounter:
    """The bytes of a run so far; safe to use from several threads.

    Args:
        totals: UInt64[2], every byte up and down, those too that an earlier process
            counted and did not live to save: they were for nothing. By default of this
            process alone.

    Attributes:
        crossed: of epochs that stand, by kind and direction.
        saved: how much more those would have been without compression, with what a
            client had already from an epoch that was begun again, and with what one
            was away for (if it gets that later, it is among what is repeated).
        repeated: in all, by direction, under the kind `repeated`.
    """

    def __init__(self, totals: memoryview | None = None) -> None:
        self.crossed: Counts = collections.Counter()
        self.saved: Counts = collections.Counter()
        self.repeated: Counts = collections.Counter()
        self._crossing: Counts = collections.Counter()
        self._saving: Counts = collections.Counter()
        if totals is None:
            totals = memoryview(bytearray(_TOTALS_BYTES)).cast("Q")
        self._totals = totals
        self._lock = threading.Lock()
        self._find_lost()

    def add(
        self,
        message: Message,
        length: int,
        plain: int | None = None,
        *,
        up: bool,
        repeated: bool = False,
        evaluation: bool = False,
    ) -> None:
        """Enters a message, provisionally: see `commit`.

        Args:
            message: that crossed.
            length: of its bytes.
            plain: of its payload before compression; None for one without.
            up: whether a client sent it.
            repeated: whether an undisturbed run would not have had it.
            evaluation: whether it belongs to a score and not to training.
        """
        direction = "up" if up else "down"
        with self._lock:
            self._totals[DIRECTIONS.index(direction)] += length
            if repeated:
                self.repeated["repeated", direction] += length
                return
            payload = 0
            if isinstance(message, Tensor | ClientWeights):
                payload = len(message.body) - CODING_BYTES
            saved = 0 if plain is None else plain - payload
            if evaluation:
                self._enter("evaluation", direction, length, saved)
            elif isinstance(message, Tensor):
                kind = "activations" if up else "gradients"
                self._enter(kind, direction, payload, saved)
                self._enter("headers", direction, length - payload, 0)
            else:
                self._enter(KINDS[type(message)], direction, length, saved)

    def add_saved(self, message: ClientWeights, plain: int) -> None:
        """Enters a message with a payload that need not be sent, provisionally."""
        length = len(write_message(message)) - len(message.body) + CODING_BYTES + plain
        with self._lock:
            self._enter(KINDS[type(message)], "down", 0, length)

    def _enter(self, kind: str, direction: str, length: int, saved: int) -> None:
        self._crossing[kind, direction] += length
        self._saving[kind, direction] += saved

    def commit(self) -> None:
        """Makes what was entered since the last call final."""
        with self._lock:
            self.crossed += self._crossing
            self.saved += self._saving
            self._crossing.clear()
            self._saving.clear()

    def discard(self) -> None:
        """Counts what was entered since the last call as for nothing."""
        with self._lock:
            for (_, direction), length in self._crossing.items():
                self.repeated["repeated", direction] += length
            self._crossing.clear()
            self._saving.clear()

    @property
    def totals(self) -> dict[str, int]:
        """The same as `total`, by direction."""
        with self._lock:
            return dict(zip(DIRECTIONS, self._totals, strict=True))

    @property
    def total(self) -> int:
        """All bytes, those for nothing too."""
        with self._lock:
            return sum(self._totals)

    def standing(self) -> dict[str, Counts]:
        """A copy of `crossed`, `saved` and `repeated`, by those names."""
        with self._lock:
            return {name: counts.copy() for name, counts in self._standing().items()}

    def record(self) -> dict[str, Any]:
        """What stands, as plain values for a checkpoint."""
        with self._lock:
            return {
                name: [[*key, length] for key, length in sorted(counts.items())]
                for name, counts in self._standing().items()
            }

    def restore(self, record: dict[str, Any]) -> None:
        """Takes up what `record` gave in an earlier process."""
        with self._lock:
            for name, counts in self._standing().items():
                counts.clear()
                for kind, direction, length in record[name]:
                    counts[kind, direction] = length
            self._crossing.clear()
            self._saving.clear()
            self._find_lost()

    def _find_lost(self) -> None:
        """Enters what was counted once and stands in no record."""
        for place, direction in enumerate(DIRECTIONS):
            known = sum(
                length
                for counts in (self.crossed, self.repeated)
                for (_, way), length in counts.items()
                if way == direction
            )
            lost = max(self._totals[place] - known, 0)
            self.repeated += collections.Counter({("repeated", direction): lost})
            self._totals[place] = known + lost

    def _standing(self) -> dict[str, Counts]:
        return {
            "crossed": self.crossed,
            "saved": self.saved,
            "repeated": self.repeated,
        }


def by_kind(counts: Counts) -> dict[str, dict[str, int]]:
    """The same as the ledger has it: by kind, then direction."""
    kinds = sorted({kind for kind, _ in counts})
    return {kind: {way: counts[kind, way] for way in DIRECTIONS} for kind in kinds}
