"""The loop around the compiled epochs: records, checkpoints, stopping, resuming."""

import math
import operator
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.accounting.ledger import Ledger
from jsplit.core.state import EpochRecord, TrainState
from jsplit.core.store import STEPS_AXIS
from jsplit.core.value_checks import check_states
from jsplit.errors import InputError, RunError
from jsplit.experiment import checkpoint
from jsplit.experiment.build import Experiment
from jsplit.experiment.description import describe, write_description
from jsplit.experiment.progress import Progress, Record
from jsplit.experiment.summary import wire_reduction
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import Writer, rewind
from jsplit.runtime import device, multihost, sharding
from jsplit.typing import OFFLINE, REFRESH, SENT, STATES


def resume(experiment: Experiment, folder: RunFolder) -> Progress:
    """Goes back to the newest checkpoint; to the start if there is none yet.

    Parameters, optimizers, gate, store, states and ledger are bit for bit those of a
    run that was never interrupted. Every process reads the checkpoint that process 0
    names, so the folder must be one that all of them see.

    Raises:
        InputError: if the data is not what the run was started with.
        RunError: if the checkpoint is damaged or the records do not reach it.
    """
    progress = Progress(experiment)
    epochs = multihost.share(lambda: checkpoint.latest(folder.checkpoints))
    if epochs is None:
        multihost.share(lambda: rewind(folder.metrics, 0))
        return progress
    small, store = experiment.simulation.state.parts()
    with multihost.together():
        small, meta, _ = checkpoint.restore(folder.checkpoints, epochs, small, None)
        if meta["fingerprint"] != experiment.dataset.fingerprint:
            raise InputError(
                f"--resume: {folder.path} was trained on other data than "
                f"{experiment.dataset.source}; give it the data it was started with"
            )
        if needs_store(small["gate"].state, meta["states"]):
            store = checkpoint.restore(folder.checkpoints, epochs, small, store)[2]
    progress.state = TrainState(**small, store=store)
    progress.records = multihost.share(lambda: rewind(folder.metrics, epochs))
    progress.ledger = Ledger.of(experiment.simulation.costs, meta["states"])
    return progress


