"""Lines over gRPC: one bidirectional stream for each client, under mutual TLS.

The messages are ours, byte for byte; gRPC carries them, and its HTTP/2 keeps order,
limits their size and lets a slow reader slow the writer down. Keepalive alone does not
notice a peer that hangs while its system still acknowledges: the ping's own time-out
does, so all three are set.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc

from jsplit.errors import InputError, Refusal
from jsplit.net.admission import EACH
from jsplit.net.channel import Inbox, Line, Lost
from jsplit.net.handshake import Keys, refusal_of

METHOD = "/jsplit.v1.Split/Train"
REFUSED = "jsplit-refusal"
"""Key of the trailing metadata that names a refusal."""

IDENTITY = re.compile(r"jsplit://client/(\d{1,5})")
"""In a client's certificate, as a URI among its alternative names."""

KEEPALIVE, PING_TIMEOUT = 10_000, 5_000
"""Milliseconds between pings on a line, and until the answer to one is missed."""

UNREAD = 16
"""Messages to a client that may wait; it reads each before it is sent more."""

SPARE = 4
"""Connections beyond those that clients may have: they are being turned away."""

_STATUS = {
    "IDENTITY": grpc.StatusCode.PERMISSION_DENIED,
    "IN_USE": grpc.StatusCode.ALREADY_EXISTS,
    "SUPERSEDED": grpc.StatusCode.ABORTED,
    "INTERNAL": grpc.StatusCode.INTERNAL,
    "TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def _options(limit: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.keepalive_time_ms", KEEPALIVE),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE // 2),
        # Payloads are coded already, and a small message must not unpack to a large.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.so_reuseport", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]


