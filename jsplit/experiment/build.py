"""From a config to the values of the library: the one place that knows both."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from jsplit import data
from jsplit.accounting.compression_tally import Tally
from jsplit.core.defences import Defence
from jsplit.core.map_moves import cutout, mirror, shift
from jsplit.core.mixup import check_mixup, mixup
from jsplit.core.model_part import ModelPart
from jsplit.core.replay import AS_RECEIVED, Replay, chain
from jsplit.core.simulation import Simulation, make_simulation
from jsplit.core.state import SideState, init_side
from jsplit.core.steps import ignore
from jsplit.core.topology import TOPOLOGIES, Layout, make_layout
from jsplit.core.transform import Training, Transform
from jsplit.data import Dataset
from jsplit.errors import InputError
from jsplit.experiment.at_cut import codecs_of, smashed_spec
from jsplit.experiment.config import RunConfig, all_options, check_choices, flat
from jsplit.experiment.initial import begun_from
from jsplit.experiment.parts import (
    cut_of,
    head_of,
    mirrored_channels,
    parts_of,
    plain_client_of,
)
from jsplit.experiment.plain_target import with_curve
from jsplit.experiment.quantities import counted
from jsplit.experiment.run_facts import facts_of
from jsplit.experiment.step_sizes import step_sizes_of
from jsplit.models import MODELS, Block


class Experiment(NamedTuple):
    """A run, ready to start.

    Attributes:
        config: it was built from, with what the run that it names had recorded.
        dataset: after fitting to the config.
        cut: where the network is cut, for people: `3 (layer1_1)`.
        tally: of what the lossless stage would send; None if not asked for.
        simulation: the training itself.
        step_sizes: learning rate of each epoch, float32 `[epochs]`.
    """

    config: RunConfig
    dataset: Dataset
    cut: str
    tally: Tally | None
    simulation: Simulation
    step_sizes: np.ndarray


def check_names(config: RunConfig) -> None:
    """Refuses unknown names and cuts before any data is loaded.

    Raises:
        InputError: naming the flag, its value and the choices.
    """
    check_choices(config)
    data.check_name(config.dataset)
    data.check_scheme(config.partition)
    data.views_of(config.views)
    check_mixup(config.mixup)
    if config.init is None and config.init_part != RunConfig.init_part:
        raise InputError(
            f"--init-part {config.init_part} says what --init gives; name a run or a "
            "file by --init"
        )
    if (
        config.first_filters != "random"
        and config.init
        and config.init_part != "server"
    ):
        raise InputError(
            f"--first-filters {config.first_filters} and --init {config.init} both say "
            "what the client's part begins with; leave one of them out, or take the "
            "server's half alone by --init-part server"
        )
    if config.replay_always and not config.replays:
        raise InputError(
            "--replay-always repeats in A and B what the server does in C, which is "
            "nothing; add --replay-shift, --replay-mirror, --replay-cutout or --mixup"
        )
    last = len(MODELS[config.model](2)) - 1
    if config.cut is not None and not 1 <= config.cut <= last:
        raise InputError(
            f"--cut {config.cut} is outside {config.model}, which can be cut after "
            f"block 1 to {last}; see --show-cuts"
        )


def check_kept_names(config: RunConfig, folder: Path) -> None:
    """Refuses a kept run that this version does not know.

    Raises:
        InputError: naming the folder, the flag and its value.
    """
    try:
        check_names(config)
    except InputError as error:
        raise InputError(f"{folder} holds a run that is not known: {error}") from error


def load_dataset(config: RunConfig, notify: Callable[[str], None]) -> Dataset:
    """The config's dataset, fitted to its image size and number of examples.

    Args:
        config: whose dataset is known by name.
        notify: takes lines for people, such as that images are very small.

    Raises:
        InputError: if the data cannot be had or does not fit.
    """
    dataset = data.load(
        config.dataset,
        data_dir=Path(config.data_dir).expanduser() if config.data_dir else None,
        notify=notify,
    )
    fitted = data.prepare_images(
        dataset,
        image_size=config.image_size,
        channels=None,
        train_examples=config.train_examples,
        test_examples=config.test_examples,
    )
    height, width, _ = fitted.image_shape
    if min(height, width) < data.LEAST_SIZE:
        notify(
            f"note: images of {fitted.name} are {height}x{width}; of fewer than "
            f"{data.LEAST_SIZE} pixels an edge the networks here see next to nothing"
        )
    return fitted


def blocks_of(config: RunConfig, dataset: Dataset) -> tuple[Block, ...]:
    """The config's network, for the dataset's classes."""
    return MODELS[config.model](dataset.num_classes)


def check_batch(config: RunConfig, examples: int) -> None:
    """Refuses a batch that is larger than the training set.

    Raises:
        InputError: naming the flag and both numbers.
    """
    if config.batch_size is not None and config.batch_size > examples:
        raise InputError(
            f"--batch-size {config.batch_size} is more than there is: "
            f"{counted(examples, 'training example')}; take a smaller one"
        )


def build(config: RunConfig, dataset: Dataset) -> Experiment:
    """Makes everything that a run needs; nothing is compiled or trained yet.

    Raises:
        InputError: if the clients cannot share the training set as asked, a batch is
            larger than all of it, a mesh cannot share clients and batch equally, or
            there are no weights to begin with, or no plain run to compare with, where
            the config names some.
    """
    config = with_curve(config, dataset.fingerprint)
    check_batch(config, len(dataset.train_labels))
    if config.mesh and config.lossless:
        raise InputError("--lossless counts on one device; leave --mesh out")
    if config.mesh and jax.device_count() == 1:
        raise InputError(
            "--mesh shares the work over several devices, but jax sees one "
            f"({jax.devices()[0]}); say --no-mesh, or see that jax finds the others "
            "(on a CPU: XLA_FLAGS=--xla_force_host_platform_device_count=8)"
        )
    shape, classes = dataset.image_shape, dataset.num_classes
    client, server = parts_of(config, classes, shape)
    codec, grad_codec = codecs_of(config, smashed_spec(client, shape).shape[1:])
    tally = Tally() if config.lossless else None
    simulation = make_simulation(
        client,
        server,
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
        gate=lambda costs: config.gate.make_for(facts_of(config, classes, costs)),
        head=head_of(config, classes),
        local_epochs=config.local_epochs,
        plain_client=plain_client_of(config, classes),
        optimizer=optimizer_of(config),
        codec=codec,
        grad_codec=grad_codec,
        shares=shares_of(config, dataset),
        topology=TOPOLOGIES[config.topology],
        batch_size=config.server_batch,
        transform=transform_of(config, dataset.moments, edge=shape[0]),
        refresh_statistics=config.refresh_statistics,
        defence=defence_of(config),
        replay=replay_of(config, shape),
        received_replay=received_replay_of(config, shape),
        seed=config.seed,
        devices=jax.devices() if config.mesh else None,
        observe=ignore if tally is None else tally.observe,
    )
    if config.init is not None:
        last_block = blocks_of(config, dataset)[-1].name
        simulation = begun_from(simulation, config.init, config.init_part, last_block)
    return Experiment(
        config=config,
        dataset=dataset,
        cut=cut_of(config),
        tally=tally,
        simulation=simulation,
        step_sizes=step_sizes_of(config),
    )


def share_program(experiment: Experiment, earlier: Experiment) -> Experiment:
    """The experiment with the compiled program of an earlier one, if it has the same.

    It has if their settings differ only in what the program takes as arguments, their
    data is the same, and the clients' shares come out at the same sizes.
    """
    same = (
        experiment.dataset.fingerprint == earlier.dataset.fingerprint
        and experiment.simulation.layout == earlier.simulation.layout
        and shape_of(experiment.config) == shape_of(earlier.config)
    )
    if not same or experiment.tally is not None:
        return experiment
    program = experiment.simulation.program
    program = program._replace(run=earlier.simulation.program.run)
    simulation = experiment.simulation._replace(
        program=program, steps=earlier.simulation.steps
    )
    return experiment._replace(simulation=simulation)


def shape_of(config: RunConfig) -> dict[str, object]:
    """The settings that the compiled program depends on."""
    known = all_options()
    return {
        name: value
        for name, value in flat(config).items()
        # A mesh changes the program, though not the result.
        if name == "mesh"
        or not (known[name].option.traced or known[name].option.speed_only)
    }


def replay_of(config: RunConfig, image_shape: tuple[int, ...]) -> Replay:
    """What the server does to stored maps of such images before it learns from them."""
    replays = []
    if config.replay_shift:
        replays.append(shift(config.replay_shift))
    if config.replay_mirror:
        replays.append(mirror(mirrored_channels(config, image_shape)))
    if config.replay_cutout:
        replays.append(cutout(config.replay_cutout))
    if config.mixup:
        replays.append(mixup(config.mixup))
    return chain(*replays)


def received_replay_of(config: RunConfig, image_shape: tuple[int, ...]) -> Replay:
    """What it does, in A and B, to those that just came."""
    return replay_of(config, image_shape) if config.replay_always else AS_RECEIVED


def defence_of(config: RunConfig) -> Defence:
    """What the client does against a server that looks at its activations."""
    return Defence(config.nopeek, config.noise)


def shares_of(config: RunConfig, dataset: Dataset) -> list[np.ndarray]:
    """Each client's examples of a common training set, as indices."""
    return data.partition(
        dataset.train_labels,
        clients=config.clients,
        scheme=config.partition,
        seed=config.seed,
    )


