"""What the server received last, on the host, as `core.algorithm.Store` has it."""

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.store import Store
from jsplit.core.topology import Layout
from jsplit.typing import Codec, Packet


class HostStore:
    """Packets and labels as they came; the newest of each place.

    Attributes:
        arrays: `payload [groups, members, steps, batch, ...]`, and of the same first
            axes `header`, `labels` and `filled`, which places hold an example.
    """

    def __init__(self, layout: Layout, codec: Codec, smashed_shape: tuple[int, ...]):
        at = (layout.groups, layout.members, layout.steps, layout.batch)
        self.arrays = {
            "payload": np.zeros((*at, *smashed_shape), codec.payload_dtype),
            "header": np.zeros((*at, codec.header_bytes), np.uint8),
            "labels": np.zeros(at, np.int32),
            "filled": np.zeros(at, bool),
        }
        self._layout = layout
        self._on_device: Store | None = None

    def write(
        self,
        group: int,
        number: int,
        packets: Packet,
        labels: np.ndarray,
        mask: np.ndarray,
    ) -> None:
        """Puts one step of a group in place; members that sent nothing keep theirs.

        Args:
            group: whose turn it is.
            number: of the step in it.
            packets: `[members, batch, ...]` with a header each.
            labels: `Int32[members, batch]`.
            mask: which rows were sent, `Bool[members, batch]`.
        """
        self._on_device = None
        came = mask.any(axis=1)
        headers = np.repeat(packets.header[:, None], mask.shape[1], axis=1)
        for name, rows in (
            ("payload", packets.payload),
            ("header", headers),
            ("labels", labels),
            ("filled", mask),
        ):
            self.arrays[name][group, came, number] = rows[came]

    def replace(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes what was saved."""
        self.arrays = {name: np.array(array) for name, array in arrays.items()}
        self._on_device = None

    def on_device(self) -> Store:
        """For an epoch of C; copied once until something is written."""
        if self._on_device is None:
            payload, header, labels = (
                jnp.asarray(self.arrays[name])
                for name in ("payload", "header", "labels")
            )
            self._on_device = Store(Packet(payload, header), labels)
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
