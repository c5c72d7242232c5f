"""A networked client's epoch of learning alone, by its own head."""

import jax.numpy as jnp

from jsplit.core.state import ClientParts
from jsplit.core.steps import Steps
from jsplit.net.batches import Batches


def learn_alone(
    parts: ClientParts,
    steps: Steps,
    batches: Batches,
    key: bytes,
    step_size: float,
) -> ClientParts:
    """What a client's part and head are after an epoch on its own labels.

    Args:
        parts: before it.
        steps: of the client/server pair, made with a head.
        batches: of this client.
        key: that the server sent for the epoch.
        step_size: of the epoch.
    """
    assert steps.client_alone is not None
    plan, (part, head) = batches.plan(key), parts
    for number in range(batches.count):
        x, mask, part_key = batches.training(plan, number)
        labels = batches.labels(plan, number)
        part, head, _ = steps.client_alone(
            part, head, x, labels, mask, part_key, jnp.float32(step_size)
        )
    return ClientParts(part, head)
