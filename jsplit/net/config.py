"""How a networked server and client are reached, and how patient they are."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from jsplit.core.option import Option, options_of
from jsplit.errors import InputError
from jsplit.experiment.config import flag, host_and_port, unknown

MOST_CLIENTS = 10_000
"""Of a run over a network."""

MIB = 2**20

PING_TIMEOUT = 60.0
"""Seconds; a link of 400 kbit/s takes 20 for a message of a megabyte."""

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class LinkConfig:
    """Settings of the connection that server and client both have."""

    GROUP = "network"

    certs: Annotated[
        str | None,
        Option(
            "The folder with this side's certificates, made by jsplit certs.", "FOLDER"
        ),
    ] = None
    insecure: Annotated[
        int,
        Option(
            "Use neither certificates nor encryption; given once, this is for "
            "loopback alone, given twice, for any address.",
            counted=True,
        ),
    ] = 0
    message_limit: Annotated[int, Option("Largest message, in MiB.")] = 64
    ping_timeout: Annotated[
        float,
        Option(
            "Seconds within which the other side must answer a ping; without an answer "
            "the connection is broken and made again. A ping waits behind a message "
            "that is under way, so this must exceed what one takes on the link. A "
            "machine that lost power is noticed no sooner."
        ),
    ] = PING_TIMEOUT
    log: Annotated[
        Literal["text", "json"],
        Option(
            "How events are logged on standard output: text (a line for people) or "
            "json (a JSON object a line)."
        ),
    ] = "text"


@dataclass(frozen=True)
class ServeConfig(LinkConfig):
    """Settings of `jsplit serve` beside those of the run."""

    listen: Annotated[
        str, Option("The address that the server listens on.", "HOST:PORT")
    ] = "127.0.0.1:7070"
    wait: Annotated[
        float,
        Option(
            "Seconds that the server waits in A and B for a client that sends nothing. "
            "Before the run begins it waits for clients and their labels without end; "
            "one that is connected and owes its labels for so long is turned away, and "
            "may come again."
        ),
    ] = 300.0
    absent: Annotated[
        Literal["stop", "skip"],
        Option(
            "What the server does after --wait: stop (it stops the run) or skip (the "
            "epoch begins again without the client, which takes part again from the "
            "epoch after it is back). Skipping needs one client at least that is "
            "there, and a batch that the absent one sent before: a run begins with "
            "all, and nobody can be away while clients learn alone."
        ),
    ] = "stop"
    greeting: Annotated[
        float, Option("Seconds within which a connection must say hello.")
    ] = 10.0
    linger: Annotated[
        float,
        Option("Seconds that the server waits at the end for clients to hear of it."),
    ] = 60.0
    evaluate: Annotated[
        int,
        Option("Epochs between scores of the held-out set; 0 scores it at the end."),
    ] = 0
    status_port: Annotated[
        int | None,
        Option(
            "Port on 127.0.0.1 that answers /healthz, and /metrics for Prometheus; 0 "
            "takes a free one. There is none without this option."
        ),
    ] = None
    examples_limit: Annotated[
        int, Option("Most training examples that one client may have.")
    ] = 1_000_000
    memory_limit: Annotated[
        int, Option("Most memory for the stored activations of all clients, in MiB.")
    ] = 8192


@dataclass(frozen=True)
class JoinConfig(LinkConfig):
    """Settings of `jsplit join` beside those of the run."""

    server: Annotated[str, Option("The address of the server.", "HOST:PORT")] = (
        "127.0.0.1:7070"
    )
    client: Annotated[int, Option("This client's number, from 0.")] = 0
    own_data: Annotated[
        bool,
        Option(
            "Take all of --dataset as this client's own, not its share of a common "
            "one. Settings that limit the number of examples are not heeded."
        ),
    ] = False
    patience: Annotated[
        float,
        Option("Seconds without a server after which the client gives up."),
    ] = 600.0
    link: Annotated[
        str | None,
        Option("Simulate a slow link, such as 10mbit/40ms (rate, one-way delay)."),
    ] = None


def check_network(config: ServeConfig | JoinConfig) -> None:
    """Refuses what cannot be used.

    Raises:
        InputError: naming the flag, its value and what is possible.
    """
    address = config.listen if isinstance(config, ServeConfig) else config.server
    name = "--listen" if isinstance(config, ServeConfig) else "--server"
    parts = host_and_port(address)
    if parts is None:
        raise InputError(f"{name} must be HOST:PORT, got {address!r}")
    host, port = parts
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InputError(f"{name} {address}: write IPv6 as [{host}]:{port}")
    if isinstance(config, JoinConfig) and port == 0:
        raise InputError(f"--server {address}: port 0 is nobody's; name the server's")
    if config.certs is None and not config.insecure:
        raise InputError(
            "--certs FOLDER is needed: make certificates with jsplit certs, or say "
            "--insecure on loopback"
        )
    if config.certs is not None and config.insecure:
        raise InputError("--certs and --insecure contradict each other; drop one")
    if config.insecure == 1 and not is_loopback(address):
        raise InputError(
            f"--insecure with {address}: everybody between could read and change what "
            "crosses; use --certs, or say --insecure twice"
        )
    least = {
        "message_limit": 1,
        "ping_timeout": 1,
        "wait": 0.1,
        "greeting": 0.1,
        "linger": 0,
        "evaluate": 0,
        "examples_limit": 1,
        "memory_limit": 1,
        "patience": 0,
        "client": 0,
    }
    for field, smallest in least.items():
        value = getattr(config, field, smallest)
        if not smallest <= value <= 1_000_000_000:
            raise InputError(
                f"{flag(field)} must be from {smallest} to 1000000000, got {value}"
            )
    if isinstance(config, ServeConfig) and config.status_port is not None:
        if not 0 <= config.status_port <= 65535:
            raise InputError(
                f"--status-port must be from 0 to 65535, got {config.status_port}"
            )
        if config.status_port == port != 0:
            raise InputError(
                f"--status-port {port} is the port of --listen; the metrics need one "
                "of their own"
            )
    if config.message_limit >= 2048:
        raise InputError(
            f"--message-limit must be less than 2048, got {config.message_limit}"
        )
    kind: Any = type(config)
    for name, known in options_of(kind).items():
        value = getattr(config, known.field)
        if known.choices is not None and value not in known.choices:
            raise InputError(unknown(name, value, known.choices))


def is_loopback(address: str) -> bool:
    """Whether `HOST:PORT` is on this machine.

    Example:
        >>> is_loopback("[::1]:7070"), is_loopback("example.org:7070")
        (True, False)
    """
    return address.rpartition(":")[0].strip("[]") in _LOOPBACK


def check_clients(clients: int) -> None:
    """Refuses more clients than certificates have numbers for.

    Raises:
        InputError: naming the flag and the limit.
    """
    if not 1 <= clients <= MOST_CLIENTS:
        raise InputError(f"--clients must be from 1 to {MOST_CLIENTS}, got {clients}")
