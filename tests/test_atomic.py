"""A file is the old one or the whole new one, and nothing half-made is left."""

import doctest
import os
import subprocess
import sys
import time

import pytest

from jsplit.runtime import atomic
from tests.runs import ROOT


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_example_in_the_documentation():
    assert doctest.testmod(atomic).failed == 0


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    atomic.write_text(tmp_path / "a", "ä")
    atomic.write_json(tmp_path / "b", {"x": [1]})
    assert contents(tmp_path) == {
        "a": "ä".encode(),
        "b": b'{\n  "x": [\n    1\n  ]\n}\n',
    }
    with atomic.replacing(tmp_path / "a") as file:
        file.write(b"new")
        (during,) = contents(tmp_path).keys() - {"a", "b"}
        assert (tmp_path / "a").read_text() == "ä"
    assert atomic.is_temporary(during) and not atomic.is_temporary("a.tmp")
    atomic.write_bytes(tmp_path / "b", b"")
    assert contents(tmp_path) == {"a": b"new", "b": b""}


def test_it_is_readable_by_whom_the_umask_allows(tmp_path):
    (tmp_path / "plain").touch()
    atomic.write_bytes(tmp_path / "a", b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path, failing, monkeypatch
):
    atomic.write_bytes(tmp_path / "a", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_bytes(tmp_path / "a", b"new")
    assert contents(tmp_path) == {"a": b"old"}


def test_what_fails_inside_leaves_the_old_file_and_nothing_else(tmp_path):
    atomic.write_bytes(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt):
        with atomic.replacing(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt
    with pytest.raises(ValueError, match="Out of range float"):
        atomic.write_json(tmp_path / "a", float("nan"))
    assert contents(tmp_path) == {"a": b"old"}


def test_a_folder_that_is_gone_is_said_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic.write_bytes(tmp_path / "gone" / "a", b"")
    with pytest.raises(FileNotFoundError):
        with atomic.replacing(tmp_path / "a"):
            os.rename(tmp_path, tmp_path.with_name("moved"))


def test_file_and_folder_are_synced_and_a_folder_that_cannot_be_is_let_be(
    tmp_path, monkeypatch
):
    synced = []

    def sync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if os.path.isdir(synced[-1]):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", sync)
    atomic.write_bytes(tmp_path / "a", b"")
    file, folder = synced
    assert atomic.is_temporary(os.path.basename(file)) and folder == str(tmp_path)


WRITER = """
import sys
from pathlib import Path
from jsplit.runtime import atomic
print("ready", flush=True)
while True:
    for byte in b"abc":
        atomic.write_bytes(Path(sys.argv[1], "a"), bytes([byte]) * 1_000_000)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        time.sleep(0.5)
        process.kill()
    found = contents(tmp_path)
    whole = found.pop("a")
    assert len(whole) == 1_000_000 and len(set(whole)) == 1
    assert all(map(atomic.is_temporary, found)) and len(found) <= 1
