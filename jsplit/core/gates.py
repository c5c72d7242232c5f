"""The gates to choose from: each a value that carries its settings and its look.

A new gate is a subclass here (or in a file of its own) and a line in `GATES`.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from jsplit.core.gate import (
    Gate,
    Reference,
    Rule,
    always_gate,
    freeze_gate,
    loss_gate,
    periodic_gate,
)
from jsplit.core.option import Option, options_of

_MOST = 1_000_000
"""Of epochs: far above what is used, far below what overflows."""


class Style(NamedTuple):
    """How pictures draw a gate: a colour (of Okabe and Ito) and a marker."""

    colour: str
    marker: str


@dataclass(frozen=True)
class GateChoice(abc.ABC):
    """What is chosen of a gate: the fields are its settings, annotated with `Option`.

    Attributes:
        name: on the command line and in records.
        style: in pictures; None for one that pictures choose, unlike all others.
        leaves_a: whether any epoch is in another state than A.
        control: whether it pays no heed to the loss, so that gates that do must prove
            themselves against it.
    """

    name: ClassVar[str]
    style: ClassVar[Style | None] = None
    leaves_a: ClassVar[bool] = True
    control: ClassVar[bool] = False
    GROUP: ClassVar[str] = "gate"

    @abc.abstractmethod
    def make(self, classes: int) -> Gate:
        """The gate itself, for a classification with so many classes."""

    def label(self) -> str:
        """The gate in a few words: `loss 0.05, drop`."""
        return ", ".join([" ".join([self.name, *self._number()]), *self._rest()])

    def kind(self) -> str:
        """The same but for the gate's number: what a line in a picture joins."""
        return ", ".join([self.name, *self._rest()])

    def canonical(self) -> Self:
        """The same for settings that say the same."""
        return self

    def caveat(self, unlike: Sequence[str]) -> str | None:
        """What to tell people before a run whose states learn from different images.

        Args:
            unlike: how they differ, such as `A learns from augmented images, B and C
                from images as they are`; empty if they do not.
        """
        return None

    def _settings(self) -> list[tuple[str, Any, bool]]:
        return [
            (name, getattr(self, known.field), getattr(self, known.field) != usual)
            for name, known in options_of(type(self)).items()
            for usual in (known.default,)
        ]

    def _number(self) -> list[str]:
        """The first of the settings, if it is a number."""
        return [
            f"{value:g}"
            for _, value, _ in self._settings()[:1]
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]

    def _rest(self) -> list[str]:
        """What else is not as usual: names by themselves, numbers with their names."""
        return [
            _said(name.replace("_", " "), value)
            for name, value, told in self._settings()[len(self._number()) :]
            if told
        ]


def _said(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value:g}"


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
            most=_MOST,
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
            "The loss gate compares losses of all states with one another, but "
            f"{' and '.join(unlike)}, so that a change of state alone can open it. "
            "--views augmented has B and C learn from augmented images too; "
            "--loss-reference same-state compares A with A and C with C, but can never "
            "reopen the gate once the threshold exceeds the first loss of C."
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
            "Number of epochs from one A to the next.", least=1, most=_MOST, traced=True
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
            most=_MOST,
            traced=True,
        ),
    ] = 5

    def make(self, classes: int) -> Gate:
        """The gate itself."""
        return freeze_gate(self.sync_epochs)


GATES: dict[str, type[GateChoice]] = {
    choice.name: choice for choice in (AlwaysGate, LossGate, PeriodicGate, FreezeGate)
}
"""Every gate by the name it has on the command line, in the order of reports."""
