"""What the server computes with, and what an epoch begins with."""

from typing import NamedTuple

import jax

from jsplit.core.gate import Gate, GateState
from jsplit.core.state import ClientParts, SideState
from jsplit.core.steps import Steps
from jsplit.core.topology import Layout
from jsplit.typing import Codec


class ServerSetup(NamedTuple):
    """What the server computes with.

    Attributes:
        steps: of the client/server pair.
        gate: decides the states.
        codec: of activations.
        grad_codec: of gradients.
        layout: static sizes.
        sizes: examples of each client.
        views: of each example that the store holds.
        smashed_shape: of one example's activations.
        client: what a client trains, for its shapes.
        key: that every epoch's draws follow from.
    """

    steps: Steps
    gate: Gate
    codec: Codec
    grad_codec: Codec
    layout: Layout
    sizes: tuple[int, ...]
    views: int
    smashed_shape: tuple[int, ...]
    client: ClientParts
    key: jax.Array


class ServerState(NamedTuple):
    """What an epoch begins with.

    Attributes:
        server: the server part.
        gate: its state names the state of the epoch.
        digest: of the current client weights.
        client: what the clients train; None where it never leaves its one client.
        holders: clients that have those weights, unless something happened to them.
        epoch: epochs finished.
    """

    server: SideState
    gate: GateState
    digest: bytes
    client: ClientParts | None
    holders: frozenset[int]
    epoch: int
