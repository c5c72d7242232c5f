"""What a client believes of what the server tells it, before it acts on that."""

import numpy as np

from jsplit.errors import Refusal
from jsplit.net.batches import ClientData
from jsplit.wire.messages import EVALUATE, Done, Plan, Welcome

MOST_SLOTS = 2**24
"""Places in an epoch that a client believes a server to have."""


def check_welcome(welcome: Welcome, data: ClientData) -> None:
    """Refuses sizes and moments that no run has, before anything is made of them.

    Raises:
        Refusal: MALFORMED.
    """
    batch, slots = welcome.batch, welcome.slots
    if not (
        0 < batch <= slots <= MOST_SLOTS
        and len(data.labels) <= slots
        and slots % batch == 0
        and len(welcome.moments) == data.images.shape[-1]
        and np.isfinite(welcome.moments).all()
        and min(deviation for _, deviation in welcome.moments) > 0
    ):
        raise Refusal(
            "MALFORMED",
            f"a welcome that no run has: batches of {batch} in {slots} slots, moments "
            f"{welcome.moments}",
        )


def check_plan(plan: Plan, epochs: int) -> None:
    """Refuses an epoch that a run of so many does not have.

    Raises:
        Refusal: MALFORMED.
    """
    if plan.place.epoch >= epochs + (plan.state == EVALUATE):
        raise Refusal("MALFORMED", f"epoch {plan.place.epoch + 1} of a run of {epochs}")


def check_done(done: Done, epochs: int) -> None:
    """Refuses an end that is not that of a run of so many epochs.

    Raises:
        Refusal: MALFORMED.
    """
    if done.epochs != epochs or done.correct > done.examples:
        raise Refusal("MALFORMED", f"{done} of a run of {epochs} epochs")
