"""What a client computes with, and how far it is in an epoch."""

import dataclasses
from typing import NamedTuple

import numpy as np

from jsplit.core.client_steps import Residual
from jsplit.core.state import ClientParts
from jsplit.core.steps import Steps
from jsplit.core.transform import Transform
from jsplit.typing import Codec
from jsplit.wire.messages import Message, Plan, Tensor


class ClientSetup(NamedTuple):
    """What a client computes with.

    Attributes:
        steps: of the client/server pair.
        transform: of raw images.
        beginning: what all clients begin with.
        codec: of activations.
        grad_codec: of gradients.
        smashed_shape: of one example's activations.
        step_sizes: of each epoch, `Float32[epochs]`.
        proportional: whether the client spreads its examples over all steps of an
            epoch.
    """

    steps: Steps
    transform: Transform
    beginning: ClientParts
    codec: Codec
    grad_codec: Codec
    smashed_shape: tuple[int, ...]
    step_sizes: np.ndarray
    proportional: bool


@dataclasses.dataclass
class EpochProgress:
    """An epoch in progress in which the client learns.

    Attributes:
        plan: that it follows.
        parts: after the batches that are done.
        done: how many those are.
        waiting: the message and the residual of the batch whose gradient is due.
        finished: the message that ends the epoch, once it is made.
    """

    plan: Plan
    parts: ClientParts
    done: int = 0
    waiting: tuple[Tensor, Residual] | None = None
    finished: Message | None = None
