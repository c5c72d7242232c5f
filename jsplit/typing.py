"""Values that all packages share: the three states, the packet, the codec."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

PyTree = Any
Variables = dict[str, Any]
"""A Flax variable tree: `params` and any other collections (`batch_stats`)."""

STATES = "ABCL"
SYNC, REFRESH, OFFLINE, LOCAL = range(4)
"""State A (both sides train), B (activations up only), C (nothing is sent).

And L, before all of these: each client learns alone, by a head of its own.
"""
SENT = STATES[SYNC] + STATES[REFRESH]
"""The states in which activations are sent."""


class Packet(NamedTuple):
    """One tensor as it is sent and stored.

    Attributes:
        payload: the values, `[n, ...]`: uint8 codes for the 8-bit codecs, packed bytes
            for those below, float32 or bfloat16 for the plain ones. The first axis
            counts examples.
        header: what decoding needs besides the payload, `UInt8[h]`; `h` is fixed by
            the codec (2 for float8, 0 for plain codecs).

    Leading axes may be added in front of both (clients, rows of a store): a packet of
    packets, handled with `jax.vmap`.
    """

    payload: jax.Array
    header: jax.Array


def _same(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


class Codec(NamedTuple):
    """How a float32 tensor becomes a packet and comes back, as a value.

    **Formal guarantees** (each a test of that name in `tests/test_codecs.py`): a
    finite input never decodes to inf or NaN; `decode(encode(x))` has the shape of `x`
    and dtype float32; the serialized packet is exactly `bits(shape)` long; `encode`
    and `decode` run under `jit`, `vmap` and `scan`.

    Never differentiate through a codec: a float8 cast rounds the gradient as well.

    Where payload or header depend on the shape of what is coded, `by_shape` makes the
    codec; `of(shape)` is then the one for examples of that shape.

    A codec of gradients may know the packet of the activations that it answers: `pair`
    makes it of the codec of those, `of(shape, answered)` is then the one for a cut, and
    `to(packet)` the one for an answer, which alone encodes and decodes.

    Attributes:
        name: as on the command line and in the run's records.
        encode: `encode(x: Float32[n, ...]) -> Packet`.
        decode: `decode(packet) -> Float32[n, ...]`.
        payload_dtype: dtype of the payload.
        header_bytes: length of the header.
        knows: `knows(header: bytes) -> bool`, whether `encode` could have written it;
            asked of headers that came over a network.
        payload_shape: of one example's payload, given the shape of its values; by
            default the same.
        bind: makes the codec for examples of a shape, or raises ValueError where there
            is none; None: it is the same for all.
        encode_in_use: encodes in evaluation and prediction, where that is not as in
            training: a codec that chooses by chance does not there. None: `encode`.
        places: `places(packet) -> Int32[n, k]`, in which of an example's values, in
            row-major order, something was sent; None: in all, or it is not known.
        pair: `pair(shape, answered) -> Codec`, makes the codec of the gradients at a
            cut, given the one of the activations, or raises ValueError where there is
            none; None: it needs not know that.
        answering: `answering(packet) -> Codec`, for the gradients of what this packet
            holds; None: they are coded alike for all packets.

    Example:
        A quarter of the values, those of the first channels.

        >>> import numpy as np
        >>> def quarter(shape):
        ...     kept, left = shape[-1] // 4, shape[-1] - shape[-1] // 4
        ...     def encode(x):
        ...         return Packet(x[..., :kept], jnp.zeros(0, jnp.uint8))
        ...     def decode(packet):
        ...         sides = [(0, 0)] * len(shape) + [(0, left)]
        ...         return jnp.pad(packet.payload, sides)
        ...     fewer = (*shape[:-1], kept)
        ...     return Codec(
        ...         "quarter", encode, decode, jnp.float32, header_bytes=0,
        ...         payload_shape=lambda shape: fewer,
        ...     )
        >>> codec = Codec.by_shape("quarter", quarter)
        >>> codec.payload_bits((8, 8, 32)) / (32 * 8 * 8 * 32)
        0.25
        >>> codec.of((4,)).decode(codec.encode(np.ones((1, 4)))).tolist()
        [[1.0, 0.0, 0.0, 0.0]]
    """

    name: str
    encode: Callable[[Float[Array, "n ..."]], Packet]
    decode: Callable[[Packet], Float[Array, "n ..."]]
    payload_dtype: jax.typing.DTypeLike
    header_bytes: int
    knows: Callable[[bytes], bool] = lambda header: True
    payload_shape: Callable[[tuple[int, ...]], tuple[int, ...]] = _same
    bind: Callable[[tuple[int, ...]], "Codec"] | None = None
    encode_in_use: Callable[[Float[Array, "n ..."]], Packet] | None = None
    places: Callable[[Packet], Int[Array, "n k"]] | None = None
    pair: Callable[[tuple[int, ...], "Codec"], "Codec"] | None = None
    answering: Callable[[Packet], "Codec"] | None = None

    @classmethod
    def by_shape(cls, name: str, bind: Callable[[tuple[int, ...]], "Codec"]) -> "Codec":
        """A codec that differs by the shape of one example's values.

        It encodes whatever it is given; only `of(shape)` decodes.

        Args:
            name: as on the command line.
            bind: makes the codec for a shape.
        """

        def decode(packet: Packet) -> jax.Array:
            raise ValueError(
                f"codec {name} decodes only for a shape: take codec.of(shape), with "
                "the shape of one example's values"
            )

        return cls(
            name=name,
            encode=lambda x: bind(tuple(x.shape[1:])).encode(x),
            decode=decode,
            payload_dtype=jnp.uint8,
            header_bytes=0,
            bind=bind,
        )

    def of(self, shape: Sequence[int], answered: "Codec | None" = None) -> "Codec":
        """The codec for examples of this shape.

        Args:
            shape: of one example's values.
            answered: of gradients: the codec of the activations that they answer.

        Raises:
            ValueError: if there is none, or it needs `answered`, which is not given.
        """
        if self.pair is not None:
            if answered is None:
                raise ValueError(
                    f"{self.name} is for gradients alone: it goes by the activations "
                    "that they answer; take it beside another one, as in --codec top4 "
                    f"--grad-codec {self.name}"
                )
            return self.pair(tuple(shape), answered.of(shape))
        return self if self.bind is None else self.bind(tuple(shape))

    def to(self, packet: Packet | None) -> "Codec":
        """The codec of gradients for an answer to this packet.

        Args:
            packet: of activations; may be None where `answering` is.
        """
        if self.answering is None:
            return self
        assert packet is not None
        return self.answering(packet)

    def payload_bits(self, shape: Sequence[int]) -> int:
        """Bits of one example's values, what the paper counts: in whole bytes.

        Args:
            shape: of the example's values.
        """
        codec = self.of(shape)
        values = math.prod(codec.payload_shape(tuple(shape)))
        return 8 * -(-_item_bits(codec.payload_dtype) * values // 8)

    def bits(self, shape: Sequence[int]) -> int:
        """Bits of one serialized packet.

        Args:
            shape: of the tensor that it carries, examples first.
        """
        examples, *rest = shape
        header = 8 * self.of(rest).header_bytes
        return examples * self.payload_bits(rest) + header


def _item_bits(dtype: jax.typing.DTypeLike) -> int:
    """Bits of one item, those of int4 and its like included."""
    kind = jnp.dtype(dtype)
    if jnp.issubdtype(kind, jnp.integer):
        return int(jnp.iinfo(kind).bits)
    return int(jnp.finfo(kind).bits) if jnp.issubdtype(kind, jnp.inexact) else 8
