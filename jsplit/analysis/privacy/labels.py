"""What gradients at the cut say of labels, to who sees the one and not the other.

In jsplit the server has the labels: they are sent once. This is for who would rather
keep them at home and let the gradients cross instead.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.analysis.privacy.view import Ended, View
from jsplit.typing import Packet


def told_by_gradients(run: Ended, private: View, public: View) -> float:
    """The share of private examples whose label the nearest public gradient has.

    Each example's gradient, as the run's codec sends it, is compared by cosine with
    those of public examples, whose labels are known to who asks (Li et al. 2022 take
    one known example a class).
    """
    ours, known = (_gradients(run, view) for view in (private, public))
    nearest = np.argmax(ours @ known.T, axis=1)
    return float(np.mean(public.labels[nearest] == private.labels))


def _gradients(run: Ended, view: View) -> np.ndarray:
    """Of unit length, `[n, values]`."""
    codec = run.experiment.simulation.grad_codec

    @jax.jit
    def decode(reply: Packet, sent: Packet) -> jax.Array:
        return codec.to(sent).decode(reply)

    step = run.experiment.simulation.steps.server_step_with_reply
    found, at = [], 0
    for packet, mask in view.packets:
        labels = np.zeros(len(mask), np.int32)
        labels[mask] = view.labels[at : at + mask.sum()]
        at += mask.sum()
        *_, reply = step(
            run.server,
            jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], packet),
            labels[None],
            None if mask.all() else mask[None],
            jax.random.key(0),
            jnp.float32(0),
        )
        reply = jax.tree.map(lambda leaf: leaf[0], reply)
        rows = np.asarray(decode(reply, packet))[mask]
        found.append(rows.reshape(len(rows), -1))
    flat = np.concatenate(found)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-20)
