"""The steps of one batch: what a client does, and what the server does.

They are pure, jit-compiled functions over Flax variable trees. The simulation, a
networked client or server, and the tests use these same functions.

Nothing is ever differentiated through the wire: the server differentiates with
respect to the activations as it decoded them, and the client's pullback is applied to
the gradient as it decoded it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jsplit.core.defences import distance_correlation
from jsplit.core.model_part import Part
from jsplit.core.replay import check as check_mixup
from jsplit.core.replay import mixed
from jsplit.typing import Codec, Packet, PyTree, Variables


@struct.dataclass
class Party:
    """All that one side trains: its Flax variables and its optimizer's state."""

    variables: Variables
    opt_state: PyTree


class Residual(NamedTuple):
    """What a client keeps of its forward pass until the gradient comes.

    Attributes:
        pullback: maps a gradient at the cut to one of the client's parameters.
        variables: with the batch statistics that the forward pass moved.
        penalty: gradient at the cut of the client's own penalty; None without one.
    """

    pullback: Any
    variables: Variables
    penalty: jax.Array | None


class Defence(NamedTuple):
    """What a client does so that its activations tell less of its examples.

    Attributes:
        nopeek: weight of the distance correlation of a batch and its activations in
            what the client minimises; its work is not counted as client computation.
        noise: standard deviation of the Gaussian noise on activations before they are
            coded, over their root mean square in the batch; new in every batch of A and
            B, and there in evaluation too.
    """

    nopeek: float = 0.0
    noise: float = 0.0


NO_DEFENCE = Defence()


