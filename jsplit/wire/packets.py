"""The bytes of a packet, and their length."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.typing import Packet


def serialize(packet: Packet) -> bytes:
    """Header, then payload in row-major order, little-endian."""
    payload = np.asarray(packet.payload)
    return np.asarray(packet.header, np.uint8).tobytes() + payload.tobytes()


def parse(
    data: bytes,
    shape: Sequence[int],
    dtype: jax.typing.DTypeLike,
    header_bytes: int,
) -> Packet:
    """The packet that `serialize` made bytes of.

    Args:
        data: the bytes.
        shape: of the payload, agreed beforehand.
        dtype: of the payload, agreed beforehand.
        header_bytes: the codec's header length.

    Raises:
        ValueError: if the length is not exactly what shape and dtype ask for.
    """
    item = jnp.dtype(dtype)
    expected = header_bytes + item.itemsize * math.prod(shape)
    if len(data) != expected:
        raise ValueError(f"a packet of {expected} bytes was agreed, got {len(data)}")
    header = np.frombuffer(data, np.uint8, header_bytes)
    payload = np.frombuffer(data, item, offset=header_bytes).reshape(shape)
    return Packet(jnp.asarray(payload), jnp.asarray(header))


def label_bytes(num_classes: int) -> int:
    """Bytes of one label: the shortest unsigned integer that holds the class."""
    return np.min_scalar_type(max(num_classes - 1, 0)).itemsize
