"""How tensors are coded for the wire."""

from jsplit.codecs.float8 import FORMATS, Format, float8
from jsplit.codecs.plain import bf16, identity
from jsplit.runtime.registry import Registry, instance_of
from jsplit.typing import Codec

_OWN: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        float8(),
        *(float8(fixed.name) for fixed in FORMATS),
        bf16(),
        identity(),
    )
}

CODECS: Registry[Codec] = Registry("codec", "jsplit.codecs", _OWN, instance_of(Codec))
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
