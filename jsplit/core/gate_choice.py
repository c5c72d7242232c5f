"""What is chosen of a gate: a value that carries its settings and its look."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from jsplit.accounting.cost_model import CostModel
from jsplit.core.gate import Gate
from jsplit.core.option import options_of


class Style(NamedTuple):
    """How pictures draw a gate: a colour (of Okabe and Ito) and a marker."""

    colour: str
    marker: str


class RunFacts(NamedTuple):
    """What a gate may know of a run before that begins.

    Attributes:
        classes: of the classification.
        epochs: in A, B and C.
        new_views: whether the same view sends something else the next time.
        costs: of an epoch, with the views and the local epochs of the run.
        known_filters: whether the client's part is one block with filters that are
            known beforehand (all, or as many as there are), and so has something to
            send before it learned anything.
    """

    classes: int
    epochs: int
    new_views: bool
    costs: CostModel
    known_filters: bool = False

    @property
    def views(self) -> int:
        """Of each example, each from an epoch of B."""
        return self.costs.views

    @property
    def local_epochs(self) -> int:
        """In which clients learn alone at first."""
        return self.costs.local_epochs


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

    def make_for(self, run: RunFacts) -> Gate:
        """The gate itself, for a run of which so much is known.

        Raises:
            InputError: if it is no gate for such a run.
        """
        return self.make(run.classes)

    def fault(self) -> str | None:
        """What is wrong with its settings together, as a line for people."""
        return None

    def told(self, report: Any) -> dict[str, Any]:
        """What the record of an epoch says of the gate's report of it."""
        return {}

    def achieved(self, test_accuracy: float | None) -> dict[str, Any] | None:
        """How a finished run met a goal in accuracy that the gate was given.

        Args:
            test_accuracy: after the last epoch, a fraction; None if nobody measured it.

        Returns:
            `loss_budget` and `points_below`, points that it might and did end below
            the run in the folder `against`, whose accuracy `plain_test_accuracy` is;
            None where there was no goal.
        """
        return None

    def pooled(self) -> Self:
        """The same without what may differ between runs whose accuracies are averaged.

        Such runs differ in their seed, and in what follows from it.
        """
        return self

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
            unlike: how they differ, such as `only A augments`; empty if they do not.
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
            said(name.replace("_", " "), value)
            for name, value, told in self._settings()[len(self._number()) :]
            if told
        ]


def said(name: str, value: Any) -> str:
    """A setting in a few words: names by themselves, numbers with their names."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value:g}"
