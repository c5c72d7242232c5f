"""What a server and its clients log: events, and the two ways to write them.

An event is its own sentence for people, so that whatever takes a line of text takes an
event: `print`, a list, the log. A plain string is logged as a `note`.
"""

import contextlib
import datetime
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

Say = Callable[[str], None]
"""Takes an event, or a line of text that is none."""

EVENTS: Mapping[str, str] = {
    "note": "A remark that is no event of its own, such as what a setting implies.",
    "library": "What a library warns of; `logger` names it.",
    "listening": "The server takes connections, `what` says for what: `training`, "
    "`predictions` or `status`.",
    "client_here": "A client said hello for the first time; so many are `missing`.",
    "client_connected": "A client takes part, from `remote`; `again`: not for the "
    "first time.",
    "client_disconnected": "The connection to a client is over; `owes=labels`: before "
    "it sent those, without which the run does not begin.",
    "client_left": "A client left before the run began, and may come back with other "
    "data.",
    "refused": "A connection or a client was turned away, for `reason`.",
    "connection_without_session": "Somebody connected to the port and never came as "
    "far as a call: as a rule the TLS handshake failed.",
    "fault": "A fault of jsplit's own in serving one connection; the run goes on.",
    "waiting": "The server or the client waits for others.",
    "resumed": "The run goes on from its checkpoint of `epoch`.",
    "epoch": "An epoch is over.",
    "epoch_restarted": "An epoch begins again, because a client lost its memory "
    "(`cause=restarted`) or is gone (`cause=absent`).",
    "not_scored": "A score was due, and nobody was there to send the held-out set.",
    "predicted": "So many `examples` were predicted for one connection.",
    "no_server": "A client has no connection to its server, and tries again.",
    "server_heard": "A client hears its server again, after so many `seconds`.",
    "idle": "So many `epochs` needed nothing of this client.",
    "certificate_ends": "The certificate of this side ends in so many `days`.",
    "joining": "A client begins to look for its server.",
    "stopping": "The process was asked to stop, and will; a second signal is obeyed "
    "at once.",
    "stopped": "The process was asked to stop, and did; it can be started again.",
    "finished": "The run is complete.",
    "failed": "The process ends with an error; the text is the one on standard error.",
}
"""Every event by name, and what it means."""

LONGEST = 500
"""Characters of a sentence or a value; what comes after them is cut."""

_OWN = frozenset({"time", "level", "event", "message"})
_PLAIN = re.compile(r"[\w.:/@%+\[\]-]+", re.ASCII)


class Event(str):
    """Something that happened, as a sentence that knows its name, level and fields.

    Args:
        text: the sentence for people.
        name: one of `EVENTS`.
        level: of `logging`, such as `logging.WARNING`.
        **fields: numbers and words that programs look for; None is left out.

    Raises:
        ValueError: if the event has no such name, or a field's name is taken.

    Example:
        >>> event = Event("client 3 is disconnected", "client_disconnected", client=3)
        >>> event, event.fields
        ('client 3 is disconnected', {'client': 3})
    """

    name: str
    level: int
    fields: dict[str, Any]

    def __new__(  # noqa: D102
        cls, text: str, name: str, level: int = logging.INFO, **fields: Any
    ) -> "Event":
        if name not in EVENTS:
            raise ValueError(f"the event must be one of EVENTS, got {name!r}")
        if taken := _OWN & fields.keys():
            raise ValueError(f"a field cannot be called {sorted(taken)[0]!r}")
        event = super().__new__(cls, text)
        event.name, event.level = name, level
        event.fields = {
            key: value for key, value in fields.items() if value is not None
        }
        return event


def escaped(text: str) -> str:
    r"""One line of printable characters, of at most `LONGEST`, whatever a peer sent.

    Example:
        >>> print(escaped("a\nb\x1b[2J \u2028"))
        a\nb\x1b[2J \u2028
    """
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[: LONGEST + 1]
    )
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def format_text(event: Event, seconds: float) -> str:
    """A line for people: time, level, event, fields, and the sentence at the end.

    A value that is no plain word stands in quotes, and the sentence comes last: what a
    peer wrote cannot pass for a field, nor for another line.

    Args:
        event: to be written.
        seconds: since 1970, when it happened.

    Example:
        >>> format_text(Event("client 3 is gone", "client_left", client=3), 0.0)
        '1970-01-01T00:00:00.000Z INFO client_left client=3 - client 3 is gone'
    """
    words = [_time(seconds), logging.getLevelName(event.level), event.name]
    words += [f"{name}={_word(value)}" for name, value in event.fields.items()]
    return f"{' '.join(words)} - {escaped(event)}"


def format_json(event: Event, seconds: float) -> str:
    """A line for programs: one object of strict JSON, in ASCII.

    Args:
        event: to be written.
        seconds: since 1970, when it happened.

    Example:
        >>> format_json(Event("gone", "client_left", client=3), 0.0)[37:]
        '"level": "info", "event": "client_left", "message": "gone", "client": 3}'
    """
    record = {
        "time": _time(seconds),
        "level": logging.getLevelName(event.level).lower(),
        "event": event.name,
        "message": escaped(event),
    }
    return json.dumps(record | {k: _value(v) for k, v in event.fields.items()})


def _time(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: Any) -> Any:
    """A value as JSON has it: a text that is escaped, a number that is finite."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, int):
        return value
    return escaped(str(value))


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return str(value).lower()
    word = escaped(str(value))
    return word if _PLAIN.fullmatch(word) else json.dumps(word)


FORMATS = {"text": format_text, "json": format_json}


class _Formatter(logging.Formatter):
    def __init__(self, form: Literal["text", "json"]):
        super().__init__()
        self._form = FORMATS[form]

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`, in one line."""
        event = record.msg
        if not isinstance(event, Event):
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {record.exc_info[1]!r}"
            event = Event(text, "library", record.levelno, logger=record.name)
        return self._form(event, record.created)


class _Handler(logging.StreamHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Who logs hears that nobody reads any more, as from `print`."""
        raise


@contextlib.contextmanager
def failures_logged(say: Say) -> Iterator[None]:
    """Logs the error that ends what is done in here, and lets it go on its way."""
    try:
        yield
    except Exception as error:
        say(Event(str(error) or repr(error), "failed", logging.ERROR))
        raise


@contextlib.contextmanager
def logging_to_stdout(form: Literal["text", "json"]) -> Iterator[Say]:
    """Logs to standard output while the context lasts; safe from several threads.

    What gRPC warns of by Python's `logging` goes there, too, as one line each.

    Args:
        form: of the lines, a key of `FORMATS`.

    Yields:
        What logs an event, or a line of text as a `note`.
    """
    handler = _Handler(sys.stdout)
    handler.setFormatter(_Formatter(form))
    own, grpc = logging.Logger("jsplit"), logging.getLogger("grpc")
    own.addHandler(handler)
    grpc.addHandler(handler)
    before, grpc.propagate = grpc.propagate, False

    def say(line: str) -> None:
        event = line if isinstance(line, Event) else Event(line, "note")
        own.log(event.level, event)

    try:
        yield say
    finally:
        grpc.removeHandler(handler)
        grpc.propagate = before
