"""The gates to choose from: each a value that carries its settings and its look.

A new gate is a subclass here (or in a file of its own) and a line in `GATES`, or a
subclass in another package and an entry point of the group `jsplit.gates`.
"""

import abc
import dataclasses
import inspect
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
from jsplit.runtime.registry import Registry

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
            "abs: a change either way opens the gate. drop: only a falling loss does.",
            named="loss_rule",
        ),
    ] = "abs"
    reference: Annotated[
        Reference,
        Option(
            "What a loss is compared with. decision: the loss at the last decision for "
            "A, as in the paper. previous: that of the epoch before. same-state: A is "
            "compared with A, and C with the first C since B, for states that learn "
            "from different images; it cannot reopen the gate once the threshold "
            "exceeds the first loss of C.",
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
            "Number of epochs of A before the gate shuts. 0: the client's part stays "
            "as it began.",
            least=0,
            most=_MOST,
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
    choice.name: choice for choice in (AlwaysGate, LossGate, PeriodicGate, FreezeGate)
}

GATES: Registry[type[GateChoice]] = Registry("gate", "jsplit.gates", _OWN, _fault)
"""Every gate by the name it has on the command line, in the order of reports."""