def train(
    experiment: Experiment,
    folder: RunFolder,
    progress: Progress,
    writers: Sequence[Writer],
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains to the last epoch, or until `stopping()`; whether it got to the end.

    After each chunk of epochs the records are written, then a checkpoint. So whatever
    kills the process, the newest checkpoint and the records up to it are whole. Of
    several processes, all stop if one is asked to or fails, and process 0 alone saves;
    it alone should be given writers.

    Raises:
        RunError: if a loss is not finite, the gate gave a state that cannot be, or the
            device fails; the last good checkpoint and the records up to it are kept.
    """
    config = experiment.config
    with multihost.together():
        if multihost.leads():
            described = describe(config, experiment.dataset)
            write_description(folder.path, described)
    chunk = min(config.chunk, config.all_epochs)
    paces: list[float] = []
    while progress.epochs < config.all_epochs and not multihost.any_of(stopping()):
        first = progress.epochs
        due = np.arange(first, first + chunk)
        active = due < config.all_epochs
        step_sizes = experiment.step_sizes[np.minimum(due, config.all_epochs - 1)]
        before = time.perf_counter()
        try:
            state, outcome = experiment.simulation.program.run(
                progress.state,
                experiment.simulation.shards,
                experiment.simulation.test,
                experiment.simulation.key,
                jnp.asarray(step_sizes),
                jnp.asarray(active),
            )
            outcome = jax.device_get(outcome)
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() > 1 and "RESOURCE_EXHAUSTED" not in str(error):
                raise  # Another process may be gone; `multihost.joined` says so.
            raise RunError(
                f"epoch {first + 1} failed on {device.describe()} "
                f"({str(error).strip()[:200]}); if it lacks memory, take a "
                "smaller --batch-size or --train-examples"
            ) from error
        spent = (time.perf_counter() - before) / int(active.sum())
        progress.state = state
        paces.append(spent)
        compressed = _compressed(experiment, progress)
        known = [STATES.index(state) for state in progress.ledger.states]
        ran = [*known, *outcome.state[active].tolist()]
        with multihost.together():
            check_states(np.array(ran), alone=config.local_epochs > 0)
            for place in range(int(active.sum())):
                record = _record(outcome, place, first + place + 1)
                _check_finite(record, folder, first)
                progress.ledger.add(record["state"])
                progress.store_changed |= record["state"] in SENT
                record |= accounts(progress.ledger)
                reported = jax.tree.map(operator.itemgetter(place), outcome.gate)
                record |= config.gate.told(reported)
                record |= {
                    "epochs": config.all_epochs,
                    "learning_rate": float(step_sizes[place]),
                    "seconds": progress.seconds + spent,
                    "eta_seconds": eta(paces, config.all_epochs - record["epoch"]),
                }
                if compressed and place == int(active.sum()) - 1:
                    record["compressed_bytes"] = compressed
                progress.records.append(record)
                for writer in writers:
                    writer.write(record)
        _save(experiment, folder, progress)
    return progress.epochs == config.all_epochs


def _compressed(experiment: Experiment, progress: Progress) -> dict[str, int] | None:
    """Payload bytes so far as the lossless stage makes them, by kind.

    None if they are not asked for, or were not in the epochs before: a sum of some
    epochs would be taken for that of all.
    """
    if experiment.tally is None:
        return None
    jax.effects_barrier()
    counted, experiment.tally.bytes = (
        experiment.tally.bytes,
        dict.fromkeys(experiment.tally.bytes, 0),
    )
    if not progress.records:
        return counted
    before = compressed_before(progress)
    if before is None:
        return None
    return {kind: before[kind] + count for kind, count in counted.items()}


def compressed_before(progress: Progress) -> dict[str, int] | None:
    """What was counted in all epochs so far; None if not all were counted."""
    before: dict[str, int] | None = progress.records[-1].get("compressed_bytes")
    return before


def eta(paces: list[float], left: int) -> float | None:
    """Seconds to go for so many epochs, by the paces of those that are over.

    None after the first call, which also compiled.
    """
    return left * statistics.median(paces[1:][-5:]) if paces[1:] else None


def _save(experiment: Experiment, folder: RunFolder, progress: Progress) -> None:
    small, store = progress.state.parts()
    wanted = needs_store(small["gate"].state, progress.ledger.states)
    needed = wanted and progress.store_changed
    meta = {
        "states": progress.ledger.states,
        "fingerprint": experiment.dataset.fingerprint,
    }
    if needed:
        # Every process has the small rest of it whole.
        store = store._replace(examples=sharding.gathered(store.examples, STEPS_AXIS))
    with multihost.together():
        if multihost.leads():
            checkpoint.save(
                folder.checkpoints,
                progress.epochs,
                small,
                meta,
                store=store if needed else None,
            )
    if needed:
        progress.store_changed = False


def needs_store(due: jax.Array, states: str) -> bool:
    """Whether the epoch that is due reads or adds to what the store holds."""
    # One of B after A takes the first place, whatever is there.
    adds = int(due) == REFRESH and states[-1:] in (STATES[REFRESH], STATES[OFFLINE])
    return int(due) == OFFLINE or adds


def _record(outcome: EpochRecord, place: int, epoch: int) -> Record:
    train, test = outcome.train, outcome.test
    return {
        "epoch": epoch,
        "state": STATES[int(outcome.state[place])],
        "train_loss": float(train.loss[place]) / int(train.examples[place]),
        "train_accuracy": int(train.correct[place]) / int(train.examples[place]),
        "test_loss": float(test.loss[place]) / int(test.examples[place]),
        "test_accuracy": int(test.correct[place]) / int(test.examples[place]),
    }


def accounts(ledger: Ledger) -> Record:
    """Of a run so far; there are no reductions while its clients learn alone."""
    begun = ledger.epochs > 0
    return {
        "paper_bytes": ledger.paper_bits // 8,
        "wire_bytes": ledger.wire_bytes,
        "wire_reduction": wire_reduction(ledger) if begun else None,
        "communication_reduction": ledger.communication_reduction if begun else None,
        "client_compute_reduction": ledger.client_compute_reduction if begun else None,
    }


def _check_finite(record: Record, folder: RunFolder, kept: int) -> None:
    broken = [
        f"the {kind} loss became {record[name]}"
        for kind, name in (("training", "train_loss"), ("test", "test_loss"))
        if not math.isfinite(record[name])
    ]
    if not broken:
        return
    where = (
        f"the checkpoint of epoch {checkpoint.latest(folder.checkpoints)} in "
        f"{folder.checkpoints} is kept"
        if kept
        else "nothing was saved yet"
    )
    raise RunError(
        f"{broken[0]} in epoch {record['epoch']} (state {record['state']}); {where}; "
        "start a new run with a lower --learning-rate"
    )
