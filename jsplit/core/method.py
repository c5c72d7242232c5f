"""What an epoch is made with, and what its turns hand on."""

from collections.abc import Callable
from typing import NamedTuple

from jsplit.core.gate import Gate
from jsplit.core.metrics import HeldOut, Metrics
from jsplit.core.state import SideState
from jsplit.core.steps import Steps
from jsplit.core.store import Store
from jsplit.core.topology import Layout
from jsplit.core.transform import Transform
from jsplit.runtime.sharding import Placement


class Method(NamedTuple):
    """What stays the same over a training.

    Attributes:
        steps: of the client/server pair.
        gate: decides the states.
        layout: static sizes.
        transform: of raw examples.
        score: of both parts on the held-out set: `(client, server, test) -> Metrics`.
        placement: of everything over the devices.
    """

    steps: Steps
    gate: Gate
    layout: Layout
    transform: Transform
    score: Callable[[SideState, SideState, HeldOut], Metrics]
    placement: Placement


class Learned(NamedTuple):
    """What the turns of an epoch hand on.

    Attributes:
        client: the client part.
        head: by which the client learns alone; None where it never does.
        server: the server part.
        store: for state C.
        metrics: over the training examples of the turns so far.
    """

    client: SideState
    head: SideState | None
    server: SideState
    store: Store
    metrics: Metrics
