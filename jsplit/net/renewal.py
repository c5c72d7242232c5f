"""Further clients of an authority, and certificates that it signs once more.

Renewing keeps every key: only `certificate.pem` and `authority.pem` change, each in one
step, and any mixture of old and new ones is good until the old ones end. So nobody has
to be stopped, and a renewal that broke off is done again by the same command.
"""

import datetime
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jsplit.errors import InputError
from jsplit.net.certificates import (
    AUTHORITY,
    CERTIFICATE,
    PRIVATE,
    make_client,
    sign,
)
from jsplit.net.config import MOST_CLIENTS
from jsplit.runtime import atomic

OWNERS = re.compile(r"server|client-(0|[1-9]\d{0,4})")
"""Names of the folders that an authority signs for."""


class Ending(NamedTuple):
    """When a certificate ends.

    Attributes:
        place: the folder that holds it.
        day: its last, in UTC.
    """

    place: Path
    day: datetime.date


class _Authority(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def add_clients(folder: Path, names: Sequence[str]) -> list[Ending]:
    """Makes folders of further clients under the authority in a folder.

    Args:
        folder: that `make_certificates` made, with `authority/` in it.
        names: of the new folders, such as `client-2`.

    Returns:
        When each certificate ends, which is not later than the authority's own.

    Raises:
        InputError: if a name is none of a client or is taken, if there is no authority
            or it has ended, or if the folder cannot be written; nothing is made then.
    """
    numbers = [_client(name) for name in dict.fromkeys(names)]
    authority = _read_authority(folder)
    ends = authority.certificate.not_valid_after_utc
    if ends < datetime.datetime.now(datetime.UTC):
        raise InputError(
            f"the authority of {folder} ended on {ends:%Y-%m-%d}; jsplit certs renew "
            "renews it"
        )
    for name in names:
        if (folder / name).exists():
            raise InputError(
                f"{folder / name} is there already; jsplit certs renew {name} renews it"
            )
    token = uuid.uuid4().hex
    made = {folder / f"client-{n}": folder / f"client-{n}.{token}.tmp" for n in numbers}
    endings: list[Ending] = []
    renamed: list[Path] = []
    try:
        with atomic.unfinished(*made.values()):
            for number, (place, unfinished) in zip(numbers, made.items(), strict=True):
                certificate = make_client(unfinished, number, *authority)
                endings.append(Ending(place, certificate.not_valid_after_utc.date()))
            for place, unfinished in made.items():
                os.rename(unfinished, place)
                renamed.append(place)
    except OSError as error:
        for place in (*renamed, *made.values()):
            shutil.rmtree(place, ignore_errors=True)
        raise InputError(f"{folder}: {error.strerror}; see to that") from error
    return endings


def renew_certificates(folder: Path, names: Sequence[str] = ()) -> list[Ending]:
    """Renews the authority's certificate and those of its server and clients.

    Each has the key and the names that it had, so no private key is touched or made.

    Args:
        folder: that `make_certificates` made, with `authority/` in it.
        names: of the folders to be renewed; all that are there if none is named.

    Returns:
        When each certificate ends now, the authority's first.

    Raises:
        InputError: if there is no authority, or a folder is missing or of another
            authority, in which case nothing is changed; or if the folder cannot be
            written.
    """
    authority = _read_authority(folder)
    chosen = list(dict.fromkeys(names)) or _names_in(folder)
    if not chosen:
        raise InputError(
            f"{folder} holds no certificates beside the authority's; bring a folder "
            "back whose certificate is to be renewed"
        )
    old = {name: _read_signed(folder, name, authority) for name in chosen}
    root = _signed_again(authority.certificate, authority, None)
    endings = [Ending(folder / "authority", root.not_valid_after_utc.date())]
    try:
        _replace(folder / "authority", root, root)
        for name, certificate in old.items():
            until = root.not_valid_after_utc
            renewed = _signed_again(certificate, authority, until)
            _replace(folder / name, root, renewed)
            endings.append(Ending(folder / name, renewed.not_valid_after_utc.date()))
    except OSError as error:
        raise InputError(
            f"{folder}: {error.strerror}; see to that, and say the same once more "
            "(what is renewed already stays good)"
        ) from error
    return endings


def _client(name: str) -> int:
    found = OWNERS.fullmatch(name)
    if not found or found[1] is None or int(found[1]) >= MOST_CLIENTS:
        raise InputError(
            f"NAME {name!r} is no client's; the first is client-0, the last that is "
            f"possible client-{MOST_CLIENTS - 1}"
        )
    return int(found[1])


def _names_in(folder: Path) -> list[str]:
    found = [path.name for path in folder.iterdir() if OWNERS.fullmatch(path.name)]
    return sorted(found, key=lambda name: (len(name), name))


def _read_authority(folder: Path) -> _Authority:
    place = folder / "authority"
    try:
        certificate = x509.load_pem_x509_certificate((place / CERTIFICATE).read_bytes())
        key = serialization.load_pem_private_key((place / PRIVATE).read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "that is none"
        raise InputError(
            f"--folder {folder} has no authority in it ({reason}); name the folder "
            "that jsplit certs made, on the machine where authority/ is kept"
        ) from error
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
    ):
        raise InputError(
            f"--folder {folder}: {PRIVATE} in authority/ is not the key of "
            f"{CERTIFICATE} there; put the right one back"
        )
    return _Authority(certificate, key)


def _read_signed(folder: Path, name: str, authority: _Authority) -> x509.Certificate:
    """A certificate that the authority signed."""
    if not OWNERS.fullmatch(name):
        raise InputError(f"NAME {name!r} is neither server nor a client, as client-0")
    path = folder / name / CERTIFICATE
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no certificate"
        raise InputError(
            f"{path}: {reason}; bring that file back here from the machine that it was "
            f"carried to (its {PRIVATE} is not needed)"
        ) from error
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not of the authority in {folder}; name the folder that holds "
            "both (--folder)"
        ) from error
    return certificate


def _signed_again(
    certificate: x509.Certificate,
    authority: _Authority,
    until: datetime.datetime | None,
) -> x509.Certificate:
    subject, public_key = certificate.subject, certificate.public_key()
    extensions = [(each.value, each.critical) for each in certificate.extensions]
    issuer, key = authority.certificate.subject, authority.key
    return sign(subject, public_key, extensions, issuer, key, until)


def _replace(
    place: Path, authority: x509.Certificate, certificate: x509.Certificate
) -> None:
    pem = serialization.Encoding.PEM
    for name, new in ((AUTHORITY, authority), (CERTIFICATE, certificate)):
        atomic.write_bytes(place / name, new.public_bytes(pem), 0o600)
