"""The steps of one batch: what a client does, and what the server does.

They are pure, jit-compiled functions over Flax variable trees. The simulation, a
networked client or server, and the tests use these same functions.

Nothing is ever differentiated through the wire: the server differentiates with
respect to the activations as it decoded them, and the client's pullback is applied to
the gradient as it decoded it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array, Bool

from jsplit.core.client_steps import Observe, Residual, make_client_steps
from jsplit.core.defences import NO_DEFENCE, Defence
from jsplit.core.metrics import (
    CorrectFunction,
    LossFunction,
    Metrics,
    cross_entropy,
    top_1,
)
from jsplit.core.model_part import ModelPart
from jsplit.core.replay import AS_RECEIVED, Replay
from jsplit.core.server_steps import make_server_steps
from jsplit.core.state import SideState
from jsplit.typing import Codec, Packet


class Steps(NamedTuple):
    """The jit-compiled steps of one client/server pair.

    `b` is a client's batch, `k` the packets that the server receives at a time (one a
    client in states A and B; in C every stored example is a packet of its own and `b`
    is 1). `mask` is Bool, False for padded rows, or None where nothing is padded.
    `step_size` multiplies the optimizer's updates.

    Attributes:
        client_forward: state A.
            `(client, x: [b, ...], mask: [b], key) -> (Packet, Residual)`.
        client_refresh: state B; the client does not change.
            `(client, x, mask, key) -> Packet`.
        client_backward: state A.
            `(client, residual, reply: Packet, mask, step_size) -> client`.
        client_alone: the client learns without the server; None without a head.
            `(client, head, x, labels: [b], mask, key, step_size)
            -> (client, head, Metrics)`.
        server_step: state B; no gradient at the cut is computed.
            `(server, packets: Packet[k], labels: [k, b], mask: [k, b], key, step_size)
            -> (server, Metrics)`.
        offline_step: state C. The same, of what `replay` makes of the activations.
        server_step_with_reply: state A. The same, and the gradient packets:
            `(...) -> (server, Metrics, Packet[k])`.
        client_evaluate: evaluation, by running statistics.
            `(client, x, mask=None) -> Packet`.
        server_evaluate: likewise. `(server, packet) -> logits`.
        predict: both: through the activation codec, as in use.
            `(client, server, x, mask=None) -> logits`.
    """

    client_forward: Callable[..., tuple[Packet, Residual]]
    client_refresh: Callable[..., Packet]
    client_backward: Callable[..., SideState]
    client_alone: Callable[..., tuple[SideState, SideState, Metrics]] | None
    server_step: Callable[..., tuple[SideState, Metrics]]
    offline_step: Callable[..., tuple[SideState, Metrics]]
    server_step_with_reply: Callable[..., tuple[SideState, Metrics, Packet]]
    client_evaluate: Callable[..., Packet]
    server_evaluate: Callable[..., jax.Array]
    predict: Callable[..., jax.Array]


def ignore(kind: str, packet: Packet, mask: Bool[Array, " b"] | None) -> None:
    """Observes nothing."""


def make_steps(
    client: ModelPart,
    server: ModelPart,
    *,
    head: ModelPart | None = None,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation,
    codec: Codec,
    grad_codec: Codec,
    loss: LossFunction = cross_entropy,
    correct: CorrectFunction = top_1,
    refresh_statistics: str = "running",
    defence: Defence = NO_DEFENCE,
    replay: Replay = AS_RECEIVED,
    received_replay: Replay = AS_RECEIVED,
    observe: Observe = ignore,
) -> Steps:
    """Makes the steps of one client/server pair.

    Batch normalisation: in A both sides normalise by the batch and move their running
    statistics. In B the client is not touched; it normalises by its running
    statistics, so that what the server stores is what evaluation will show it
    (`refresh_statistics="batch"`: by the batch, and with dropout, as in A). In C there
    is no client. The server normalises by the batch and moves its running statistics
    in all three.

    A side whose rows are all padding, client or server, keeps its parameters,
    statistics and optimizer state. With several clients each one receives the gradient
    of its own mean loss, whatever its share of the server's batch.

    Args:
        client: maps a batch to the activations at the cut.
        server: maps those to what `loss` takes.
        head: by which a client learns alone: maps the activations at the cut to what
            `loss` takes; its optimizer is the client's. None: no client ever does.
        client_optimizer: an optax optimizer whose state holds numbers only (no PRNG
            keys); its updates are multiplied by the `step_size` of the step.
        server_optimizer: likewise.
        codec: for activations, up; where it differs by the shape of what it codes,
            `codec.of(shape)`.
        grad_codec: for their gradients, down; likewise, and where it goes by the
            activations that they answer, its `.of(shape, codec)`.
        loss: of each example, `(outputs, labels) -> Float32[n]`.
        correct: of each example, `(outputs, labels) -> Bool[n]`.
        refresh_statistics: `running` or `batch`, see above.
        defence: of the client against a server that looks at its activations.
        replay: what the server does in C to stored activations before it learns from
            them, such as `chain(shift(2), mirror(), mixup(1.0))`.
        received_replay: likewise in A and B, to those that just came; the gradients
            that go back in A are those of what came.
        observe: is shown every packet of training as it is traced, `activations` or
            `gradients`, with its mask.

    Raises:
        ValueError: if `refresh_statistics` is neither, the defence is negative, a codec
            that differs by the shape of what it codes is not the one of a shape, or one
            that goes by the codec of activations is not the one for that.

    Example:
        A batch of state A, there and back.

        >>> import jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from jsplit import from_flax, identity, init_side
        >>> parts = from_flax(nn.Dense(2)), from_flax(nn.Dense(3))
        >>> sgd, codec = optax.sgd(0.1), identity()
        >>> sides = {"client_optimizer": sgd, "server_optimizer": sgd}
        >>> steps = make_steps(*parts, **sides, codec=codec, grad_codec=codec)
        >>> x, labels, key = jnp.eye(4), jnp.arange(4) % 3, jax.random.key(0)
        >>> client = init_side(parts[0], sgd, key, x)
        >>> server = init_side(parts[1], sgd, key, jnp.zeros((4, 2)))
        >>> packet, kept = steps.client_forward(client, x, None, key)
        >>> packets = jax.tree.map(lambda leaf: leaf[None], packet)  # of one client
        >>> given = labels[None], None, key, 1.0
        >>> server, metrics, replies = steps.server_step_with_reply(
        ...     server, packets, *given
        ... )
        >>> reply = jax.tree.map(lambda leaf: leaf[0], replies)
        >>> client = steps.client_backward(client, kept, reply, None, 1.0)
        >>> packet.payload.shape, reply.payload.shape, int(metrics.examples)
        ((4, 2), (4, 2), 4)
    """
    for each in (codec, grad_codec):
        if each.bind is not None:
            raise ValueError(
                f"codec {each.name} differs by the shape at the cut: give "
                "codec.of(shape), with the shape of one example's activations"
            )
        if each.pair is not None:
            raise ValueError(
                f"codec {each.name} goes by the codec of activations: give, for "
                "gradients, its .of(shape, codec)"
            )
    of_client = make_client_steps(
        client,
        client_optimizer,
        head=head,
        codec=codec,
        grad_codec=grad_codec,
        loss=loss,
        correct=correct,
        refresh_statistics=refresh_statistics,
        defence=defence,
        observe=observe,
    )
    of_server = make_server_steps(
        server,
        server_optimizer,
        codec=codec,
        grad_codec=grad_codec,
        loss=loss,
        correct=correct,
        replay=replay,
        received_replay=received_replay,
        observe=observe,
    )

    def predict(
        client_side: SideState,
        server_side: SideState,
        x: jax.Array,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        return of_server.evaluate(server_side, of_client.evaluate(client_side, x, mask))

    return Steps(
        client_forward=jax.jit(of_client.forward),
        client_refresh=jax.jit(of_client.refresh),
        client_backward=jax.jit(of_client.backward),
        client_alone=None if of_client.alone is None else jax.jit(of_client.alone),
        server_step=jax.jit(of_server.step),
        offline_step=jax.jit(of_server.offline_step),
        server_step_with_reply=jax.jit(of_server.step_with_reply),
        client_evaluate=jax.jit(of_client.evaluate),
        server_evaluate=jax.jit(of_server.evaluate),
        predict=jax.jit(predict),
    )
