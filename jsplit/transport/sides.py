"""From a config to what the server and a client compute with."""

import functools
from typing import NamedTuple

import jax.numpy as jnp

from jsplit import build, data
from jsplit.codecs import CODECS
from jsplit.config import RunConfig
from jsplit.errors import InputError
from jsplit.ledger import Prices
from jsplit.sides import (
    begin,
    begin_both,
    keys_of,
    make_prices,
    smashed_of,
)
from jsplit.simulation import TEST_BATCH
from jsplit.steps import Party, Steps, cross_entropy, make_steps, top_1
from jsplit.topology import TOPOLOGIES, Layout, lay_out
from jsplit.transport import client as clients
from jsplit.transport import server as servers
from jsplit.wire.messages import BEGINNING


class Serving(NamedTuple):
    """A server that can train.

    Attributes:
        side: what it computes with.
        state: before the first epoch.
        prices: for the ledger.
    """

    side: servers.Side
    state: servers.State
    prices: Prices


def layout_of(config: RunConfig, sizes: list[int]) -> Layout:
    """The layout of an epoch with clients that hold so many examples."""
    return lay_out(sizes, TOPOLOGIES[config.topology], config.server_batch)


def begin_serving(
    config: RunConfig, image: tuple[int, int, int], classes: int, sizes: list[int]
) -> Serving:
    """The server's side, for clients with such images and so many examples each.

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
    begun = begin_both(client, server, optimizer, keys, x, layout)
    codec, grad_codec = CODECS[config.codec](), CODECS[config.grad_codec]()
    gate = build.GATES[config.gate](config, classes)
    side = servers.Side(
        steps=_steps(config, classes),
        gate=gate,
        codec=codec,
        grad_codec=grad_codec,
        layout=layout,
        sizes=tuple(sizes),
        smashed_shape=begun.smashed.shape[1:],
        client=begun.client,
        key=keys.run,
        loss=cross_entropy,
        correct=top_1,
        test_batch=TEST_BATCH,
    )
    state = servers.State(
        server=begun.server,
        gate=gate.init(),
        digest=BEGINNING,
        client=None if len(sizes) == 1 else begun.client,
        holders=frozenset(range(len(sizes))),
        epoch=0,
    )
    prices = make_prices(
        client,
        begun.client,
        x,
        begun.smashed,
        sizes=sizes,
        layout=layout,
        codec=codec,
        grad_codec=grad_codec,
        classes=classes,
    )
    return Serving(side, state, prices)


def begin_joining(
    config: RunConfig,
    image: tuple[int, int, int],
    classes: int,
    moments: data.Moments,
) -> clients.Side:
    """A client's side."""
    client, _ = build.parts_of(config, classes)
    x = jnp.zeros((1, *image), jnp.float32)
    party: Party = begin(
        client, build.optimizer_of(config), keys_of(config.seed).client, x
    )
    return clients.Side(
        steps=_steps(config, classes),
        transform=build.transform_of(config, moments, edge=image[0]),
        beginning=party,
        codec=CODECS[config.codec](),
        grad_codec=CODECS[config.grad_codec](),
        smashed_shape=smashed_of(client, party, x).shape[1:],
        step_sizes=build.step_sizes_of(config),
        test_batch=TEST_BATCH,
    )


@functools.lru_cache(maxsize=8)
def _steps(config: RunConfig, classes: int) -> Steps:
    """The jitted steps; made once for the parties of one process."""
    client, server = build.parts_of(config, classes)
    return make_steps(
        client,
        server,
        client_optimizer=build.optimizer_of(config),
        server_optimizer=build.optimizer_of(config),
        codec=CODECS[config.codec](),
        grad_codec=CODECS[config.grad_codec](),
        refresh_statistics=config.refresh_statistics,
    )
