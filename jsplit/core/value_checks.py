"""Which codecs and gates a training cannot use: said by name, before it is compiled."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jsplit.core.gate import Gate, GateState
from jsplit.errors import RunError
from jsplit.typing import LOCAL, OFFLINE, REFRESH, STATES, SYNC, Codec, Packet

_LOSSES = (2.0, 1.5, 1.0, 0.99, 0.99, 0.99, 0.99, 3.0, float("nan"), 0.99, 0.99)
"""What a gate is tried with: losses that fall, stand, jump, and are none."""


def check_codec(
    argument: str,
    codec: Codec,
    shape: tuple[int, ...],
    answered: Codec | None = None,
) -> Codec:
    """The codec for examples of this shape, if it does what it says.

    Nothing is computed: its functions are traced for two examples.

    Args:
        argument: which gave the codec, for errors.
        codec: to be checked.
        shape: of one example's values.
        answered: of gradients: the codec of the activations that they answer, which
            was checked.

    Raises:
        ValueError: naming the argument, the codec and what does not fit: it is none,
            cannot be of the shape, or packets or what they decode to differ from what
            its fields say.

    Example:
        >>> from jsplit.codecs import float8
        >>> check_codec("codec", float8()._replace(header_bytes=4), (8,))
        Traceback (most recent call last):
        ValueError: codec float8 must encode to a header of uint8 [4], got uint8 [2]
    """
    if not isinstance(codec, Codec):
        raise ValueError(
            f"{argument} must be a Codec, such as jsplit.float8() makes, got {codec!r}"
            + (f"; take jsplit.CODECS[{codec!r}]" if isinstance(codec, str) else "")
        )
    said = f"{argument} {codec.name}"
    try:
        codec = codec.of(shape, answered)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error
    values = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    sent = None if answered is None else jax.eval_shape(answered.encode, values)
    due = f"{said} must encode {_text(values)}"
    packet = traced(due, lambda sent, x: codec.to(sent).encode(x), sent, values)
    _check_packet(said, codec, packet, shape)
    if codec.encode_in_use is not None:
        packet = traced(f"{due} in use", codec.encode_in_use, values)
        _check_packet(f"{said} in use", codec, packet, shape)
    back = traced(
        f"{said} must decode what it encodes",
        lambda sent, packet: codec.to(sent).decode(packet),
        sent,
        packet,
    )
    if _text(back) != _text(values):
        raise ValueError(
            f"{said} must decode to what it encoded, {_text(values)}, got {_text(back)}"
        )
    return codec


def _check_packet(said: str, codec: Codec, packet: Any, shape: tuple[int, ...]) -> None:
    """Refuses what is no packet of two examples of this shape, as the codec says."""
    if not isinstance(packet, Packet):
        raise ValueError(f"{said} must encode to a Packet, got {packet!r}")
    coded = (2, *codec.payload_shape(shape))
    for part, found, due in (
        ("payload", packet.payload, jax.ShapeDtypeStruct(coded, codec.payload_dtype)),
        (
            "header",
            packet.header,
            jax.ShapeDtypeStruct((codec.header_bytes,), jnp.uint8),
        ),
    ):
        if _text(found) != _text(due):
            raise ValueError(
                f"{said} must encode to a {part} of {_text(due)}, got {_text(found)}"
            )
    if codec.places is not None:
        places = traced(f"{said} must say its places", codec.places, packet)
        if _text(places)[:-1].rpartition(",")[0] != "int32 [2":
            raise ValueError(
                f"{said} must say its places as int32 [2, k], got {_text(places)}"
            )


def check_gate(gate: Gate) -> None:
    """Refuses a gate that starts or goes on as none can.

    It is tried with some losses; a state that it gives for others alone is found when
    it comes.

    Raises:
        ValueError: naming what it gives: no Gate, a first state other than A or B, C
            straight after A, a state that there is not, or a `GateState` whose
            structure or dtypes change.

    Example:
        >>> from jsplit.core.gate import always_gate
        >>> check_gate(always_gate()._replace(init=lambda: GateState(jnp.int32(2), ())))
        Traceback (most recent call last):
        ValueError: gate must start in A or B, since nothing is stored yet, got C
    """
    if not isinstance(gate, Gate):
        raise ValueError(
            f"gate must be a Gate, such as loss_gate(...) makes, got {gate!r}; of a "
            "choice such as LossGate(0.05), take .make(classes)"
        )
    begun = gate.init()
    _check_state("init", begun)
    later = traced(
        "gate must update its state", gate.update, begun, jnp.float32(_LOSSES[0])
    )
    _check_state("update", later)
    if (before := described(begun)) != (after := described(later)):
        raise ValueError(
            "gate must keep the structure and dtypes of its state, but update makes "
            f"{after} of {before}"
        )
    first = int(begun.state)
    if first == OFFLINE:
        raise ValueError(
            "gate must start in A or B, since nothing is stored yet, got C"
        )
    states = [first, *_states_of(gate, begun)]
    if unknown := [state for state in states if not SYNC <= state <= OFFLINE]:
        raise ValueError(
            f"gate must give the states 0, 1 and 2 (A, B and C), got {unknown[0]} "
            f"after losses of {_LOSSES[: states.index(unknown[0])]}"
        )
    if (SYNC, OFFLINE) in itertools.pairwise(states):
        raise ValueError(_no_refresh("".join(STATES[state] for state in states)))


def check_states(
    states: Int[Array | np.ndarray, " epochs"], *, alone: bool, refreshed: bool = False
) -> None:
    """Refuses a training in which the gate gave a state that cannot be.

    Args:
        states: of its epochs.
        alone: whether clients may learn alone.
        refreshed: whether an epoch of B came before them, and none of A since.

    Raises:
        RunError: naming the first state that there is not, or C with no epoch of B
            since A, and its epoch.
    """
    most = LOCAL if alone else OFFLINE
    for epoch, state in enumerate(np.asarray(states).tolist()):
        if not SYNC <= state <= most:
            raise RunError(
                f"the gate gave state {state} for epoch {epoch + 1}; there are 0, 1 "
                "and 2 (A, B and C)"
            )
        if state == OFFLINE and not refreshed:
            raise RunError(_no_refresh(f"C without one for epoch {epoch + 1}"))
        refreshed = state == REFRESH or (refreshed and state == OFFLINE)


def _no_refresh(got: str) -> str:
    return (
        f"gate must have an epoch of B between A and C, got {got}: what is stored in A "
        "is of a client that learned on"
    )


def _states_of(gate: Gate, state: GateState) -> Iterator[int]:
    # One small program a loss would be compiled each time.
    with jax.disable_jit():
        for loss in _LOSSES:
            state = gate.update(state, jnp.float32(loss))
            yield int(state.state)


def _check_state(function: str, found: Any) -> None:
    if not isinstance(found, GateState):
        raise ValueError(f"gate.{function} must give a GateState, got {found!r}")
    if _text(found.state) != "int32 []":
        raise ValueError(
            f"gate.{function} must give a state of int32 [], got {_text(found.state)}"
        )


def described(tree: Any) -> str:
    """Dtypes and shapes: `uint8 [2]` of an array, and of several in their tree."""
    said = jax.tree.map(_text, tree)
    return said if isinstance(said, str) else str(said)


def _text(leaf: Any) -> str:
    """Dtype and shape, as `uint8 [2]`; of what is no array, itself."""
    try:
        return f"{jnp.dtype(leaf.dtype).name} {list(leaf.shape)}"
    except (AttributeError, TypeError):
        return repr(leaf)


def traced(due: str, function: Callable[..., Any], *operands: Any) -> Any:
    """What the function gives, in shapes; the words of what it raises in a line."""
    try:
        return jax.eval_shape(function, *operands)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{due}, but {type(error).__name__}: {reason}") from error
