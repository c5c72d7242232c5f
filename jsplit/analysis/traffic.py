"""The traffic of a networked run: of training, as predicted, and beside it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jsplit.accounting.ledger import DIRECTIONS

REPEATED = "repeated"
"""The kind of what was sent again: its rows' names begin with this."""


class Traffic(NamedTuple):
    """Bytes of one kind and direction, or the sum of several.

    Attributes:
        name: for people, such as `activations, up`.
        predicted: by the ledger, from the states alone; None for what it leaves out.
        crossed: what was counted, as compressed.
        saved: what compression spared of it, and what was not sent because its
            receiver had it or was away.
    """

    name: str
    predicted: int | None
    crossed: int
    saved: int

    @property
    def difference(self) -> int | None:
        """What is left of the prediction, 0 where it is right; None without one."""
        if self.predicted is None:
            return None
        return self.predicted - self.crossed - self.saved


class NetworkTraffic(NamedTuple):
    """All traffic of a networked run: every byte stands in one row.

    Attributes:
        training: what the ledger predicts, by kind and direction.
        overhead: what it leaves out: evaluation, handshakes, and what was sent again
            after a disturbance (`repeated`).
    """

    training: tuple[Traffic, ...]
    overhead: tuple[Traffic, ...]

    @property
    def everything(self) -> Traffic:
        """The sum of all rows: every byte that crossed."""
        return total("everything", (*self.training, *self.overhead))


def traffic_of(summary: Mapping[str, Any]) -> NetworkTraffic:
    """The traffic of a networked run, from its `summary.json`.

    Rows in which nothing was predicted, crossed or spared are left out.

    Args:
        summary: of a networked run, with the section `network`.

    Example:
        >>> nothing = {"up": 0, "down": 0}
        >>> traffic = traffic_of({
        ...     "bytes": {"labels": {"up": 9, "down": 0}, "total": 9},
        ...     "network": {
        ...         "counted": {
        ...             "labels": {"up": 7, "down": 0},
        ...             "handshake": {"up": 4, "down": 0},
        ...             "repeated": nothing,
        ...             "total": 11,
        ...         },
        ...         "saved": {"labels": {"up": 2, "down": 0}},
        ...     },
        ... })
        >>> traffic.training
        (Traffic(name='labels, up', predicted=9, crossed=7, saved=2),)
        >>> traffic.everything.crossed
        11
    """
    counted, saved = summary["network"]["counted"], summary["network"]["saved"]
    predicted = _by_kind(summary["bytes"])
    others = [kind for kind in _by_kind(counted) if kind not in predicted]

    def rows(kinds: Iterable[str]) -> tuple[Traffic, ...]:
        every = (
            Traffic(
                f"{kind.replace('_', ' ')}, {way}",
                predicted[kind][way] if kind in predicted else None,
                counted.get(kind, {}).get(way, 0),
                saved.get(kind, {}).get(way, 0),
            )
            for kind in kinds
            for way in DIRECTIONS
        )
        return tuple(row for row in every if any(row[1:]))

    return NetworkTraffic(rows(predicted), rows(others))


def total(name: str, rows: Iterable[Traffic]) -> Traffic:
    """The sum of rows; with a prediction where there are any and each has one."""
    rows = list(rows)
    predicted = [row.predicted for row in rows if row.predicted is not None]
    return Traffic(
        name,
        sum(predicted) if rows and len(predicted) == len(rows) else None,
        sum(row.crossed for row in rows),
        sum(row.saved for row in rows),
    )


def _by_kind(found: Mapping[str, Any]) -> dict[str, Mapping[str, int]]:
    """Those entries that are by direction, and not in all."""
    return {kind: ways for kind, ways in found.items() if isinstance(ways, Mapping)}
