"""A private authority and the certificates that client and server show each other.

The authority signs one certificate for the server and one for each client; a client's
names its number, so no client can come as another. Private keys are readable by
their owner alone. Give the server and each client its own folder, and keep
`authority/` at home: `renewal` adds clients and renews certificates with it.
"""

import datetime
import ipaddress
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jsplit.errors import InputError
from jsplit.experiment.quantities import counted
from jsplit.experiment.workdir import make
from jsplit.net.credentials import Credentials
from jsplit.net.events import Event
from jsplit.runtime import atomic

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
"""Of a certificate, each with whether it is critical."""

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")

DAYS = 825
"""That certificates are valid for."""

SOON = datetime.timedelta(days=30)
"""Before the end of a certificate, from when on its end is warned of."""

FILES = AUTHORITY, CERTIFICATE, PRIVATE = "authority.pem", "certificate.pem", "key.pem"
"""In the folder of the server and of each client."""


def make_certificates(folder: Path, hosts: list[str], clients: int) -> None:
    """Makes `authority/`, `server/` and `client-0/`, `client-1/`, ... in a new folder.

    A program that is stopped in between leaves none of them.

    Args:
        folder: that does not exist yet, or is empty.
        hosts: names and addresses under which clients reach the server, at least one.
        clients: how many.

    Raises:
        InputError: if the folder holds something or cannot be written, in which case
            nothing is left in it, or a host is neither a name nor an address.
    """
    if not hosts:
        raise InputError("--hosts names nobody; give the server's names and addresses")
    names = [_name(host) for host in hosts]
    try:
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder} holds something already; name a new folder (keys are never "
                "replaced)"
            )
        made = make(folder)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; name another folder") from error
    # Which is new or empty.
    with atomic.removed_if_empty(made), atomic.unfinished(folder):
        _make_all(folder, names, clients)


def _make_all(folder: Path, names: list[x509.GeneralName], clients: int) -> None:
    try:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = _subject("jsplit authority")
        public = key.public_key()
        constraint: Extensions = [(x509.BasicConstraints(True, 0), True)]
        authority = sign(issuer, public, constraint, issuer, key)
        _write(folder / "authority", authority, authority, key)
        own = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        certificate = _certify("server", own, names, usage, authority, key)
        _write(folder / "server", authority, certificate, own)
        for number in range(clients):
            make_client(folder / f"client-{number}", number, authority, key)
    except OSError as error:
        # Some without the others are good for nothing, and would be in the way.
        for inside in folder.iterdir():
            shutil.rmtree(inside, ignore_errors=True)
        raise InputError(f"{folder}: {error.strerror}; name another folder") from error


