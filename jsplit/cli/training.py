"""A training on one machine as people see it: its first lines, its epochs, its end."""

import contextlib
from typing import Any, NamedTuple

import jax

from jsplit.cli.stopping import stop_at_signal
from jsplit.cli.terminal import folded, say
from jsplit.experiment.build import Experiment
from jsplit.experiment.canonical import canonical
from jsplit.experiment.caveats import caveats_of, whole_batch
from jsplit.experiment.console import ConsoleWriter
from jsplit.experiment.progress import Progress, Record
from jsplit.experiment.quantities import counted
from jsplit.experiment.run_labels import beside_paper
from jsplit.experiment.summary import summarize
from jsplit.experiment.train import train
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter, TensorBoardWriter, Writer
from jsplit.runtime import atomic, device, multihost


class Finished(NamedTuple):
    """A run that came to its end.

    Attributes:
        records: of its epochs.
        summary: what its `summary.json` holds.
    """

    records: list[Record]
    summary: dict[str, Any]

    @property
    def title(self) -> str:
        """What the run is, for a picture."""
        summary = self.summary
        return (
            f"{summary['dataset']}, {summary['model']} cut {summary['cut']}, "
            f"{counted(summary['clients'], 'client')}, {summary['gate']} gate, "
            f"seed {summary['seed']}"
        )


def finish(
    experiment: Experiment, folder: RunFolder, progress: Progress, go_on: str
) -> Finished | None:
    """Trains to the last epoch, and writes the summary and the pictures of the run.

    Args:
        experiment: to train.
        folder: of the run.
        progress: where it stands.
        go_on: the command that goes on with the run after a stop.

    Returns:
        The finished run; None if it was asked to stop, which is said.

    Raises:
        RunError: if a loss is not finite, or the device fails.
        OSError: if the folder cannot be written.
    """
    _say_plan(experiment, folder, progress)
    if not _train(experiment, folder, progress):
        say(f"saved after epoch {progress.epochs}; go on with: {go_on}")
        return None
    run = Finished(progress.records, summarize(experiment, progress))
    with multihost.together():
        if multihost.leads():
            atomic.write_json(folder.summary, run.summary)
            _draw(folder, run)
    return run


def _train(experiment: Experiment, folder: RunFolder, progress: Progress) -> bool:
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(
            stop_at_signal("stopping when this chunk is saved")
        )
        writers: list[Writer] = []
        left = progress.epochs < experiment.config.all_epochs
        waiting = "compiling; the first epoch takes longer" if left else None
        with multihost.together():
            for make in (
                lambda: JsonlWriter(folder.metrics),
                lambda: TensorBoardWriter(folder.tensorboard, progress.epochs),
                lambda: ConsoleWriter(states=progress.ledger.states, waiting=waiting),
            ):
                if multihost.leads():
                    writers.append(stack.enter_context(contextlib.closing(make())))
        return train(experiment, folder, progress, writers, stopping)


def _draw(folder: RunFolder, run: Finished) -> None:
    # Matplotlib takes its time, and is needed only here.
    from jsplit.analysis import run_plots

    path = folder.path
    run_plots.accuracy_against_bytes(
        run.records, path / "accuracy_against_bytes.png", title=run.title
    )
    run_plots.loss_by_epoch(run.records, path / "loss_by_epoch.png", title=run.title)


def _say_plan(experiment: Experiment, folder: RunFolder, progress: Progress) -> None:
    config = experiment.config
    layout = experiment.simulation.layout
    words = [
        f"{config.model} cut after block {experiment.cut}",
        counted(config.clients, "client"),
        f"{config.gate.name} gate",
        f"{config.codec} up",
        f"{config.grad_codec} down",
        *beside_paper(canonical(config)),
        f"{counted(config.epochs, 'epoch')} of server batches of {layout.server_batch}",
    ]
    say(folded(", ".join(words)))
    # On a line of its own: a path may be long, and must stay whole.
    say(f"folder: {folder.path}")
    if config.init is not None:
        say(f"beginning with the weights of {config.init} ({config.init_part})")
    emulated = config.precision == "bfloat16" and jax.default_backend() == "cpu"
    say(
        f"computing on {device.describe()}, in {config.precision}"
        + (", which a CPU only emulates: slower than float32" if emulated else "")
    )
    caveats = caveats_of(config, experiment.dataset.image_shape)
    for caveat in (*caveats, whole_batch(config, layout)):
        if caveat is not None:
            say(folded(f"note: {caveat}"))
    if config.mesh:
        say(
            f"sharing clients and batches over {counted(jax.device_count(), 'device')}"
            f" of {counted(jax.process_count(), 'process')}"
        )
