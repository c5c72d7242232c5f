"""Where a run stands between two chunks of epochs."""

from typing import Any

from jsplit.build import Experiment
from jsplit.ledger import Ledger
from jsplit.protocol import TrainState

Record = dict[str, Any]
"""One epoch's line of `metrics.jsonl`; `jsplit.writers` names its entries."""


class Progress:
    """Where a run stands: its state, and the records and ledger up to there."""

    def __init__(self, experiment: Experiment):
        self.state: TrainState = experiment.simulation.state
        self.records: list[Record] = []
        self.ledger = Ledger(experiment.simulation.prices)
        # Whether the store was rewritten since it was last saved.
        self.store_changed = False

    @property
    def epochs(self) -> int:
        """Epochs finished."""
        return len(self.records)

    @property
    def seconds(self) -> float:
        """Spent on them, over all sittings."""
        return self.records[-1]["seconds"] if self.records else 0.0
