"""The server's store on the host: views of clients that may be away for some."""

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.codecs import identity
from jsplit.core import schedule, store
from jsplit.core.topology import PARALLEL, make_layout
from jsplit.net.store import HostStore, ServerBatch
from jsplit.typing import Packet

SIZES = [3, 5]
LAYOUT = make_layout(SIZES, PARALLEL, batch_size=4)
"""Batches of 2 a client: 3 steps, of which the first client has 2."""


def sent(host, epoch, present, *, reply=False):
    """An epoch of B, or of A if `reply`; values say the epoch, client and example."""
    key = schedule.epoch_key(jax.random.key(0), epoch)
    keys = schedule.client_keys(key, LAYOUT)[0]
    views = [0 if reply else host.next_view(client) for client in range(2)]
    for number in range(LAYOUT.steps):
        payload = np.zeros((2, 2, 1), np.float32)
        labels, positions = np.zeros((2, 2, 2), np.int32)
        mask = np.zeros((2, 2), bool)
        for client in present:
            plan = schedule.plan_client(keys[client], SIZES[client], LAYOUT.slots)
            rows = schedule.rows_of_batch(SIZES[client], number, 2)
            at = np.asarray(plan.order)[2 * number : 2 * number + 2]
            positions[client] = at
            mask[client, :rows] = True
            labels[client] = at % SIZES[client]
            payload[client, :, 0] = 100 * epoch + 10 * client + at
        packets = Packet(payload, np.zeros((2, 0), np.uint8))
        host.write(0, number, views, packets, ServerBatch(labels, positions, mask))
    for client in present:
        host.note_turn(client, reply=reply)


def drawn(host, epoch):
    """What an epoch of C learns from: payloads and labels, by the slot it draws."""
    key = schedule.epoch_key(jax.random.key(0), epoch)
    on_device = host.on_device()
    plan = schedule.plan_offline(key, host.filled(), LAYOUT, padded=True)
    plan = store.with_views(on_device, key, plan, LAYOUT)
    real = np.asarray(plan.mask[..., 0])
    views = None if plan.views is None else plan.views[real]
    taken = store.take(on_device.examples, plan.slots[real], views)
    return np.asarray(taken.packets.payload)[:, 0].astype(int), np.asarray(taken.labels)


def test_c_draws_from_the_views_that_each_client_has_sent():
    host = HostStore(LAYOUT, identity(), (1,), views=2)
    sent(host, 0, [0, 1])
    sent(host, 1, [1])  # The first client is away.
    epochs = {0: set(), 1: set()}
    for epoch in range(2, 12):
        values, labels = drawn(host, epoch)
        clients, examples = values % 100 // 10, values % 10
        found = sorted(zip(clients.tolist(), examples.tolist(), strict=True))
        assert found == [(0, n) for n in range(3)] + [(1, n) for n in range(5)]
        np.testing.assert_array_equal(labels, examples)
        for client in (0, 1):
            epochs[client] |= set((values // 100)[clients == client].tolist())
    assert epochs == {0: {0}, 1: {0, 1}}


def test_what_a_client_sends_in_a_takes_the_place_of_its_views():
    host = HostStore(LAYOUT, identity(), (1,), views=2)
    for epoch in (0, 1):
        sent(host, epoch, [0, 1])
    sent(host, 2, [0, 1], reply=True)
    assert {value // 100 for value in drawn(host, 3)[0].tolist()} == {2}
    sent(host, 4, [0])
    values, _ = drawn(host, 5)
    assert {value // 100 for value in values[values % 100 < 10].tolist()} == {4}


def test_one_view_is_drawn_from_as_it_lies():
    host = HostStore(LAYOUT, identity(), (1,))
    sent(host, 0, [0, 1])
    key = schedule.epoch_key(jax.random.key(0), 1)
    plan = schedule.plan_offline(key, host.filled(), LAYOUT, padded=True)
    assert store.with_views(host.on_device(), key, plan, LAYOUT) is plan
    assert jnp.all(host.on_device().refreshed == 1)
