"""Channels over gRPC: a bidirectional stream for each client, under mutual TLS.

The messages are those of `jsplit.wire`, byte for byte; gRPC carries them. Its HTTP/2
keeps order, limits their size and lets a slow reader slow the writer down. Keepalive
alone does not notice that the other side hangs while its system still acknowledges: the
ping's own time-out does, so all three are set.
"""

import contextlib
import math
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc

from jsplit.errors import InputError, Refusal
from jsplit.net.admission import CONNECTIONS_PER_CLIENT
from jsplit.net.call_end import REFUSED, reason_of
from jsplit.net.channel import Channel, ConnectionLost, MessageQueue
from jsplit.net.config import PING_TIMEOUT, is_loopback
from jsplit.net.connection_watch import ConnectionWatch, tls_of_server
from jsplit.net.credentials import Credentials
from jsplit.net.tls_diagnosis import tls_refusal, what_listens
from jsplit.wire.messages import VERSION

METHOD = "/jsplit.v1.Split/Train"
ANSWERED = "jsplit-version"
"""Key of the initial metadata by which a server answers a call, before any message."""

ANSWER = 10.0
"""Seconds within which whatever listens must answer as a jsplit server."""

IDENTITY = re.compile(r"jsplit://client/(\d{1,5})")
"""In a client's certificate, as a URI among its alternative names."""

KEEPALIVE = 10_000
"""Milliseconds between pings on a channel."""

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


