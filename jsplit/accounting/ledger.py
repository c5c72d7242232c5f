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

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from jsplit.accounting.cost_model import CostModel
from jsplit.typing import STATES

KINDS = ("activations", "gradients", "headers", "labels", "client_parts", "control")
DIRECTIONS = ("up", "down")
FLOAT32_BITS = 32


@dataclass
class Ledger:
    """The account of a run, epoch by epoch.

    A networked epoch may go on without some clients: what those did not send and did
    not compute is not counted, and raises the reductions, which compare with epochs of
    A that have everybody.

    Attributes:
        costs: what each epoch costs.
        states: of the epochs so far, such as `"AABCC"`.
        wire: bytes by kind, then direction.
    """

    costs: CostModel
    states: str = ""
    wire: dict[str, dict[str, int]] = field(
        default_factory=lambda: {kind: dict.fromkeys(DIRECTIONS, 0) for kind in KINDS}
    )
    # Examples that took part in A and B, an epoch each time.
    _examples: Counter[str] = field(default_factory=Counter)
    # Who has the current client part; of the first, which follows from the seed, all.
    _holders: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self._holders = frozenset(range(len(self.costs.sizes)))

    def add(self, state: str, absent: Collection[int] = ()) -> None:
        """Enters one epoch.

        Args:
            state: that it ran in.
            absent: the clients without which it went on, in any state but C.

        Raises:
            ValueError: if `state` is not A, B, C or L, or `absent` names others than
                some of the clients.
        """
        if len(state) != 1 or state not in STATES:
            raise ValueError(f"state must be A, B, C or L, got {state!r}")
        clients = range(len(self.costs.sizes))
        present = [client for client in clients if client not in absent]
        if not present or not set(absent) <= set(clients):
            raise ValueError(
                f"absent must be some of {len(clients)} clients, got {sorted(absent)}"
            )
        if state != "C":
            for kind, direction, count in self._epoch(state, present):
                self.wire[kind][direction] += count
            self._examples[state] += sum(self.costs.sizes[n] for n in present)
        self.states += state

    def _epoch(self, state: str, present: list[int]) -> Iterable[tuple[str, str, int]]:
        """What one epoch in A or B adds, as (kind, direction, bytes)."""
        p = self.costs
        if state != "L" and not self.states.strip("CL"):
            # Of all clients: nothing begins before the server has them.
            heads = len(p.sizes) * p.labels_header_bytes
            yield "labels", "up", p.examples * p.label_bytes + heads
        examples = sum(p.sizes[client] for client in present)
        of_client = p.packets
        packets = sum(of_client[client] for client in present)
        yield "control", "down", len(present) * p.plan_bytes
        if state != "L":
            yield "activations", "up", examples * p.payload_bits // 8
            yield "headers", "up", packets * p.header_bytes
        if state == "A":
            yield "gradients", "down", examples * p.grad_payload_bits // 8
            yield "headers", "down", packets * p.grad_header_bytes
        if len(p.sizes) == 1:
            yield "control", "up", p.kept_bytes if state in "AL" else 0
        else:
            # Heads go wherever parts go, also when they no longer learn.
            message = p.part_header_bytes + p.part_bytes + p.head_bytes
            for direction, parts in self._parts(state, present):
                yield "client_parts", direction, parts * message

    def _parts(self, state: str, present: list[int]) -> Iterable[tuple[str, int]]:
        """Client parts that change hands, all by way of the server.

        A client fetches the part unless it holds the current one. In A, and where it
        learned alone, it hands its own in when it has trained: of sequential clients
        the next one fetches that; parallel ones all fetch the mean.
        """
        turns = [[client] for client in present] if self.costs.sequential else [present]
        for turn in turns:
            yield "down", len(set(turn) - self._holders)
            self._holders |= set(turn)
            if state in "AL":
                yield "up", len(turn)
                yield "down", 0 if self.costs.sequential else len(turn)
                self._holders = frozenset(turn)

    @classmethod
    def of(cls, costs: CostModel, states: str) -> "Ledger":
        """The ledger after these epochs.

        Example:
            400 examples of 8 numbers, coded with 8 bits each.

            >>> costs = CostModel(
            ...     sizes=(400,), batch=100, sequential=False,
            ...     values=8, payload_bits=64, grad_payload_bits=64,
            ...     header_bytes=12, grad_header_bytes=12,
            ...     label_bytes=1, labels_header_bytes=9,
            ...     part_bytes=0, part_header_bytes=0, plan_bytes=20, kept_bytes=9,
            ...     forward_macs=100, sync_macs=300,
            ... )
            >>> ledger = Ledger.of(costs, "AABCC")
            >>> ledger.communication_reduction, f"{ledger.client_compute_reduction:.2f}"
            (8.0, '2.14')
            >>> ledger = Ledger.of(costs, 5 * "A" + 5 * "B" + 190 * "C")
            >>> f"{ledger.communication_reduction:.2f}"
            '106.67'
        """
        ledger = cls(costs)
        for state in states:
            ledger.add(state)
        return ledger

    @property
    def epochs(self) -> int:
        """In which the server trained; plain split learning is given as many.

        Those in which clients learned alone come on top and gain nothing here.
        """
        return len(self.states) - self.states.count("L")

    @property
    def wire_bytes(self) -> int:
        """Every byte that crossed."""
        return sum(sum(by.values()) for by in self.wire.values())

    @property
    def paper_bits(self) -> int:
        """Payload bits of activations and gradients."""
        p, count = self.costs, self._examples
        up = (count["A"] + count["B"]) * p.payload_bits
        return up + count["A"] * p.grad_payload_bits

    @property
    def communication_reduction(self) -> float:
        """Paper accounting: payload of all-A float32 over this run's payload.

        Raises:
            ValueError: before the first epoch, or if these epochs sent nothing.
        """
        plain = plain_bits(self.costs, self.epochs)
        return self._ratio(plain, self.paper_bits, "nothing was sent")

    @property
    def client_macs(self) -> int:
        """Multiply-accumulates of all clients."""
        p, count = self.costs, self._examples
        work = count["A"] * p.sync_macs + count["B"] * p.forward_macs
        return work + count["L"] * p.local_macs

    @property
    def client_compute_reduction(self) -> float:
        """Client work of all-A over this run's, in multiply-accumulates.

        1 for a client part without any; what nothing costs cannot be cut.

        Raises:
            ValueError: before the first epoch, or if clients did nothing in these.
        """
        p = self.costs
        plain = p.baseline.sync_macs
        if self.states and not plain:
            return 1.0
        plain = self.epochs * p.examples * plain
        return self._ratio(plain, self.client_macs, "clients computed nothing")

    def _ratio(self, plain: int, spent: int, nothing: str) -> float:
        if spent:
            return float(Fraction(plain, spent))
        if not self.states:
            raise ValueError("there is no reduction before the first epoch")
        kinds = " and ".join(sorted(set(self.states)))
        raise ValueError(
            f"there is no reduction: {nothing} in epochs of {kinds} alone; count all "
            "epochs of the run together, by Ledger.of(costs, states)"
        )


def plain_bits(costs: CostModel, epochs: int) -> int:
    """Payload bits of plain split learning in float32, both ways, of so many epochs."""
    return epochs * 2 * costs.examples * costs.baseline.values * FLOAT32_BITS