class Metrics(NamedTuple):
    """Sums over the examples of a batch that are not padding.

    Attributes:
        loss: float32, sum of the examples' losses.
        correct: int32, examples predicted right.
        examples: int32, how many.
    """

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array


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
        server_step: state B; no gradient at the cut is computed.
            `(server, packets: Packet[k], labels: [k, b], mask: [k, b], key, step_size)
            -> (server, Metrics)`.
        offline_step: state C. The same, mixed in pairs if the steps are made so.
        server_step_with_reply: state A. The same, and the gradient packets:
            `(...) -> (server, Metrics, Packet[k])`.
        client_examine: evaluation, by running statistics.
            `(client, x, mask=None) -> Packet`.
        server_examine: likewise. `(server, packet) -> logits`.
        predict: both: through the activation codec, as in use.
            `(client, server, x, mask=None) -> logits`.
    """

    client_forward: Callable[..., tuple[Packet, Residual]]
    client_refresh: Callable[..., Packet]
    client_backward: Callable[..., Party]
    server_step: Callable[..., tuple[Party, Metrics]]
    offline_step: Callable[..., tuple[Party, Metrics]]
    server_step_with_reply: Callable[..., tuple[Party, Metrics, Packet]]
    client_examine: Callable[..., Packet]
    server_examine: Callable[..., jax.Array]
    predict: Callable[..., jax.Array]


def init_party(
    part: Part, optimizer: optax.GradientTransformation, key: jax.Array, x: jax.Array
) -> Party:
    """Fresh variables and optimizer state for an example batch `x` of this part."""
    variables = part.init(key, x)
    return Party(variables, optimizer.init(variables["params"]))


def cross_entropy(
    logits: Float[Array, "n classes"], labels: Int[Array, " n"]
) -> Float[Array, " n"]:
    """Softmax cross-entropy of each example: `[n, classes]`, `Int[n]` to `[n]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def top_1(
    logits: Float[Array, "n classes"], labels: Int[Array, " n"]
) -> Bool[Array, " n"]:
    """Whether the largest logit is the label's: `Bool[n]`."""
    return jnp.argmax(logits, axis=-1) == labels


def ignore(kind: str, packet: Packet, mask: jax.Array | None) -> None:
    """Observes nothing."""


def make_steps(
    client: Part,
    server: Part,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation,
    codec: Codec,
    grad_codec: Codec,
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy,
    correct: Callable[[jax.Array, jax.Array], jax.Array] = top_1,
    refresh_statistics: str = "running",
    defence: Defence = NO_DEFENCE,
    mixup: float = 0.0,
    observe: Callable[[str, Packet, jax.Array | None], None] = ignore,
) -> Steps:
    """Makes the steps of one client/server pair.

    Batch normalisation: in A both sides normalise by the batch and move their running
    statistics. In B the client is not touched; it normalises by its running
    statistics, so that what the server stores is what evaluation will show it
    (`refresh_statistics="batch"`: by the batch, and with dropout, as in A). In C there
    is no client. The server normalises by the batch and moves its running statistics
    in all three.

    A party whose rows are all padding, client or server, keeps its parameters,
    statistics and optimizer state. With several clients each one receives the gradient
    of its own mean loss, whatever its share of the server's batch.

    Args:
        client: maps a batch to the activations at the cut.
        server: maps those to what `loss` takes.
        client_optimizer: an optax optimizer whose state holds numbers only (no PRNG
            keys); its updates are multiplied by the `step_size` of the step.
        server_optimizer: likewise.
        codec: for activations, up.
        grad_codec: for their gradients, down.
        loss: of each example, `(outputs, labels) -> Float32[n]`.
        correct: of each example, `(outputs, labels) -> Bool[n]`.
        refresh_statistics: `running` or `batch`, see above.
        defence: of the client against a server that looks at its activations.
        mixup: in C stored activations are mixed in pairs by shares of Beta(mixup,
            mixup); 0: they are not. The loss of a mixture is that of both labels by
            their shares, and it is predicted right if the label of the larger one is.
            Such losses are no measure for others: take a loss gate whose reference is
            `alike`.
        observe: is shown every packet of training as it is traced, `activations` or
            `gradients`, with its mask.

    Raises:
        ValueError: if `refresh_statistics` is neither.
        InputError: if `mixup` is out of reach.
    """
    check_mixup(mixup)
    if refresh_statistics not in ("running", "batch"):
        raise ValueError(
            f"refresh_statistics must be 'running' or 'batch', got "
            f"{refresh_statistics!r}"
        )

    # Names for profilers; they change nothing that is computed.
    encode, encode_reply = (
        jax.named_scope("encode")(each.encode) for each in (codec, grad_codec)
    )
    decode, decode_reply = (
        jax.named_scope("decode")(each.decode) for each in (codec, grad_codec)
    )

    def blurred(
        smashed: jax.Array, mask: jax.Array | None, key: jax.Array
    ) -> jax.Array:
        if not defence.noise:
            return smashed
        # Not of what the part itself drew from.
        draws = jax.random.normal(jax.random.fold_in(key, 2**31 - 1), smashed.shape)
        return smashed + defence.noise * _root_mean_square(smashed, mask) * draws

    def client_forward(
        party: Party, x: jax.Array, mask: jax.Array | None, key: jax.Array
    ) -> tuple[Packet, Residual]:
        def forward(params: PyTree) -> tuple[jax.Array, Variables]:
            variables = {**party.variables, "params": params}
            return client.apply(variables, x, mask=mask, key=key, train=True)

        smashed, pullback, variables = jax.vjp(
            forward, party.variables["params"], has_aux=True
        )
        penalty = None
        if defence.nopeek:
            penalty = defence.nopeek * jax.grad(
                lambda smashed: distance_correlation(x, smashed, mask)
            )(smashed)
        packet = encode(_blank(blurred(smashed, mask, key), mask))
        observe("activations", packet, mask)
        return packet, Residual(pullback, variables, penalty)

    def client_refresh(
        party: Party, x: jax.Array, mask: jax.Array | None, key: jax.Array
    ) -> Packet:
        batch = refresh_statistics == "batch"
        smashed, _ = client.apply(party.variables, x, mask=mask, key=key, train=batch)
        packet = encode(_blank(blurred(smashed, mask, key), mask))
        observe("activations", packet, mask)
        return packet

    def client_backward(
        party: Party,
        residual: Residual,
        reply: Packet,
        mask: jax.Array | None,
        step_size: jax.Array,
    ) -> Party:
        reply_gradient = decode_reply(reply)
        if residual.penalty is not None:
            reply_gradient += residual.penalty
        (gradients,) = residual.pullback(reply_gradient)
        return _descend(
            client_optimizer, party, residual.variables, gradients, mask, step_size
        )

    def objective(
        party: Party,
        packets: Packet,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        mixup: float = 0.0,
    ) -> tuple[Callable[[PyTree, jax.Array], Any], jax.Array]:
        """The server's mean loss as a function of its parameters and the smashed."""
        smashed = _flat(jax.vmap(decode)(packets))
        labels, rows = labels.reshape(-1), None if mask is None else mask.reshape(-1)
        mixture = None
        if mixup:
            # Not of what the part itself draws from.
            mix_key = jax.random.fold_in(key, 2**31 - 1)
            smashed, mixture = mixed(mix_key, mixup, smashed, rows)

        def mean_loss(params: PyTree, smashed: jax.Array) -> tuple[jax.Array, Any]:
            variables = {**party.variables, "params": params}
            outputs, variables = server.apply(
                variables, smashed, mask=rows, key=key, train=True
            )
            losses = loss(outputs, labels)
            if mixture is not None:
                others = loss(outputs, labels[mixture.partner])
                losses = mixture.share * losses + (1 - mixture.share) * others
            metrics = sum_up(losses, correct(outputs, labels), rows)
            mean = metrics.loss / jnp.maximum(metrics.examples, 1).astype(jnp.float32)
            return mean, (variables, metrics)

        return mean_loss, smashed

    def learn(
        mixup: float,
        party: Party,
        packets: Packet,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        step_size: jax.Array,
    ) -> tuple[Party, Metrics]:
        mean_loss, smashed = objective(party, packets, labels, mask, key, mixup)
        gradients, (variables, metrics) = jax.grad(mean_loss, has_aux=True)(
            party.variables["params"], smashed
        )
        trained = _descend(
            server_optimizer, party, variables, gradients, mask, step_size
        )
        return trained, metrics

    def server_step(
        party: Party,
        packets: Packet,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        step_size: jax.Array,
    ) -> tuple[Party, Metrics]:
        return learn(0.0, party, packets, labels, mask, key, step_size)

    def offline_step(
        party: Party,
        packets: Packet,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        step_size: jax.Array,
    ) -> tuple[Party, Metrics]:
        return learn(mixup, party, packets, labels, mask, key, step_size)

    def server_step_with_reply(
        party: Party,
        packets: Packet,
        labels: jax.Array,
        mask: jax.Array | None,
        key: jax.Array,
        step_size: jax.Array,
    ) -> tuple[Party, Metrics, Packet]:
        mean_loss, smashed = objective(party, packets, labels, mask, key)
        (gradients, reply), (variables, metrics) = jax.grad(
            mean_loss, argnums=(0, 1), has_aux=True
        )(party.variables["params"], smashed)
        trained = _descend(
            server_optimizer, party, variables, gradients, mask, step_size
        )
        reply = reply.reshape(*labels.shape, *smashed.shape[1:])
        reply = reply * _own_mean(labels, mask).reshape((-1,) + (1,) * (reply.ndim - 1))

        def send(reply: jax.Array, mask: jax.Array | None) -> Packet:
            packet = encode_reply(reply)
            observe("gradients", packet, mask)
            return packet

        axes = (0, None if mask is None else 0)
        return trained, metrics, jax.vmap(send, axes)(reply, mask)

    def examined(part: Part, party: Party, x: jax.Array) -> jax.Array:
        key = jax.random.key(0)  # evaluation draws nothing
        return part.apply(party.variables, x, mask=None, key=key, train=False)[0]

    def client_examine(
        party: Party, x: jax.Array, mask: jax.Array | None = None
    ) -> Packet:
        smashed = examined(client, party, x)
        return encode(_blank(blurred(smashed, mask, jax.random.key(0)), mask))

    def server_examine(party: Party, packet: Packet) -> jax.Array:
        return examined(server, party, decode(packet))

    def predict(
        client_party: Party,
        server_party: Party,
        x: jax.Array,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        return server_examine(server_party, client_examine(client_party, x, mask))

    return Steps(
        client_forward=jax.jit(client_forward),
        client_refresh=jax.jit(client_refresh),
        client_backward=jax.jit(client_backward),
        server_step=jax.jit(server_step),
        offline_step=jax.jit(offline_step),
        server_step_with_reply=jax.jit(server_step_with_reply),
        client_examine=jax.jit(client_examine),
        server_examine=jax.jit(server_examine),
        predict=jax.jit(predict),
    )


@jax.named_scope("optimizer")
def _descend(
    optimizer: optax.GradientTransformation,
    party: Party,
    variables: Variables,
    gradients: PyTree,
    mask: jax.Array | None,
    step_size: jax.Array,
) -> Party:
    """One optimizer step; none at all where no row of the batch is real.

    Weight decay, momentum and batch statistics would move even then.
    """
    params = variables["params"]
    updates, opt_state = optimizer.update(gradients, party.opt_state, params)
    updates = jax.tree.map(lambda update: step_size * update, updates)
    params = optax.apply_updates(params, updates)
    trained = Party({**variables, "params": params}, opt_state)
    if mask is None:
        return trained
    seen = jnp.any(mask)
    return jax.tree.map(lambda new, old: jnp.where(seen, new, old), trained, party)


def sum_up(
    losses: Float[Array, " n"],
    correct: Bool[Array, " n"],
    rows: Bool[Array, " n"] | None,
) -> Metrics:
    """The metrics of a batch: `Float[n]`, `Bool[n]`, and which of them count."""
    if rows is not None:
        losses = jnp.where(rows, losses, 0.0)
        correct = correct & rows
    count = jnp.int32(losses.size) if rows is None else jnp.sum(rows, dtype=jnp.int32)
    return Metrics(jnp.sum(losses), jnp.sum(correct, dtype=jnp.int32), count)


def total(metrics: Metrics) -> Metrics:
    """The sum of metrics stacked along a first axis."""
    return Metrics(*(jnp.sum(leaf, axis=0, dtype=leaf.dtype) for leaf in metrics))


def _own_mean(labels: jax.Array, mask: jax.Array | None) -> jax.Array:
    """What turns the gradient of the batch's mean into that of each client's mean."""
    clients, batch = labels.shape
    if mask is None:
        return jnp.full((clients,), clients, jnp.float32)
    counts = jnp.sum(mask, axis=1, dtype=jnp.int32).astype(jnp.float32)
    return jnp.sum(counts) / jnp.maximum(counts, 1.0)


def _root_mean_square(smashed: jax.Array, mask: jax.Array | None) -> jax.Array:
    squares = jnp.mean(jnp.square(_blank(smashed, mask)))
    share = 1.0 if mask is None else jnp.maximum(jnp.mean(mask), 1 / mask.size)
    return jnp.sqrt(squares / share)


def _flat(smashed: jax.Array) -> jax.Array:
    return smashed.reshape(-1, *smashed.shape[2:])


def _blank(smashed: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Zeroes padded rows: they are not sent, and must not sway the format search."""
    if mask is None:
        return smashed
    kept = mask.reshape((-1,) + (1,) * (smashed.ndim - 1))
    return jnp.where(kept, smashed, jnp.zeros_like(smashed))
