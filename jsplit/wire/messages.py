"""The messages of a networked run: their bytes, and what may stand in them.

A message is its kind (one byte), then its fields in the order of the class, as numbers
of fixed size (little-endian), then for some a variable rest. Reading makes nothing
whose size was not checked, and refuses by name whatever is not exactly a message.
`docs/wire.md` describes all of them.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from jsplit.errors import Refusal

VERSION = 2
"""Of the protocol; both sides must speak the same."""

DIGEST_BYTES = 16
"""Of the SHA-256 that names a client part."""

BEGINNING = bytes(DIGEST_BYTES)
"""In place of a digest: the part that every client begins with, from the seed."""

NAME_BYTES = 16
"""Of a session, a token and a run: random names."""

NOBODY = bytes(NAME_BYTES)

CHANNELS_LIMIT, HELD_LIMIT, SETTINGS_LIMIT = 64, 8, 8192


class Hello(NamedTuple):
    """Client: who it is and what it holds. The first message of every connection.

    Attributes:
        version: of the protocol.
        client: its number, from 0; its certificate must say so too.
        token: from this process's last `Welcome`; `NOBODY` before the first.
        run: that its folder belongs to, or `NOBODY`.
        task: that it has in memory, with a token.
        answered: answers that it has had in that task.
        examples: of its shard.
        held_out: examples of its held-out set.
        classes: that its labels come from.
        image: height, width and channels of its images.
        sums: for each channel, the sum of all its bytes and of their squares.
        held: digests of client parts in its folder.
        settings: what must be the same on both sides, as lines `name=value`.
    """

    version: int
    client: int
    token: bytes
    run: bytes
    task: int
    answered: int
    examples: int
    held_out: int
    classes: int
    image: tuple[int, int, int]
    sums: tuple[tuple[int, int], ...]
    held: tuple[bytes, ...]
    settings: str


class Welcome(NamedTuple):
    """Server: the client is in the run.

    Attributes:
        token: to come back with.
        run: its name.
        live: whether the server knew the hello's token: what the client has in memory
            goes on.
        labels: whether the server still needs the client's labels.
        held_out: whether it needs those of the held-out set.
        batch: examples of one of its batches.
        slots: places for examples in one of its epochs, a multiple of `batch`.
        mean: of each channel of all clients' images, pixels taken as 0 to 1.
        deviation: likewise.
    """

    token: bytes
    run: bytes
    live: bool
    labels: bool
    held_out: bool
    batch: int
    slots: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Labels(NamedTuple):
    """Client: the class of each example of its shard, in its own order.

    Attributes:
        held_out: of its held-out set instead.
        data: unsigned integers of `label_bytes(classes)` each.
    """

    held_out: bool
    data: bytes


class Place(NamedTuple):
    """Where in the run a message belongs.

    Attributes:
        epoch: from 0.
        task: what the server asked for, counted over all epochs and all attempts at
            them since it started.
        number: of the client's batch in it, from 0. What a client sends after its last
            batch has the next number.
    """

    epoch: int
    task: int
    number: int


EXAMINE = 2
"""In place of a state: send the held-out set as activations, for a score."""


class Plan(NamedTuple):
    """Server: an epoch in A or B, or where to go on with one.

    Attributes:
        place: the batch to go on with; 0 at the beginning.
        state: 0 A, 1 B, or `EXAMINE`.
        key: what the client's draws of this epoch follow from.
        part: digest of the client part that the epoch begins with.
    """

    place: Place
    state: int
    key: bytes
    part: bytes


class Tensor(NamedTuple):
    """A batch's activations (up) or the gradient of them (down).

    Attributes:
        place: whose.
        dtype: of the payload, an index into `DTYPES`.
        rows: examples.
        values: numbers of one example.
        header: the codec's.
        body: the payload, as `compress` wrote it.
    """

    place: Place
    dtype: int
    rows: int
    values: int
    header: bytes
    body: bytes


class Part(NamedTuple):
    """A client part that changes hands: parameters, statistics, optimizer.

    Attributes:
        place: where the client stands that hands it in; zeros from the server.
        digest: of its arrays' bytes.
        body: those, as `compress` wrote them.
    """

    place: Place
    digest: bytes
    body: bytes


class Kept(NamedTuple):
    """A client alone: its epoch of A is over, and the part is safe in its folder."""

    place: Place
    digest: bytes


class Done(NamedTuple):
    """Server: the run is over.

    Attributes:
        epochs: that it had.
        correct: held-out examples that the network got right.
        examples: of the held-out set; 0 where there is none.
    """

    epochs: int
    correct: int
    examples: int


class Goodbye(NamedTuple):
    """Client: it has read `Done`."""


DTYPES = ("uint8", "float32", "bfloat16")
"""Of payloads, in the order of their numbers on the wire."""

Message = Hello | Welcome | Labels | Plan | Tensor | Part | Kept | Done | Goodbye

KINDS: tuple[type, ...] = (
    Hello,
    Labels,
    Tensor,
    Part,
    Kept,
    Goodbye,
    Welcome,
    Plan,
    Done,
)
"""By the number of the kind, from 1."""

_MAGIC = b"jsplit"
_HELLO = struct.Struct("<6sHI16s16sIIIIIHHHBBH")
_SUMS = struct.Struct("<QQ")
_WELCOME = struct.Struct("<16s16sBBBIIB")
_MOMENTS = struct.Struct("<ff")
_LABELS = struct.Struct("<B")
_PLAN = struct.Struct("<IIIB8s16s")
_TENSOR = struct.Struct("<IIIBIIB")
_PART = struct.Struct("<III16s")
_DONE = struct.Struct("<III")


TENSOR_BYTES = 1 + _TENSOR.size
"""Of a tensor's message before the codec's header; then comes the coded payload."""

PART_BYTES = 1 + _PART.size
"""Of a part's message, and of a `Kept`, before its coded arrays."""

