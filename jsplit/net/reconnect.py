"""A client's way back to the server: when to connect again, and when to give up.

A retry library counts attempts and time from the first one. Here any byte from the
server begins both anew, and a refusal decides by its name, so the loop is written out.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from jsplit.errors import Refusal, RunError
from jsplit.net.channel import ConnectionLost
from jsplit.net.events import Event

RETRIED = frozenset({"IN_USE", "FULL", "SUPERSEDED", "IDLE", "UNLIKE"})
"""Refusals after which it makes sense to come again."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before the next attempt to connect; they double, and a part is drawn."""

FIRST_REMINDER, LONGEST_REMINDER = 10.0, 600.0
"""Seconds until it is said again that there is no server; they double, too."""

T = TypeVar("T")


class Outage:
    """How long the server has not been heard, and what people were told of it.

    An outage is said when it begins, then at growing distances, at once where there is
    a reason that was not said yet, and when it is over.

    Example:
        >>> clock = iter([0.0, 0.0, 4.0, 10.0, 12.5])
        >>> outage = Outage(600.0, print, lambda: next(clock))
        >>> outage.failed("refused")
        no connection to the server (refused); trying again
        >>> outage.failed("refused")
        >>> outage.failed("refused")
        still no connection to the server after 10 s (refused); giving up after 600 s
        >>> outage.heard()
        the server is there, after 12 s without it

    Args:
        patience: seconds after which the client gives up.
        notify: takes a line of text for people.
        clock: gives the seconds of a clock that only goes forward.

    Attributes:
        pause: seconds before the next attempt, before a part is drawn.
    """

    def __init__(
        self,
        patience: float,
        notify: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._patience = patience
        self._notify = notify
        self._clock = clock
        self._began: float | None = clock()
        self.pause, self._reminder = FIRST_PAUSE, FIRST_REMINDER
        self._said: set[str] = set()

    def heard(self) -> None:
        """Notes that something came from the server."""
        if self._said:
            seconds = self._seconds()
            text = f"the server is there, after {seconds:.0f} s without it"
            self._notify(Event(text, "server_heard", seconds=seconds))
        self._began = None
        self.pause, self._reminder = FIRST_PAUSE, FIRST_REMINDER
        self._said.clear()

    def failed(self, reason: str) -> None:
        """Notes that an attempt to use the server failed.

        Raises:
            RunError: if nothing was heard for longer than the patience.
        """
        if self._began is None:
            self._began = self._clock()
        seconds = self._seconds()
        if seconds > self._patience:
            raise RunError(
                f"the server could not be used for {self._patience:g} s ({reason}); "
                "see that it runs, or give a longer --patience"
            )
        text = None
        if not self._said:
            text = f"no connection to the server ({reason}); trying again"
        elif reason not in self._said or seconds >= self._reminder:
            text = (
                f"still no connection to the server after {seconds:.0f} s ({reason}); "
                f"giving up after {self._patience:g} s"
            )
        if text is not None:
            fields = {"reason": reason, "seconds": seconds}
            self._notify(Event(text, "no_server", logging.WARNING, **fields))
        while seconds >= self._reminder:
            self._reminder += min(self._reminder, LONGEST_REMINDER)
        self._said.add(reason)

    def wait(self) -> None:
        """Sleeps until the next attempt is due."""
        # A part is drawn, so that many clients do not come back in step.
        time.sleep(self.pause * random.uniform(0.5, 1.0))
        self.pause = min(2 * self.pause, LONGEST_PAUSE)

    def _seconds(self) -> float:
        return 0.0 if self._began is None else self._clock() - self._began


def until_done(
    attempt: Callable[[Outage], T],
    *,
    otherwise: Callable[[str], T | None],
    patience: float,
    notify: Callable[[str], None],
) -> T:
    """Repeats an attempt until it succeeds.

    Args:
        attempt: connects and takes part; tells what it is given whenever the server is
            heard; raises `ConnectionLost` or a `Refusal`.
        otherwise: gives what ends the attempts after a failure, whose reason it is
            told; None to go on.
        patience: seconds without hearing the server after which to give up.
        notify: takes a line of text for people.

    Raises:
        Refusal: if the server refuses this client for good.
        RunError: if nothing was heard for so long.
    """
    outage = Outage(patience, notify)
    while True:
        try:
            return attempt(outage)
        except ConnectionLost as error:
            reason = str(error)
        except Refusal as error:
            if error.name not in RETRIED:
                raise
            reason = str(error)
        if (result := otherwise(reason)) is not None:
            return result
        outage.failed(reason)
        outage.wait()
