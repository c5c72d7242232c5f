"""What one epoch sends and computes, as static sizes."""

from dataclasses import dataclass, replace
from typing import NamedTuple


class PlainCosts(NamedTuple):
    """What plain split learning of the same network costs, where that differs.

    Attributes:
        values: numbers that cross for one example, one way.
        sync_macs: multiply-accumulates of a client's forward and backward pass.
        part_bytes: of a client part.
    """

    values: int
    sync_macs: int
    part_bytes: int


def packets_of(size: int, batch: int, dealt_over: int | None = None) -> int:
    """How many packets a client's examples make in an epoch: its first batches.

    Args:
        size: of its examples.
        batch: of these, in a packet, at most.
        dealt_over: steps over which they are spread; None: packets are full until there
            are no more.

    Example:
        >>> packets_of(5, batch=2), packets_of(5, batch=2, dealt_over=4)
        (3, 4)
        >>> packets_of(3, batch=2, dealt_over=4)
        3
    """
    return -(-size // batch) if dealt_over is None else min(size, dealt_over)


@dataclass(frozen=True)
class CostModel:
    """The static sizes that one epoch's traffic and work follow from.

    Attributes:
        sizes: training examples of each client.
        batch: of these, in a packet, at most.
        sequential: whether clients take turns and hand the client part on.
        values: numbers that cross for one example, one way.
        payload_bits: of one example's activations.
        grad_payload_bits: of one example's gradients.
        header_bytes: of an activation packet's message, beside the payload.
        grad_header_bytes: of a gradient packet's, likewise.
        label_bytes: of one label.
        labels_header_bytes: of the message with a client's labels, beside those.
        part_bytes: of a client part: parameters, statistics and optimizer state.
        part_header_bytes: of the message that hands it over, beside those.
        plan_bytes: of one announcement to one client.
        kept_bytes: of the word of a client alone that its epoch of A is over.
        head_bytes: of the head by which a client learns alone, as of its part.
        forward_macs: multiply-accumulates of a client's forward pass, one example.
        sync_macs: of its forward and backward pass, one example.
        local_macs: of those and its head's, one example.
        plain: of the network without what was put in to save traffic (a bottleneck),
            which reductions are against; None where nothing was.
        dealt_over: steps over which each client spreads its examples, all of them; None
            where its packets are full until it has no more.
        views: epochs of B that fill the store, one after another.
        local_epochs: in which clients learn alone at first.
    """

    sizes: tuple[int, ...]
    batch: int
    sequential: bool
    values: int
    payload_bits: int
    grad_payload_bits: int
    header_bytes: int
    grad_header_bytes: int
    label_bytes: int
    labels_header_bytes: int
    part_bytes: int
    part_header_bytes: int
    plan_bytes: int
    kept_bytes: int
    forward_macs: int
    sync_macs: int
    head_bytes: int = 0
    local_macs: int = 0
    plain: PlainCosts | None = None
    dealt_over: int | None = None
    views: int = 1
    local_epochs: int = 0

    @property
    def baseline(self) -> PlainCosts:
        """What plain split learning of the same network costs."""
        return self.plain or PlainCosts(self.values, self.sync_macs, self.part_bytes)

    def of_states(self, states: str) -> "CostModel":
        """What a run in these states costs: one without L has no heads to carry."""
        if "L" in states:
            return self
        return replace(self, head_bytes=0, local_macs=0)

    @property
    def packets(self) -> tuple[int, ...]:
        """That each client sends in an epoch of A or B."""
        return tuple(
            packets_of(size, self.batch, self.dealt_over) for size in self.sizes
        )

    @property
    def examples(self) -> int:
        """Over all clients."""
        return sum(self.sizes)
