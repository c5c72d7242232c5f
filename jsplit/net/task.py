"""What a client is asked to send in an epoch, and how far it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jsplit.typing import SYNC
from jsplit.wire.messages import EVALUATE, ClientWeights, Message, Plan, Tensor


class ModelUpdate(NamedTuple):
    """Client weights, ready to be sent.

    Attributes:
        message: with its digest and compressed arrays.
        plain: bytes of the arrays.
    """

    message: ClientWeights
    plain: int


class CheckedMessage(NamedTuple):
    """What the training takes from a message.

    Attributes:
        value: whatever it needs.
        plain: bytes of the payload before compression; None for one without.
    """

    value: Any
    plain: int | None


class Task:
    """What a client is asked to send, and how far it is.

    Args:
        plan: that announces it; its number is 0.
        length: messages that the client owes.
        check: `(number, message) -> CheckedMessage`, or a `Refusal`.
        update: the weights to begin with, for a client that lacks them; None where
            only the client has them.
        due: whether a client that nothing has happened to lacks those weights.
    """

    def __init__(
        self,
        plan: Plan,
        length: int,
        check: Callable[[int, Message], CheckedMessage],
        update: ModelUpdate | None,
        *,
        due: bool = False,
    ):
        self.plan = plan
        self.due = due
        self.length = length
        self.check = check
        self.update = update
        self.read = 0
        self.announced = False
        self.answer: tuple[Tensor, int] | None = None  # and its payload's plain bytes
        self.answered = False

    @property
    def evaluation(self) -> bool:
        """Whether the task is for a score."""
        return self.plan.state == EVALUATE

    def client_waits(self) -> bool:
        """Whether the client waits: it owes nothing, or lacks its last answer."""
        answers = 0 if self.answer is None else self.answer[0].place.number + 1
        unanswered = self.plan.state == SYNC and self.read > answers
        return unanswered or self.read == self.length

    def goes_on_without_memory(self) -> bool:
        """Whether a client that lost its memory can go on where it was."""
        return self.plan.state != SYNC or self.read in (0, self.length)
