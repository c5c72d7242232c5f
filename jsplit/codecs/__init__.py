"""How tensors are coded for the wire."""

from collections.abc import Callable

from jsplit.codecs.float8 import FORMATS, Format, float8
from jsplit.codecs.plain import bf16, identity
from jsplit.typing import Codec

CODECS: dict[str, Callable[[], Codec]] = {
    "float8": float8,
    "e5m2": lambda: float8("e5m2"),
    "e4m3": lambda: float8("e4m3"),
    "e3m4": lambda: float8("e3m4"),
    "bf16": bf16,
    "identity": identity,
}
"""Every codec by the name it has on the command line."""

__all__ = [
    "CODECS",
    "FORMATS",
    "Codec",
    "Format",
    "bf16",
    "float8",
    "identity",
]
