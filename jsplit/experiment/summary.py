"""A finished run in figures, beside plain split learning."""

import dataclasses
import importlib.metadata
import platform
from typing import Any

import jsplit
from jsplit.accounting.ledger import FLOAT32_BITS, Ledger, Prices
from jsplit.codecs import identity
from jsplit.core.init import head_bytes
from jsplit.experiment.build import Experiment
from jsplit.experiment.progress import Progress
from jsplit.experiment.workdir import RunFolder
from jsplit.runtime import device
from jsplit.runtime.atomic import write_json


def summarize(experiment: Experiment, progress: Progress) -> dict[str, Any]:
    """What `summary.json` holds: the run in figures, beside plain split learning."""
    config, ledger = experiment.config, progress.ledger
    plain = plain_ledger(experiment)
    accuracies = [record["test_accuracy"] for record in progress.records]
    return {
        "dataset": experiment.dataset.name,
        "dataset_source": experiment.dataset.source,
        "train_examples": len(experiment.dataset.train_labels),
        "test_examples": len(experiment.dataset.test_labels),
        "image_shape": list(experiment.dataset.image_shape),
        "model": config.model,
        "cut": experiment.cut,
        "clients": config.clients,
        "topology": config.topology,
        "partition": config.partition,
        "gate": config.gate,
        "codec": config.codec,
        "grad_codec": config.grad_codec,
        "precision": config.precision,
        "epochs": config.epochs,
        "seed": config.seed,
        "states": ledger.states,
        "test_accuracy": accuracies[-1],
        "best_test_accuracy": max(accuracies),
        "communication_reduction": ledger.communication_reduction,
        "client_compute_reduction": ledger.client_compute_reduction,
        "wire_reduction": plain.wire_bytes / ledger.wire_bytes,
        **spent(ledger),
        "always_a_float32": spent(plain),
        "compressed_payload": progress.records[-1].get("compressed_bytes"),
        "seconds": progress.seconds,
        "device": device.describe(),
        "versions": versions(),
    }


def spent(ledger: Ledger) -> dict[str, Any]:
    """Bytes, by kind and direction and in all, and client work of one ledger."""
    return {
        "bytes": {
            **ledger.wire,
            "total": ledger.wire_bytes,
            "paper_payload": ledger.paper_bits // 8,
        },
        "client_macs": ledger.client_macs,
    }


def plain_ledger(experiment: Experiment) -> Ledger:
    """The ledger of the same run as plain split learning: all A, float32."""
    return plain_of(experiment.simulation.prices, experiment.config.epochs)


def plain_of(prices: Prices, epochs: int) -> Ledger:
    """The ledger of plain split learning with the same parts, examples and clients."""
    bits = FLOAT32_BITS * prices.values
    plain = dataclasses.replace(
        prices,
        payload_bits=bits,
        grad_payload_bits=bits,
        header_bytes=head_bytes(identity()),
        grad_header_bytes=head_bytes(identity()),
    )
    return Ledger.of(plain, "A" * epochs)


def write_summary(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Writes `summary.json`, whole or not at all."""
    write_json(folder.summary, summary)


def versions() -> dict[str, str]:
    """Of everything that a figure may depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "ml_dtypes", "numpy")
    found = {"jsplit": jsplit.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in names}
