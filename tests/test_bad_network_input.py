"""What `serve`, `join` and `certs` cannot use: one line, exit code 2, nothing left."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from jsplit.cli import main as cli
from jsplit.experiment import workdir
from jsplit.experiment.config import RunConfig
from jsplit.net import certificates
from tests.runs import TINY, refused

BOTH = {
    # Flags of server or client, and what the refusal must say: the value and a way out.
    "": ("--certs FOLDER is needed", "jsplit certs", "--insecure"),
    "--certs c --insecure": ("contradict", "drop one"),
    "--certs missing": ("missing", "jsplit certs"),
    "--insecure --message-limit 0": ("--message-limit", "got 0"),
    "--insecure --message-limit 2048": ("--message-limit", "less than 2048"),
    "--insecure --message-limit x": ("--message-limit", "a whole number, got 'x'"),
    "--insecure --clients 0": ("--clients", "at least 1, got 0"),
    "--insecure --clients 10001": ("--clients", "from 1 to 10000, got 10001"),
    "--insecure --log xml": ("--log 'xml' is unknown; choose text, json",),
    "--insecure --gate never": ("--gate 'never'", "periodic"),
    "--insecure --config missing.toml": ("missing.toml", "configs/"),
    "--insecure --mode cnn": ("'--mode'", "did you mean --model?"),
}
SERVE = {
    "--insecure --listen here": ("--listen must be HOST:PORT, got 'here'",),
    "--insecure --listen 127.0.0.1:x": ("--listen must be HOST:PORT", "127.0.0.1:x"),
    "--insecure --listen 0.0.0.0:7070": ("0.0.0.0:7070", "--certs", "twice"),
    "--insecure --listen ::1:7070": ("--listen ::1:7070", "write IPv6 as [::1]:7070"),
    "--insecure --absent wait": ("--absent 'wait' is unknown; choose stop, skip",),
    "--insecure --ping-timeout 0.5": ("--ping-timeout must be from 1", "got 0.5"),
    "--insecure --wait 0": ("--wait must be from 0.1", "got 0"),
    "--insecure --wait nan": ("--wait", "nan"),
    "--insecure --greeting -1": ("--greeting", "got -1"),
    "--insecure --linger -1": ("--linger must be from 0", "got -1"),
    "--insecure --evaluate -1": ("--evaluate must be from 0", "got -1"),
    "--insecure --examples-limit 0": ("--examples-limit", "got 0"),
    "--insecure --memory-limit 0": ("--memory-limit", "got 0"),
    "--insecure --status-port -1": ("--status-port must be from 0", "got -1"),
    "--insecure --status-port 65536": ("--status-port", "to 65535, got 65536"),
    "--insecure --status-port x": ("--status-port", "a whole number, got 'x'"),
    "--insecure --listen localhost:70 --status-port 70": (
        "--listen",
        "one of their own",
    ),
    "--insecure --mesh": ("--mesh is for jsplit run",),
    "--insecure --resume": ("--resume", "add --workdir FOLDER"),
}
JOIN = {
    "--insecure --server here": ("--server must be HOST:PORT, got 'here'",),
    "--insecure --server 127.0.0.1:0": ("127.0.0.1:0", "name the server's"),
    "--insecure --server far.invalid:7070": ("far.invalid:7070", "--certs", "twice"),
    "--insecure --client -1": ("--client", "got -1"),
    "--insecure --client 2 --clients 2": ("--client 2", "give 0 to 1"),
    "--insecure --patience -1": ("--patience", "got -1"),
    "--insecure --resume": ("--resume is for jsplit serve", "leave it out"),
    "--insecure --link fast": ("--link", "'fast'", "10mbit/40ms"),
    "--insecure --link 0mbit": ("--link", "0mbit"),
    "--insecure --link 10mbit/-1ms": ("--link", "10mbit/-1ms"),
    "--insecure --dataset missing.npz": ("'missing.npz'", "No such file"),
}
CERTS = {
    "": ("name a new folder", "jsplit certs FOLDER"),
    "c --clients 0": ("--clients", "from 1 to 10000, got 0"),
    "c --clients 10001": ("--clients", "from 1 to 10000, got 10001"),
    "c --clients two": ("--clients", "a whole number, got 'two'"),
    "c --hosts ''": ("--hosts", "''"),
    "c --hosts": ("--hosts names nobody",),
    "c --hosts a,b": ("--hosts", "'a,b'"),
    "c --host x": ("'--host'", "did you mean --hosts?"),
    "taken": ("taken", "new folder"),
}
CASES = [
    (command, flags, said)
    for command, known in (
        ("serve", BOTH | SERVE),
        ("join", BOTH | JOIN),
        ("certs", CERTS),
    )
    for flags, said in known.items()
]


@pytest.fixture(autouse=True)
def never_begins(monkeypatch, tmp_path):
    """In a folder with one file, with lines that must not even be opened."""

    def refuse(*args, **kwargs):
        raise AssertionError("a bad input got as far as the network")

    monkeypatch.setattr("jsplit.cli.serve.serve", refuse)
    monkeypatch.setattr("jsplit.cli.join.connect", refuse)
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")


def refusal(capsys, *words: object) -> str:
    """The one line on standard error that this command is refused with."""
    return refused(capsys, lambda: cli.main([*map(str, words)]))


@pytest.mark.parametrize(
    ("command", "flags", "expected"), CASES, ids=[" ".join(case[:2]) for case in CASES]
)
def test_a_bad_flag_of_the_network_is_refused_in_one_line_with_a_remedy(
    command, flags, expected, capsys
):
    settings = () if command == "certs" else (*TINY, "--workdir", "w")
    if "--resume" in flags:
        settings = TINY
    said = refusal(capsys, command, *settings, *shlex.split(flags))
    for part in expected:
        assert part in said


def test_a_folder_of_a_simulation_is_not_served(capsys):
    with workdir.open_new(
        dataclasses.replace(RunConfig(), workdir="w"), {"source": "jsplit"}
    ):
        pass
    said = refusal(capsys, "serve", *TINY, "--workdir", "w", "--insecure", "--resume")
    assert "--workdir w" in said and "jsplit run" in said and "new folder" in said


def test_certificates_that_cannot_all_be_written_leave_nothing(capsys, monkeypatch):
    write, written = Path.write_bytes, []

    def until_full(path, data):
        written.append(path)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    Path("c").mkdir()
    assert "No space left on device" in refusal(capsys, "certs", "c", "--clients", "2")
    assert len(written) == 6
    assert "No space left on device" in refusal(capsys, "certs", "new/c")
    assert Path("c").is_dir() and not Path("new").exists()


def test_the_certificates_of_another_party_are_refused_by_name(capsys, tmp_path):
    certificates.make_certificates(tmp_path / "c", ["localhost"], 1)
    capsys.readouterr()
    said = refusal(capsys, "serve", *TINY, "--workdir", "w", "--certs", "c/client-0")
    assert "c/client-0" in said and "server" in said
    said = refusal(capsys, "join", *TINY, "--workdir", "w", "--certs", "c/server")
    assert "c/server" in said and "client" in said
