"""A networked run in figures: what was predicted, and what was counted."""

from typing import Any

from jsplit.experiment.config import RunConfig
from jsplit.experiment.summary import DataFacts, summary_of
from jsplit.net.server_run import ServerRun
from jsplit.net.tcp_meter import ByteCounts
from jsplit.net.traffic_counter import by_kind


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

    It is that of any run; `network` holds what only a networked one counts. There
    `counted` is what crossed, by kind, as compressed, of messages that were taken and
    not refused, with evaluation and handshakes as kinds of their own, and its `total`
    the sum of all; `saved` what compression spared of it, so that the sum of both is
    what the ledger predicted (`bytes`, from the states alone); `difference` is what is
    left, and is 0 for every kind that the ledger predicts. `absent_epochs` says of each
    client how many epochs of A and B went on without it; neither it nor its traffic is
    in the ledger of those, and reductions compare with plain split learning that has
    everybody. `repeated`, in `counted`, is what only disturbances cost, what a server
    that was killed had not saved too. `socket` has what TCP carried beside the messages
    in it, TLS, HTTP/2 and gRPC, of the process that ended the run alone.

    Args:
        config: of the run.
        run: that ended.
        measured: bytes of this process's connections; None where nobody measured them.
    """
    ledger, hellos = run.ledger, run.admission.hellos
    assert ledger is not None
    counter, clients = run.counter, range(config.clients)
    crossed, saved = by_kind(counter.crossed), by_kind(counter.saved)
    examples = [hellos[client].examples for client in clients]
    held_out = run.admission.held_out
    facts = DataFacts(
        name=None,
        source="held by the clients",
        train_examples=sum(examples),
        test_examples=0 if held_out is None else len(held_out),
        image_shape=hellos[0].image,
    )
    network = {
        "examples_by_client": examples,
        "absent_epochs": [
            sum(client in record["absent"] for record in run.records)
            for client in clients
        ],
        "counted": {
            **crossed,
            # Of what stands beside it: bytes that came since would be in no kind.
            "total": (counter.crossed + counter.repeated).total(),
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
    }
    return summary_of(config, facts, ledger, run.records, network)
