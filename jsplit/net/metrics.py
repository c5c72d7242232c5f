"""A server's status as metrics of Prometheus."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)

import jsplit
from jsplit.net.server_run import PHASES
from jsplit.net.status import Status
from jsplit.typing import STATES

LAGGING = 1000
"""Clients that have series of their own: those with the lowest numbers."""


def make_registry(take: Callable[[], Status]) -> CollectorRegistry:
    """What a server exports: its own metrics, and those of its process.

    Args:
        take: takes the status, whenever Prometheus asks.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StatusCollector(take))
    ProcessCollector(registry=registry)
    return registry


class _StatusCollector:
    def __init__(self, take: Callable[[], Status]):
        self._take = take

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        return families_of(self._take())


def families_of(status: Status) -> Iterator[Metric]:
    """A server's metrics at one moment; what is not known yet has no sample.

    Traffic by kind is of epochs that stand, so it grows when an epoch ends; that by
    direction alone grows with every message.
    """
    yield InfoMetricFamily(
        "jsplit_server", "The server's version.", {"version": jsplit.__version__}
    )
    yield _one_of("jsplit_phase", "What the server does.", PHASES, status.phase)
    yield _one_of(
        "jsplit_gate_state",
        "The state of the epoch that runs: A, B, C, or L (clients learn alone).",
        STATES,
        status.state,
    )
    for name, text, value in (
        ("epochs_done", "Epochs that are over.", status.epoch),
        ("epochs_planned", "Epochs that the run will have.", status.epochs),
        ("clients_expected", "Clients of the run.", len(status.connected)),
        ("clients_connected", "Clients that are connected.", sum(status.connected)),
        ("clients_absent", "Clients without which epochs go on.", len(status.absent)),
        ("clients_missing", "Clients that are waited for.", len(status.missing)),
        ("waiting_seconds", "Seconds of waiting for clients so far.", status.waited),
        ("waiting_limit_seconds", "Seconds that --wait allows.", status.limit),
        ("train_loss", "Nats per example, of the last epoch.", status.train_loss),
        ("test_accuracy", "Of the last score, as a fraction.", status.test_accuracy),
        ("last_epoch_seconds", "Of the last epoch.", status.last_seconds),
    ):
        yield _gauge(f"jsplit_{name}", text, value)
    yield SummaryMetricFamily(
        "jsplit_epoch_seconds",
        "Epochs of the run, and the seconds of all of them.",
        count_value=status.epoch,
        sum_value=status.seconds,
    )
    lags = GaugeMetricFamily(
        "jsplit_client_lag_seconds",
        f"Seconds since a client's last message, of clients below {LAGGING}.",
        labels=["client"],
    )
    for client, lag in enumerate(status.lags[:LAGGING]):
        if lag is not None:
            lags.add_metric([str(client)], lag)
    yield lags
    known = [lag for lag in status.lags if lag is not None]
    longest = max(known) if known else None
    yield _gauge("jsplit_client_lag_max_seconds", "The longest of all lags.", longest)
    yield from _traffic(status)
    refused = CounterMetricFamily(
        "jsplit_refusals", "Connections that were turned away.", labels=["reason"]
    )
    for reason, count in sorted(status.refused.items()):
        refused.add_metric([reason], count)
    yield refused
    for name, text, count in (
        ("reconnections", "How often a client came back.", status.reconnections),
        (
            "connections_without_session",
            "Connections that never came as far as a call.",
            status.unserved,
        ),
    ):
        yield CounterMetricFamily(f"jsplit_{name}", text, value=count)


def _traffic(status: Status) -> Iterator[Metric]:
    for name, text, counts in (
        (
            "traffic_bytes",
            "Bytes of messages of epochs that stand, as compressed.",
            status.crossed,
        ),
        ("saved_bytes", "Bytes that compression spared of those.", status.saved),
    ):
        family = CounterMetricFamily(
            f"jsplit_{name}", text, labels=["kind", "direction"]
        )
        for (kind, direction), count in sorted(counts.items()):
            family.add_metric([kind, direction], count)
        yield family
    by_direction = {way: count for (_, way), count in status.repeated.items()}
    for name, text, ways in (
        ("repeated_bytes", "Bytes that only disturbances cost.", by_direction),
        ("message_bytes", "Bytes of all messages.", status.totals),
    ):
        family = CounterMetricFamily(f"jsplit_{name}", text, labels=["direction"])
        for direction in ("up", "down"):
            family.add_metric([direction], ways.get(direction, 0))
        yield family
    yield CounterMetricFamily(
        "jsplit_tcp_bytes",
        "Bytes that TCP carried since this process began, both ways, as of the last "
        "epoch.",
        value=status.tcp_bytes,
    )


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], value)
    return family


def _one_of(name: str, text: str, all_of: Iterable[str], now: str | None) -> Metric:
    """A gauge for each value that could be: 1 for the one that is, else 0."""
    label = name.removeprefix("jsplit_").removeprefix("gate_")
    family = GaugeMetricFamily(name, text, labels=[label])
    for one in all_of:
        family.add_metric([one], one == now)
    return family
