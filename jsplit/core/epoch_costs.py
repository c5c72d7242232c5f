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


def wire_costs(costs: CostModel, views: int, local_epochs: int) -> EpochCosts:
    """Every byte of training that crosses, as the ledger counts it.

    Args:
        costs: of an epoch.
        views: epochs of B in a round.
        local_epochs: in which clients learn alone at first.
    """
    alone, views_sent = "L" * local_epochs, "B" * views

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


def payload_costs(costs: CostModel, views: int) -> EpochCosts:
    """Payload bits of activations and gradients, the paper's account.

    Args:
        costs: of an epoch.
        views: epochs of B in a round.
    """
    sync, sent = (Ledger.of(costs, states).paper_bits for states in ("A", "B" * views))
    return EpochCosts(0, sync, sent, sync, sent, sync, sent)
