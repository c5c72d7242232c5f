"""Gradients only where activations were sent: both sides know the places already."""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from jsplit.codecs.packed import packed
from jsplit.codecs.places import at_places, in_places
from jsplit.typing import Codec, Packet


def where_sent() -> Codec:
    """A codec of gradients that answers activations of which only some were sent.

    It is paired with a codec that says in which places something was sent, such as
    `top_k(16)`, and sends the gradients of these k values, coded as `packed(8)` does:
    k bytes an example and a header of 3. What was not sent is a constant 0 to the
    server, so that the gradient of what the client sent is 0 there: nothing is lost.

    `of(shape, codec)` gives it for the codec of activations, and `.to(packet)` of that
    the codec of one answer, which alone encodes and decodes.

    **Formal guarantees** (tests of that name): gradients come back where values were
    sent, and are zero elsewhere; an example takes k bytes; a finite gradient never
    decodes to inf or NaN. What `packed(8)` says of zeros, inf and NaN holds for the
    gradients in places that were sent; what there is in others does not matter.

    Example:
        >>> from jsplit.codecs.top_k import top_k
        >>> forward = top_k(4).of((8,))
        >>> sent = forward.encode(jnp.array([[0.0, 3, 1, 0, -4, 0, 2, 0]]))
        >>> codec = where_sent().of((8,), forward)
        >>> reply = codec.to(sent).encode(jnp.ones((1, 8)))
        >>> codec.to(sent).decode(reply).round(2).tolist(), codec.payload_bits((8,))
        ([[0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]], 16)
    """
    name = "where-sent"

    def apart(given: Any, /) -> NoReturn:
        raise ValueError(
            f"{name} codes only for an answer: take codec.to(packet), with the packet "
            "of activations that it answers"
        )

    def pair(shape: tuple[int, ...], answered: Codec) -> Codec:
        if answered.places is None:
            raise ValueError(
                f"{name} sends gradients in the places that activations were sent in, "
                f"and {answered.name} does not say which; take one such as top16 for "
                "the activations"
            )
        places = answered.places
        payload = jax.ShapeDtypeStruct(
            (1, *answered.payload_shape(shape)), answered.payload_dtype
        )
        header = jax.ShapeDtypeStruct((answered.header_bytes,), jnp.uint8)
        (_, count) = jax.eval_shape(
            lambda *of: places(Packet(*of)), payload, header
        ).shape
        coder = packed(8).of((count,))

        def answering(sent: Packet) -> Codec:
            def encode(x: jax.Array) -> Packet:
                return coder.encode(at_places(x, places(sent)))

            def decode(reply: Packet) -> jax.Array:
                return in_places(coder.decode(reply), places(sent), shape)

            return alike._replace(encode=encode, decode=decode, answering=None)

        alike = Codec(
            name=name,
            encode=apart,
            decode=apart,
            payload_dtype=coder.payload_dtype,
            header_bytes=coder.header_bytes,
            knows=coder.knows,
            payload_shape=lambda shape: (count,),
            answering=answering,
        )
        return alike

    return Codec(name, apart, apart, jnp.uint8, header_bytes=0, pair=pair)
