"""What one side of a connection shows the other, and what it trusts."""

from typing import NamedTuple


class Credentials(NamedTuple):
    """One side's certificates, each PEM.

    Attributes:
        authority: that signed the other side's certificate.
        certificate: of this side.
        private_key: of that certificate.
    """

    authority: bytes
    certificate: bytes
    private_key: bytes
