"""Names shared by every room: the packet on the wire and the three states."""

from typing import Any, NamedTuple

import jax

PyTree = Any
Variables = dict[str, Any]
"""A Flax variable tree: `params` and any other collections (`batch_stats`)."""

STATES = "ABC"
SYNC, REFRESH, OFFLINE = range(3)
"""State A (both sides train), B (activations up only), C (nothing is sent)."""


class Packet(NamedTuple):
    """One tensor as it is sent and stored.

    Attributes:
        payload: the values, `[n, ...]`: uint8 codes for the float8 codecs, float32
            or bfloat16 for the plain ones. The first axis counts examples.
        header: what decoding needs besides the payload, `UInt8[h]`; `h` is fixed by
            the codec (2 for float8, 0 for plain codecs).

    Leading axes may be added in front of both (clients, rows of a store): a packet of
    packets, handled with `jax.vmap`.
    """

    payload: jax.Array
    header: jax.Array
