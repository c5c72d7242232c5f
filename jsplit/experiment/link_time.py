"""The time that a schedule takes on a link, without what is computed at its ends."""

from collections.abc import Sequence
from typing import Protocol

from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import Ledger
from jsplit.core.simulation import TEST_BATCH


class Link(Protocol):
    """How fast a client's link is, the same both ways."""

    @property
    def bits(self) -> float:
        """A second."""

    @property
    def delay(self) -> float:
        """Seconds from one end to the other."""


def seconds(costs: CostModel, states: str, link: Link) -> float:
    """Time that the link alone takes, if each client has one of its own.

    In A a step's gradients come back before the next one's activations go; in B they
    follow one another. Computation, compression and TCP's beginnings are not in it.

    Args:
        costs: of an epoch.
        states: of all epochs.
        link: of each client.

    Example:
        400 examples of 8 bytes either way at 1 kB a second, in 4 steps.

        >>> from types import SimpleNamespace
        >>> costs = CostModel(
        ...     sizes=(400,), batch=100, sequential=False,
        ...     values=8, payload_bits=64, grad_payload_bits=64,
        ...     header_bytes=0, grad_header_bytes=0,
        ...     label_bytes=0, labels_header_bytes=0,
        ...     part_bytes=0, part_header_bytes=0, plan_bytes=0, kept_bytes=0,
        ...     forward_macs=100, sync_macs=300,
        ... )
        >>> link = SimpleNamespace(bits=8000.0, delay=0.5)
        >>> [seconds(costs, states, link) for states in ("A", "B", "ABCC")]
        [10.9, 4.2, 15.1]
    """
    turns = len(costs.sizes) if costs.sequential else 1
    steps = costs.packets
    waits = sum(steps) if costs.sequential else max(steps)
    wire = Ledger.of(costs, states).wire
    shares = _slowest_shares(costs, steps)
    sent = sum(shares[kind] * sum(ways.values()) for kind, ways in wire.items())
    # The announcement, then each step's two ways; parts go up and come down again.
    parts = 2 * turns if len(costs.sizes) > 1 else 0
    delays = {"A": turns + 2 * waits + parts, "B": 2 * turns, "L": turns + parts}
    waited = sum(states.count(state) * count for state, count in delays.items())
    return 8 * sent / link.bits + waited * link.delay


def largest_message(batch: int, up: int, down: int, *, held_out: int, part: int) -> int:
    """Bytes of the largest message of a training, before the lossless stage.

    Args:
        batch: examples of a client's batch.
        up: bytes of one example's activations.
        down: bytes of one example's gradients.
        held_out: examples that scores are of; 500 of them are one message.
        part: bytes of a client part; 0 for one client, whose part never crosses.

    Example:
        >>> largest_message(128, 16, 16, held_out=2000, part=0)
        8000
    """
    return max(batch * max(up, down), min(TEST_BATCH, held_out) * up, part)


def _slowest_shares(costs: CostModel, steps: Sequence[int]) -> dict[str, float]:
    """Of each kind's bytes, those that no other client's cross beside."""
    if costs.sequential:
        return dict.fromkeys(Ledger(costs).wire, 1.0)
    of_examples = max(costs.sizes) / sum(costs.sizes)
    alike = 1 / len(costs.sizes)
    return {
        "activations": of_examples,
        "gradients": of_examples,
        "labels": of_examples,
        "headers": max(steps) / sum(steps),
        "client_parts": alike,
        "control": alike,
    }
