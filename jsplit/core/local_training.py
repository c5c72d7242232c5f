"""A client that learns alone: by a small head of its own, with nothing sent.

(Local losses of split networks: Belilovsky et al. 2019, arXiv:1812.11446; of split
learning: Han et al. 2021, arXiv:2107.10718.) The client trains its part and a head on
its own labels, and the server hears of it only by the activations that it is sent
afterwards. Several clients average their parts and heads after each epoch, as in A.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jsplit.core import schedule
from jsplit.core.method import Learned, Method
from jsplit.core.metrics import Metrics, added, total
from jsplit.core.schedule import EpochPlan
from jsplit.core.shards import Shards
from jsplit.core.state import SideState
from jsplit.core.topology import average, each, spread
from jsplit.runtime.sharding import MEMBERS, ROWS

Sides = tuple[SideState, SideState]
"""A client part and its head."""


def learn_alone(
    method: Method, plan: EpochPlan, data: Shards, step_size: jax.Array
) -> Callable[[jax.Array, Learned], Learned]:
    """A group's turn in an epoch in which each client learns alone."""
    steps, layout, constrain = method.steps, method.layout, method.placement.constrain
    members, client_alone = layout.members, steps.client_alone
    assert client_alone is not None
    prepare = each(method.transform.train, members)

    def turn(group: jax.Array, learned: Learned) -> Learned:
        def step(sides: Sides, number: jax.Array) -> tuple[Sides, Metrics]:
            now = schedule.batch_of(plan, group, number, layout)
            rows = constrain(now.rows, MEMBERS, ROWS)
            raw = constrain(data.examples[rows], MEMBERS, ROWS)
            x = prepare(now.transform_keys, raw)
            alone = each(client_alone, members, (0, 0, 0, 0, 0, 0, None))
            given = x, now.labels, now.mask, now.part_keys, step_size
            client, head, metrics = alone(*sides, *given)
            return constrain((client, head), MEMBERS), total(metrics)

        assert learned.head is not None
        begun = constrain(spread((learned.client, learned.head), members), MEMBERS)
        sides, metrics = jax.lax.scan(step, begun, jnp.arange(layout.steps))
        counts = data.counts[group].astype(jnp.float32)
        client, head = constrain(average(sides, counts / counts.sum()))
        metrics = added(learned.metrics, total(metrics))
        return learned._replace(client=client, head=head, metrics=metrics)

    return turn
