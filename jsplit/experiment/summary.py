"""A finished run in figures, beside plain split learning: one form for every run."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jsplit
from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import FLOAT32_BITS, Ledger
from jsplit.codecs import identity
from jsplit.core.init import head_bytes
from jsplit.data.lossless import lossless_bytes
from jsplit.experiment.build import Experiment
from jsplit.experiment.config import RunConfig
from jsplit.experiment.parts import cut_of
from jsplit.experiment.progress import Progress
from jsplit.runtime import device


class DataFacts(NamedTuple):
    """What a summary says of a run's data.

    Attributes:
        name: of the dataset; None where only the clients know it.
        source: where it is from.
        train_examples: of all clients.
        test_examples: that scores are of; 0 if there were none.
        image_shape: `(h, w, c)`.
        lossless_bytes: of a training image if it is compressed without loss, by a
            sample; None where that is not known.
    """

    name: str | None
    source: str
    train_examples: int
    test_examples: int
    image_shape: Sequence[int]
    lossless_bytes: float | None = None


def summarize(experiment: Experiment, progress: Progress) -> dict[str, Any]:
    """What `summary.json` holds of a run on one machine."""
    dataset = experiment.dataset
    facts = DataFacts(
        dataset.name,
        dataset.source,
        len(dataset.train_labels),
        len(dataset.test_labels),
        dataset.image_shape,
        lossless_bytes(dataset.train_images),
    )
    return summary_of(experiment.config, facts, progress.ledger, progress.records)


def summary_of(
    config: RunConfig,
    facts: DataFacts,
    ledger: Ledger,
    records: Sequence[Mapping[str, Any]],
    network: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `summary.json` holds: the run in figures, beside plain split learning.

    Args:
        config: of the run.
        facts: of its data.
        ledger: of its states.
        records: one an epoch; those without a score have no `test_accuracy`.
        network: what only a networked run counts; None for one on one machine.
    """
    plain = plain_ledger(ledger.costs, config.epochs)
    last = records[-1]
    scores = [
        record["test_accuracy"]
        for record in records
        if record.get("test_accuracy") is not None
    ]
    return {
        "dataset": facts.name,
        "dataset_source": facts.source,
        "train_examples": facts.train_examples,
        "test_examples": facts.test_examples,
        "image_shape": list(facts.image_shape),
        "lossless_image_bytes": facts.lossless_bytes,
        "model": config.model,
        "cut": cut_of(config),
        "clients": config.clients,
        "topology": config.topology,
        "partition": config.partition,
        "gate": config.gate.name,
        "codec": config.codec,
        "grad_codec": config.grad_codec,
        "precision": config.precision,
        "epochs": config.epochs,
        "seed": config.seed,
        "states": ledger.states,
        "train_loss": last["train_loss"],
        "test_accuracy": last.get("test_accuracy"),
        "best_test_accuracy": max(scores, default=None),
        "goal": config.gate.achieved(last.get("test_accuracy")),
        "communication_reduction": ledger.communication_reduction,
        "client_compute_reduction": ledger.client_compute_reduction,
        "wire_reduction": wire_reduction(ledger),
        **_spent(ledger),
        "always_a_float32": _spent(plain),
        "compressed_payload": last.get("compressed_bytes"),
        "seconds": last["seconds"],
        "device": device.describe(),
        "versions": versions(),
        "network": None if network is None else dict(network),
    }


def _spent(ledger: Ledger) -> dict[str, Any]:
    """Bytes, by kind and direction and in all, and client work of one ledger."""
    return {
        "bytes": {
            **ledger.wire,
            "total": ledger.wire_bytes,
            "paper_payload": ledger.paper_bits // 8,
        },
        "client_macs": ledger.client_macs,
    }


def plain_ledger(costs: CostModel, epochs: int) -> Ledger:
    """The ledger of plain split learning with the same parts, examples and clients.

    Its clients have no heads to learn alone by, also where those of the run have.
    """
    base = costs.baseline
    bits = FLOAT32_BITS * base.values
    plain = dataclasses.replace(
        costs,
        **base._asdict(),
        payload_bits=bits,
        grad_payload_bits=bits,
        header_bytes=head_bytes(identity(), ()),
        grad_header_bytes=head_bytes(identity(), ()),
    )
    states = "A" * epochs
    return Ledger.of(plain.of_states(states), states)


def wire_reduction(ledger: Ledger) -> float:
    """Every byte of plain split learning for as long, over every byte of this run.

    Raises:
        ZeroDivisionError: before the first epoch.
    """
    first, second = (plain_ledger(ledger.costs, n).wire_bytes for n in (1, 2))
    # Labels cross with the first epoch, and all that follow cost the same.
    plain = first + (ledger.epochs - 1) * (second - first)
    return plain / ledger.wire_bytes


def versions() -> dict[str, str]:
    """Of everything that a figure may depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "ml_dtypes", "numpy")
    found = {"jsplit": jsplit.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in names}
