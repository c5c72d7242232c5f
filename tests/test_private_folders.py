"""Folders of `serve` and `join` let in their owner alone."""

import os
from pathlib import Path

import pytest

from jsplit.cli.main import main
from jsplit.errors import InputError
from jsplit.net.client import Client
from jsplit.runtime import folders
from jsplit.testing import TINY_RUN, words_for


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """The modes of a folder and all that is in it, by name."""
    found = {".": folder, **{path.name: path for path in folder.rglob("*")}}
    return {name: f"{path.stat().st_mode & 0o777:o}" for name, path in found.items()}


def enter(folder: Path) -> list[str]:
    """Makes a folder private, and writes something late; returns what was said."""
    said: list[str] = []
    with folders.private(folder, "--workdir", said.append):
        (folder / "later").write_text("labels")
        (folder / "checkpoints").mkdir(exist_ok=True)
    return said


def test_what_is_written_later_is_private_too(tmp_path):
    tmp_path.chmod(0o700)
    assert enter(tmp_path) == []
    assert modes(tmp_path) == {".": "700", "later": "600", "checkpoints": "700"}


def test_a_folder_that_others_can_read_is_made_private_and_that_is_said(tmp_path):
    (tmp_path / "checkpoints").mkdir(mode=0o755)
    (tmp_path / "checkpoints" / "store").write_text("activations")
    tmp_path.chmod(0o755)
    assert enter(tmp_path) == [
        f"others could read {tmp_path}; from now on only its owner can"
    ]
    expected = {".": "700", "later": "600", "checkpoints": "700", "store": "600"}
    assert modes(tmp_path) == expected
    assert enter(tmp_path) == []


def test_what_a_link_points_to_is_left_as_it_is(tmp_path):
    (outside := tmp_path / "outside").write_text("somebody else's")
    (inside := tmp_path / "inside").mkdir(mode=0o700)
    (inside / "link").symlink_to(outside)
    (inside / "broken").symlink_to(tmp_path / "nowhere")
    with folders.private(inside, "--workdir", print):
        pass
    assert outside.stat().st_mode & 0o777 == 0o644


def test_the_umask_is_as_before_afterwards(tmp_path):
    with pytest.raises(ZeroDivisionError), folders.private(tmp_path, "-w", print):
        raise ZeroDivisionError
    assert os.umask(0o022) == 0o022


def test_another_users_folder_is_refused(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(InputError, match="--workdir .* belongs to another user.*own"):
        enter(tmp_path)
    assert modes(tmp_path) == {".": "755"}


def test_a_folder_that_all_users_share_is_refused(tmp_path):
    tmp_path.chmod(0o1777)
    with pytest.raises(InputError, match="shared by all users; name a folder in it"):
        enter(tmp_path)
    assert modes(tmp_path) == {".": "777"}


def test_a_file_system_that_keeps_nobody_out_is_refused(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with pytest.raises(InputError, match="file system cannot keep other users out"):
        enter(tmp_path)


def test_the_folder_of_a_client_is_private_and_those_above_are_not(
    tmp_path, capsys, monkeypatch
):
    path, seen = tmp_path / "runs" / "client", []

    def start(self, connect, patience):
        seen.append((modes(path)["."], modes(path.parent)["."]))
        return run(self, connect, patience)

    run = Client.run
    monkeypatch.setattr(Client, "run", start)
    words = ("join", "--server", "127.0.0.1:1", "--insecure", "--patience", "0.1")
    assert main([*words, *words_for(TINY_RUN), "--workdir", str(path)]) == 1
    assert seen == [("700", "755")]
    assert "others could read" not in capsys.readouterr().out
    assert not path.parent.exists(), "without a server, nothing is left of it"
    path.parent.mkdir()
    (path.parent / "other").touch()
    path.mkdir(0o700)
    assert main([*words, *words_for(TINY_RUN), "--workdir", str(path)]) == 1
    assert path.exists(), "it was there before"
    path.rmdir()
    assert main([*words, *words_for(TINY_RUN), "--workdir", str(path)]) == 1
    assert [left.name for left in path.parent.iterdir()] == ["other"]


def test_the_folder_of_a_server_is_private_before_anything_is_in_it(
    tmp_path, monkeypatch
):
    seen = []

    def listening(*_, **__):
        seen.append(modes(tmp_path / "server"))
        raise InputError("the port is taken")

    monkeypatch.setattr("jsplit.cli.serve.serve", listening)
    words = ("serve", "--listen", "127.0.0.1:0", "--insecure", *words_for(TINY_RUN))
    assert main([*words, "--workdir", str(tmp_path / "server")]) == 2
    assert seen == [{".": "700", "config.json": "600", "traffic": "600"}]
    assert not (tmp_path / "server").exists(), "nothing is left of what was refused"
