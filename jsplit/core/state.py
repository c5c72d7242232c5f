"""What a training carries from step to step and from epoch to epoch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Key, Shaped

from jsplit.core.gate import GateState
from jsplit.core.metrics import Metrics
from jsplit.core.model_part import ModelPart
from jsplit.core.store import Store
from jsplit.typing import PyTree, Variables


@struct.dataclass
class SideState:
    """All that one side trains: its Flax variables and its optimizer's state."""

    variables: Variables
    opt_state: PyTree


def init_side(
    part: ModelPart,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    x: Shaped[Array, "b ..."],
) -> SideState:
    """Fresh variables and optimizer state for an example batch `x` of this part.

    Example:
        >>> from flax import linen as nn
        >>> from jsplit.core.model_part import from_flax
        >>> optimizer = optax.sgd(0.1, momentum=0.9)
        >>> x = jnp.ones((1, 4))
        >>> side = init_side(from_flax(nn.Dense(3)), optimizer, jax.random.key(0), x)
        >>> side.variables["params"]["kernel"].shape
        (4, 3)
        >>> [leaf.shape for leaf in jax.tree.leaves(side.opt_state)]
        [(3,), (4, 3)]
    """
    variables = part.init(key, x)
    return SideState(variables, optimizer.init(variables["params"]))


@jax.named_scope("optimizer")
def descend(
    optimizer: optax.GradientTransformation,
    side: SideState,
    variables: Variables,
    gradients: PyTree,
    mask: Bool[Array, "..."] | None,
    step_size: Float[Array, ""],
) -> SideState:
    """One optimizer step; none at all where no row of the batch is real.

    Weight decay, momentum and batch statistics would move even then.

    Args:
        optimizer: of the side.
        side: before the step.
        variables: with the batch statistics that the step moved.
        gradients: of the parameters.
        mask: which rows of the batch are real; None for all.
        step_size: what the optimizer's updates are multiplied by.
    """
    params = variables["params"]
    updates, opt_state = optimizer.update(gradients, side.opt_state, params)
    updates = jax.tree.map(lambda update: step_size * update, updates)
    params = optax.apply_updates(params, updates)
    trained = SideState({**variables, "params": params}, opt_state)
    if mask is None:
        return trained
    seen = jnp.any(mask)
    return jax.tree.map(lambda new, old: jnp.where(seen, new, old), trained, side)


@struct.dataclass
class TrainState:
    """Everything that training carries from epoch to epoch.

    Attributes:
        client: the client part, one for all clients between epochs.
        server: the server part.
        gate: its state names the state of the next epoch.
        store: for state C.
        epoch: int32, epochs finished.
        head: by which the client learns alone; None where it never does.
    """

    client: SideState
    server: SideState
    gate: GateState
    store: Store
    epoch: jax.Array
    head: SideState | None = None

    def parts(self) -> tuple[dict[str, Any], Any]:
        """The small part, saved every time, and the store, saved when C needs it."""
        small = {name: value for name, value in vars(self).items() if name != "store"}
        return small, self.store


class ClientParts(NamedTuple):
    """All that a client trains, as it is handed over.

    Attributes:
        part: of the network.
        head: by which it learns alone; None where it never does.
    """

    part: SideState
    head: SideState | None


class EpochRecord(NamedTuple):
    """What an epoch reports: sums over examples, losses in float32.

    Attributes:
        state: int32, the state it ran in.
        train: over the training examples, as the server saw them.
        test: over the test examples, after the epoch.
        gate: what the gate reports of the epoch, a tree of small arrays.
    """

    state: jax.Array
    train: Metrics
    test: Metrics
    gate: PyTree = ()