def _options(limit: int, ping_timeout: float) -> list[tuple[str, int]]:
    # The most that gRPC counts to is without end to it.
    missed = min(math.ceil(1000 * ping_timeout), 2**31 - 1)
    return [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.keepalive_time_ms", KEEPALIVE),
        ("grpc.keepalive_timeout_ms", missed),
        ("grpc.http2.ping_timeout_ms", missed),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE // 2),
        # Payloads are coded already, and a small message must not unpack to a large.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.so_reuseport", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]


class _ServerChannel:
    """The server's end of a stream; gRPC's thread for it sends what is put here."""

    def __init__(self, requests: Iterator[bytes], context: grpc.ServicerContext):
        self.remote = context.peer()
        self.out = MessageQueue(limit=UNREAD + 1)
        # Nothing is known of the size of these messages but the limit.
        self._in = MessageQueue(limit=2)
        self._context = context
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()

    def _read(self, requests: Iterator[bytes]) -> None:
        try:
            for data in requests:
                self._in.put(data)
        except (grpc.RpcError, ConnectionLost):
            pass  # Whatever it was, the reader hears that the connection broke.
        # gRPC raises a bare Exception for a stream that broke.
        except Exception:  # noqa: BLE001
            pass
        finally:
            self._in.close(ConnectionLost("the connection broke"))

    def send(self, data: bytes) -> None:
        """As `Channel.send`; a client that does not read loses its channel."""
        if self.out.waiting >= UNREAD:
            self.close(Refusal("IDLE", f"{UNREAD} messages were sent and not read"))
        self.out.put(data)

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Channel.receive`."""
        return self._in.get(timeout)

    def close(self, reason: Refusal | None = None) -> None:
        """As `Channel.close`."""
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
def serve(
    address: str,
    credentials: Credentials | None,
    clients: int,
    limit: int,
    handle_connection: Callable[[Channel, int | None], None],
    watch: ConnectionWatch | None = None,
    ping_timeout: float = PING_TIMEOUT,
) -> Iterator[Listener]:
    """Serves clients until the context is left.

    Args:
        address: `HOST:PORT`; port 0 takes a free one.
        credentials: for mutual TLS; None to go without TLS.
        clients: how many there may be.
        limit: bytes of a message.
        handle_connection: serves a channel until it ends. It is also given the client
            that the certificate names, or None without certificates.
        watch: told of every TLS handshake that begins, and of every call that comes.
        ping_timeout: seconds after which a channel whose other side does not answer is
            broken.

    Raises:
        InputError: if the address cannot be listened on, or the credentials are none.
    """

    def train(
        requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        if watch is not None:
            watch.call_begins(context.peer())
        try:
            identity = None if credentials is None else _identity(context)
        except Refusal as refusal:
            _abort(context, refusal)
        context.send_initial_metadata(((ANSWERED, str(VERSION)),))
        channel = _ServerChannel(requests, context)
        context.add_callback(channel.close)
        serving = threading.Thread(
            target=handle_connection, args=(channel, identity), daemon=True
        )
        serving.start()
        try:
            while True:
                yield channel.out.get()
        except ConnectionLost:
            return
        except Refusal as refusal:
            _abort(context, refusal)
        finally:
            channel.close()

    handler = grpc.stream_stream_rpc_method_handler(train)
    name, method = METHOD[1:].split("/")
    most = CONNECTIONS_PER_CLIENT * clients + SPARE
    server = grpc.server(
        ThreadPoolExecutor(most),
        options=_options(limit, ping_timeout),
        maximum_concurrent_rpcs=most,
        handlers=(grpc.method_handlers_generic_handler(name, {method: handler}),),
    )
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls_of_server(credentials, watch))
    except RuntimeError as error:
        raise InputError(
            f"--listen {address}: cannot be listened on; is the port taken, and the "
            "host one of this machine's?"
        ) from error
    if watch is not None:
        watch.port = port
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


class _ClientChannel:
    """The client's end of a stream."""

    def __init__(
        self, transport: grpc.Channel, address: str, credentials: Credentials | None
    ):
        self.remote = address
        self._credentials = credentials
        self._out = MessageQueue(limit=2)
        self._in = MessageQueue()
        self._judged = threading.Event()  # Whether it answered is known.
        self._answered = False
        self._call = transport.stream_stream(METHOD)(self._requests())
        threading.Thread(target=self._read, daemon=True).start()

    def _requests(self) -> Iterator[bytes]:
        with contextlib.suppress(ConnectionLost, Refusal):
            while True:
                yield self._out.get()

    def _read(self) -> None:
        reason: Exception = ConnectionLost("the server ended the connection")
        try:
            self._answered = ANSWERED in dict(self._call.initial_metadata() or ())
            if self._answered:
                self._judged.set()
            for data in self._call:
                if not self._answered:
                    reason = self._stranger("it speaks gRPC")
                    self._call.cancel()
                    break
                self._in.put(data)
        except grpc.RpcError as error:
            reason = reason_of(error)
            if isinstance(reason, ConnectionLost) and not self._answered:
                refusal = tls_refusal(self.remote, self._credentials)
                reason = refusal or self._misunderstood(error) or reason
        except ConnectionLost as error:
            reason = error
        finally:
            self._in.close(reason)
            self._out.close(reason)
            self._judged.set()

    def _stranger(self, what: str) -> ConnectionLost:
        return ConnectionLost(
            f"something listens at {self.remote}, but does not answer as a jsplit "
            f"server ({what})"
        )

    def _misunderstood(self, error: grpc.RpcError) -> ConnectionLost | None:
        """What to say of a call that something else than a jsplit server ended."""
        call: Any = error
        if call.code() is grpc.StatusCode.UNIMPLEMENTED:
            return self._stranger("it speaks gRPC or HTTP/2 for something else")
        if "parsing HTTP/2" in (call.details() or ""):
            return self._stranger("it speaks no HTTP/2")
        return None

    def await_answer(self) -> None:
        """Waits until the server has answered the call, before any message.

        Raises:
            ConnectionLost: if there is no server, or what listens is none.
            Refusal: if it refuses this client.
        """
        if not self._judged.wait(ANSWER):
            self.close()
            found = what_listens(self.remote, self._credentials)
            if found is None:
                raise ConnectionLost(f"no answer in {ANSWER:g} s")
            raise self._stranger(f"{found}, for {ANSWER:g} s")
        if not self._answered:
            assert self._in.reason is not None
            raise self._in.reason

    def send(self, data: bytes) -> None:
        """As `Channel.send`."""
        try:
            self._out.put(data)
        except ConnectionLost as error:
            raise self._in.reason or error from None

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Channel.receive`."""
        return self._in.get(timeout)

    def close(self, reason: Refusal | None = None) -> None:
        """As `Channel.close`."""
        self._out.close()
        self._in.close()
        self._call.cancel()

    def finish(self) -> None:
        """Lets what was sent arrive, then ends."""
        self._out.close()
        with contextlib.suppress(ConnectionLost, Refusal, TimeoutError):
            self._in.get(5.0)
        self.close()


@contextlib.contextmanager
def connect(
    address: str,
    credentials: Credentials | None,
    limit: int,
    ping_timeout: float = PING_TIMEOUT,
) -> Iterator[_ClientChannel]:
    """Opens a channel to the server at an address.

    Args:
        address: `HOST:PORT`.
        credentials: for mutual TLS; None to go without TLS.
        limit: bytes of a message.
        ping_timeout: seconds after which a server that does not answer is none.

    A proxy that the environment names carries TLS alone, and never to loopback: it
    would read what goes without, and its loopback is another machine's.

    Raises:
        ConnectionLost: if there is no server. What listens at the address may be
            something else: it is not called a server before it has answered as one.
        Refusal: by the server, or by either side's TLS, as `tls_refusal`.
    """
    options = _options(limit, ping_timeout)
    if credentials is None or is_loopback(address):
        options.append(("grpc.enable_http_proxy", 0))
    if credentials is None:
        transport = grpc.insecure_channel(address, options=options)
    else:
        tls = grpc.ssl_channel_credentials(
            root_certificates=credentials.authority,
            private_key=credentials.private_key,
            certificate_chain=credentials.certificate,
        )
        transport = grpc.secure_channel(address, tls, options=options)
    with transport:
        channel = _ClientChannel(transport, address, credentials)
        try:
            channel.await_answer()
            yield channel
        except BaseException:
            channel.close()
            raise
        channel.finish()
