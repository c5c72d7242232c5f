"""What the server received last, on the host, as `core.algorithm.Store` has it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.store import Examples, Store
from jsplit.core.topology import Layout
from jsplit.typing import Codec, Packet


class ServerBatch(NamedTuple):
    """What the server knows of a step's examples.

    Attributes:
        labels: `Int32[members, batch]`.
        positions: in their clients' shards, likewise.
        mask: which rows were sent, `Bool[members, batch]`.
    """

    labels: np.ndarray
    positions: np.ndarray
    mask: np.ndarray


class HostStore:
    """Packets and labels as they came; the newest of each place.

    Attributes:
        arrays: as `core.store.Store` has them: `payload [views, groups, members, steps,
            batch, ...]`, of the same first axes `header`, `labels` and `positions`, and
            `refreshed [groups, members]`. And which places of the first view hold an
            example, `filled [groups, members, steps, batch]`.
    """

    def __init__(
        self,
        layout: Layout,
        codec: Codec,
        smashed_shape: tuple[int, ...],
        views: int = 1,
    ):
        clients = (layout.groups, layout.members)
        at = (views, *clients, layout.steps, layout.batch)
        codec = codec.of(smashed_shape)
        coded = codec.payload_shape(smashed_shape)
        # What is never sent has its place all the same: those are permutations.
        positions = np.arange(layout.slots, dtype=np.int32).reshape(at[3:])
        self.arrays = {
            "payload": np.zeros((*at, *coded), codec.payload_dtype),
            "header": np.zeros((*at, codec.header_bytes), np.uint8),
            "labels": np.zeros(at, np.int32),
            "positions": np.broadcast_to(positions, at).copy(),
            "filled": np.zeros(at[1:], bool),
            "refreshed": np.zeros(clients, np.int32),
        }
        self._layout = layout
        self._on_device: Store | None = None

    def next_view(self, client: int) -> int:
        """The view whose place a client's next epoch of B takes."""
        refreshed = self.arrays["refreshed"][divmod(client, self._layout.members)]
        return int(refreshed) % len(self.arrays["labels"])

    def note_turn(self, client: int, *, reply: bool) -> None:
        """Notes that a client took part in an epoch of A if `reply`, else of B."""
        self._on_device = None
        at = divmod(client, self._layout.members)
        self.arrays["refreshed"][at] = 0 if reply else self.arrays["refreshed"][at] + 1

    def write(
        self,
        group: int,
        number: int,
        views: Sequence[int],
        packets: Packet,
        batch: ServerBatch,
    ) -> None:
        """Puts one step of a group in place; members that sent nothing keep theirs.

        Args:
            group: whose turn it is.
            number: of the step in it.
            views: of each member's examples that came.
            packets: `[members, batch, ...]` with a header each.
            batch: what is known of them.
        """
        self._on_device = None
        for member, view in enumerate(views):
            if not batch.mask[member].any():
                continue
            place = view, group, member, number
            self.arrays["payload"][place] = packets.payload[member]
            self.arrays["header"][place] = packets.header[member]
            self.arrays["labels"][place] = batch.labels[member]
            self.arrays["positions"][place] = batch.positions[member]
            if view == 0:
                self.arrays["filled"][place[1:]] = batch.mask[member]

    def replace(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes what was saved."""
        self.arrays = {name: np.array(array) for name, array in arrays.items()}
        self._on_device = None

    def on_device(self) -> Store:
        """For an epoch of C; copied once until something is written."""
        if self._on_device is None:
            of = {name: jnp.asarray(array) for name, array in self.arrays.items()}
            packets = Packet(of["payload"], of["header"])
            examples = Examples(packets, of["labels"], of["positions"])
            self._on_device = Store(examples, of["refreshed"])
        return self._on_device

    def filled(self) -> jax.Array:
        """Which slots hold an example, `Bool[groups, members, slots]`."""
        layout = self._layout
        return jnp.asarray(
            self.arrays["filled"].reshape(layout.groups, layout.members, layout.slots)
        )

    @property
    def full(self) -> bool:
        """Whether every example of every client is there."""
        return int(self.arrays["filled"].sum()) == self._layout.examples

    def lacks(self, client: int) -> bool:
        """Whether a client has never sent anything."""
        group, member = divmod(client, self._layout.members)
        return not self.arrays["filled"][group, member].any()
