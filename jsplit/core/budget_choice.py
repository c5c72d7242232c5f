"""The budget gate as it is chosen: by bytes, a reduction, or points of accuracy."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Self

from jsplit.accounting.byte_counts import bytes_from, bytes_text
from jsplit.accounting.ledger import plain_bits
from jsplit.core.budget import REASONS, BudgetReport, budget_gate
from jsplit.core.epoch_costs import EpochCosts, payload_costs, wire_costs
from jsplit.core.gate import Gate
from jsplit.core.gate_choice import GateChoice, RunFacts, Style, said
from jsplit.core.option import MOST, Option
from jsplit.core.plain_curve import PlainCurve, read_curve
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
    loss_budget: Annotated[
        float | None,
        Option(
            "Points of accuracy (percent) that the run may stay below the plain run "
            "of --against, by whose training losses it spends. This is a target and no "
            "guarantee. Without --budget or --reduction there is no limit to what "
            "crosses. None: falls of the loss decide.",
            "POINTS",
            least=0,
            most=100,
            traced=True,
        ),
    ] = None
    against: Annotated[
        str | None,
        Option(
            "The folder of a finished run of plain split learning (--gate always, "
            "both codecs identity), with the same data and epochs. A run keeps what it "
            "takes from there. "
            "Over a network only the server needs it.",
            "RUN",
            traced=True,
            one_side=True,
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
                that does, or the plain run is of other classes or examples.
            ValueError: if the plain run is a folder that nobody read.
        """
        fault = self.fault()
        if fault is not None:
            raise InputError(fault)
        if self.reduction is None:
            budget = None if self.budget is None else bytes_from(self.budget)
            costs = wire_costs(run.costs)
        else:
            plain = plain_bits(run.costs, run.epochs)
            budget = int(plain / Fraction(self.reduction))
            costs = payload_costs(run.costs)
        if budget is not None and budget < costs.least:
            raise InputError(self._too_small(run, costs))
        return budget_gate(
            budget,
            costs,
            initial_loss=math.log(run.classes),
            learned_alone=run.local_epochs > 0,
            known_filters=run.known_filters,
            new_views=run.new_views,
            min_fall=self.min_fall,
            patience=self.patience,
            allowed_losses=self._allowed_losses(run),
        )

    def _allowed_losses(self, run: RunFacts) -> Sequence[float]:
        if self.loss_budget is None:
            return ()
        curve = self.curve
        if curve is None:
            raise ValueError(f"the plain run {self.against} was not read")
        for name, there, here in (
            ("classes", curve.classes, run.classes),
            ("training examples", curve.examples, run.costs.examples),
        ):
            if there != here:
                raise InputError(
                    f"--against {curve.run} has {there} {name}, and this run has "
                    f"{here}; name a plain run of the same data"
                )
        allowed: list[float] = curve.allowed(self.loss_budget).tolist()
        return allowed

    @property
    def curve(self) -> PlainCurve | None:
        """Of the plain run, once it was read; None before, or if there is none."""
        return None if self.against is None else read_curve(self.against)

    def _too_small(self, run: RunFacts, costs: EpochCosts) -> str:
        one = run.views == 1
        sent = "epoch of B that fills" if one else f"{run.views} epochs of B that fill"
        filled = f"does not pay for the {sent} the store once"
        if self.budget is not None:
            send = "sends" if one else "send"
            least = f"which {send} {costs.least:,} bytes in all; give at least --budget"
            said = f"--budget {self.budget} {filled}, {least} {costs.least}"
        else:
            # Rounded down, so that what is named does pay.
            most = math.floor(plain_bits(run.costs, run.epochs) * 100 / costs.least)
            said = f"--reduction {self.reduction:g} {filled}; give at most --reduction "
            said += f"{most / 100:g}"
        return f"{said}, or take fewer --views or another --codec"

    def fault(self) -> str | None:
        """What may cross, or be lost, must be said, and said once."""
        if self.against is not None and self.loss_budget is None:
            return (
                "--against names the plain run of a --loss-budget; add --loss-budget "
                "0.5, or leave it out"
            )
        if self.loss_budget is not None and not self.against:
            return (
                f"--loss-budget {self.loss_budget:g} is in points below a plain run; "
                "name the folder of one by --against RUN"
            )
        usual = type(self)()
        for name, value in (
            ("--min-fall", self.min_fall != usual.min_fall),
            ("--stall-epochs", self.patience != usual.patience),
        ):
            if value and self.loss_budget is not None:
                return (
                    f"{name} has no effect with --loss-budget, where the plain run's "
                    "losses decide; leave one of them out"
                )
        if self.budget is None and self.reduction is None:
            if self.loss_budget is not None:
                return None
            return (
                "--gate budget needs what may cross: add --budget 150MB (every byte) "
                "or --reduction 200 (by the paper's account); or what may be lost: "
                "--loss-budget 0.5 --against RUN"
            )
        if self.budget is not None and self.reduction is not None:
            return (
                f"--budget {self.budget} and --reduction {self.reduction:g} both say "
                "what may cross; leave one of them out"
            )
        if self.reduction is not None and not self.reduction >= 1:
            return f"--reduction must be 1 or more, got {self.reduction:g}"
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
        """Why the epoch has its state, and what bytes the gate has left to spend.

        There are none of those where nothing limits them.
        """
        said: dict[str, Any] = {"gate_reason": REASONS[int(report.reason)]}
        if self.budget is not None or self.reduction is not None:
            bits = 1 if self.budget is None else 8
            said["budget_left"] = whole(report.left) * bits // 8
        return said

    def achieved(self, test_accuracy: float | None) -> dict[str, Any] | None:
        """How far below the plain run it ended, beside how far it might."""
        curve = self.curve
        if curve is None:
            return None
        plain, below = curve.accuracies[-1], None
        if test_accuracy is not None:
            below = 100 * (plain - test_accuracy)
        return {
            "loss_budget": self.loss_budget,
            "against": curve.run,
            "plain_test_accuracy": plain,
            "points_below": below,
        }

    def pooled(self) -> Self:
        """Each seed may have a plain run of its own."""
        return dataclasses.replace(self, against=None)

    def caveat(self, unlike: Sequence[str]) -> str | None:
        """Losses of all states are compared with those of the plain run's A."""
        if not unlike or self.loss_budget is None:
            return None
        return (
            "--loss-budget compares the loss of every state with the plain run's of A, "
            f"but {' and '.join(unlike)}, so that points of accuracy are told wrongly; "
            "--views says what B and C learn from"
        )

    def _number(self) -> list[str]:
        said = []
        if self.loss_budget is not None:
            said.append(f"{self.loss_budget:g} points")
        if self.budget is not None:
            said.append(self.budget)
        if self.reduction is not None:
            said.append(f"/{self.reduction:g}")
        return [" within ".join(said)] if said else []

    def _rest(self) -> list[str]:
        mine = ("budget", "reduction", "loss_budget", "against")
        rest = [
            said(name.replace("_", " "), value)
            for name, value, told in self._settings()
            if told and name not in mine
        ]
        return rest + ["against plain"] * (self.loss_budget is not None)
