"""What people see of each epoch: lines that stay, and on a terminal what comes next."""

import io
import os
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console

from jsplit.experiment.console import ConsoleWriter, _Waiting
from tests.test_writers import record


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_piped_console_is_one_plain_line_an_epoch(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    writer = ConsoleWriter(stream)
    writer.write(record(3))
    assert stream.getvalue() == (
        "epoch  3/12  C  loss 0.1667  test 84.32%  sent 1.5 MiB (/2.70)  ETA 0:00:42\n"
    )
    writer.write(record(4, train_loss=float("nan"), eta_seconds=None))
    writer.close()
    line = stream.getvalue().splitlines()[1]
    assert "loss -" in line and "ETA -" in line
    assert not {"\x1b", "\r"} & set(stream.getvalue())


def test_a_servers_line_has_what_was_counted_beside_what_the_ledger_has():
    stream = io.StringIO()
    ConsoleWriter(stream).write(record(2, clients=9, counted_bytes=3 * 2**20))
    said = "clients 9  predicted 1.0 MiB (/2.70)  crossed 3.0 MiB  ETA"
    assert said in stream.getvalue()


def test_console_bears_an_empty_record():
    stream = io.StringIO()
    ConsoleWriter(stream).write({})
    assert stream.getvalue() == "epoch ?/?  -  loss -  test -  sent - (/-)  ETA -\n"


def test_piped_console_flushes_each_line():
    code = (
        "import os\nfrom jsplit.experiment.console import ConsoleWriter\n"
        "ConsoleWriter().write({'epoch': 1})\nos._exit(0)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PYTHONUNBUFFERED", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("epoch 1/?") and done.stderr == ""


def screen(text):
    """The lines that a terminal shows after this, without their colours."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] not in "\x1b\r":
            lines[row] += part
    return [line for line in lines if line]


def test_each_epoch_has_a_line_that_stays_on_a_terminal(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    writer = ConsoleWriter(terminal, states="AAB")
    for epoch in (4, 5, 6):
        writer.write(record(epoch))
        assert screen(terminal.getvalue())[-1].startswith("states: A x2, B, A")
    writer.close()
    shown = screen(terminal.getvalue())
    assert [line.split("  test")[0] for line in shown[:3]] == [
        "epoch  4/12  A  loss 0.1250",
        "epoch  5/12  B  loss 0.1000",
        "epoch  6/12  C  loss 0.0833",
    ]
    assert shown[3:] == ["states: A x2, B, A, B, C"]
    text = terminal.getvalue()
    strip = text[text.rindex("states:") :]
    for state, colour in (("A", "1;36"), ("B", "1;33"), ("C", "1;35")):
        assert f"\x1b[{colour}m{state}" in strip
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # Cursor is back.


def test_a_sweep_keeps_to_its_last_line(terminal):
    writer = ConsoleWriter(terminal, keep=False)
    for epoch in (1, 2):
        writer.write(record(epoch))
    writer.close()
    shown = screen(terminal.getvalue())
    assert len(shown) == 2 and shown[0].startswith("epoch  2/12  B")
    assert shown[1] == "states: A, B"


def test_the_states_of_a_long_run_stay_in_one_line(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    writer = ConsoleWriter(terminal, states="AB" * 100)
    writer.write(record(12))
    writer.close()
    last = screen(terminal.getvalue())[-1]
    assert last == "states: … B, A, B, A, B, C"[:30] and len(last) <= 30


def test_a_terminal_shows_what_is_waited_for_until_the_first_epoch(terminal):
    writer = ConsoleWriter(terminal, waiting="compiling")
    deadline = time.monotonic() + 10
    while len(re.findall(r"compiling \(\d+ s\)", terminal.getvalue())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (line,) = screen(terminal.getvalue())
    assert re.search(r"compiling \(\d+ s\)$", line)
    writer.write(record(1))
    writer.close()
    shown = screen(terminal.getvalue())
    assert shown[0].startswith("epoch  1/12") and shown[1:] == ["states: A"]
    text = terminal.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")


def test_the_seconds_that_one_waits_are_counted():
    waiting = _Waiting("compiling; the first epoch takes longer")
    waiting._began -= 75
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(waiting)
    assert "compiling; the first epoch takes longer (75 s)" in console.export_text()


def test_what_is_waited_for_is_one_plain_line_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    writer = ConsoleWriter(stream, waiting="compiling; the first epoch takes longer")
    writer.write(record(1))
    writer.close()
    first, second = stream.getvalue().splitlines()
    assert first == "compiling; the first epoch takes longer"
    assert second.startswith("epoch  1/12") and "\x1b" not in stream.getvalue()
