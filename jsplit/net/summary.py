"""A networked run in figures: what was predicted, and what was counted."""

from typing import Any

from jsplit.experiment.build import cut_of
from jsplit.experiment.config import RunConfig
from jsplit.experiment.summary import plain_of, spent, versions
from jsplit.net.server_run import ServerRun
from jsplit.net.tcp_meter import ByteCounts
from jsplit.net.traffic_counter import by_kind
from jsplit.runtime import device


def _socket(measured: ByteCounts | None) -> dict[str, Any] | None:
    """TCP's bytes beside those of the messages in them; None where nobody counts."""
    if measured is None or not measured.messages:
        return None
    return {
        "tcp_bytes": measured.tcp,
        "message_bytes": measured.messages,
        "framing_share": measured.tcp / measured.messages - 1,
    }


def summarize(
    config: RunConfig, run: ServerRun, measured: ByteCounts | None = None
) -> dict[str, Any]:
    """What `summary.json` holds after a networked run.

    `bytes` is the ledger's prediction from the states alone. `counted` is what crossed,
    by kind, as compressed, of messages that were taken and not refused; `saved` is what
    compression spared of it, so that the sum of both is what was predicted;
    `difference` is what is left, and is 0 for every kind that the ledger predicts.
    `absent_epochs` says of each client how many epochs of A and B went on without it;
    neither it nor its traffic is in the ledger of those, and reductions compare with
    plain split learning that has everybody. `repeated` is what only disturbances cost,
    with what a killed server had not saved. `socket` compares what TCP carried (TLS,
    HTTP/2 and gRPC too) with the messages in it.

    Args:
        config: of the run.
        run: that ended.
        measured: bytes of this process's connections; None where nobody measured them.
    """
    ledger, hellos = run.ledger, run.admission.hellos
    assert ledger is not None
    plain = plain_of(ledger.prices, config.epochs)
    counter = run.counter
    crossed, saved = by_kind(counter.crossed), by_kind(counter.saved)
    last = run.records[-1]
    return {
        "model": config.model,
        "cut": cut_of(config),
        "clients": config.clients,
        "absent_epochs": [
            sum(client in record["absent"] for record in run.records)
            for client in range(config.clients)
        ],
        "train_examples": [hellos[n].examples for n in range(config.clients)],
        "image_shape": list(hellos[0].image),
        "topology": config.topology,
        "gate": config.gate,
        "codec": config.codec,
        "grad_codec": config.grad_codec,
        "precision": config.precision,
        "epochs": config.epochs,
        "seed": config.seed,
        "states": ledger.states,
        "test_accuracy": last.get("test_accuracy"),
        "train_loss": last["train_loss"],
        "communication_reduction": ledger.communication_reduction,
        "client_compute_reduction": ledger.client_compute_reduction,
        **spent(ledger),
        "always_a_float32": spent(plain),
        "counted": {
            **crossed,
            "total": counter.total,
            "repeated": by_kind(counter.repeated).get("repeated", {"up": 0, "down": 0}),
        },
        "saved": saved,
        "difference": {
            kind: {
                way: ledger.wire[kind][way]
                - crossed.get(kind, {}).get(way, 0)
                - saved.get(kind, {}).get(way, 0)
                for way in ways
            }
            for kind, ways in ledger.wire.items()
        },
        "socket": _socket(measured),
        "seconds": last["seconds"],
        "device": device.describe(),
        "versions": versions(),
    }
