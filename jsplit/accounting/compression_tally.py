"""What the lossless stage of the wire format would make of a simulation's packets."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jsplit.typing import Packet
from jsplit.wire import CODING_BYTES, compress
from jsplit.wire.coder import load_coder


class Tally:
    """Bytes of all payloads as they would cross, compressed, by kind.

    Give `observe` to `make_simulation`. Every payload is brought to the host and
    compressed by the same coder that a networked run uses; padded rows are left out, as
    they are never sent. Call `jax.effects_barrier()` before reading `bytes`.

    Example:
        >>> packet = Packet(jnp.zeros((64, 32), jnp.uint8), jnp.zeros(2, jnp.uint8))
        >>> tally = Tally()
        >>> tally.observe("activations", packet, None)
        >>> jax.effects_barrier()
        >>> 0 < tally.bytes["activations"] < packet.payload.nbytes
        True
    """

    def __init__(self) -> None:
        # What it needs is missed now, and not in the midst of a training.
        load_coder()
        self.bytes = {"activations": 0, "gradients": 0}

    def observe(
        self, kind: str, packet: Packet, mask: Bool[Array, " b"] | None
    ) -> None:
        """Counts a packet that is traced, whenever it is computed."""
        count = len(packet.payload)
        rows = jnp.int32(count) if mask is None else jnp.sum(mask, dtype=jnp.int32)
        data = jax.lax.bitcast_convert_type(packet.payload, jnp.uint8)

        def add(payload: jax.Array, rows: jax.Array) -> None:
            sent = np.asarray(payload)[: int(rows)].tobytes()
            if sent:
                self.bytes[kind] += len(compress(sent)) - CODING_BYTES

        jax.debug.callback(add, data, rows)
