"""What the server sees: activations as they crossed, beside the images behind them."""

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core import schedule
from jsplit.core.gate_phases import view_of
from jsplit.core.state import SideState
from jsplit.data import views_of
from jsplit.errors import InputError
from jsplit.experiment import checkpoint
from jsplit.experiment.build import Experiment, transform_of
from jsplit.experiment.workdir import RunFolder
from jsplit.typing import SENT, STATES, SYNC, Packet


class View(NamedTuple):
    """Examples on both sides of the cut.

    Attributes:
        images: what entered the client part, augmented if the run did so: float32
            `[n, h, w, c]`, pixels from 0 to 1.
        inside: which pixels are an image's own, and not the black around a crop:
            `Bool[n, h, w]`.
        smashed: what the server decoded of it, float32 `[n, ...]`.
        labels: `Int32[n]`.
        packets: in which it came, and which of their rows are examples, in order.
    """

    images: np.ndarray
    inside: np.ndarray
    smashed: np.ndarray
    labels: np.ndarray
    packets: list[tuple[Packet, np.ndarray]]


class Ended(NamedTuple):
    """A finished run, as its last checkpoint has it.

    Attributes:
        experiment: the run.
        client: the client part after the last epoch.
        server: the server part.
        states: of all epochs.
    """

    experiment: Experiment
    client: SideState
    server: SideState
    states: str


def last_checkpoint(folder: RunFolder, epochs: int) -> int:
    """The number of a finished run's checkpoint, which is that of its last epoch.

    Raises:
        InputError: if the run has no checkpoint, or not one of its last epoch.
    """
    latest = checkpoint.latest(folder.checkpoints)
    if latest != epochs:
        found = "no checkpoint" if latest is None else f"one of epoch {latest} alone"
        raise InputError(
            f"{folder.path} has {found}, and this needs the run's last ({epochs}); "
            "make the run again in another folder"
        )
    return epochs


def ended(experiment: Experiment, folder: RunFolder) -> Ended:
    """Reads how a run ended.

    Raises:
        InputError: if the run has no checkpoint, or not one of its last epoch.
        RunError: if the checkpoint is damaged.
    """
    epochs = last_checkpoint(folder, experiment.config.all_epochs)
    like, _ = experiment.simulation.state.parts()
    small, meta, _ = checkpoint.restore(folder.checkpoints, epochs, like, None)
    return Ended(experiment, small["client"], small["server"], meta["states"])


def last_sent(states: str) -> int:
    """The number, from 0, of the last epoch in which activations were sent."""
    return max(n for n, state in enumerate(states) if state in SENT)


def private(
    run: Ended, client: SideState, epoch: int, limit: int | None = None
) -> View:
    """What the run's clients sent in an epoch, with this client part.

    With the final part and the run's last epoch of B it is to the bit what the server
    stored. In an epoch of A the part changes from batch to batch; `client` stands for
    all of them.

    Args:
        run: that ended.
        client: the part to send with.
        epoch: whose order, augmentation and state to take.
        limit: examples after which no further batch is taken, of the clients in turn;
            None for all, client after client.
    """
    experiment = run.experiment
    simulation = experiment.simulation
    layout, shards = simulation.layout, simulation.shards
    key = schedule.epoch_key(simulation.key, epoch)
    plan = schedule.plan_epoch(key, shards, layout)
    sync = run.states[epoch] == STATES[SYNC]
    batch_of = jax.jit(schedule.client_batch, static_argnums=2)
    prepare, inside, undo = _prepared(run, epoch)
    places = list(np.ndindex(layout.groups, layout.members, layout.steps))
    if limit is not None:
        # Clients may hold other classes, and the first would stand for all.
        places.sort(key=operator.itemgetter(2))

    def batches() -> Iterator[Batch]:
        for group, member, number in places:
            own = jax.tree.map(operator.itemgetter((group, member)), plan.clients)
            now = batch_of(own, number, layout.batch)
            mask = np.asarray(now.mask)
            if not mask.any():
                continue
            rows = shards.rows[group, member, now.positions]
            raw = shards.examples[rows]
            x, own_pixels = (of(now.transform_key, raw) for of in (prepare, inside))
            given = (client, x, mask if layout.padded else None, now.part_key)
            packet = _send(experiment, given, sync)
            labels = np.asarray(shards.labels[rows])
            images = undo(x)[mask], np.asarray(own_pixels)[mask]
            yield *images, packet, mask, labels[mask]

    return _collected(experiment, batches(), limit)


