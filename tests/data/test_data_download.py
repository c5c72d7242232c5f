"""Downloads end, whatever the server does, and leave whole files or none."""

import hashlib
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from data_fakes import Site

from jsplit.data import download as downloads
from jsplit.data.download import check_reachable, download

CONTENT = bytes(range(256)) * 1000


def fetch(url: str, path: Path, content: bytes = CONTENT) -> None:
    download(url, path, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def test_a_file_arrives_whole(site: Site, tmp_path: Path) -> None:
    site.files["/file"] = CONTENT
    check_reachable(f"{site.url}/file")
    fetch(f"{site.url}/file", tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize(
    ("served", "announced", "reason"),
    [
        (CONTENT + b"x", None, "more than the expected 256000 bytes"),
        (CONTENT[:-1] + b"x", None, "with sha256"),
        (CONTENT[:-1], None, "255999 bytes with sha256"),
        (CONTENT[:-1], len(CONTENT), "IncompleteRead|ProtocolError"),
        (None, None, "404"),
    ],
)
def test_other_bytes_are_refused_and_the_old_file_stays(
    site: Site,
    tmp_path: Path,
    served: bytes | None,
    announced: int | None,
    reason: str,
) -> None:
    if served is not None:
        site.files["/file"] = served
    if announced is not None:
        site.lengths["/file"] = announced
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match=reason):
        fetch(f"{site.url}/file", tmp_path / "file")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_missing_page_is_not_reachable(site: Site) -> None:
    with pytest.raises(OSError, match="/nothing answers HTTP 404"):
        check_reachable(f"{site.url}/nothing")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match="NewConnectionError"):
        check_reachable(f"http://127.0.0.1:{port}/")


def test_no_name_service() -> None:
    with pytest.raises(OSError, match="http://example.org/ cannot be fetched, NameRes"):
        check_reachable("http://example.org/")


def test_the_whole_question_has_a_limit_below_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert downloads.REACH_SECONDS < 10
    asked, done = threading.Event(), threading.Event()

    def stuck(*args: Any, **kwargs: Any) -> Any:
        asked.set()
        done.wait(20)
        raise socket.gaierror("gave up")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    monkeypatch.setattr(downloads, "REACH_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(OSError, match="gives no answer within 0.5 s"):
        check_reachable("http://example.org/")
    assert asked.is_set() and time.monotonic() - start < 5
    done.set()


def test_a_server_that_falls_silent_does_not_hang_the_download(
    silent_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SILENCE_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(OSError, match="ReadTimeoutError"):
        fetch(silent_url, tmp_path / "file")
    assert time.monotonic() - start < 4
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_too_slow_is_given_up(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/file"] = CONTENT
    monkeypatch.setattr(downloads, "TOTAL_SECONDS", -1.0)
    with pytest.raises(OSError, match="of 256000 bytes in"):
        fetch(f"{site.url}/file", tmp_path / "file")
    assert not list(tmp_path.iterdir())
