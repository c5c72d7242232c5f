"""The lossless second stage: bytes to fewer bytes, and back to the same.

Codes of 8-bit floats are far from uniform: those of ReLU activations and of gradients
carry 2 to 7 bits of information each. zstd finds what repeats besides, in images with a
plain background above all, and is quick. Where its Huffman codes stay far above the
entropy of the bytes, which they do when few values make up most of a message, an
asymmetric numeral system (Duda 2013, by the library constriction) reaches it under the
frequencies of that message alone, at some forty times the time. `docs/wire.md` has the
layout, `benchmarks/lossless.py` the measurement.
"""

from typing import TYPE_CHECKING

import numpy as np

from jsplit.errors import Refusal

# constriction and zstandard are imported where they are used: the library knows the
# format's sizes without them, and only what is sent or counted compressed needs them.
if TYPE_CHECKING:
    import constriction

RAW, CONSTANT, CODED, ZSTD = range(4)
"""The first byte: as they are, all the same byte, by their frequencies, or by zstd."""

CODING_BYTES = 1
"""What a payload that is not compressed gains by saying so."""

_LEVEL = 1  # Of zstd; 2 and 3 are slower, and larger or smaller by 2 % at most.
_NEAR = 1.05  # Of zstd's bytes over the entropy; beyond, frequencies are tried.

_SYMBOLS = 256
_MOST = 2**16 - 1  # of a frequency, as it is sent
_MAP_BYTES = _SYMBOLS // 8


def load_coder() -> None:
    """Imports what the coder needs, so that a missing library is missed at once."""
    import constriction  # noqa: F401
    import zstandard  # noqa: F401


def compress(data: bytes) -> bytes:
    """A short form of `data`; at most one byte longer.

    The shortest of all, but that frequencies are tried only where zstd comes not within
    5 % of the entropy. The same for the same bytes and version of zstd; another version
    may need another number of bytes.
    """
    import zstandard

    values = np.frombuffer(data, np.uint8)
    counts = np.bincount(values, minlength=_SYMBOLS)
    used = np.flatnonzero(counts)
    if len(used) == 1:
        return bytes([CONSTANT, used[0]])
    forms = [bytes([RAW]) + data]
    if len(used):
        forms.append(bytes([ZSTD]) + zstandard.ZstdCompressor(_LEVEL).compress(data))
        if 8 * len(forms[-1]) > _NEAR * entropy(counts):
            forms.append(_code(values, counts, used))
    return min(forms, key=len)


def entropy(counts: np.ndarray) -> float:
    """Bits of a message in which each symbol occurs so often, by those shares alone."""
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def expand(data: bytes, length: int) -> bytes:
    """What `compress` was given.

    Args:
        data: its result, from a sender that may send anything.
        length: that the result must have, agreed beforehand.

    Raises:
        Refusal: SIZE if it cannot have that length, MALFORMED if it cannot be read.
    """
    if not data:
        raise Refusal("MALFORMED", "a payload without its first byte")
    method, body = data[0], data[1:]
    if method == RAW:
        if len(body) != length:
            raise Refusal("SIZE", f"{length} bytes were agreed, got {len(body)}")
        return body
    if method == CONSTANT:
        if len(body) != 1 or not length:
            raise Refusal("SIZE", f"one byte to repeat was due, got {len(body)}")
        return body * length
    if method not in (CODED, ZSTD):
        raise Refusal("MALFORMED", f"a payload of unknown coding {method}")
    if len(body) >= length:
        raise Refusal("SIZE", f"{len(body)} coded bytes for {length} plain ones")
    return _decode(body, length) if method == CODED else _unzip(body, length)


def _code(values: np.ndarray, counts: np.ndarray, used: np.ndarray) -> bytes:
    import constriction

    # Rounded up, so that a symbol that occurs keeps a frequency.
    frequencies = -(-counts[used] * _MOST // counts.max())
    place = np.zeros(_SYMBOLS, np.int32)
    place[used] = np.arange(len(used))
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(place[values], _model(frequencies))
    occurs = np.packbits(counts > 0, bitorder="little")
    words = coder.get_compressed().astype("<u4")
    return b"".join(
        (
            bytes([CODED]),
            occurs.tobytes(),
            frequencies.astype("<u2").tobytes(),
            words.tobytes(),
        )
    )


def _decode(body: bytes, length: int) -> bytes:
    import constriction

    occurs = np.unpackbits(
        np.frombuffer(body[:_MAP_BYTES], np.uint8), bitorder="little"
    )
    used = np.flatnonzero(occurs)
    start = _MAP_BYTES + 2 * len(used)
    if len(body) < start or len(used) < 2 or (len(body) - start) % 4:
        raise Refusal("MALFORMED", "a coded payload that is cut short")
    frequencies = np.frombuffer(body, "<u2", len(used), offset=_MAP_BYTES)
    words = np.frombuffer(body, "<u4", offset=start).astype(np.uint32)
    if not frequencies.all() or (len(words) and not words[-1]):
        raise Refusal("MALFORMED", "a coded payload with a frequency or word of 0")
    coder = constriction.stream.stack.AnsCoder(words)
    places = coder.decode(_model(frequencies), length)
    if not coder.is_empty():
        raise Refusal("MALFORMED", "a coded payload with more than was agreed")
    return used.astype(np.uint8)[places].tobytes()


def _unzip(body: bytes, length: int) -> bytes:
    import zstandard

    try:
        # Asked first: the library makes as many bytes as the frame says it holds.
        stated = zstandard.frame_content_size(body)
        if stated != length:
            raise Refusal("SIZE", f"{length} bytes were agreed, a frame has {stated}")
        return zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refusal("MALFORMED", f"a zstd frame that cannot be read: {error}") from (
            error
        )


def _model(frequencies: np.ndarray) -> "constriction.stream.model.Categorical":
    import constriction

    # Not "perfect": that one's fixed-point frequencies are searched, in float64 sums
    # whose order is the library's own business.
    return constriction.stream.model.Categorical(
        frequencies.astype(np.float32), perfect=False
    )
