"""Packets and weights as messages, and back from whatever a sender may send."""

import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.errors import Refusal
from jsplit.typing import Codec, Packet, PyTree
from jsplit.wire import (
    compress,
    digest_of,
    expand,
    parse,
    serialize,
    weights_from_bytes,
    weights_to_bytes,
)
from jsplit.wire.messages import DTYPES, ClientWeights, Place, Tensor


class Reader(Protocol):
    """Reads a message into a packet whose arrays are on the host."""

    def __call__(
        self, message: Tensor, rows: int, sent: Packet | None = None
    ) -> Packet:
        """Reads one of so many rows.

        Args:
            message: to read.
            rows: that are due.
            sent: the packet that it answers, for a codec that goes by that.
        """


def tensor_message(
    codec: Codec, packet: Packet, place: Place, rows: int
) -> tuple[Tensor, int]:
    """The message of a batch's first rows, and its payload's bytes if left plain."""
    data = serialize(Packet(packet.payload[:rows], packet.header))
    header, payload = data[: codec.header_bytes], data[codec.header_bytes :]
    message = Tensor(
        place,
        DTYPES.index(jnp.dtype(codec.payload_dtype).name),
        rows,
        math.prod(packet.payload.shape[1:]),
        header,
        compress(payload),
    )
    return message, len(payload)


def make_tensor_reader(codec: Codec, shape: tuple[int, ...]) -> Reader:
    """Makes what reads tensors of examples of this shape.

    The codec is the one for examples of this shape. What the reader raises is a
    Refusal: DTYPE, SHAPE, SIZE, MALFORMED, HEADER, or NON_FINITE if anything decodes to
    inf or NaN.
    """
    item, coded = jnp.dtype(codec.payload_dtype), codec.payload_shape(shape)
    values = math.prod(coded)

    @jax.jit
    def finite(packet: Packet, sent: Packet | None) -> jax.Array:
        return jnp.all(jnp.isfinite(codec.to(sent).decode(packet)))

    def read(message: Tensor, rows: int, sent: Packet | None = None) -> Packet:
        if DTYPES[message.dtype] != item.name:
            raise Refusal(
                "DTYPE", f"{item.name} was agreed, got {DTYPES[message.dtype]}"
            )
        if (message.rows, message.values) != (rows, values):
            raise Refusal(
                "SHAPE",
                f"{rows} examples of {values} items are due, got {message.rows} of "
                f"{message.values}",
            )
        if len(message.header) != codec.header_bytes:
            raise Refusal(
                "HEADER",
                f"a header of {codec.header_bytes} bytes was agreed, got "
                f"{len(message.header)}",
            )
        if not codec.knows(message.header):
            raise Refusal("HEADER", "a header that the codec does not write")
        payload = expand(message.body, rows * values * item.itemsize)
        packet = parse(
            message.header + payload, (rows, *coded), item, codec.header_bytes
        )
        if sent is not None:
            sent = sent._replace(payload=sent.payload[:rows])
        if not finite(packet, sent):
            raise Refusal("NON_FINITE", "a payload with inf or NaN in it")
        return on_host(np.asarray(packet.payload), np.asarray(packet.header))

    return read


def on_host(payload: np.ndarray, header: np.ndarray) -> Packet:
    """A packet of arrays on the host, which a jitted function takes as well."""
    return Packet(payload, header)  # type: ignore[arg-type]


def nothing_of(codec: Codec, shape: tuple[int, ...]) -> Packet:
    """The packet of no example, with a header of zeros, on the host."""
    payload = np.zeros((0, *codec.payload_shape(shape)), codec.payload_dtype)
    return on_host(payload, np.zeros(codec.header_bytes, np.uint8))


def padded(packet: Packet, rows: int) -> Packet:
    """The packet with so many rows, the last ones possibly zeros, on the host."""
    payload = packet.payload
    missing = [(0, rows - len(payload))] + [(0, 0)] * (payload.ndim - 1)
    return on_host(np.pad(payload, missing), np.asarray(packet.header))


def weights_message(weights: PyTree, place: Place) -> tuple[ClientWeights, int]:
    """The message that sends a client's weights, and their bytes if left plain."""
    data = weights_to_bytes(weights)
    return ClientWeights(place, digest_of(data), compress(data)), len(data)


def read_weights(message: ClientWeights, like: PyTree) -> tuple[PyTree, int]:
    """The weights that a message holds, and their bytes if left plain.

    Raises:
        Refusal: SIZE, MALFORMED, NON_FINITE, or DIGEST if the digest is another.
    """
    length = sum(leaf.nbytes for leaf in jax.tree.leaves(like))
    data = expand(message.body, length)
    if digest_of(data) != message.digest:
        raise Refusal(
            "DIGEST", "client weights that do not have the digest that names them"
        )
    return weights_from_bytes(data, like), length
