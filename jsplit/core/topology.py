"""How several clients share an epoch: all at once, or one after another.

Both are one pattern. The clients form groups; groups take turns, handing the client
part on; the members of a group work side by side on one shared server batch, and their
client parts are averaged when the group has finished. `parallel` is one group of all,
`sequential` is a group for each. `proportional` is one group of all, too, in which each
client spreads what it holds over all steps, so that no step is of the largest clients
alone. What does not divide goes to the first steps, which are larger by up to an
example of each client.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsplit.core.whole_number import whole_number

Tree = TypeVar("Tree")


class Topology(NamedTuple):
    """A topology as a value.

    Attributes:
        name: as on the command line.
        arrange: `arrange(clients) -> (groups, members)`, whose product is `clients`.
        proportional: whether each client spreads what it holds over all steps of an
            epoch. Otherwise all give equally many examples to a step until they have no
            more, and the last steps are of the largest clients alone.
    """

    name: str
    arrange: Callable[[int], tuple[int, int]]
    proportional: bool = False


PARALLEL = Topology("parallel", lambda clients: (1, clients))
SEQUENTIAL = Topology("sequential", lambda clients: (clients, 1))
PROPORTIONAL = Topology("proportional", lambda clients: (1, clients), proportional=True)
TOPOLOGIES = {
    topology.name: topology for topology in (PARALLEL, SEQUENTIAL, PROPORTIONAL)
}


class Layout(NamedTuple):
    """The static sizes of an epoch; everything compiled depends on these alone.

    Attributes:
        groups: that take turns.
        members: clients side by side in each group.
        batch: examples of one client in one step, at most.
        steps: of each group in an epoch of A or B.
        examples: over all clients, none twice.
        offline_batch: examples of one server step in C; as in A and B, but for
            sequential clients that hold less than a batch each.
        offline_steps: of an epoch of C.
        padded: whether any step of A or B has padded rows.
        offline_padded: whether the last step of C has.
        dealt_over: steps over which each client spreads what it holds, all of them;
            None where it fills its batches until it has no more.
    """

    groups: int
    members: int
    batch: int
    steps: int
    examples: int
    offline_batch: int
    offline_steps: int
    padded: bool
    offline_padded: bool
    dealt_over: int | None = None

    @property
    def server_batch(self) -> int:
        """Examples of a server step of A or B that is full; about, in proportion."""
        if self.dealt_over is not None:
            return self.offline_batch
        return self.members * self.batch

    @property
    def slots(self) -> int:
        """Places for examples of each client, the last ones possibly padding."""
        return self.steps * self.batch


def make_layout(sizes: Sequence[int], topology: Topology, batch_size: int) -> Layout:
    """The layout for clients that hold `sizes` examples each.

    Args:
        sizes: examples of each client, at least 1 each.
        topology: how the clients share an epoch.
        batch_size: examples of one server step, about as many where the topology is
            proportional. The members of a group share it
            equally, rounded down, at least 1 each, and at most what the largest client
            has. A client with fewer examples than the largest sits out the last steps,
            unless the topology is proportional: then an epoch of A has as many steps
            as one of C, and `batch` is what the largest client gives to a step.

    Raises:
        ValueError: if there are no clients, an empty one, or `batch_size` is no whole
            number from 1.

    Example:
        Two uneven clients, parallel and then sequential.

        >>> layout = make_layout([300, 100], PARALLEL, batch_size=64)
        >>> layout.groups, layout.members, layout.batch, layout.steps, layout.padded
        (1, 2, 32, 10, True)
        >>> layout = make_layout([300, 100], SEQUENTIAL, batch_size=64)
        >>> layout.groups, layout.members, layout.batch, layout.steps, layout.padded
        (2, 1, 64, 5, True)

        Side by side in proportion: 43 and 15 of them in each of 7 steps, or one fewer.

        >>> layout = make_layout([300, 100], PROPORTIONAL, batch_size=64)
        >>> layout.groups, layout.members, layout.batch, layout.steps, layout.padded
        (1, 2, 43, 7, True)
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"every client needs an example, got sizes {list(sizes)}")
    batch_size = whole_number("batch_size", batch_size, least=1)
    groups, members = topology.arrange(len(sizes))
    share = share_of_batch(batch_size, members)
    examples = sum(sizes)
    offline_batch = min(share * members, examples)
    offline_steps = -(-examples // offline_batch)
    if topology.proportional:
        steps = offline_steps
        batch = -(-max(sizes) // steps)
    else:
        batch = min(share, max(sizes))
        steps = -(-max(sizes) // batch)
    return Layout(
        groups=groups,
        members=members,
        batch=batch,
        steps=steps,
        examples=examples,
        offline_batch=offline_batch,
        offline_steps=offline_steps,
        padded=any(size != steps * batch for size in sizes),
        offline_padded=examples != offline_steps * offline_batch,
        dealt_over=steps if topology.proportional else None,
    )


def share_of_batch(batch_size: int, members: int) -> int:
    """Examples of a server step that each client beside others gives: at least 1.

    Example:
        >>> share_of_batch(100, members=3), share_of_batch(2, members=8)
        (33, 1)
    """
    return max(1, batch_size // members)


def spread(tree: Tree, members: int) -> Tree:
    """A copy for each member, along a new first axis.

    Example:
        >>> spread({"bias": jnp.array([1, 2])}, members=3)["bias"].tolist()
        [[1, 2], [1, 2], [1, 2]]
    """
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (members, *jnp.shape(leaf))), tree
    )


def each(
    function: Callable[..., Tree], members: int, in_axes: int | Sequence[int | None] = 0
) -> Callable[..., Tree]:
    """`jax.vmap` over the members; without it where there is one.

    Batched by an axis of one, XLA:CPU computes a client's convolutions more slowly: a
    whole step of VGG11 took 741 ms instead of 587.

    Example:
        >>> add = each(lambda client, step: client + step, 2, in_axes=(0, None))
        >>> add(jnp.array([10, 20]), jnp.array(1)).tolist()
        [11, 21]
    """
    if members > 1:
        return jax.vmap(function, in_axes)

    def alone(*args: Any) -> Tree:
        axes = [in_axes] * len(args) if isinstance(in_axes, int) else in_axes
        only = [
            arg if axis is None else jax.tree.map(lambda leaf: leaf[0], arg)
            for arg, axis in zip(args, axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*only))

    return alone


def average(trees: Tree, weights: Float[Array, " members"]) -> Tree:
    """The mean over the first axis, weighted; of integers (counters) the largest.

    Args:
        trees: leaves `[members, ...]`.
        weights: `Float32[members]`, summing to 1. A single weight of 1 gives back the
            same bits.

    Example:
        >>> clients = {"weight": jnp.array([1.0, 3.0]), "count": jnp.array([4, 5])}
        >>> mean = average(clients, weights=jnp.array([0.75, 0.25]))
        >>> float(mean["weight"]), int(mean["count"])
        (1.5, 5)
    """

    def leaf_mean(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.max(axis=0)
        # The default precision of an accelerator would round parameters to TF32.
        return jnp.einsum(
            "m,m...->...",
            weights.astype(leaf.dtype),
            leaf,
            precision=jax.lax.Precision.HIGHEST,
        )

    return jax.tree.map(leaf_mean, trees)
