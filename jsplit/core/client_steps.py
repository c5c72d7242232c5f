"""What a client does in one step: forward, refresh, backward, alone, evaluate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from jsplit.core.defences import Defence, blank, blurred, check_defence, penalty
from jsplit.core.metrics import CorrectFunction, LossFunction, Metrics, sum_up
from jsplit.core.model_part import ModelPart
from jsplit.core.state import SideState, descend
from jsplit.typing import Codec, Packet, PyTree, Variables

Observe = Callable[[str, Packet, Bool[Array, " b"] | None], None]
"""Is shown a packet as it is traced: its kind, itself, and its mask."""


class Residual(NamedTuple):
    """What a client keeps of its forward pass until the gradient comes.

    Attributes:
        pullback: maps a gradient at the cut to one of the client's parameters.
        variables: with the batch statistics that the forward pass moved.
        penalty: gradient at the cut of the client's own penalty; None without one.
        sent: the packet that the gradient answers; None where its codec needs not know.
    """

    pullback: Any
    variables: Variables
    penalty: jax.Array | None
    sent: Packet | None = None


class ClientSteps(NamedTuple):
    """A client's steps, not yet compiled; see `Steps` for what each takes and gives."""

    forward: Callable[..., tuple[Packet, Residual]]
    refresh: Callable[..., Packet]
    backward: Callable[..., SideState]
    alone: Callable[..., tuple[SideState, SideState, Metrics]] | None
    evaluate: Callable[..., Packet]


def make_client_steps(
    client: ModelPart,
    optimizer: optax.GradientTransformation,
    *,
    head: ModelPart | None,
    codec: Codec,
    grad_codec: Codec,
    loss: LossFunction,
    correct: CorrectFunction,
    refresh_statistics: str,
    defence: Defence,
    observe: Observe,
) -> ClientSteps:
    """Makes a client's steps; the arguments are those of `make_steps`.

    Raises:
        ValueError: if `refresh_statistics` is neither `running` nor `batch`, or the
            defence is negative.
    """
    if refresh_statistics not in ("running", "batch"):
        raise ValueError(
            f"refresh_statistics must be 'running' or 'batch', got "
            f"{refresh_statistics!r}"
        )
    check_defence(defence)
    # Names for profilers; they change nothing that is computed.
    encode = jax.named_scope("encode")(codec.encode)
    encode_in_use = jax.named_scope("encode")(codec.encode_in_use or codec.encode)

    @jax.named_scope("decode")
    def decode(reply: Packet, sent: Packet | None) -> jax.Array:
        return grad_codec.to(sent).decode(reply)

    def coat(smashed: jax.Array, mask: jax.Array | None, key: jax.Array) -> jax.Array:
        return blank(blurred(defence, smashed, mask, key), mask)

    def forward(
        side: SideState, x: jax.Array, mask: jax.Array | None, key: jax.Array
    ) -> tuple[jax.Array, Residual]:
        def apply(params: PyTree) -> tuple[jax.Array, Variables]:
            variables = {**side.variables, "params": params}
            return client.apply(variables, x, mask=mask, key=key, train=True)

        params = side.variables["params"]
        smashed, pullback, variables = jax.vjp(apply, params, has_aux=True)
        at_cut = penalty(defence, x, smashed, mask)
        return smashed, Residual(pullback, variables, at_cut)

    def backward(
        side: SideState,
        residual: Residual,
        gradient: jax.Array,
        mask: jax.Array | None,
        step_size: jax.Array,
    ) -> SideState:
        if residual.penalty is not None:
            gradient += residual.penalty
        (gradients,) = residual.pullback(gradient)
        return descend(optimizer, side, residual.variables, gradients, mask, step_size)

    def client_forward(
        side: SideState, x: jax.Array, mask: jax.Array | None, key: jax.Array
    ) -> tuple[Packet, Residual]:
        smashed, residual = forward(side, x, mask, key)
        packet = encode(coat(smashed, mask, key))
        observe("activations", packet, mask)
        if grad_codec.answering is not None:
            residual = residual._replace(sent=packet)
        return packet, residual

    def client_refresh(
        side: SideState, x: jax.Array, mask: jax.Array | None, key: jax.Array
    ) -> Packet:
        batch = refresh_statistics == "batch"
        smashed, _ = client.apply(side.variables, x, mask=mask, key=key, train=batch)
        packet = encode(coat(smashed, mask, key))
        observe("activations", packet, mask)
        return packet

    def client_backward(
        side: SideState,
        residual: Residual,
        reply: Packet,
        mask: jax.Array | None,
        step_size: jax.Array,
    ) -> SideState:
        gradient = decode(reply, residual.sent)
        return backward(side, residual, gradient, mask, step_size)

    def client_alone(
        side: SideState,
        own_head: SideState,
        x: jax.Array,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        step_size: jax.Array,
    ) -> tuple[SideState, SideState, Metrics]:
        assert head is not None
        smashed, residual = forward(side, x, mask, key)

        def mean_loss(params: PyTree, smashed: jax.Array) -> tuple[jax.Array, Any]:
            variables = {**own_head.variables, "params": params}
            outputs, variables = head.apply(
                variables, smashed, mask=mask, key=key, train=True
            )
            metrics = sum_up(loss(outputs, labels), correct(outputs, labels), mask)
            mean = metrics.loss / jnp.maximum(metrics.examples, 1).astype(jnp.float32)
            return mean, (variables, metrics)

        gradient = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)
        params = own_head.variables["params"]
        (gradients, at_cut), (variables, metrics) = gradient(params, smashed)
        own_head = descend(optimizer, own_head, variables, gradients, mask, step_size)
        side = backward(side, residual, at_cut, mask, step_size)
        return side, own_head, metrics

    def client_evaluate(
        side: SideState, x: jax.Array, mask: jax.Array | None = None
    ) -> Packet:
        smashed = evaluated(client, side, x)
        return encode_in_use(coat(smashed, mask, jax.random.key(0)))

    return ClientSteps(
        client_forward,
        client_refresh,
        client_backward,
        None if head is None else client_alone,
        client_evaluate,
    )


def evaluated(part: ModelPart, side: SideState, x: jax.Array) -> jax.Array:
    """What a part makes of a batch in evaluation, by running statistics."""
    key = jax.random.key(0)  # evaluation draws nothing
    return part.apply(side.variables, x, mask=None, key=key, train=False)[0]