def public(run: Ended, client: SideState, epoch: int) -> View:
    """The held-out images as clients would send them, whose part the server is given.

    In batches, in the state of the epoch and augmented as it augments: a server that
    trains on whole images cannot read those that were cropped.
    """
    experiment = run.experiment
    dataset, layout = experiment.dataset, experiment.simulation.layout
    sync = run.states[epoch] == STATES[SYNC]
    prepare, inside, undo = _prepared(run, epoch)
    size = min(layout.batch, len(dataset.test_labels))

    def batches() -> Iterator[Batch]:
        for number in range(len(dataset.test_labels) // size):
            rows = slice(number * size, (number + 1) * size)
            transform_key, part_key = jax.random.split(jax.random.key(number))
            raw = jnp.asarray(dataset.test_images[rows])
            x, own_pixels = (of(transform_key, raw) for of in (prepare, inside))
            packet = _send(experiment, (client, x, None, part_key), sync)
            images, mask = (undo(x), np.asarray(own_pixels)), np.ones(size, bool)
            yield *images, packet, mask, dataset.test_labels[rows]

    return _collected(experiment, batches(), None)


Batch = tuple[np.ndarray, np.ndarray, Packet, np.ndarray, np.ndarray]
"""Images, which pixels are theirs, the packet, which of its rows, and their labels."""


def _send(experiment: Experiment, given: tuple[Any, ...], sync: bool) -> Packet:
    steps = experiment.simulation.steps
    return steps.client_forward(*given)[0] if sync else steps.client_refresh(*given)


class _Prepared(NamedTuple):
    """What an epoch does to raw images before the client part.

    Attributes:
        prepare: a key and raw images to what enters the client part.
        inside: the same to which pixels of that are an image's own.
        undo: what enters the client part back to pixels from 0 to 1.
    """

    prepare: Callable[[jax.Array, jax.Array], jax.Array]
    inside: Callable[[jax.Array, jax.Array], jax.Array]
    undo: Callable[[jax.Array], np.ndarray]


def _prepared(run: Ended, epoch: int) -> _Prepared:
    config, dataset = run.experiment.config, run.experiment.dataset
    mean, deviation = (np.asarray(of, np.float32) for of in dataset.moments)
    transform = transform_of(config, dataset.moments, edge=dataset.image_shape[0])
    view = view_of(run.states, epoch, len(views_of(config.views)))
    sync = run.states[epoch] == STATES[SYNC]

    def undo(x: jax.Array) -> np.ndarray:
        return np.clip(np.asarray(x) * deviation + mean, 0, 1)

    prepare = transform.train if sync else partial(transform.refresh, view)

    def inside(key: jax.Array, raw: jax.Array) -> jax.Array:
        white, black = (jnp.full_like(raw, pixel) for pixel in (255, 0))
        return (prepare(key, white) != prepare(key, black)).any(axis=-1)

    return _Prepared(prepare, inside, undo)


def _collected(
    experiment: Experiment, batches: Iterator[Batch], limit: int | None
) -> View:
    decode = jax.jit(experiment.simulation.codec.decode)
    images, inside, smashed, labels, packets = [], [], [], [], []
    for image, own_pixels, packet, mask, label in batches:
        images.append(image)
        inside.append(own_pixels)
        smashed.append(np.asarray(decode(packet))[mask])
        labels.append(label.astype(np.int32))
        packets.append((packet, mask))
        if limit is not None and sum(map(len, labels)) >= limit:
            break
    return View(
        np.concatenate(images),
        np.concatenate(inside),
        np.concatenate(smashed),
        np.concatenate(labels),
        packets,
    )
