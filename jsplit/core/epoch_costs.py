"""What the epochs of a run send, as a gate counts them that spends by a budget."""

from typing import NamedTuple

from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import Ledger


class EpochCosts(NamedTuple):
    """What a run's epochs send, all in one unit: bytes, or bits.

    Attributes:
        before: what crosses before the gate's first epoch, while clients learn alone.
        first_sync: the first epoch, if it is one of A.
        first_round: the first round, if the run begins with it.
        sync: an epoch of A after one of A.
        round: a round after A.
        later_sync: an epoch of A after C.
        later_round: a round after C.
    """

    before: int
    first_sync: int
    first_round: int
    sync: int
    round: int
    later_sync: int
    later_round: int

    @property
    def least(self) -> int:
        """What the least that a run can do sends: it fills the store once."""
        return self.before + self.first_round


def wire_costs(costs: CostModel) -> EpochCosts:
    """Every byte of training that crosses, as the ledger counts it.

    Args:
        costs: of an epoch, with the run's views and local epochs, as `make_simulation`
            hands them to a gate.
    """
    alone, views_sent = "L" * costs.local_epochs, "B" * costs.views

    def added(before: str, states: str) -> int:
        whole, part = Ledger.of(costs, before + states), Ledger.of(costs, before)
        return whole.wire_bytes - part.wire_bytes

    return EpochCosts(
        before=added("", alone),
        first_sync=added(alone, "A"),
        first_round=added(alone, views_sent),
        sync=added("A", "A"),
        round=added("A", views_sent),
        later_sync=added("ABC", "A"),
        later_round=added("ABC", views_sent),
    )


def payload_costs(costs: CostModel) -> EpochCosts:
    """Payload bits of activations and gradients, the paper's account.

    Args:
        costs: of an epoch, with the run's views, as `make_simulation` hands them to a
            gate.
    """
    states = "A", "B" * costs.views
    sync, sent = (Ledger.of(costs, each).paper_bits for each in states)
    return EpochCosts(0, sync, sent, sync, sent, sync, sent)
