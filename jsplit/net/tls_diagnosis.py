"""Why a TLS handshake failed, so that a client can say which side trusts which not.

gRPC itself tells "Socket closed" both of a server that refuses the client's certificate
(under TLS 1.3 it judges that when the client's side of the handshake is over) and of a
server that was killed at that moment; a client must end at once in the first case and
come back in the second. So after a failure the client shakes hands once more, by
Python's own TLS, and sends nothing over that connection. The server has no part in it.
"""

import socket
import ssl
import tempfile
import time
from pathlib import Path

from jsplit.errors import Refusal
from jsplit.net.credentials import Credentials
from jsplit.runtime import atomic

SECONDS = 5.0
"""Seconds that each step of the handshake may take."""

AGAIN = 0.5
"""Seconds after which a refused certificate is shown once more."""


def tls_refusal(address: str, credentials: Credentials | None) -> Refusal | None:
    """Finds which side refuses the other; None if neither does.

    A server that refuses a certificate hangs up after the handshake, and so does one
    that is killed at that moment. Only the first does it twice.

    Args:
        address: `HOST:PORT`.
        credentials: of this client; None if it has none.
    """
    refusal = _shake_hands(address, credentials)
    if refusal is not None and refusal.name == "CLIENT_CERTIFICATE":
        time.sleep(AGAIN)
        refusal = _shake_hands(address, credentials)
    return refusal


def what_listens(address: str, credentials: Credentials | None) -> str | None:
    """What is known of something that accepts a connection and then says nothing.

    Args:
        address: `HOST:PORT`.
        credentials: of this client; None if it has none.

    Returns:
        Words for people; None where no connection is made at all.
    """
    host, port = _host_and_port(address)
    try:
        with socket.create_connection((host, port), SECONDS) as plain:
            try:
                with _context(credentials).wrap_socket(plain, server_hostname=host):
                    return "it speaks TLS, and then nothing"
            except TimeoutError:
                return "it says nothing"
            except (ssl.SSLEOFError, ConnectionError):
                return "it ends connections"
            except ssl.SSLError:
                return "it speaks no TLS"
    except OSError:
        return None


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _shake_hands(address: str, credentials: Credentials | None) -> Refusal | None:
    host, port = _host_and_port(address)
    try:
        with (
            socket.create_connection((host, port), SECONDS) as plain,
            _context(credentials).wrap_socket(plain, server_hostname=host) as secure,
        ):
            # A server that trusts this side begins to speak HTTP/2 by itself.
            trusted = bool(secure.recv(1))
    except ssl.SSLCertVerificationError as error:
        return Refusal(
            "SERVER_CERTIFICATE",
            f"the server's certificate is not trusted ({error.verify_message}); is "
            f"{address} the server, made for this host by the authority that --certs "
            "holds (jsplit certs --hosts)?",
        )
    except ssl.SSLEOFError:  # As when a server is killed; that is no judgement.
        return None
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):
            return None if credentials is None else _plain(address)
        trusted = False
    except OSError:  # Likewise.
        return None
    if credentials is None:
        return Refusal("NO_CERTIFICATE", "the server asks for certificates: --certs")
    if trusted:
        return None
    return Refusal(
        "CLIENT_CERTIFICATE",
        "the server does not trust this client's certificate; it must be one for "
        "clients, not yet at its end, by the authority of the server's --certs",
    )


def _plain(address: str) -> Refusal:
    return Refusal(
        "NO_TLS",
        f"what listens at {address} speaks no TLS; if that is the server, start it "
        "with --certs, not --insecure",
    )


def _context(credentials: Credentials | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if credentials is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.load_verify_locations(cadata=credentials.authority.decode("ascii"))
    # Python reads these from files alone; the files are private, and deleted at once.
    with (
        tempfile.TemporaryDirectory(prefix="jsplit-") as folder,
        atomic.unfinished(Path(folder)),  # It will hold a private key.
    ):
        chain, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        for path, data in (
            (chain, credentials.certificate),
            (key, credentials.private_key),
        ):
            path.touch(mode=0o600)
            path.write_bytes(data)
        context.load_cert_chain(chain, key)
    return context
