"""What a server does just now: one value, taken from counters that it keeps anyway.

`/healthz` and `/metrics` are both made of it. Taking it costs the training nothing but
a moment of each counter's lock.
"""

import time
from typing import Any, NamedTuple

from jsplit.net.server_run import ServerRun
from jsplit.net.tcp_meter import TcpMeter
from jsplit.net.traffic_counter import Counts
from jsplit.typing import STATES

NAMED = 20
"""Clients that `/healthz` names of those who are missing."""


class Status(NamedTuple):
    """A server at one moment.

    Attributes:
        phase: one of `server_run.PHASES`.
        state: A, B, C or L of the epoch that runs; None before the first one.
        epoch: epochs that are over.
        epochs: how many there will be.
        lags: seconds since each client's last message; None where none came yet.
        connected: which clients are, by number.
        absent: clients without which the epoch goes on.
        missing: clients that are waited for.
        waited: seconds that they have been waited for; 0 while all goes on.
        limit: seconds after which waiting is too long, as `--wait` says.
        crossed: bytes of epochs that stand, by kind and direction.
        saved: what compression spared of them.
        repeated: what only disturbances cost, by direction.
        totals: every byte of a message, by direction.
        tcp_bytes: that TCP carried, when it was measured last.
        refused: connections that were turned away, by reason.
        reconnections: how often a client came back.
        unserved: connections that never became a session.
        train_loss: of the last epoch that had one, in nats per example.
        test_accuracy: of the last score, as a fraction.
        seconds: of all epochs together.
        last_seconds: of the last epoch; None before its end.
    """

    phase: str
    state: str | None
    epoch: int
    epochs: int
    lags: tuple[float | None, ...]
    connected: tuple[bool, ...]
    absent: tuple[int, ...]
    missing: tuple[int, ...]
    waited: float
    limit: float
    crossed: Counts
    saved: Counts
    repeated: Counts
    totals: dict[str, int]
    tcp_bytes: int
    refused: dict[str, int]
    reconnections: int
    unserved: int
    train_loss: float | None
    test_accuracy: float | None
    seconds: float
    last_seconds: float | None


def status_of(
    run: ServerRun, limit: float, meter: TcpMeter | None = None, unserved: int = 0
) -> Status:
    """Looks at a server, from any thread.

    Args:
        run: the server's.
        limit: seconds after which waiting for clients is too long.
        meter: of its connections; None where nobody measures them.
        unserved: connections that never became a session.
    """
    now, state, manager = time.monotonic(), run.state, run.manager
    records, admission = list(run.records), run.admission
    missing, waited = _waiting(run, now)
    standing = run.counter.standing()
    with admission.changed:
        refused, again = dict(admission.refused), admission.reconnections
    heard = [session.heard for session in run.sessions]
    times = [0.0, *(record["seconds"] for record in records)]
    return Status(
        phase=run.phase,
        state=None if state is None else STATES[int(state.gate.state)],
        epoch=len(records),
        epochs=run.epochs,
        lags=tuple(None if at is None else max(now - at, 0.0) for at in heard),
        connected=tuple(session.connected for session in run.sessions),
        absent=() if manager is None else tuple(sorted(manager.absent)),
        missing=missing,
        waited=waited,
        limit=limit,
        crossed=standing["crossed"],
        saved=standing["saved"],
        repeated=standing["repeated"],
        totals=run.counter.totals,
        tcp_bytes=0 if meter is None else meter.measured.tcp,
        refused=refused,
        reconnections=again,
        unserved=unserved,
        train_loss=_last(records, "train_loss"),
        test_accuracy=_last(records, "test_accuracy"),
        seconds=times[-1],
        last_seconds=times[-1] - times[-2] if records else None,
    )


def _waiting(run: ServerRun, now: float) -> tuple[tuple[int, ...], float]:
    """Which clients are waited for, and for how many seconds already."""
    clients = range(len(run.sessions))
    if run.phase == "gathering":
        missing = tuple(n for n in clients if n not in run.admission.hellos)
    elif run.phase == "labels":
        missing = tuple(n for n in clients if not run.admission.has_all_labels_of(n))
    else:
        waiting = None if run.manager is None else run.manager.waiting
        return ((), 0.0) if waiting is None else ((waiting[0],), waiting[1])
    return missing, now - run.since if missing else 0.0


def _last(records: list[dict[str, Any]], name: str) -> float | None:
    found = (record.get(name) for record in reversed(records))
    return next((value for value in found if value is not None), None)


def health_of(status: Status) -> tuple[int, dict[str, Any]]:
    """What `/healthz` answers: the HTTP code, and the body.

    Healthy is a server that can go on: it trains, has ended well, or waits for clients
    no longer than the limit. In C nobody is waited for. Under `--absent skip` the
    training goes on without those who are absent, and they are only named.

    Returns:
        200, or 503 if the training has failed or waits too long, and why.
    """
    reason = None
    if status.phase == "failed":
        reason = "the training has failed; the log says why"
    elif status.waited > status.limit:
        reason = (
            f"waiting for clients for {status.waited:.0f} s, longer than --wait "
            f"{status.limit:g}"
        )
    return 200 if reason is None else 503, {
        "status": "ok" if reason is None else "unhealthy",
        "reason": reason,
        "phase": status.phase,
        "state": status.state,
        "epoch": status.epoch,
        "epochs": status.epochs,
        "clients": {
            "connected": sum(status.connected),
            "expected": len(status.connected),
            "absent": len(status.absent),
            "waited_for": list(status.missing[:NAMED]),
        },
        "waited_seconds": round(status.waited, 1),
    }
