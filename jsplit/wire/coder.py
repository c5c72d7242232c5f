"""The lossless second stage: bytes to fewer bytes, and back to the same.

Codes of 8-bit floats are far from uniform: those of ReLU activations and of gradients
carry 2 to 4 bits of information each. Each message's bytes are coded by an asymmetric
numeral system (Duda 2013, by the library constriction) under the frequencies of that
message alone, which reaches their empirical entropy; where that does not pay, they stay
as they are. `docs/wire.md` has the layout.
"""

import constriction
import numpy as np

from jsplit.errors import Refusal

RAW, CONSTANT, CODED = range(3)
"""The first byte: as they are, all the same byte, or coded."""

CODING_BYTES = 1
"""What a payload that is not compressed gains by saying so."""

_SYMBOLS = 256
_MOST = 2**16 - 1  # of a frequency, as it is sent
_MAP_BYTES = _SYMBOLS // 8


def compress(data: bytes) -> bytes:
    """The shortest of the three forms; at most one byte longer than `data`.

    The result is a function of `data` alone, the same on every machine.
    """
    values = np.frombuffer(data, np.uint8)
    counts = np.bincount(values, minlength=_SYMBOLS)
    used = np.flatnonzero(counts)
    if len(used) == 1:
        return bytes([CONSTANT, used[0]])
    if len(used):
        coded = _code(values, counts, used)
        if len(coded) < 1 + len(data):
            return coded
    return bytes([RAW]) + data


def expand(data: bytes, length: int) -> bytes:
    """What `compress` was given.

    Args:
        data: its result, from a peer that may send anything.
        length: that the result must have, agreed beforehand.

    Raises:
        Refusal: SIZE if it cannot have that length, MALFORMED if `compress` would not
            have written it.
    """
    if not data:
        raise Refusal("MALFORMED", "a payload without its first byte")
    method, body = data[0], data[1:]
    if method == RAW:
        if len(body) != length:
            raise Refusal("SIZE", f"{length} bytes were agreed, got {len(body)}")
        return body
    if method == CONSTANT and len(body) == 1 and length:
        return body * length
    if method != CODED:
        raise Refusal("MALFORMED", f"a payload of unknown coding {method}")
    if len(body) >= length:
        raise Refusal("SIZE", f"{len(body)} coded bytes for {length} plain ones")
    return _decode(body, length)


def _code(values: np.ndarray, counts: np.ndarray, used: np.ndarray) -> bytes:
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


def _model(frequencies: np.ndarray) -> "constriction.stream.model.Categorical":
    # Not "perfect": that one's fixed-point frequencies are searched, in float64 sums
    # whose order is the library's own business.
    return constriction.stream.model.Categorical(
        frequencies.astype(np.float32), perfect=False
    )
