"""How tensors are coded for the wire."""

from jsplit.codecs.float8 import FORMATS, Format, float8
from jsplit.codecs.packed import WIDTHS, packed
from jsplit.codecs.plain import bf16, identity
from jsplit.codecs.top_k import top_k
from jsplit.codecs.where_sent import where_sent
from jsplit.runtime.registry import Registry, instance_of
from jsplit.typing import Codec

_OWN: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        float8(),
        *(float8(fixed.name) for fixed in FORMATS),
        *(
            packed(bits, per_channel=per_channel)
            for bits in reversed(WIDTHS)
            for per_channel in (False, True)
        ),
        *(packed(bits, stochastic=True) for bits in (4, 3, 2)),
        *(
            top_k(share, randomised=by_chance)
            for share in (4, 16)
            for by_chance in (False, True)
        ),
        where_sent(),
        bf16(),
        identity(),
    )
}

CODECS: Registry[Codec] = Registry("codec", "jsplit.codecs", _OWN, instance_of(Codec))
"""Every codec by the name it has on the command line."""

USUAL = [
    *(name for name in CODECS if not name.startswith(("bits", "top", "where"))),
    *("bits6", "bits4"),
]
"""Those among which a plan chooses if it is not told: what fewer than 4 bits cost goes
by filters and data, a scale for each channel is not for every cut, and top-k leaves
most values out."""

__all__ = [
    "CODECS",
    "FORMATS",
    "USUAL",
    "Codec",
    "Format",
    "bf16",
    "float8",
    "identity",
    "packed",
    "top_k",
    "where_sent",
]
