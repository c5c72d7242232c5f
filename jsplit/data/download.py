"""Downloads that end: a question first, then bytes with time limits and a checksum.

Not through TFDS' own downloader: it sets no time limit, so that a server which accepts
and never answers hangs it for ever, it retries for 206 s when there is no network, and
what it fetched the stock builders could not unpack without TensorFlow. Nor through
pooch: it has a limit neither on the whole time nor on the bytes that come. A file
fetched here lies where TFDS looks for hand-supplied files and is parsed as one.
"""

import hashlib
import threading
import time
from pathlib import Path
from typing import Any

from jsplit.runtime.atomic import replacing

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 8.0
REACH_SECONDS = 9.0
"""Limit on the whole preflight: name look-ups and redirects have no limit of theirs."""

SILENCE_SECONDS = 30.0
TOTAL_SECONDS = 3600.0
_CHUNK_BYTES = 1 << 16


def check_reachable(url: str) -> None:
    """Asks for the head of `url`, through the proxies that the environment names.

    Raises:
        OSError: No good answer within `REACH_SECONDS`; the message is one line.
    """
    requests = _requests()
    outcome: list[str] = []

    def ask() -> None:
        try:
            response = requests.head(
                url, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), allow_redirects=True
            )
            outcome.append("" if response.ok else _refusal(url, response.status_code))
        except Exception as error:  # Handed over to the thread that waits.
            outcome.append(_failure(url, error))

    # In a thread, because a name look-up can block for longer than any socket timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    if not outcome:
        raise OSError(f"{url} gives no answer within {REACH_SECONDS:g} s")
    if outcome[0]:
        raise OSError(outcome[0])


def download(url: str, path: Path, *, sha256: str, size: int) -> None:
    """Fetches `url` to `path`, which appears only complete and with the right checksum.

    Args:
        url: What to fetch.
        path: Where to put it.
        sha256: Expected checksum, hex.
        size: Expected length in bytes; a server that sends more is cut off.

    Raises:
        OSError: The fetch failed, fell silent for `SILENCE_SECONDS`, took longer than
            `TOTAL_SECONDS`, or brought other bytes; the message is one line.
    """
    requests = _requests()
    deadline = time.monotonic() + TOTAL_SECONDS
    digest = hashlib.sha256()
    received = 0
    limits = (CONNECT_SECONDS, SILENCE_SECONDS)
    try:
        with requests.get(url, stream=True, timeout=limits) as response:
            if not response.ok:
                raise OSError(_refusal(url, response.status_code))
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    received += len(chunk)
                    if received > size:
                        raise OSError(
                            f"{url} sends more than the expected {size} bytes"
                        )
                    if time.monotonic() > deadline:
                        raise OSError(
                            f"{url} sent {received} of {size} bytes "
                            f"in {TOTAL_SECONDS:g} s"
                        )
                    digest.update(chunk)
                    file.write(chunk)
                if digest.hexdigest() != sha256:
                    raise OSError(
                        f"{url} sent {received} bytes with sha256 "
                        f"{digest.hexdigest()}, expected {size} bytes with {sha256}"
                    )
    except requests.RequestException as error:
        raise OSError(_failure(url, error)) from error


def _requests() -> Any:
    try:
        import requests
    except ImportError as error:
        raise OSError(f"{error}: pip install 'jsplit[data]'") from error
    return requests


def _refusal(url: str, status: int) -> str:
    return f"{url} answers HTTP {status}"


def _failure(url: str, error: Exception) -> str:
    # The kind of the innermost error says enough; the texts that requests and urllib3
    # wrap round it run over several hundred characters.
    wrapped = [arg for arg in error.args if isinstance(arg, Exception)]
    inner = wrapped[0] if wrapped else error
    return f"{url} cannot be fetched, {type(getattr(inner, 'reason', inner)).__name__}"
