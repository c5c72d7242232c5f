"""What one epoch sends and computes, as static sizes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CostModel:
    """The static sizes that one epoch's traffic and work follow from.

    Attributes:
        sizes: training examples of each client.
        batch: of these, in a packet; an epoch's last may hold fewer.
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
        forward_macs: multiply-accumulates of a client's forward pass, one example.
        sync_macs: of its forward and backward pass, one example.
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

    @property
    def examples(self) -> int:
        """Over all clients."""
        return sum(self.sizes)
