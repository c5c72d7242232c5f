"""Makes what the server and a client compute with from their config."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit import data
from jsplit.accounting.cost_model import CostModel
from jsplit.codecs import CODECS
from jsplit.core.gate import Gate
from jsplit.core.gate_phases import in_phases
from jsplit.core.init import (
    begin_head,
    init_both,
    init_compiled,
    init_head,
    keys_of,
    make_cost_model,
    plain_costs,
    smashed_of,
)
from jsplit.core.state import ClientParts
from jsplit.core.steps import Steps, make_steps
from jsplit.core.topology import TOPOLOGIES
from jsplit.core.value_checks import check_gate
from jsplit.errors import InputError
from jsplit.experiment import build
from jsplit.experiment.at_cut import codecs_of, smashed_spec
from jsplit.experiment.config import RunConfig
from jsplit.experiment.link_time import largest_message
from jsplit.experiment.parts import head_of, parts_of, plain_client_of
from jsplit.experiment.run_facts import facts_of
from jsplit.experiment.step_sizes import step_sizes_of
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
    layout = build.layout_of(config, [examples] * config.clients)
    batch, slots = layout.batch, layout.slots
    if layout.dealt_over is not None:
        # Where others hold less there are fewer steps, and more of it in each.
        batch = min(layout.offline_batch, examples)
        slots = examples + layout.steps
    shape, part = _shapes(config, image, classes)
    up, down = (codec.payload_bits(shape) // 8 for codec in codecs_of(config, shape))
    crossing = part if config.clients > 1 else 0
    return ResourceNeeds(
        store=_views(config) * layout.groups * layout.members * slots * up,
        message=largest_message(batch, up, down, held_out=held_out, part=crossing),
    )


@functools.lru_cache(maxsize=8)
def _shapes(
    config: RunConfig, image: tuple[int, int, int], classes: int
) -> tuple[tuple[int, ...], int]:
    """Of one example's activations; and the bytes of the client part."""
    client, _ = parts_of(config, classes, image)
    head = head_of(config, classes)
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    side = build.begun_side(config, client, x)
    smashed = smashed_of(client, side, x)
    own = None if head is None else build.begun_side(config, head, smashed)
    part = sum(leaf.nbytes for leaf in jax.tree.leaves((side, own)))
    return smashed.shape[1:], part


def _views(config: RunConfig) -> int:
    return len(data.views_of(config.views))


def _gate(config: RunConfig, classes: int, costs: CostModel) -> Gate:
    gate = config.gate.make_for(facts_of(config, classes, costs))
    check_gate(gate)  # As a simulation does: it may be a plug-in's.
    return in_phases(gate, _views(config), config.local_epochs)


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
    """Refuses codecs whose payloads the wire format does not carry, or no pair.

    Raises:
        InputError: naming the codec and what can be carried, or what it goes with.
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
    if any(CODECS[name].pair for name in (config.codec, config.grad_codec)):
        # Whether they go together is no matter of the shape, which clients will tell.
        codecs_of(config, (8, 8, 8))


def prepare_server(
    config: RunConfig, image: tuple[int, int, int], classes: int, sizes: list[int]
) -> PreparedServer:
    """What a server computes with, for clients with so many examples of such images.

    Raises:
        InputError: if the batch is larger than all of the examples, or the gate is none
            for such a run.
    """
    build.check_batch(config, sum(sizes))
    layout = build.layout_of(config, sizes)
    client, server = parts_of(config, classes, image)
    head = head_of(config, classes)
    plain = plain_client_of(config, classes)
    optimizer, keys = build.optimizer_of(config), keys_of(config.seed)
    x = jnp.zeros((1, *image), jnp.float32)
    prepared = init_both(client, server, optimizer, keys, x, layout)
    build.replay_of(config, image).check(prepared.smashed.shape[1:])
    own = None
    if head is not None:
        own = init_head(head, optimizer, keys, prepared.smashed, layout)
    parts = ClientParts(prepared.client, own)
    shape = prepared.smashed.shape[1:]
    codec, grad_codec = codecs_of(config, shape)
    costs = make_cost_model(
        client,
        prepared.client,
        x,
        prepared.smashed,
        head=None if head is None or own is None else (head, own),
        plain=None if plain is None else plain_costs(plain, optimizer, x),
        sizes=sizes,
        layout=layout,
        codec=codec,
        grad_codec=grad_codec,
        classes=classes,
    )
    gate = _gate(config, classes, costs)
    setup = ServerSetup(
        steps=_steps(config, classes, image),
        gate=gate,
        codec=codec,
        grad_codec=grad_codec,
        layout=layout,
        sizes=tuple(sizes),
        views=_views(config),
        smashed_shape=shape,
        client=parts,
        key=keys.run,
    )
    state = ServerState(
        server=prepared.server,
        gate=gate.init(),
        digest=INITIAL_WEIGHTS,
        client=None if len(sizes) == 1 else parts,
        holders=frozenset(range(len(sizes))),
        epoch=0,
    )
    return PreparedServer(setup, state, costs)


def prepare_client(
    config: RunConfig,
    image: tuple[int, int, int],
    classes: int,
    moments: data.Moments,
) -> ClientSetup:
    """What a client computes with, for images with these moments."""
    client, _ = parts_of(config, classes, image)
    head, optimizer = head_of(config, classes), build.optimizer_of(config)
    x, keys = jnp.zeros((1, *image), jnp.float32), keys_of(config.seed)
    side = init_compiled(client, optimizer, keys.client, x)
    smashed = smashed_of(client, side, x)
    own = None if head is None else begin_head(head, optimizer, keys, smashed)
    codec, grad_codec = codecs_of(config, smashed.shape[1:])
    return ClientSetup(
        steps=_steps(config, classes, image),
        transform=build.transform_of(config, moments, edge=image[0]),
        beginning=ClientParts(side, own),
        codec=codec,
        grad_codec=grad_codec,
        smashed_shape=smashed.shape[1:],
        step_sizes=step_sizes_of(config),
        proportional=TOPOLOGIES[config.topology].proportional,
    )


@functools.lru_cache(maxsize=8)
def _steps(config: RunConfig, classes: int, image: tuple[int, int, int]) -> Steps:
    """The jitted steps; made once for a server and clients in one process."""
    client, server = parts_of(config, classes, image)
    codec, grad_codec = codecs_of(config, smashed_spec(client, image).shape[1:])
    return make_steps(
        client,
        server,
        head=head_of(config, classes),
        client_optimizer=build.optimizer_of(config),
        server_optimizer=build.optimizer_of(config),
        codec=codec,
        grad_codec=grad_codec,
        refresh_statistics=config.refresh_statistics,
        defence=build.defence_of(config),
        replay=build.replay_of(config, image),
        received_replay=build.received_replay_of(config, image),
    )