LABELS_BYTES = 1 + _LABELS.size
"""Of a message of labels before the labels."""

PLAN_BYTES = 1 + _PLAN.size
"""Of the message that announces an epoch to a client."""


def write(message: Message) -> bytes:
    """The bytes of a message."""
    kind = KINDS.index(type(message)) + 1
    return bytes([kind]) + _WRITERS[kind - 1](message)


def read(data: bytes, allowed: tuple[type, ...] = KINDS) -> Message:
    """The message that `write` made these bytes of.

    Args:
        data: from a peer that may send anything.
        allowed: classes of message that may come now.

    Raises:
        Refusal: MALFORMED, VERSION (a hello of another protocol), or UNEXPECTED.
    """
    if not data or not 1 <= data[0] <= len(KINDS):
        raise Refusal("MALFORMED", "a message of unknown kind")
    kind = data[0] - 1
    if KINDS[kind] not in allowed:
        expected = " or ".join(kind.__name__ for kind in allowed)
        raise Refusal("UNEXPECTED", f"{KINDS[kind].__name__}, not {expected}")
    try:
        return _READERS[kind](memoryview(data)[1:])
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise Refusal("MALFORMED", f"a {KINDS[kind].__name__} that is none") from error


def _write_hello(m: Hello) -> bytes:
    settings = m.settings.encode()
    fixed = _HELLO.pack(
        _MAGIC,
        m.version,
        m.client,
        m.token,
        m.run,
        m.task,
        m.answered,
        m.examples,
        m.held_out,
        m.classes,
        *m.image,
        len(m.sums),
        len(m.held),
        len(settings),
    )
    sums = b"".join(_SUMS.pack(*pair) for pair in m.sums)
    return fixed + sums + b"".join(m.held) + settings


def _read_hello(data: memoryview) -> Hello:
    magic, version = struct.unpack_from("<6sH", data)
    if magic != _MAGIC:
        raise ValueError("no hello of jsplit's")
    if version != VERSION:
        raise Refusal(
            "VERSION", f"protocol {version}, but this side speaks {VERSION}; update one"
        )
    (
        *_,
        client,
        token,
        run,
        task,
        answered,
        examples,
        held_out,
        classes,
        height,
        width,
        channels,
        sums,
        held,
        length,
    ) = _HELLO.unpack_from(data)
    if sums != channels or not channels <= CHANNELS_LIMIT or held > HELD_LIMIT:
        raise ValueError("too many channels or parts")
    rest = data[_HELLO.size :]
    at = sums * _SUMS.size
    names = at + held * DIGEST_BYTES
    if len(rest) != names + length or length > SETTINGS_LIMIT:
        raise ValueError("another length")
    return Hello(
        version,
        client,
        token,
        run,
        task,
        answered,
        examples,
        held_out,
        classes,
        (height, width, channels),
        tuple(_SUMS.iter_unpack(rest[:at])),
        tuple(
            bytes(rest[start : start + DIGEST_BYTES])
            for start in range(at, names, DIGEST_BYTES)
        ),
        bytes(rest[names:]).decode(),
    )


