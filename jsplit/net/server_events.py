"""Events that more than one part of a server logs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsplit.errors import Refusal
from jsplit.experiment.quantities import counted
from jsplit.experiment.record_line import line_parts
from jsplit.experiment.run_config import RunConfig
from jsplit.net.events import Event, Say


def refused(
    whom: str,
    refusal: Refusal,
    *,
    client: int | None,
    remote: str | None = None,
    more: int = 0,
) -> Event:
    """Somebody was turned away.

    Args:
        whom: as people call it.
        refusal: why.
        client: that it is, or that its certificate names; None if nobody knows.
        remote: its address, as gRPC names it.
        more: times that the same happened since it was logged last.
    """
    again = f" ({more} times more since it was said last)" if more else ""
    return Event(
        f"refused {whom}: {refusal}{again}",
        "refused",
        logging.WARNING,
        reason=refusal.name,
        client=client,
        remote=remote,
        more=more or None,
    )


def fault(whom: str, remote: str, error: Exception) -> Event:
    """A fault of jsplit's own in serving somebody at an address."""
    text = f"a fault in serving {whom}: {error!r}"
    return Event(text, "fault", logging.ERROR, remote=remote)


def listening_to_train(config: RunConfig, address: str, folder: Path) -> Event:
    """The server of a training takes connections at an address."""
    return Event(
        f"listening on {address} for {counted(config.clients, 'client')}; "
        f"{config.model}, {config.gate.name} gate, "
        f"{counted(config.all_epochs, 'epoch')}, in {folder}",
        "listening",
        what="training",
        address=address,
        clients=config.clients,
        epochs=config.all_epochs,
    )


def client_here(client: int, missing: Sequence[int]) -> Event:
    """A client said hello for the first time; others are missing, or none."""
    rest = f"waiting for {_some(missing)}" if missing else "all are"
    text = f"client {client} is here; {rest}"
    return Event(text, "client_here", client=client, missing=len(missing))


def client_connected(client: int, remote: str, *, again: bool) -> Event:
    """A client takes part, from an address; again, or for the first time."""
    text = f"client {client} is connected from {remote}" + " again" * again
    return Event(text, "client_connected", client=client, remote=remote, again=again)


def client_disconnected(client: int) -> Event:
    """The connection to a client is over."""
    text = f"client {client} is disconnected"
    return Event(text, "client_disconnected", client=client)


def left_without_labels(client: int) -> Event:
    """The connection to a client is over, and its labels never came."""
    return Event(
        f"client {client} is disconnected before its labels came; its own log says why",
        "client_disconnected",
        logging.WARNING,
        client=client,
        owes="labels",
    )


def client_left(client: int) -> Event:
    """A client left before the run began."""
    text = f"client {client} has left before the run began"
    return Event(text, "client_left", logging.WARNING, client=client)


def waiting_for_the_end(missing: Sequence[int], seconds: float) -> Event:
    """Clients are missing that have not read the end, and are waited for."""
    text = f"waiting up to {seconds:g} s for client {_some(missing)} to read the end"
    return Event(text, "waiting", missing=len(missing))


def _some(clients: Sequence[int]) -> str:
    return ", ".join(map(str, clients[:8])) + ", ..." * (len(clients) > 8)


def epoch_restarted(text: str, *, client: int, epoch: int, cause: str) -> Event:
    """An epoch begins again because of a client."""
    return Event(
        text,
        "epoch_restarted",
        logging.WARNING,
        client=client,
        epoch=epoch,
        cause=cause,
    )


class EpochLog:
    """A writer of records (`jsplit.experiment.writers`): an event for each epoch.

    Args:
        say: takes the event.
    """

    def __init__(self, say: Say):
        self._say = say
        self._seconds: float | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Logs an epoch; `seconds` is its own, where the one before is known."""
        before, self._seconds = self._seconds, record["seconds"]
        if record["epoch"] == 1:
            before = 0.0
        own = None if before is None else record["seconds"] - before
        self._say(
            Event(
                "  ".join(line_parts(record)),
                "epoch",
                epoch=record["epoch"],
                epochs=record["epochs"],
                state=record["state"],
                train_loss=record["train_loss"],
                test_accuracy=record.get("test_accuracy"),
                clients=record["clients"],
                absent=len(record["absent"]) or None,
                predicted_bytes=record["wire_bytes"],
                reduction=record["wire_reduction"],
                total_bytes=record["counted_bytes"],
                seconds=own,
            )
        )

    def close(self) -> None:
        """As of any writer: nothing is left to do."""


def run_finished(summary: Mapping[str, Any], folder: Path) -> Event:
    """A run is complete.

    Args:
        summary: as `summary.json` has it.
        folder: of the server.
    """
    network = summary["network"]
    return Event(
        f"all of it is in {folder}",
        "finished",
        epochs=len(summary["states"]),
        states=summary["states"],
        test_accuracy=summary["test_accuracy"],
        seconds=summary["seconds"],
        total_bytes=network["counted"]["total"],
        repeated=sum(network["counted"]["repeated"].values()),
        folder=str(folder),
    )
