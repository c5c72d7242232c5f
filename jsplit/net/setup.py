"""Makes what the server and a client compute with from their config."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit import data
from jsplit.accounting.cost_model import CostModel
from jsplit.codecs import CODECS
from jsplit.core.init import (
    init_both,
    init_compiled,
    keys_of,
    make_cost_model,
    smashed_of,
)
from jsplit.core.metrics import cross_entropy, top_1
from jsplit.core.simulation import TEST_BATCH
from jsplit.core.state import SideState, init_side
from jsplit.core.steps import Steps, make_steps
from jsplit.core.topology import TOPOLOGIES, Layout, make_layout
from jsplit.errors import InputError
from jsplit.experiment import build
from jsplit.experiment.config import RunConfig
from jsplit.net.client_state import ClientSetup
from jsplit.net.state import ServerSetup, ServerState
from jsplit.wire.messages import DTYPES, INITIAL_WEIGHTS


class PreparedServer(NamedTuple):
    """A server that can train.

    Attributes:
        setup: what it computes with.
        state: before the first epoch.
        costs: for the ledger.
    """

    setup: ServerSetup
    state: ServerState
    costs: CostModel


def layout_of(config: RunConfig, sizes: list[int]) -> Layout:
    """The layout of an epoch with clients that hold so many examples."""
    return make_layout(sizes, TOPOLOGIES[config.topology], config.server_batch)


class ResourceNeeds(NamedTuple):
    """Bytes that a run takes if no client holds more than one does.

    Attributes:
        store: of the activations of all clients.
        message: of the largest payload of one message, if nothing compresses.
    """

    store: int
    message: int


def needs_of(
    config: RunConfig,
    image: tuple[int, int, int],
    classes: int,
    examples: int,
    held_out: int,
) -> ResourceNeeds:
    """What a client with so many examples of such images asks of the server.

    `held_out` is how many it would send for a score.

    Every client has as many places as the largest one needs.
    """
    layout = layout_of(config, [examples] * config.clients)
    shape, part = _shapes(config, image, classes)
    up, down = (
        CODECS[name].payload_bits(shape) // 8
        for name in (config.codec, config.grad_codec)
    )
    largest = [layout.batch * max(up, down), min(TEST_BATCH, held_out) * up]
    largest += [part] if config.clients > 1 else []
    return ResourceNeeds(
        store=layout.groups * layout.members * layout.slots * up, message=max(largest)
    )


@functools.lru_cache(maxsize=8)
def _shapes(
    config: RunConfig, image: tuple[int, int, int], classes: int
) -> tuple[tuple[int, ...], int]:
    """Of one example's activations; and the bytes of the client part."""
    client, _ = build.parts_of(config, classes)
    optimizer, x = build.optimizer_of(config), jnp.zeros((1, *image), jnp.float32)
    side = jax.eval_shape(
        lambda key, x: init_side(client, optimizer, key, x), jax.random.key(0), x
    )
    part = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(side))
    return smashed_of(client, side, x).shape[1:], part


def check_beginning(config: RunConfig) -> None:
    """Refuses to begin with the weights of another run, which the parties lack.

    Raises:
        InputError: naming the setting.
    """
    if config.init is not None:
        raise InputError(
            f"--init {config.init} is for jsplit run; over a network all begin with "
            "the weights that --seed gives, so leave it out"
        )


def check_codecs(config: RunConfig) -> None:
    """Refuses codecs whose payloads the wire format does not carry.

    Raises:
        InputError: naming the codec and what can be carried.
    """
    for option, name in (
        ("--codec", config.codec),
        ("--grad-codec", config.grad_codec),
    ):
        dtype = jnp.dtype(CODECS[name].payload_dtype).name
        if dtype not in DTYPES:
            raise InputError(
                f"{option} {name} makes payloads of {dtype}, which the wire format "
                f"does not carry; it carries {', '.join(DTYPES)}"
            )


def prepare_server(
    config: RunConfig, image: tuple[int, int, int], classes: int, sizes: list[int]
) -> PreparedServer:
    """What a server computes with, for clients with so many examples of such images.

    Raises:
        InputError: if the batch is larger than all of the examples.
    """
    if config.batch_size is not None and config.batch_size > sum(sizes):
        raise InputError(
            f"--batch-size {config.batch_size} is more than the {sum(sizes)} training "
            "examples of all clients; take a smaller one"
        )
    layout = layout_of(config, sizes)
    client, server = build.parts_of(config, classes)
    optimizer, keys = build.optimizer_of(config), keys_of(config.seed)
    x = jnp.zeros((1, *image), jnp.float32)
    prepared = init_both(client, server, optimizer, keys, x, layout)
    codec, grad_codec = CODECS[config.codec], CODECS[config.grad_codec]
    gate = config.gate.make(classes)
    setup = ServerSetup(
        steps=_steps(config, classes),
        gate=gate,
        codec=codec,
        grad_codec=grad_codec,
        layout=layout,
        sizes=tuple(sizes),
        smashed_shape=prepared.smashed.shape[1:],
        client=prepared.client,
        key=keys.run,
        loss=cross_entropy,
        correct=top_1,
        test_batch=TEST_BATCH,
    )
    state = ServerState(
        server=prepared.server,
        gate=gate.init(),
        digest=INITIAL_WEIGHTS,
        client=None if len(sizes) == 1 else prepared.client,
        holders=frozenset(range(len(sizes))),
        epoch=0,
    )
    costs = make_cost_model(
        client,
        prepared.client,
        x,
        prepared.smashed,
        sizes=sizes,
        layout=layout,
        codec=codec,
        grad_codec=grad_codec,
        classes=classes,
    )
    return PreparedServer(setup, state, costs)


def prepare_client(
    config: RunConfig,
    image: tuple[int, int, int],
    classes: int,
    moments: data.Moments,
) -> ClientSetup:
    """What a client computes with, for images with these moments."""
    client, _ = build.parts_of(config, classes)
    x = jnp.zeros((1, *image), jnp.float32)
    side: SideState = init_compiled(
        client, build.optimizer_of(config), keys_of(config.seed).client, x
    )
    return ClientSetup(
        steps=_steps(config, classes),
        transform=build.transform_of(config, moments, edge=image[0]),
        beginning=side,
        codec=CODECS[config.codec],
        grad_codec=CODECS[config.grad_codec],
        smashed_shape=smashed_of(client, side, x).shape[1:],
        step_sizes=build.step_sizes_of(config),
        test_batch=TEST_BATCH,
    )


@functools.lru_cache(maxsize=8)
def _steps(config: RunConfig, classes: int) -> Steps:
    """The jitted steps; made once for a server and clients in one process."""
    client, server = build.parts_of(config, classes)
    return make_steps(
        client,
        server,
        client_optimizer=build.optimizer_of(config),
        server_optimizer=build.optimizer_of(config),
        codec=CODECS[config.codec],
        grad_codec=CODECS[config.grad_codec],
        refresh_statistics=config.refresh_statistics,
        defence=build.defence_of(config),
        mixup=config.mixup,
    )
