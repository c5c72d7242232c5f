"""Fixtures: no network, empty folders, and the fakes."""

import http.server
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from data_fakes import (
    FakeCifar,
    Site,
    expect_archive,
    fake_archive,
    fake_arrays,
    tfds_prepare,
)

from jsplit.data import cifar10, fashion_mnist


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keeps every test off the network and out of the home of who runs it."""
    resolve = socket.getaddrinfo

    def loopback_only(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "tests have no network")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", loopback_only)
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.delenv(cifar10.ARCHIVE_VARIABLE, raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "no-debian")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "jsplit"


@pytest.fixture
def fake_cifar(monkeypatch: pytest.MonkeyPatch) -> FakeCifar:
    """Makes the loader expect a small archive in place of the published one."""
    arrays = fake_arrays(0)
    archive = fake_archive(arrays)
    expect_archive(monkeypatch, archive)
    return FakeCifar(arrays, archive)


@pytest.fixture(scope="session")
def cifar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The arrays of `fake_cifar`, prepared by TFDS once for all tests: a data_dir."""
    from tensorflow_datasets.image_classification import cifar

    data_dir = tmp_path_factory.mktemp("prepared")
    tfds_prepare(cifar.Cifar10, "cifar10", fake_arrays(0), data_dir)
    return data_dir


@pytest.fixture
def prepared_cifar(cifar_folder: Path, data_dir: Path) -> Path:
    """A copy of the prepared folder in `data_dir`: `<data_dir>/cifar10/<version>`."""
    shutil.copytree(cifar_folder / "cifar10", data_dir / "cifar10")
    (folder,) = (data_dir / "cifar10").iterdir()
    return folder


@pytest.fixture
def site() -> Iterator[Site]:
    files: dict[str, bytes] = {}
    lengths: dict[str, int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            known = self.path in files
            self.send_response(200 if known else 404)
            length = lengths.get(self.path, len(files.get(self.path, b"")))
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, *args: object) -> None:
            del args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Site(f"http://127.0.0.1:{server.server_port}", files, lengths)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/file"


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def notify(notices: list[str]) -> Callable[[str], None]:
    return notices.append