def layout_of(config: RunConfig, sizes: Sequence[int]) -> Layout:
    """The sizes of an epoch with clients that hold so many examples."""
    return make_layout(sizes, TOPOLOGIES[config.topology], config.server_batch)


def optimizer_of(config: RunConfig) -> optax.GradientTransformation:
    """SGD with momentum; the learning rate is the step size that each epoch gives."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(config.momentum),
        optax.scale(-1.0),
    )


def begun_side(
    config: RunConfig, part: ModelPart, x: jax.Array | jax.ShapeDtypeStruct
) -> SideState:
    """A side as a run would begin it, all zeros that take no memory.

    Args:
        config: of the run.
        part: of the network.
        x: what goes into it, or the shape of that, `[1, ...]`.
    """
    optimizer, key = optimizer_of(config), jax.random.key(0)
    side = jax.eval_shape(lambda key, x: init_side(part, optimizer, key, x), key, x)
    zeros: SideState = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), side
    )
    return zeros


def transform_of(config: RunConfig, moments: data.Moments, *, edge: int) -> Transform:
    """Augmentation and normalisation of raw images.

    Args:
        config: says whether to augment in A, and what the views of B are.
        moments: of the training images.
        edge: of an image, in pixels.
    """
    # 4 pixels of 32, the usual recipe, and in proportion for other sizes.
    padding = round(edge / 8) if config.augment else 0

    def train(key: jax.Array, images: jax.Array) -> jax.Array:
        images = data.augment(key, images, padding=padding, flip=config.augment)
        return data.preprocess(images, *moments)

    def evaluate(images: jax.Array) -> jax.Array:
        return data.preprocess(images, *moments)

    def seen(name: str) -> Training:
        # Views are of the usual crops, whether A augments or not.
        def view(key: jax.Array, images: jax.Array) -> jax.Array:
            return evaluate(data.VIEWS[name](key, images, round(edge / 8)))

        return view

    kinds = {name: seen(name) for name in data.VIEWS}
    views = tuple(kinds[name] for name in data.views_of(config.views))
    return Transform(train, evaluate, views)
