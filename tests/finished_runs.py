"""Finished runs as a report reads them, without having trained any."""

from jsplit.cli import main as cli
from jsplit.experiment.config import RunConfig, changed, flat
from jsplit.experiment.workdir import RunFolder
from jsplit.runtime.atomic import write_json

PLAIN = {"gate": "always", "codec": "identity", "grad_codec": "identity"}


def finish(path, config, accuracy, communication=1.0, computation=1.0, **changes):
    """A finished run's folder, as far as a report reads it."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    dataset = {"name": "made up", "source": "this test", "fingerprint": "f"}
    dataset |= changes.pop("data", {})
    record = {"format": "jsplit-run-1", "config": flat(config), "dataset": dataset}
    write_json(folder.config, record)
    summary = {
        "dataset": "made up",
        "dataset_source": "this test",
        "train_examples": 1000,
        "test_examples": 500,
        "image_shape": [8, 8, 1],
        "cut": "1 (conv1)",
        "seed": config.seed,
        "states": "AAB" + "C" * (config.epochs - 3),
        "test_accuracy": accuracy,
        "communication_reduction": communication,
        "client_compute_reduction": computation,
        "wire_reduction": communication / 2,
        "bytes": {"total": round(2e9 / communication)},
        "device": "a test (cpu)",
        "versions": {"jsplit": "0", "jax": "1"},
    }
    write_json(folder.summary, summary | changes)


BASE = RunConfig(model="cnn", epochs=12)
VARIED = {"views": "augmented", "mixup": 1.0}


def make_runs(path, **sent):
    """Three seeds of five settings; one of them loses too much."""
    settings = {
        "plain": (PLAIN, 0.900, 1.0, 1.0),
        "loss small": ({"gate": "loss", "threshold": 0.02}, 0.899, 20.0, 4.0),
        "loss large": ({"gate": "loss", "threshold": 0.5}, 0.896, 90.0, 9.0),
        "loss huge": ({"gate": "loss", "threshold": 5.0}, 0.894, 200.0, 50.0),
        "freeze": ({"gate": "freeze", "sync_epochs": 3}, 0.898, 50.0, 12.0),
    }
    for name, (changes, accuracy, communication, computation) in settings.items():
        for seed in range(3):
            config = changed(BASE, **changes, **sent, seed=seed)
            accurate = accuracy + 0.001 * (seed - 1)
            finish(
                path / f"{name} {seed}", config, accurate, communication, computation
            )
    return path


def report(*words):
    """`jsplit report` with these words, in this process."""
    return cli.main(["report", *map(str, words)])
