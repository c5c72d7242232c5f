"""Where a run stands between two chunks of epochs."""

import itertools
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


def states_in_words(states: str, longest: int | None = None) -> str:
    """The states of all epochs in their order, for people.

    Args:
        states: a letter an epoch.
        longest: of the text in letters; what is longer ends in an ellipsis after the
            last of its parts that fits. None: there is no limit.

    Example:
        >>> states_in_words("AAABCCCC"), states_in_words("")
        ('A x3, B, C x4', '')
        >>> states_in_words("AAABCCCC", longest=10)
        'A x3, B, …'
    """
    runs = [(state, len(list(run))) for state, run in itertools.groupby(states)]
    parts = [state if count == 1 else f"{state} x{count}" for state, count in runs]
    text = ", ".join(parts)
    if longest is None or len(text) <= longest:
        return text
    while parts and len(", ".join([*parts, "…"])) > longest:
        parts.pop()
    return ", ".join([*parts, "…"])
