"""What is logged: events in two forms, a line each, whatever a peer wrote."""

import json
import logging
from pathlib import Path

import pytest

from jsplit.experiment.config import RunConfig
from jsplit.net.events import (
    EVENTS,
    FORMATS,
    LONGEST,
    Event,
    failures_logged,
    logging_to_stdout,
)
from jsplit.net.server_events import listening_to_train
from tests.runs import ROOT

MOMENT = 1_700_000_000.125

HOSTILE = (
    "gone\n2026-01-01T00:00:00.000Z INFO finished - all is well",
    "gone\r\x1b[2K\x1b[1A\x07",
    "gone\u2028\u2029\x85\u202e\udc80",
    "client=7 event=finished",
    '"quoted" \\ back',
    "x" * 100_000,
)


def test_an_event_is_its_own_sentence():
    event = Event("client 3 left", "client_left", logging.WARNING, client=3, more=None)
    said = []
    said.append(event)
    assert said == ["client 3 left"] and event.fields == {"client": 3}


def test_the_text_form_has_time_level_event_fields_and_the_sentence():
    fields = {"client": 3, "again": False, "train_loss": 0.123456789, "reason": "a b"}
    event = Event("client 3 left", "client_left", logging.WARNING, **fields)
    assert FORMATS["text"](event, MOMENT) == (
        "2023-11-14T22:13:20.125Z WARNING client_left client=3 again=false "
        'train_loss=0.123457 reason="a b" - client 3 left'
    )


def test_the_json_form_has_the_same_as_strict_json():
    fields = {"client": 3, "again": False, "loss": float("nan"), "reason": "a b"}
    event = Event("client 3 left", "client_left", logging.WARNING, **fields)

    def refuse(name):
        raise AssertionError(f"{name} is no strict JSON")

    line = FORMATS["json"](event, MOMENT)
    assert json.loads(line, parse_constant=refuse) == {
        "time": "2023-11-14T22:13:20.125Z",
        "level": "warning",
        "event": "client_left",
        "message": "client 3 left",
        "client": 3,
        "again": False,
        "loss": "nan",
        "reason": "a b",
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nobody_can_forge_a_line_or_a_field(text, form):
    line = FORMATS[form](Event(text, "refused", client=3, remote=text), MOMENT)
    assert line.isprintable() and len(line.splitlines()) == 1
    assert len(line) < 14 * LONGEST
    line.encode("utf-8")
    if form == "json":
        found = json.loads(line)
        assert (found["event"], found["client"]) == ("refused", 3)
        assert len(found) == 6
    else:
        fields = line.partition(" - ")[0] if '"' not in line else line
        assert fields.startswith("2023-11-14T22:13:20.125Z INFO refused client=3 remo")
        quoted = line.split('remote="', 1)[1:]
        assert quoted or "remote=xxx" in line


def test_an_event_that_nobody_described_is_refused():
    with pytest.raises(ValueError, match="one of EVENTS, got 'else'"):
        Event("text", "else")
    with pytest.raises(ValueError, match="called 'time'"):
        Event("text", "note", time=1)


def test_the_log_takes_events_lines_of_text_and_what_grpc_warns_of(capsys):
    grpc = logging.getLogger("grpc._server")
    before = list(logging.getLogger("grpc").handlers)
    with logging_to_stdout("json") as say:
        say("as ever")
        say(Event("client 3 left", "client_left", client=3))
        grpc.info("too little")
        try:
            raise ValueError("of\ngRPC")
        except ValueError:
            grpc.exception("a callback failed")
    assert logging.getLogger("grpc").handlers == before
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line["level"]) for line in found] == [
        ("note", "info"),
        ("client_left", "info"),
        ("library", "error"),
    ]
    assert found[2]["message"] == "a callback failed: ValueError('of\\ngRPC')"
    assert found[2]["logger"] == "grpc._server"


def test_who_listens_says_in_its_sentence_as_many_epochs_as_in_its_field():
    config = RunConfig(epochs=7, local_epochs=1)
    event = listening_to_train(config, "127.0.0.1:7070", Path("runs/a"))
    assert event.fields["epochs"] == 8 and ", 8 epochs, in runs/a" in event


def test_the_error_that_ends_a_process_is_logged_and_goes_on():
    said = []
    with pytest.raises(RuntimeError, match="gone"), failures_logged(said.append):
        raise RuntimeError("client 3 is gone")
    (event,) = said
    assert event == "client 3 is gone" and event.name == "failed"
    assert event.level == logging.ERROR


def test_the_page_for_operators_describes_every_event_and_no_other():
    page = (ROOT / "docs/guides/operator.md").read_text()
    table = page.partition("## Events")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    described = {row[0].strip("|` "): row[1].strip("| ") for row in rows}
    assert described == EVENTS