class _ServerLine:
    """The server's end of a stream; gRPC's thread for it sends what is put here."""

    def __init__(self, requests: Iterator[bytes], context: grpc.ServicerContext):
        self.peer = context.peer()
        self.out = Inbox(limit=UNREAD + 1)
        self._in = Inbox(limit=2)  # Nothing is known of their size but the limit.
        self._context = context
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()

    def _read(self, requests: Iterator[bytes]) -> None:
        try:
            for data in requests:
                self._in.put(data)
        except (grpc.RpcError, Lost):
            pass  # Said by the end, whatever it was.
        # What gRPC raises for a stream that broke is a bare Exception.
        except Exception:  # noqa: BLE001
            pass
        finally:
            self._in.close(Lost("the connection broke"))

    def send(self, data: bytes) -> None:
        """As `Line.send`; a client that does not read loses its line."""
        if self.out.waiting >= UNREAD:
            self.close(Refusal("IDLE", f"{UNREAD} messages were sent and not read"))
        self.out.put(data)

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Line.receive`."""
        return self._in.get(timeout)

    def close(self, reason: Refusal | None = None) -> None:
        """As `Line.close`."""
        self.out.close(reason)
        self._in.close()


class Listener(NamedTuple):
    """A server that is listening.

    Attributes:
        port: that it listens on.
        stop: ends it: new connections are refused, open ones broken.
    """

    port: int
    stop: Callable[[], None]


@contextlib.contextmanager
def listening(
    address: str,
    keys: Keys | None,
    clients: int,
    limit: int,
    admit: Callable[[Line, int | None], None],
) -> Iterator[Listener]:
    """Listens for clients until left.

    Args:
        address: `HOST:PORT`; port 0 takes a free one.
        keys: for mutual TLS; None for none at all.
        clients: how many there may be.
        limit: bytes of a message.
        admit: serves a line until it ends; also given the client that the certificate
            names, None without certificates.

    Raises:
        InputError: if the address cannot be listened on, or the keys are none.
    """

    def train(
        requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        try:
            identity = None if keys is None else _identity(context)
        except Refusal as refusal:
            _abort(context, refusal)
        line = _ServerLine(requests, context)
        context.add_callback(line.close)
        serving = threading.Thread(target=admit, args=(line, identity), daemon=True)
        serving.start()
        try:
            while True:
                yield line.out.get()
        except Lost:
            return
        except Refusal as refusal:
            _abort(context, refusal)
        finally:
            line.close()

    handler = grpc.stream_stream_rpc_method_handler(train)
    name, method = METHOD[1:].split("/")
    most = EACH * clients + SPARE
    server = grpc.server(
        ThreadPoolExecutor(most),
        options=_options(limit),
        maximum_concurrent_rpcs=most,
        handlers=(grpc.method_handlers_generic_handler(name, {method: handler}),),
    )
    try:
        if keys is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(
                address,
                grpc.ssl_server_credentials(
                    [(keys.private, keys.certificate)],
                    root_certificates=keys.authority,
                    require_client_auth=True,
                ),
            )
    except RuntimeError as error:
        raise InputError(
            f"--listen {address}: cannot be listened on; is the port taken, and the "
            "host one of this machine's?"
        ) from error
    server.start()
    try:
        yield Listener(port, lambda: server.stop(0).wait())
    finally:
        server.stop(0).wait()


def _identity(context: grpc.ServicerContext) -> int:
    names = context.auth_context().get("x509_subject_alternative_name", [])
    found = [m for name in names if (m := IDENTITY.fullmatch(name.decode("latin-1")))]
    if len(found) != 1:
        raise Refusal("IDENTITY", "the certificate names no client of jsplit's")
    return int(found[0][1])


def _abort(context: grpc.ServicerContext, refusal: Refusal) -> Any:
    context.set_trailing_metadata(((REFUSED, refusal.name),))
    context.abort(
        _STATUS.get(refusal.name, grpc.StatusCode.FAILED_PRECONDITION), refusal.text
    )


class _ClientLine:
    """The client's end of a stream."""

    def __init__(self, channel: grpc.Channel, address: str, keys: Keys | None):
        self.peer = address
        self._keys = keys
        self._out = Inbox(limit=2)
        self._in = Inbox()
        self._call = channel.stream_stream(METHOD)(self._requests())
        threading.Thread(target=self._read, daemon=True).start()

    def _requests(self) -> Iterator[bytes]:
        with contextlib.suppress(Lost, Refusal):
            while True:
                yield self._out.get()

    def _read(self) -> None:
        reason: Exception = Lost("the server ended the connection")
        heard = False
        try:
            for data in self._call:
                heard = True
                self._in.put(data)
        except grpc.RpcError as error:
            reason = _reason(error)
            if isinstance(reason, Lost) and not heard:
                reason = refusal_of(self.peer, self._keys) or reason
        except Lost as error:
            reason = error
        finally:
            self._in.close(reason)
            self._out.close(reason)

    def send(self, data: bytes) -> None:
        """As `Line.send`."""
        try:
            self._out.put(data)
        except Lost as error:
            raise self._in.reason or error from None

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Line.receive`."""
        return self._in.get(timeout)

    def close(self, reason: Refusal | None = None) -> None:
        """As `Line.close`."""
        self._out.close()
        self._in.close()
        self._call.cancel()

    def finish(self) -> None:
        """Lets what was sent arrive, then ends."""
        self._out.close()
        with contextlib.suppress(Lost, Refusal, TimeoutError):
            self._in.get(5.0)
        self.close()


def _reason(error: grpc.RpcError) -> Exception:
    """A call that ended: refused by name, or broken."""
    call: Any = error
    metadata = dict(call.trailing_metadata() or ())
    if REFUSED in metadata:
        return Refusal(str(metadata[REFUSED]), call.details() or "")
    if "larger than max" in (call.details() or ""):
        return Refusal(
            "TOO_LARGE",
            "a message is larger than the --message-limit of this client or of the "
            f"server allows ({call.details()})",
        )
    if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Refusal("FULL", "the server has no place for another connection")
    return Lost(" ".join((call.details() or call.code().name).split())[:200])


@contextlib.contextmanager
def dialled(address: str, keys: Keys | None, limit: int) -> Iterator[_ClientLine]:
    """A line to the server at an address.

    Args:
        address: `HOST:PORT`.
        keys: for mutual TLS; None for none at all.
        limit: bytes of a message.

    What it receives may be a `Refusal` by either side's TLS, as `refusal_of`.
    """
    if keys is None:
        channel = grpc.insecure_channel(address, options=_options(limit))
    else:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=keys.authority,
            private_key=keys.private,
            certificate_chain=keys.certificate,
        )
        channel = grpc.secure_channel(address, credentials, options=_options(limit))
    with channel:
        line = _ClientLine(channel, address, keys)
        try:
            yield line
        except BaseException:
            line.close()
            raise
        line.finish()
