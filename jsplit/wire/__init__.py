"""The format of what crosses the network: packets, messages, lossless compression."""

from jsplit.wire.coder import CODING_BYTES, compress, expand
from jsplit.wire.packets import label_bytes, parse, serialize
from jsplit.wire.weights import digest_of, weights_from_bytes, weights_to_bytes

__all__ = [
    "CODING_BYTES",
    "compress",
    "digest_of",
    "expand",
    "label_bytes",
    "parse",
    "weights_to_bytes",
    "weights_from_bytes",
    "serialize",
]
