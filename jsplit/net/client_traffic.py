"""A client's own traffic, and what state C spares it, for people."""

from collections.abc import Callable

from jsplit.experiment.quantities import counted, human_bytes
from jsplit.net.events import Event
from jsplit.typing import STATES, SYNC


class ClientTraffic:
    """Bytes that this process of a client has sent and received, all messages.

    What an earlier process of the same client did is not known, and is said not to be.

    Args:
        notify: takes a line of text for people.
    """

    def __init__(self, notify: Callable[[str], None]):
        self.sent = 0
        self.received = 0
        self._notify = notify
        self._epochs: int | None = None  # that this process knows to be over
        self._whole = 0  # bytes of an epoch in A

    @property
    def total(self) -> int:
        """Bytes both ways."""
        return self.sent + self.received

    def report_epoch(self, epoch: int, state: int, crossed: int) -> None:
        """Says that an epoch with this client is over, in which so much crossed."""
        if state == SYNC:
            self._whole = max(self._whole, crossed)
        self.report_idle(epoch)
        self._epochs = epoch + 1
        self._notify(
            Event(
                f"epoch {epoch + 1} in {STATES[state]}: {human_bytes(crossed)} "
                f"crossed, {human_bytes(self.total)} since this start",
                "epoch",
                epoch=epoch + 1,
                state=STATES[state],
                bytes=crossed,
                total_bytes=self.total,
            )
        )

    def report_idle(self, epochs: int) -> None:
        """Says what state C has spared, up to so many epochs.

        A process that comes late does not know what those before it did.
        """
        if self._epochs is None:
            self._epochs = epochs
        idle = epochs - self._epochs
        if idle > 0:
            spared = (
                f", {human_bytes(idle * self._whole)} spared" if self._whole else ""
            )
            self._notify(
                Event(
                    f"{counted(idle, 'epoch')} without this client: nothing "
                    f"crossed{spared}",
                    "idle",
                    epochs=idle,
                )
            )
        self._epochs = max(self._epochs, epochs)
