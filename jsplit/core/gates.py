"""The gates to choose from: each a value that carries its settings and its look.

A new gate is a subclass of `GateChoice` here (or in a file of its own) and a line in
`_OWN`, or a subclass in another package and an entry point of the group `jsplit.gates`.
"""

import dataclasses
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from jsplit.core.budget_choice import BudgetGate
from jsplit.core.gate import (
    Gate,
    Reference,
    Rule,
    always_gate,
    freeze_gate,
    loss_gate,
    periodic_gate,
)
from jsplit.core.gate_choice import GateChoice, Style
from jsplit.core.option import MOST, Option, options_of
from jsplit.runtime.registry import Registry


@dataclass(frozen=True)
class AlwaysGate(GateChoice):
    """Plain split learning: every epoch in A."""

    name = "always"
    style = Style("#000000", "D")
    leaves_a = False

    def make(self, classes: int) -> Gate:
        """The gate itself."""
        return always_gate()


@dataclass(frozen=True)
class LossGate(GateChoice):
    """The paper's gate: A while the loss still moves, then one B, then C."""

    name = "loss"
    style = Style("#D55E00", "o")
    threshold: Annotated[
        float,
        Option("Change of the mean loss that opens the gate.", least=0, traced=True),
    ] = 0.05
    rule: Annotated[
        Rule,
        Option(
            "Which change opens the gate: one either way (abs), or only a fall of the "
            "loss (drop).",
            named="loss_rule",
        ),
    ] = "abs"
    reference: Annotated[
        Reference,
        Option(
            "What a loss is compared with: the loss at the last decision for A, as in "
            "the paper (decision), or that of the epoch before (previous). With "
            "same-state A is compared with A, and C with the first C since B, for "
            "states that learn from different images; it cannot reopen the gate once "
            "the threshold exceeds the first loss of C.",
            named="loss_reference",
        ),
    ] = "decision"
    warmup: Annotated[
        int,
        Option(
            "Number of first epochs that run in A whatever the loss.",
            least=0,
            most=MOST,
            traced=True,
        ),
    ] = 0

    def make(self, classes: int) -> Gate:
        """The gate, which begins at the loss of a blind guess."""
        return loss_gate(
            self.threshold,
            initial_loss=math.log(classes),
            rule=self.rule,
            reference=self.reference,
            warmup=self.warmup,
        )

    def canonical(self) -> Self:
        """The first epoch is one of A in any case."""
        if self.warmup != 1:
            return self
        return dataclasses.replace(self, warmup=0)

    def caveat(self, unlike: Sequence[str]) -> str | None:
        """The paper's rule compares the losses of all states with one another."""
        if not unlike or not self.threshold or self.reference == "same-state":
            return None
        return (
            f"{' and '.join(unlike)}, which alone may open the gate; see "
            "--loss-reference"
        )


@dataclass(frozen=True)
class PeriodicGate(GateChoice):
    """The naive control: A every so many epochs, whatever the loss."""

    name = "periodic"
    style = Style("#56B4E9", "s")
    control = True
    period: Annotated[
        int,
        Option(
            "Number of epochs from one A to the next.", least=1, most=MOST, traced=True
        ),
    ] = 10

    def make(self, classes: int) -> Gate:
        """The gate itself."""
        return periodic_gate(self.period)


@dataclass(frozen=True)
class FreezeGate(GateChoice):
    """The freezing control: some epochs of A, one B, then C for ever."""

    name = "freeze"
    style = Style("#CC79A7", "^")
    control = True
    sync_epochs: Annotated[
        int,
        Option(
            "Number of epochs of A before the gate shuts. With 0 the client's part "
            "stays as it began.",
            least=0,
            most=MOST,
            traced=True,
        ),
    ] = 5

    def make(self, classes: int) -> Gate:
        """The gate itself."""
        return freeze_gate(self.sync_epochs)


def _fault(choice: Any) -> str | None:
    """What is wrong with a gate of another package: it must go to records and back."""
    if not (isinstance(choice, type) and issubclass(choice, GateChoice)):
        return "it is no subclass of GateChoice"
    if inspect.isabstract(choice):
        return "it has no method make"
    if "__annotations__" in vars(choice) and "__dataclass_fields__" not in vars(choice):
        return "it is no dataclass; put @dataclass(frozen=True) above it"
    known = {setting.field: setting for setting in options_of(choice).values()}
    for field in dataclasses.fields(choice):
        if field.name not in known:
            return f"its setting {field.name} is not annotated with an Option"
        if known[field.name].default is dataclasses.MISSING:
            return f"its setting {field.name} has no default"
        if not known[field.name].types <= {bool, int, float, str, type(None)}:
            return f"its setting {field.name} is no number, text, true or false"
    return None


_OWN: dict[str, type[GateChoice]] = {
    choice.name: choice
    for choice in (AlwaysGate, LossGate, PeriodicGate, FreezeGate, BudgetGate)
}

GATES: Registry[type[GateChoice]] = Registry("gate", "jsplit.gates", _OWN, _fault)
"""Every gate by the name it has on the command line, in the order of reports."""
