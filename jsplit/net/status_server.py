"""The status port: `/healthz` and `/metrics`, over HTTP, for this machine alone."""

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref import simple_server

from prometheus_client import make_wsgi_app

from jsplit.errors import InputError
from jsplit.net.metrics import make_registry
from jsplit.net.status import Status, health_of

HOST = "127.0.0.1"

PATIENCE = 5.0
"""Seconds that whoever connects has to ask."""


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody who hung up, or asked for nothing, is no fault of the server's."""


class _Handler(simple_server.WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        """Questions are not logged: there is one every few seconds."""


@contextlib.contextmanager
def serve_status(port: int, take: Callable[[], Status]) -> Iterator[int]:
    """Answers until the context is left.

    Args:
        port: on loopback; 0 takes a free one.
        take: takes the status, whenever somebody asks.

    Yields:
        The port.

    Raises:
        InputError: if the port cannot be listened on.
    """
    try:
        server = simple_server.make_server(
            HOST, port, make_app(take), server_class=_Server, handler_class=_Handler
        )
    except OSError as error:
        raise InputError(
            f"--status-port {port}: {HOST} cannot be listened on ({error.strerror}); "
            "name another port, or 0 for a free one"
        ) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def make_app(take: Callable[[], Status]) -> Callable[..., Iterable[bytes]]:
    """The status port as a WSGI application."""
    metrics = make_wsgi_app(make_registry(take))

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start)
            return answer
        if path == "/healthz" and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            code, body = health_of(take())
            line = "200 OK" if code == 200 else "503 Service Unavailable"
            data = json.dumps(body).encode() + b"\n"
            start(line, [("Content-Type", "application/json")])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"there is /healthz, and /metrics for Prometheus\n"]

    return app
