"""How tensors are coded for the wire."""

from jsplit.codecs.float8 import FORMATS, Format, float8
from jsplit.codecs.plain import bf16, identity
from jsplit.typing import Codec

CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        float8(),
        *(float8(fixed.name) for fixed in FORMATS),
        bf16(),
        identity(),
    )
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
