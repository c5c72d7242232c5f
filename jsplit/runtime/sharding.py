"""Where the arrays of a training lie: on one device, or shared over a mesh of them.

The mesh has two axes. `members` shares the clients that work side by side, and `rows`
the examples of each one's batch; the server's batch, of all clients, is shared over
both. Parameters, optimizer states and the training images (uint8, and drawn from at
random by every device) lie on each device in full. The rest is GSPMD's: the compiler
shares each computation as its operands are shared and puts in the collectives, among
them the sums over devices that make every gradient and batch statistic whole.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jsplit.errors import InputError
from jsplit.runtime import multihost

Tree = TypeVar("Tree")

MEMBERS, ROWS = "members", "rows"
BATCH = (MEMBERS, ROWS)
"""The axis of the server's batch: the clients' batches one after another."""

Axis = str | tuple[str, ...] | None


class Placement(NamedTuple):
    """Lays arrays out over a mesh; without one it leaves everything as it is.

    Attributes:
        mesh: of the axes `members` and `rows`, or None for a single device.
    """

    mesh: Mesh | None = None

    @property
    def devices(self) -> int:
        """How many share the work."""
        return 1 if self.mesh is None else self.mesh.size

    def of(self, *axes: Axis) -> NamedSharding | None:
        """The sharding of an array whose first axes are these; the rest is not shared.

        `None` stands for an axis that every device holds in full.
        """
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def constrain(self, tree: Tree, *axes: Axis) -> Tree:
        """Inside jit: the same arrays, laid out so."""
        sharding = self.of(*axes)
        if sharding is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, sharding)

    def put(self, tree: Tree, *axes: Axis) -> Tree:
        """Outside jit: arrays that this process holds in full, laid out so."""
        sharding = self.of(*axes)
        if sharding is None:
            return tree

        def one(leaf: jax.Array) -> jax.Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = one(jax.random.key_data(leaf))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
            array = np.asarray(leaf)
            # Each process cuts its own part; `device_put` would send all of it to all
            # processes first, to compare.
            return jax.make_array_from_callback(
                array.shape, sharding, lambda index: array[index]
            )

        return jax.tree.map(one, tree)


ONE_DEVICE = Placement()


def make_placement(
    members: int, batch: int, devices: Sequence[jax.Device]
) -> Placement:
    """A mesh of these devices: clients side by side first, then each one's batch.

    Args:
        members: clients side by side.
        batch: examples of one client in one step.
        devices: at least two, of all processes.

    Raises:
        InputError: if they cannot be shared equally.
    """
    count = len(devices)
    side = min(members, count)
    if members % side or count % side:
        raise InputError(
            f"a mesh of {count} devices cannot share {members} clients side by side "
            f"equally; take a multiple or a divisor of {count} clients"
        )
    rows = count // side
    if batch % rows:
        raise InputError(
            f"a mesh of {count} devices cannot share a server batch of "
            f"{members * batch} equally, {batch} of each client over {rows} devices; "
            f"take a batch size that gives each a multiple of {rows}"
        )
    # Auto: the compiler shares, with Shardy's rules; `Explicit` is the other choice.
    mesh = jax.make_mesh(
        (side, rows), BATCH, axis_types=(AxisType.Auto,) * 2, devices=devices
    )
    return Placement(mesh)


def gathered(tree: Any, axis: int) -> Any:
    """Arrays that are spread over processes, whole in the memory of process 0.

    They come in slices along `axis`, which must not be shared over devices: no device
    ever holds a whole one. Arrays that this process holds itself come back as they are.
    The other processes must call this too; they get None.
    """
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return tree
    first = jax.tree.leaves(tree)[0]
    everywhere = NamedSharding(first.sharding.mesh, PartitionSpec())

    def at(tree: Any, number: jax.Array) -> Any:
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, axis), tree
        )

    slice_of = jax.jit(at, out_shardings=everywhere)
    parts = []
    for number in range(first.shape[axis]):
        part = slice_of(tree, np.int32(number))
        if multihost.leads():
            parts.append(jax.tree.map(np.asarray, part))
    if not multihost.leads():
        return None
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis), *parts)
