"""What the server does in one step: learn, with or without a reply, and evaluate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsplit.core.client_steps import Observe, evaluated
from jsplit.core.metrics import CorrectFunction, LossFunction, Metrics, sum_up
from jsplit.core.model_part import ModelPart
from jsplit.core.replay import Mixture, Replay, losses
from jsplit.core.state import SideState, descend
from jsplit.typing import Codec, Packet, PyTree


class ServerSteps(NamedTuple):
    """The server's steps, not yet compiled; `Steps` says what each takes and gives."""

    step: Callable[..., tuple[SideState, Metrics]]
    offline_step: Callable[..., tuple[SideState, Metrics]]
    step_with_reply: Callable[..., tuple[SideState, Metrics, Packet]]
    evaluate: Callable[..., jax.Array]


def make_server_steps(
    server: ModelPart,
    optimizer: optax.GradientTransformation,
    *,
    codec: Codec,
    grad_codec: Codec,
    loss: LossFunction,
    correct: CorrectFunction,
    replay: Replay,
    received_replay: Replay,
    observe: Observe,
) -> ServerSteps:
    """Makes the server's steps.

    Args:
        server: as for `make_steps`, like all that is not named here.
        optimizer: of the server.
        codec: of activations.
        grad_codec: of gradients.
        loss: of each example.
        correct: of each example.
        replay: what is done in C to stored activations before they are learned from.
        received_replay: likewise in A and B, to those that just came.
        observe: is shown the gradients' packets.
    """
    # Names for profilers; they change nothing that is computed.
    decode = jax.named_scope("decode")(codec.decode)

    @jax.named_scope("encode")
    def encode(gradient: jax.Array, packet: Packet) -> Packet:
        return grad_codec.to(packet).encode(gradient)

    def learn(
        side: SideState,
        packets: Packet,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        step_size: jax.Array,
        *,
        replay: Replay = received_replay,
        reply: bool = False,
    ) -> tuple[SideState, Metrics, jax.Array | None]:
        """The server's step; with `reply` also the gradient at the cut `[k, b, ...]`.

        It is that of each client's own mean loss, not of the mean of all.
        """
        smashed = jax.vmap(decode)(packets)
        smashed = smashed.reshape(-1, *smashed.shape[2:])
        targets, rows = labels.reshape(-1), None if mask is None else mask.reshape(-1)
        smashed = _filled(smashed, rows)

        def replayed(smashed: jax.Array) -> tuple[jax.Array, Mixture | None]:
            # Not of what the server's part itself draws from.
            return replay.apply(jax.random.fold_in(key, 2**31 - 1), smashed, rows)

        # What goes back is the gradient of what came: the replay is differentiated.
        given = smashed if reply else replayed(smashed)

        def mean_loss(params: PyTree, given: Any) -> tuple[jax.Array, Any]:
            variables = {**side.variables, "params": params}
            smashed, mixture = replayed(given) if reply else given
            outputs, variables = server.apply(
                variables, smashed, mask=rows, key=key, train=True
            )
            each = losses(lambda labels: loss(outputs, labels), targets, mixture)
            metrics = sum_up(each, correct(outputs, targets), rows)
            mean = metrics.loss / jnp.maximum(metrics.examples, 1).astype(jnp.float32)
            return mean, (variables, metrics)

        gradient = jax.grad(mean_loss, argnums=(0, 1) if reply else (0,), has_aux=True)
        (gradients, *at_cut), (variables, metrics) = gradient(
            side.variables["params"], given
        )
        trained = descend(optimizer, side, variables, gradients, mask, step_size)
        if not reply:
            return trained, metrics, None
        answer = at_cut[0].reshape(*labels.shape, *smashed.shape[1:])
        own = _own_mean(labels, mask).reshape((-1,) + (1,) * (answer.ndim - 1))
        return trained, metrics, answer * own

    # The names of these are those of traces and profiles.

    def server_step(
        side: SideState,
        packets: Packet,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        step_size: jax.Array,
    ) -> tuple[SideState, Metrics]:
        return learn(side, packets, labels, mask, key, step_size)[:2]

    def offline_step(
        side: SideState,
        packets: Packet,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        step_size: jax.Array,
    ) -> tuple[SideState, Metrics]:
        return learn(side, packets, labels, mask, key, step_size, replay=replay)[:2]

    def server_step_with_reply(
        side: SideState,
        packets: Packet,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        step_size: jax.Array,
    ) -> tuple[SideState, Metrics, Packet]:
        trained, metrics, gradients = learn(
            side, packets, labels, mask, key, step_size, reply=True
        )

        assert gradients is not None

        def answer(
            gradient: jax.Array, packet: Packet, mask: jax.Array | None
        ) -> Packet:
            reply = encode(gradient, packet)
            observe("gradients", reply, mask)
            return reply

        axes = (0, 0, None if mask is None else 0)
        return trained, metrics, jax.vmap(answer, axes)(gradients, packets, mask)

    def server_evaluate(side: SideState, packet: Packet) -> jax.Array:
        return evaluated(server, side, decode(packet))

    return ServerSteps(
        server_step, offline_step, server_step_with_reply, server_evaluate
    )


def _filled(smashed: jax.Array, rows: jax.Array | None) -> jax.Array:
    """The first example in place of padding, which came as zeros.

    What is made of padding counts nowhere, but a part that divides by the norm of its
    input makes NaN of zeros, and NaN times a gradient of 0 is NaN in every parameter.
    """
    if rows is None:
        return smashed
    first = jnp.arange(len(rows)) == jnp.argmax(rows)
    first, kept = (
        which.reshape((-1,) + (1,) * (smashed.ndim - 1)) for which in (first, rows)
    )
    # By a sum: to look it up, devices that share a batch would get all of it.
    example = jnp.sum(jnp.where(first, smashed, 0.0), axis=0)
    return jnp.where(kept, smashed, example)


def _own_mean(labels: jax.Array, mask: jax.Array | None) -> jax.Array:
    """What turns the gradient of the batch's mean into that of each client's mean."""
    clients, batch = labels.shape
    if mask is None:
        return jnp.full((clients,), clients, jnp.float32)
    counts = jnp.sum(mask, axis=1, dtype=jnp.int32).astype(jnp.float32)
    return jnp.sum(counts) / jnp.maximum(counts, 1.0)
