"""A command is stopped at any moment: one line, the exit code, nothing half-made."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jsplit.cli import stopping
from jsplit.cli.main import COMMANDS
from tests.runs import ROOT, TINY, files_under

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@contextlib.contextmanager
def started(*words: object) -> Iterator[subprocess.Popen]:
    """Python with these words, in a process that does not outlive this."""
    # What began these tests (nohup) may ignore some signals, and that is inherited.
    ignored = [one for one in CODES if signal.getsignal(one) == signal.SIG_IGN]
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    for one in ignored:
        signal.signal(one, signal.SIG_IGN)
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait(process: subprocess.Popen, moment: Callable[[], bool]) -> None:
    """Waits for a moment of the process's life."""
    end = time.monotonic() + 60
    while not moment():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)


def stopped(process: subprocess.Popen, number: int) -> str:
    """The one line of a process that this signal stops."""
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == CODES[signal.Signals(number)], said
    assert said.count("\n") == 1 and said.startswith("error: interrupted"), said
    return said


def imports(process: subprocess.Popen, module: str) -> bool:
    return module in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_hears_of_a_stop_while_it_imports(command):
    with started("-m", "jsplit", command, "--help") as process:
        wait(process, lambda: imports(process, "numpy"))
        stopped(process, signal.SIGINT)


@pytest.mark.parametrize("number", CODES)
def test_each_signal_has_its_own_exit_code(number):
    with started("-m", "jsplit", "run", "--help") as process:
        wait(process, lambda: imports(process, "jaxlib"))
        stopped(process, number)


def test_a_second_signal_stops_at_once_while_xla_compiles(tmp_path):
    path = tmp_path / "run"
    words = (*TINY, "--compile-cache", "off", "--workdir", path)
    with started("-m", "jsplit", "run", *words) as process:
        assert process.stdout is not None and process.stderr is not None
        while not process.stdout.readline().startswith("compiling"):
            assert process.poll() is None
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert "again to stop at once" in process.stderr.readline()
        said = stopped(process, signal.SIGTERM)
    assert said.endswith(f"go on with: jsplit run --resume --workdir {path}\n")
    assert not [name for name in files_under(path) if name.endswith(".tmp")]


SIDES = {
    # A line that says that it waits for the other side, the signal, the events then.
    ("serve", "--listen", "127.0.0.1:0"): (
        "listening on",
        signal.SIGTERM,
        ["stopping", "stopped"],
    ),
    ("join", "--server", "127.0.0.1:1"): ("client 0 with", signal.SIGHUP, ["stopped"]),
}


@pytest.mark.parametrize("words", SIDES)
def test_server_and_client_stop_while_they_wait_for_one_another(tmp_path, words):
    marker, number, names = SIDES[words]
    path = tmp_path / "my run"
    words = (*words, "--insecure", *TINY, "--compile-cache", "off", "--workdir", path)
    words = (*words, "--log", "json")
    with started("-m", "jsplit", *words) as process:
        assert process.stdout is not None
        while marker not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        out, lines = process.communicate(timeout=60)
    assert process.returncode == CODES[number], lines
    found = [json.loads(line) for line in out.splitlines()]
    found = [event for event in found if event["event"] != "no_server"]
    assert [event["event"] for event in found] == names
    if words[0] == "join":
        said = "interrupted; the same command goes on where it was"
        assert lines == f"error: {said}\n"
        assert not path.exists(), "there is nothing yet that it must keep"
    else:
        assert lines == "", "a log in JSON is all that is said"
        said = f"stopped; go on with: jsplit {shlex.join(map(str, words))} --resume"
    assert found[-1]["message"] == said


def test_a_first_signal_asks_and_the_handlers_come_back(capfd):
    before = {one: signal.getsignal(one) for one in CODES}
    with stopping.stop_at_signal("stopping soon") as asked:
        assert not asked()
        signal.raise_signal(signal.SIGTERM)
        end = time.monotonic() + 10
        while not asked():
            assert time.monotonic() < end
            time.sleep(0.005)
        assert stopping.exit_code(130) == 143
        assert stopping.exit_code(0) == 0
    assert {one: signal.getsignal(one) for one in CODES} == before
    assert "again to stop at once" in capfd.readouterr().err


def test_a_hangup_that_is_ignored_stays_ignored():
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from jsplit.cli import stopping; stopping.watch()\n"
        "signal.raise_signal(signal.SIGHUP); print('goes on')"
    )
    with started("-c", code) as process:
        assert process.communicate(timeout=60) == ("goes on\n", "")


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-"])
def test_a_command_runs_with_its_standard_streams_closed(closed):
    words = ["run", "--model", "cnn", "--dataset", "fashion_mnist_10k", "--show-cuts"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "jsplit"]
        + words,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    code = (
        "import sys; from jsplit.cli.terminal import open_closed_streams\n"
        "open_closed_streams(); print('said')\n"
        "with open(sys.argv[1], 'w') as file: file.write(str(file.fileno()))"
    )
    path = tmp_path / "number"
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([*words, str(path)], timeout=60, env=env).returncode == 0
    assert int(path.read_text()) > 2


WRITING = """
import sys, time
from pathlib import Path
from jsplit.cli import stopping
from jsplit.runtime import atomic
stopping.watch()
class Slow:
    def __del__(self):  # An exception in here would be ignored.
        print("begun")
        time.sleep(60)
with atomic.replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    Slow()
"""

CERTS = """
import sys, time
from jsplit.cli.main import program
from jsplit.net import certificates
kept = certificates._write
def write(*given):
    kept(*given)
    print("begun")
    time.sleep(60)
certificates._write = write
program(["certs", sys.argv[1]])
"""

REPORT = """
import sys, time
from pathlib import Path
from jsplit.cli import report
from jsplit.cli.main import program
def page(groups, left_out, out):
    (out / "accuracy-1.png").write_bytes(b"")
    print("begun")
    time.sleep(60)
report.page, report.grouped = page, lambda runs: []
report.read_results = lambda path, partial: ([], [])
program(["report", ".", "--out", sys.argv[1]])
"""


@pytest.mark.parametrize("code", [WRITING, CERTS, REPORT])
def test_what_is_half_made_is_removed(tmp_path, code):
    with started("-c", code, tmp_path / "new") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert files_under(tmp_path)
        stopped(process, signal.SIGTERM)
    assert files_under(tmp_path) == []
