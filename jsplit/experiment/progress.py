"""Where a run stands between two chunks of epochs."""

from typing import Any

from jsplit.accounting.ledger import Ledger
from jsplit.core.state import TrainState
from jsplit.experiment.build import Experiment

Record = dict[str, Any]
"""One epoch's line of `metrics.jsonl`; `writers` names its entries."""


class Progress:
    """Where a run stands: its state, and the records and ledger up to there."""

    def __init__(self, experiment: Experiment):
        self.state: TrainState = experiment.simulation.state
        self.records: list[Record] = []
        self.ledger = Ledger(experiment.simulation.costs)
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


def shortened(states: str, longest: int | None = None) -> str:
    """AABCCCC as `AABC4`: runs of more than three are counted.

    What is longer than `longest` ends in an ellipsis.
    """
    shown, place = "", 0
    while place < len(states):
        length = len(states[place:]) - len(states[place:].lstrip(states[place]))
        shown += states[place] * length if length <= 3 else f"{states[place]}{length}"
        place += length
    if longest is not None and len(shown) > longest:
        return shown[: longest - 1] + "…"
    return shown
