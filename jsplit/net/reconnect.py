"""A client's way back to the server: when to connect again, and when to give up.

A retry library counts attempts and time from the first one. Here any byte from the
server begins both anew, and a refusal decides by its name, so the loop is written out.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from jsplit.errors import Refusal, RunError
from jsplit.net.channel import ConnectionLost

RETRIED = frozenset({"IN_USE", "FULL", "SUPERSEDED", "IDLE", "UNLIKE"})
"""Refusals after which it makes sense to come again."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before the next attempt to connect; they double, and a part is drawn."""

T = TypeVar("T")


def until_done(
    attempt: Callable[[], T],
    *,
    progress: Callable[[], int],
    otherwise: Callable[[str], T | None],
    patience: float,
    notify: Callable[[str], None],
) -> T:
    """Repeats an attempt until it succeeds.

    Args:
        attempt: connects and takes part; raises `ConnectionLost` or a `Refusal`.
        progress: grows whenever the server is heard.
        otherwise: gives what ends the attempts after a failure, whose reason it is
            told; None to go on.
        patience: seconds without any progress after which to give up.
        notify: takes a line of text for people.

    Raises:
        Refusal: if the server refuses this client for good.
        RunError: if there was no progress for so long.
    """
    pause, silent_since = FIRST_PAUSE, time.monotonic()
    while True:
        before = progress()
        try:
            return attempt()
        except ConnectionLost as error:
            reason = str(error)
        except Refusal as error:
            if error.name not in RETRIED:
                raise
            reason = str(error)
        if (result := otherwise(reason)) is not None:
            return result
        if progress() > before:
            pause, silent_since = FIRST_PAUSE, time.monotonic()
        if time.monotonic() - silent_since > patience:
            raise RunError(
                f"the server could not be used for {patience:g} s ({reason}); "
                "see that it runs, or give a longer --patience"
            )
        notify(f"no connection to the server ({reason}); trying again")
        # A part is drawn, so that many clients do not come back in step.
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE)
