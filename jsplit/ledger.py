"""What a run sent and what its clients computed: exact integers, on the host.

Two accounts of the traffic. `paper` counts payload bits of activations and gradients
alone, against epochs that are all A in float32, as arXiv 2107.09786 does:
`106.67 = 4 * 400 / 15` for 5 A + 5 B + 190 C of float8. `wire` counts every byte of
training that crosses, as the wire format has it (`docs/wire.md`): those payloads, all
headers, labels, client parts handed over or averaged, and the announcement of each
epoch in A or B. Labels cross once: an epoch's order follows from a key that client and
server share. Neither account has the handshake or the traffic of evaluation, and
neither assumes the lossless stage, whose gain depends on the data: a networked run
counts those beside them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from jsplit.typing import STATES

KINDS = ("activations", "gradients", "headers", "labels", "client_parts", "control")
DIRECTIONS = ("up", "down")
FLOAT32_BITS = 32


@dataclass(frozen=True)
class Prices:
    """The static sizes that one epoch's traffic and work follow from.

    Attributes:
        examples: training examples over all clients.
        clients: how many.
        sequential: whether clients take turns and hand the client part on.
        packets: non-empty packets of one epoch in A or B, over all clients.
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

    examples: int
    clients: int
    sequential: bool
    packets: int
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


@dataclass
class Ledger:
    """The account of a run, epoch by epoch.

    Attributes:
        prices: what each epoch costs.
        states: of the epochs so far, such as `"AABCC"`.
        wire: bytes by kind, then direction.
    """

    prices: Prices
    states: str = ""
    wire: dict[str, dict[str, int]] = field(
        default_factory=lambda: {kind: dict.fromkeys(DIRECTIONS, 0) for kind in KINDS}
    )
    # Whether every client holds the current client part, or only the last in turn.
    _all_hold: bool = True

    def add(self, state: str) -> None:
        """Enters one epoch.

        Raises:
            ValueError: if `state` is not A, B or C.
        """
        if len(state) != 1 or state not in STATES:
            raise ValueError(f"state must be A, B or C, got {state!r}")
        for kind, direction, count in self._epoch(state):
            self.wire[kind][direction] += count
        self.states += state

    def _epoch(self, state: str) -> Iterable[tuple[str, str, int]]:
        """What one epoch adds, as (kind, direction, bytes)."""
        p = self.prices
        if state == "C":
            return
        if not self.states.strip("C"):
            heads = p.clients * p.labels_header_bytes
            yield "labels", "up", p.examples * p.label_bytes + heads
        yield "control", "down", p.clients * p.plan_bytes
        yield "activations", "up", p.examples * p.payload_bits // 8
        yield "headers", "up", p.packets * p.header_bytes
        if state == "A":
            yield "gradients", "down", p.examples * p.grad_payload_bits // 8
            yield "headers", "down", p.packets * p.grad_header_bytes
        yield from self._parts(state)

    def _parts(self, state: str) -> Iterable[tuple[str, str, int]]:
        """Client parts that change hands, all by way of the server.

        In turns, a client fetches the part unless it holds the current one, and hands
        its own in when it has trained. Side by side, all hand theirs in after an
        epoch of A and fetch the mean.
        """
        p = self.prices
        if p.clients == 1:
            yield "control", "up", p.kept_bytes if state == "A" else 0
            return
        fetched = 0
        if p.sequential:
            # After an epoch of A only the last client in turn holds the current part.
            if state == "A":
                fetched = p.clients - 1 if self._all_hold else p.clients
            elif not self._all_hold:
                fetched = p.clients - 1
            self._all_hold = state == "B"
        elif state == "A":
            fetched = p.clients
        handed_in = p.clients if state == "A" else 0
        message = p.part_header_bytes + p.part_bytes
        yield "client_parts", "up", handed_in * message
        yield "client_parts", "down", fetched * message

    @classmethod
    def of(cls, prices: Prices, states: str) -> "Ledger":
        """The ledger after these epochs."""
        ledger = cls(prices)
        for state in states:
            ledger.add(state)
        return ledger

    @property
    def wire_bytes(self) -> int:
        """Every byte that crossed."""
        return sum(sum(by.values()) for by in self.wire.values())

    @property
    def paper_bits(self) -> int:
        """Payload bits of activations and gradients."""
        p = self.prices
        count = _counts(self.states)
        up = (count["A"] + count["B"]) * p.payload_bits
        return p.examples * (up + count["A"] * p.grad_payload_bits)

    @property
    def communication_reduction(self) -> float:
        """Paper accounting: payload of all-A float32 over this run's payload.

        Raises:
            ValueError: before the first epoch.
        """
        p = self.prices
        plain = len(self.states) * 2 * p.examples * p.values * FLOAT32_BITS
        return _ratio(plain, self.paper_bits)

    @property
    def client_macs(self) -> int:
        """Multiply-accumulates of all clients."""
        p, count = self.prices, _counts(self.states)
        return p.examples * (count["A"] * p.sync_macs + count["B"] * p.forward_macs)

    @property
    def client_compute_reduction(self) -> float:
        """Client work of all-A over this run's, in multiply-accumulates.

        1 for a client part without any; what nothing costs cannot be cut.

        Raises:
            ValueError: before the first epoch.
        """
        p = self.prices
        if self.states and not p.sync_macs:
            return 1.0
        return _ratio(len(self.states) * p.examples * p.sync_macs, self.client_macs)


def _counts(states: str) -> Mapping[str, int]:
    return {state: states.count(state) for state in STATES}


def _ratio(plain: int, spent: int) -> float:
    if not spent:
        raise ValueError("there is no reduction before the first epoch")
    return float(Fraction(plain, spent))