def _write_welcome(m: Welcome) -> bytes:
    fixed = _WELCOME.pack(*m[:-2], len(m.mean))
    pairs = zip(m.mean, m.deviation, strict=True)
    return fixed + b"".join(_MOMENTS.pack(*pair) for pair in pairs)


def _read_welcome(data: memoryview) -> Welcome:
    token, run, *flags, batch, slots, channels = _WELCOME.unpack_from(data)
    pairs = list(_MOMENTS.iter_unpack(data[_WELCOME.size :]))
    if len(pairs) != channels:
        raise ValueError("another length")
    mean, deviation = zip(*pairs, strict=True) if pairs else ((), ())
    live, labels, held_out = map(_flag, flags)
    return Welcome(token, run, live, labels, held_out, batch, slots, mean, deviation)


def _write_labels(m: Labels) -> bytes:
    return _LABELS.pack(m.held_out) + m.data


def _read_labels(data: memoryview) -> Labels:
    (held_out,) = _LABELS.unpack_from(data)
    return Labels(_flag(held_out), bytes(data[_LABELS.size :]))


def _write_plan(m: Plan) -> bytes:
    return _PLAN.pack(*m.place, m.state, m.key, m.part)


def _read_plan(data: memoryview) -> Plan:
    epoch, task, number, state, key, part = _PLAN.unpack(data)
    if state > EXAMINE:
        raise ValueError("nothing that clients take part in")
    return Plan(Place(epoch, task, number), state, key, part)


def _write_tensor(m: Tensor) -> bytes:
    fixed = _TENSOR.pack(*m.place, m.dtype, m.rows, m.values, len(m.header))
    return fixed + m.header + m.body


def _read_tensor(data: memoryview) -> Tensor:
    epoch, task, number, dtype, rows, values, header = _TENSOR.unpack_from(data)
    rest = bytes(data[_TENSOR.size :])
    if len(rest) < header or dtype >= len(DTYPES):
        raise ValueError("another length, or an unknown dtype")
    place = Place(epoch, task, number)
    return Tensor(place, dtype, rows, values, rest[:header], rest[header:])


def _write_part(m: Part) -> bytes:
    return _PART.pack(*m.place, m.digest) + m.body


def _read_part(data: memoryview) -> Part:
    *place, digest = _PART.unpack_from(data)
    return Part(Place(*place), digest, bytes(data[_PART.size :]))


def _write_kept(m: Kept) -> bytes:
    return _PART.pack(*m.place, m.digest)


def _read_kept(data: memoryview) -> Kept:
    *place, digest = _PART.unpack(data)
    return Kept(Place(*place), digest)


def _write_done(m: Done) -> bytes:
    return _DONE.pack(*m)


def _read_done(data: memoryview) -> Done:
    return Done(*_DONE.unpack(data))


def _write_goodbye(m: Goodbye) -> bytes:
    return b""


def _read_goodbye(data: memoryview) -> Goodbye:
    if len(data):
        raise ValueError("another length")
    return Goodbye()


def _flag(value: int) -> bool:
    if value > 1:
        raise ValueError("neither yes nor no")
    return bool(value)


_WRITERS: tuple[Callable[[Any], bytes], ...] = (
    _write_hello,
    _write_labels,
    _write_tensor,
    _write_part,
    _write_kept,
    _write_goodbye,
    _write_welcome,
    _write_plan,
    _write_done,
)

_READERS: tuple[Callable[[memoryview], Any], ...] = (
    _read_hello,
    _read_labels,
    _read_tensor,
    _read_part,
    _read_kept,
    _read_goodbye,
    _read_welcome,
    _read_plan,
    _read_done,
)
