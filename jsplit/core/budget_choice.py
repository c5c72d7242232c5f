"""The budget gate as it is chosen: by bytes, or by a reduction of the paper's."""

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Self

from jsplit.accounting.byte_counts import bytes_from, bytes_text
from jsplit.accounting.ledger import plain_bits
from jsplit.core.budget import (
    REASONS,
    BudgetReport,
    EpochCosts,
    budget_gate,
    payload_costs,
    wire_costs,
)
from jsplit.core.gate import Gate
from jsplit.core.gate_choice import GateChoice, RunFacts, Style, said
from jsplit.core.option import MOST, Option
from jsplit.core.wide import whole
from jsplit.errors import InputError


@dataclass(frozen=True)
class BudgetGate(GateChoice):
    """A budget in, a schedule out: A's and B's by the loss, while there is budget."""

    name = "budget"
    style = Style("#009E73", "v")
    reduction: Annotated[
        float | None,
        Option(
            "Least reduction of communication by the paper's account, of all epochs. "
            "None: --budget says what may cross.",
            least=1,
            traced=True,
        ),
    ] = None
    budget: Annotated[
        str | None,
        Option(
            "Most bytes that may cross in the whole training, of all clients together, "
            "such as 150MB or 1.5GiB. None: --reduction says what may cross.",
            traced=True,
        ),
    ] = None
    min_fall: Annotated[
        float,
        Option(
            "Share of a loss by which the next one must be lower to count as falling.",
            least=0,
            below=1,
            traced=True,
        ),
    ] = 0.05
    patience: Annotated[
        int,
        Option(
            "Number of epochs of C in a row without such a fall after which the gate "
            "spends again.",
            least=1,
            most=MOST,
            named="stall_epochs",
            traced=True,
        ),
    ] = 3

    def make(self, classes: int) -> Gate:
        """Not without what epochs cost.

        Raises:
            ValueError: always.
        """
        raise ValueError("a budget gate must know its run; make it by make_for(run)")

    def make_for(self, run: RunFacts) -> Gate:
        """The gate, which begins at the loss of a blind guess.

        Raises:
            InputError: if the budget does not fill the store once, naming the least
                that does.
        """
        fault = self.fault()
        if fault is not None:
            raise InputError(fault)
        if self.budget is not None:
            budget = bytes_from(self.budget)
            costs = wire_costs(run.costs, run.views, run.local_epochs)
        else:
            assert self.reduction is not None
            plain = plain_bits(run.costs, run.epochs)
            budget = int(plain / Fraction(self.reduction))
            costs = payload_costs(run.costs, run.views)
        if budget < costs.least:
            raise InputError(self._too_small(run, costs))
        return budget_gate(
            budget,
            costs,
            initial_loss=math.log(run.classes),
            learned_alone=run.local_epochs > 0,
            new_views=run.new_views,
            min_fall=self.min_fall,
            patience=self.patience,
        )

    def _too_small(self, run: RunFacts, costs: EpochCosts) -> str:
        sent = "1 epoch" if run.views == 1 else f"{run.views} epochs"
        filled = f"does not pay for the {sent} of B that fill the store once"
        if self.budget is not None:
            least = f"which send {costs.least:,} bytes in all; give at least --budget"
            said = f"--budget {self.budget} {filled}, {least} {costs.least}"
        else:
            # Rounded down, so that what is named does pay.
            most = math.floor(plain_bits(run.costs, run.epochs) * 100 / costs.least)
            said = f"--reduction {self.reduction:g} {filled}; give at most --reduction "
            said += f"{most / 100:g}"
        return f"{said}, or take fewer --views or another --codec"

    def fault(self) -> str | None:
        """What may cross must be said, and said once."""
        if self.budget is None and self.reduction is None:
            return (
                "--gate budget needs what may cross: add --budget 150MB (every byte) "
                "or --reduction 200 (by the paper's account)"
            )
        if self.budget is not None and self.reduction is not None:
            return (
                f"--budget {self.budget} and --reduction {self.reduction:g} both say "
                "what may cross; leave one of them out"
            )
        try:
            bytes_from(self.budget or "1")
        except ValueError:
            return f"--budget must be like 150MB or 1.5GiB, got {self.budget!r}"
        return None

    def canonical(self) -> Self:
        """However the bytes are written."""
        if self.budget is None or self.fault() is not None:
            return self
        return dataclasses.replace(self, budget=bytes_text(bytes_from(self.budget)))

    def told(self, report: BudgetReport) -> dict[str, Any]:
        """Why the epoch has its state, and what bytes the gate has left to spend."""
        bits = 1 if self.budget is None else 8
        left = whole(report.left) * bits // 8
        return {"gate_reason": REASONS[int(report.reason)], "budget_left": left}

    def _number(self) -> list[str]:
        if self.budget is not None:
            return [self.budget]
        return [] if self.reduction is None else [f"/{self.reduction:g}"]

    def _rest(self) -> list[str]:
        return [
            said(name.replace("_", " "), value)
            for name, value, told in self._settings()
            if told and name not in ("budget", "reduction")
        ]
