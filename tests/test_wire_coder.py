"""The lossless stage: to the bit, near the entropy, and never at a loss."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.errors import Refusal
from jsplit.wire import CODING_BYTES, compress, expand
from jsplit.wire.coder import CODED, CONSTANT, RAW, ZSTD, entropy

MOSTLY_ONES = np.random.default_rng(0).geometric(0.95, 5000).astype(np.uint8).tobytes()
"""Of 0.3 bits a value, which no Huffman code comes near."""


@given(st.binary(max_size=300))
def test_what_is_compressed_comes_back_to_the_bit(data):
    assert expand(compress(data), len(data)) == data


@given(
    st.integers(1, 256), st.integers(0, 5000), st.floats(0.01, 1), st.integers(0, 99)
)
def test_skewed_bytes_come_back_to_the_bit(symbols, length, skew, seed):
    rng = np.random.default_rng(seed)
    values = (rng.geometric(skew, length) - 1) % symbols
    data = values.astype(np.uint8).tobytes()
    assert expand(compress(data), length) == data


@given(st.binary(max_size=300))
def test_it_never_adds_more_than_its_first_byte(data):
    assert len(compress(data)) <= len(data) + CODING_BYTES


@pytest.mark.parametrize(
    ("data", "method"),
    (
        (b"", RAW),
        (b"aaaa", CONSTANT),
        (bytes(range(256)), RAW),
        (b"ab" * 900, ZSTD),
        (MOSTLY_ONES, CODED),
    ),
)
def test_each_form_is_taken_where_it_is_short(data, method):
    assert compress(data)[0] == method


@pytest.mark.parametrize("share", (0.05, 0.3, 0.7, 0.95))
def test_codes_come_within_5_percent_of_their_entropy(share):
    """Those of ReLU activations, of which so many are not 0."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random(200_000) < share, rng.normal(0, 1, 200_000), 0)
    codes = np.abs(x).astype(ml_dtypes.float8_e3m4).view(np.uint8)
    bits = entropy(np.bincount(codes))
    assert 8 * len(compress(codes.tobytes())) <= 1.05 * bits


def test_a_frame_that_states_more_than_was_agreed_is_not_expanded():
    bomb = compress(bytes([1, 2]) * 50_000_000)
    assert bomb[0] == ZSTD and len(bomb) < 100_000
    with pytest.raises(Refusal, match="SIZE: 200000 bytes were agreed"):
        expand(bomb, 200_000)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_expand_to_the_agreed_length_or_are_refused(data, length):
    try:
        assert len(expand(data, length)) == length
    except Refusal as refusal:
        assert refusal.name in ("SIZE", "MALFORMED")


@given(
    st.integers(0, 10_000),
    st.integers(1, 255),
    st.integers(0, 99),
    st.sampled_from((0.4, 0.95)),
)
def test_a_changed_byte_expands_to_the_agreed_length_or_is_refused(
    place, flip, seed, skew
):
    values = np.random.default_rng(seed).geometric(skew, 1000).astype(np.uint8)
    spoilt = bytearray(compress(values.tobytes()))
    spoilt[place % len(spoilt)] ^= flip
    try:
        assert len(expand(bytes(spoilt), 1000)) == 1000
    except Refusal as refusal:
        assert refusal.name in ("SIZE", "MALFORMED")


def test_the_bytes_are_those_of_the_document():
    """What an old version wrote, a new one must read."""
    data = bytes([0, 0, 0, 7, 0, 0, 255, 0] * 40)
    coded = bytes.fromhex(GOLDEN)
    assert coded[:1] + coded[1:33] == bytes([CODED, 0b10000001]) + bytes(30) + b"\x80"
    assert coded[33:39] == (65535).to_bytes(2, "little") + 2 * (10923).to_bytes(
        2, "little"
    )
    assert expand(coded, 320) == data
    assert expand(bytes.fromhex(ZSTD_GOLDEN), 320) == data


ZSTD_GOLDEN = "0328b52ffd6040007d000040000000070000ff00010035530b17"

GOLDEN = (
    "0281"
    + 30 * "00"
    + (
        "80ffffab2aab2a81ec7be0c7a627ca506f96e366cfa60fdd4056ade4099f9e675cb0d4a54647f173"
        "2b6a352015890cf3b15fd6da000000"
    )
)