def make_client(
    place: Path,
    number: int,
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Makes the folder of a client, which must not exist; returns its certificate.

    Args:
        place: the folder.
        number: of the client.
        authority: its certificate.
        key: of the authority.

    Raises:
        OSError: if it cannot be written.
    """
    own = ec.generate_private_key(ec.SECP256R1())
    uri = [x509.UniformResourceIdentifier(f"jsplit://client/{number}")]
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    certificate = _certify(f"client {number}", own, uri, usage, authority, key)
    _write(place, authority, certificate, own)
    return certificate


def _certify(
    title: str,
    own: ec.EllipticCurvePrivateKey,
    alternatives: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    extensions: Extensions = [
        (x509.BasicConstraints(False, None), True),
        (x509.SubjectAlternativeName(alternatives), False),
        (x509.ExtendedKeyUsage([usage]), False),
    ]
    subject, issuer = _subject(f"jsplit {title}"), authority.subject
    until = authority.not_valid_after_utc
    return sign(subject, own.public_key(), extensions, issuer, key, until)


def read_credentials(
    certs: Path | str | None, *, server: bool, notify: Callable[[str], None]
) -> Credentials | None:
    """What is in the folder of the server or of a client; None where there is none.

    Args:
        certs: the folder with the three files; None to go without.
        server: whether it must be a server's; else a client's.
        notify: takes the line that says that a certificate ends soon.

    Raises:
        InputError: if a file is missing or none of what it should be, or they are not
            of one another, or the server's where a client's are wanted, or a client's
            where the server's are, or this day is outside the time that they are for.
    """
    if certs is None:
        return None
    folder, owner = Path(certs), "server" if server else "client"
    try:
        credentials = Credentials(*((folder / name).read_bytes() for name in FILES))
        authority = x509.load_pem_x509_certificate(credentials.authority)
        certificate = x509.load_pem_x509_certificate(credentials.certificate)
        private = serialization.load_pem_private_key(credentials.private_key, None)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it holds no such certificates"
        raise InputError(
            f"--certs {folder}: {reason}; make one with jsplit certs, and name the "
            f"folder of this {owner} in it"
        ) from error
    if private.public_key() != certificate.public_key():
        raise InputError(
            f"--certs {folder}: {PRIVATE} is not the key of {CERTIFICATE}; take both "
            "from one folder of those that jsplit certs made"
        )
    usage = (
        ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    )
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        fits = usage in usages.value
    except x509.ExtensionNotFound:
        fits = True  # Good for everything.
    if not fits:
        raise InputError(
            f"--certs {folder}: not a certificate for a {owner}; name the folder of "
            f"this {owner}"
        )
    _check_time(folder, certificate, authority, notify)
    return credentials


def _check_time(
    folder: Path,
    certificate: x509.Certificate,
    authority: x509.Certificate,
    notify: Callable[[str], None],
) -> None:
    """Refuses certificates that are not valid now, and warns of those that end soon."""
    now = datetime.datetime.now(datetime.UTC)
    begins = max(certificate.not_valid_before_utc, authority.not_valid_before_utc)
    if now < begins:
        raise InputError(
            f"--certs {folder}: the certificate is valid from {begins:%Y-%m-%d %H:%M} "
            f"UTC, and here it is {now:%Y-%m-%d %H:%M}; set this machine's clock"
        )
    ends = min(certificate.not_valid_after_utc, authority.not_valid_after_utc)
    # Whether it is the authority's or its own: one command renews both.
    remedy = (
        f"where the authority is, say jsplit certs renew, and carry {AUTHORITY} and "
        f"{CERTIFICATE} here"
    )
    if ends < now:
        raise InputError(
            f"--certs {folder}: the certificate ended on {ends:%Y-%m-%d}; {remedy}"
        )
    if ends < now + SOON:
        days = (ends - now).days
        notify(
            Event(
                f"the certificate in {folder} ends on {ends:%Y-%m-%d}, in "
                f"{counted(days, 'day')}; {remedy}",
                "certificate_ends",
                logging.WARNING,
                days=days,
            )
        )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass  # Then it is a name.
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if not _HOST.fullmatch(name):
        raise InputError(
            f"--hosts {host!r} is neither a name nor an address; leave out ports, "
            "schemes and paths"
        )
    return x509.DNSName(name)


def _subject(title: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])


def sign(
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    extensions: Extensions,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    until: datetime.datetime | None = None,
) -> x509.Certificate:
    """Signs a certificate that is valid from now on.

    Args:
        subject: whose it is.
        public_key: of the subject.
        extensions: each with whether it is critical.
        issuer: who signs.
        issuer_key: with which key.
        until: when it ends at the latest, as its issuer does; `DAYS` from now if that
            is earlier.
    """
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=DAYS)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # Clocks of two machines differ.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(end if until is None else min(end, until))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _write(
    folder: Path,
    authority: x509.Certificate,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    folder.mkdir(mode=0o700)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for name, data in (
        (AUTHORITY, authority.public_bytes(pem)),
        (CERTIFICATE, certificate.public_bytes(pem)),
        (PRIVATE, private),
    ):
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(data)
