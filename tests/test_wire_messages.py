"""Messages: what is written is read, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.errors import Refusal
from jsplit.wire.messages import (
    DTYPES,
    LABELS_BYTES,
    MESSAGES,
    PLAN_BYTES,
    TENSOR_BYTES,
    VERSION,
    WEIGHTS_BYTES,
    ClientWeights,
    Done,
    Goodbye,
    Hello,
    Labels,
    Place,
    Plan,
    PredictionHello,
    Tensor,
    Waiting,
    WeightsKept,
    Welcome,
    read_message,
    write_message,
)
from tests.runs import ROOT

U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
NAME = st.binary(min_size=16, max_size=16)
PLACES = st.builds(Place, U32, U32, U32)


@st.composite
def hellos(draw):
    channels = draw(st.integers(0, 5))
    sums = draw(st.lists(st.tuples(U64, U64), min_size=channels, max_size=channels))
    return Hello(
        version=VERSION,
        client=draw(U32),
        token=draw(NAME),
        run=draw(NAME),
        task=draw(U32),
        answered=draw(U32),
        examples=draw(U32),
        held_out=draw(U32),
        classes=draw(U32),
        class_names=draw(NAME),
        image=(draw(U16), draw(U16), channels),
        sums=tuple(sums),
        stored=tuple(draw(st.lists(NAME, max_size=4))),
        settings=draw(st.text(max_size=50)),
    )


@st.composite
def welcomes(draw):
    single = st.floats(width=32, allow_nan=False)
    pairs = draw(st.lists(st.tuples(single, single), max_size=4))
    flags = [draw(st.booleans()) for _ in range(3)]
    return Welcome(draw(NAME), draw(NAME), *flags, draw(U32), draw(U32), tuple(pairs))


DRAWN = st.one_of(
    hellos(),
    welcomes(),
    st.builds(Labels, st.booleans(), st.binary(max_size=40)),
    st.builds(
        Tensor,
        PLACES,
        st.integers(0, len(DTYPES) - 1),
        U32,
        U32,
        st.binary(max_size=4),
        st.binary(max_size=40),
    ),
    st.builds(ClientWeights, PLACES, NAME, st.binary(max_size=40)),
    st.builds(WeightsKept, PLACES, NAME),
    st.builds(
        Plan,
        PLACES,
        st.integers(0, 3),
        st.integers(0, 255),
        st.binary(min_size=8, max_size=8),
        NAME,
    ),
    st.builds(Done, U32, U32, U32, NAME),
    st.builds(Waiting, U32, st.booleans(), U32, U32),
    st.builds(PredictionHello, st.just(VERSION), NAME),
    st.just(Goodbye()),
)


@given(DRAWN)
def test_what_is_written_is_read(message):
    assert read_message(write_message(message)) == message


@given(DRAWN, st.data())
def test_a_message_cut_short_or_lengthened_is_never_another_of_fixed_size(
    message, data
):
    whole = write_message(message)
    if isinstance(message, Labels | Tensor | ClientWeights):
        return  # Their rest is of any length here; what is agreed is checked later.
    cut = data.draw(st.integers(0, len(whole) - 1))
    for spoilt in (whole[:cut], whole + b"\0"):
        with pytest.raises(Refusal):
            read_message(spoilt)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data):
    try:
        message = read_message(data)
    except Refusal:
        return
    assert write_message(message) == data


@given(DRAWN, st.data())
def test_a_changed_byte_is_a_message_or_refused(message, data):
    spoilt = bytearray(write_message(message))
    place = data.draw(st.integers(0, len(spoilt) - 1))
    spoilt[place] ^= data.draw(st.integers(1, 255))
    try:
        assert write_message(read_message(bytes(spoilt))) == bytes(spoilt)
    except Refusal:
        pass


def test_another_version_is_refused_by_name():
    spoilt = bytearray(write_message(hello()))
    spoilt[7] = VERSION + 1
    with pytest.raises(Refusal, match=f"^VERSION: protocol {VERSION + 1}"):
        read_message(bytes(spoilt))


def test_a_message_that_may_not_come_now_is_refused_by_name():
    with pytest.raises(Refusal, match="^UNEXPECTED: Goodbye, not Hello"):
        read_message(write_message(Goodbye()), (Hello,))


def test_lengths_are_those_that_the_ledger_counts_with():
    place, name = Place(1, 2, 3), bytes(16)
    assert len(write_message(Tensor(place, 0, 1, 1, b"hh", b"b"))) == TENSOR_BYTES + 3
    assert len(write_message(ClientWeights(place, name, b"b"))) == WEIGHTS_BYTES + 1
    assert len(write_message(WeightsKept(place, name))) == WEIGHTS_BYTES
    assert len(write_message(Labels(False, b"lll"))) == LABELS_BYTES + 3
    assert len(write_message(Plan(place, 0, 0, bytes(8), name))) == PLAN_BYTES == 39


def test_the_bytes_are_those_of_the_document():
    plan = Plan(Place(1, 258, 3), 1, 5, bytes(range(8)), bytes(range(16)))
    assert write_message(plan) == bytes.fromhex(
        "08 01000000 02010000 03000000 01 05 0001020304050607"
        "000102030405060708090a0b0c0d0e0f"
    )
    tensor = Tensor(Place(0, 1, 2), 0, 3, 4, b"\2\5", b"\0abc")
    assert write_message(tensor) == bytes.fromhex(
        "03 00000000 01000000 02000000 00 03000000 04000000 02 0205 00616263"
    )


def test_the_document_lists_exactly_these_messages_and_fields():
    document = (ROOT / "docs" / "wire.md").read_text()
    header = "| kind | name | who | fields |\n|---|---|---|---|\n"
    table = document.partition(header)[2].partition("\n\n")[0]
    assert table.splitlines() == [
        f"| {kind} | {found.__name__} | {found.sender} | {found.layout.describe()} |"
        for kind, found in sorted(MESSAGES.items())
    ]


def hello() -> Hello:
    return Hello(
        version=VERSION,
        client=0,
        token=bytes(16),
        run=bytes(16),
        task=0,
        answered=0,
        examples=10,
        held_out=2,
        classes=3,
        class_names=bytes(16),
        image=(8, 8, 1),
        sums=((640, 640),),
        stored=(),
        settings="epochs=2",
    )
