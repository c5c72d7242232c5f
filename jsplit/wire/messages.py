"""The messages of a networked run: their fields, and what may stand in them.

A message is a frozen dataclass whose annotations are its format: the kind of a field
says how it is written, read and described (`jsplit.wire.layout`). A new message is a
new class here, and a row of `docs/wire.md` that a test compares with it. Reading makes
nothing whose size was not checked, and refuses by name what is not exactly a message.
"""

import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple, TypeVar, get_type_hints, overload

from jsplit.errors import Refusal
from jsplit.typing import LOCAL
from jsplit.wire.layout import (
    FieldKind,
    Layout,
    data,
    flag,
    items,
    one,
    rest,
    several,
    utf8,
)

VERSION = 5
"""Version of the protocol; both sides must speak the same one."""

DIGEST_BYTES = 16
"""Bytes of the SHA-256 that names client weights."""

INITIAL_WEIGHTS = bytes(DIGEST_BYTES)
"""In place of a digest: the weights that every client begins with, from the seed."""

NAME_BYTES = 16
"""Bytes of a token and of a run's name, which are random."""

UNNAMED = bytes(NAME_BYTES)
"""In place of a token or of a run's name: there is none yet."""

CHANNELS_LIMIT, STORED_LIMIT, SETTINGS_LIMIT = 64, 8, 8192
"""Of a hello: image channels, digests of client weights, bytes of settings."""

EVALUATE = 2
"""In place of a state: the client sends the held-out set's activations, for a score."""

DTYPES = ("uint8", "float32", "bfloat16")
"""Dtypes of payloads, in the order of their numbers on the wire."""


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


U8, U16, U32 = one("B", "u8"), one("H", "u16"), one("I", "u32")
NAME = one(f"{NAME_BYTES}s", f"{NAME_BYTES} bytes")
DIGEST = one(f"{DIGEST_BYTES}s", f"{DIGEST_BYTES} bytes")
KEY = one("8s", "8 bytes")
PLACE = several("III", "epoch u32, task u32, number u32", Place._make)
IMAGE = several("HHH", "height u16, width u16, channels u16")


class Message:
    """What all messages have in common.

    Attributes:
        kind: the message's first byte.
        sender: who sends it: `client`, `server` or `both`.
        layout: of the bytes after the first one.
        fixed_bytes: of a message before its variable parts, the first byte included.
    """

    kind: ClassVar[int]
    sender: ClassVar[str]
    layout: ClassVar[Layout]
    fixed_bytes: ClassVar[int]

    def __init_subclass__(cls, *, kind: int, sender: str, prefix: bytes = b""):
        fields = {}
        for name, hint in get_type_hints(cls, include_extras=True).items():
            (found, *_) = getattr(hint, "__metadata__", (None,))
            if isinstance(found, FieldKind):
                fields[name] = found
        cls.kind, cls.sender = kind, sender
        cls.layout = Layout(fields, prefix)
        cls.fixed_bytes = 1 + cls.layout.fixed_bytes
        assert kind not in MESSAGES, f"there are two messages of kind {kind}"
        MESSAGES[kind] = cls

    def check(self) -> None:
        """Raises a `ValueError` if the fields do not fit each other."""


MESSAGES: dict[int, type[Message]] = {}
"""All messages, by their kind."""


@dataclass(frozen=True)
class Hello(Message, kind=1, sender="client", prefix=b"jsplit"):
    """The client says who it is and what it holds; the first of every connection.

    Attributes:
        version: of the protocol.
        client: its number, from 0; its certificate must say so too.
        token: from this process's last `Welcome`; `UNNAMED` before the first.
        run: that its folder belongs to, or `UNNAMED`.
        task: that it has in memory, with a token.
        answered: answers that it has had in that task.
        examples: of its shard.
        held_out: examples of its held-out set.
        classes: that its labels come from.
        class_names: digest of what they are called, in order; `UNNAMED` where its data
            does not say.
        image: height, width and channels of its images.
        sums: for each image channel, the sum of all its bytes and of their squares.
        stored: digests of client weights in its folder.
        settings: what must be the same on both sides, as lines `name=value`.
    """

    version: Annotated[int, U16]
    client: Annotated[int, U32]
    token: Annotated[bytes, NAME]
    run: Annotated[bytes, NAME]
    task: Annotated[int, U32]
    answered: Annotated[int, U32]
    examples: Annotated[int, U32]
    held_out: Annotated[int, U32]
    classes: Annotated[int, U32]
    class_names: Annotated[bytes, NAME]
    image: Annotated[tuple[int, int, int], IMAGE]
    sums: Annotated[
        tuple[tuple[int, int], ...],
        items("QQ", "sum of its bytes u64, sum of their squares u64", CHANNELS_LIMIT),
    ]
    stored: Annotated[
        tuple[bytes, ...],
        items(f"{DIGEST_BYTES}s", f"digest {DIGEST_BYTES} bytes", STORED_LIMIT),
    ]
    settings: Annotated[str, utf8("H", "u16", SETTINGS_LIMIT)]

    def check(self) -> None:
        """As `Message.check`."""
        if len(self.sums) != self.image[2]:
            raise ValueError("sums of another number of channels")


@dataclass(frozen=True)
class Labels(Message, kind=2, sender="client"):
    """The client sends the class of each example of its shard, in its own order.

    Attributes:
        held_out: whether they are those of its held-out set instead.
        data: unsigned integers of `label_bytes(classes)` each.
    """

    held_out: Annotated[bool, flag()]
    data: Annotated[bytes, rest()]


@dataclass(frozen=True)
class Tensor(Message, kind=3, sender="both"):
    """A batch's activations (up) or the gradient of them (down).

    Attributes:
        place: of the batch.
        dtype: of the payload, an index into `DTYPES`.
        rows: examples.
        values: numbers of one example.
        header: the codec's.
        body: the payload, as `compress` wrote it.
    """

    place: Annotated[Place, PLACE]
    dtype: Annotated[int, U8]
    rows: Annotated[int, U32]
    values: Annotated[int, U32]
    header: Annotated[bytes, data("B", "u8", 255)]
    body: Annotated[bytes, rest()]

    def check(self) -> None:
        """As `Message.check`."""
        if self.dtype >= len(DTYPES):
            raise ValueError(f"unknown dtype {self.dtype}")


@dataclass(frozen=True)
class ClientWeights(Message, kind=4, sender="both"):
    """A client part that changes hands: parameters, statistics, optimizer state.

    In a run whose clients learn alone at first, those of the head, too.

    Attributes:
        place: where the client that sends it stands; zeros from the server.
        digest: of its arrays' bytes.
        body: those, as `compress` wrote them.
    """

    place: Annotated[Place, PLACE]
    digest: Annotated[bytes, DIGEST]
    body: Annotated[bytes, rest()]


@dataclass(frozen=True)
class WeightsKept(Message, kind=5, sender="client"):
    """A single client ended its epoch of A, and its weights are safe in its folder.

    Attributes:
        place: where the client stands.
        digest: of the weights.
    """

    place: Annotated[Place, PLACE]
    digest: Annotated[bytes, DIGEST]


@dataclass(frozen=True)
class Goodbye(Message, kind=6, sender="client"):
    """The client has read `Done`."""


@dataclass(frozen=True)
class Welcome(Message, kind=7, sender="server"):
    """The server takes the client into the run.

    Attributes:
        token: to come back with.
        run: its name.
        live: whether the server knew the hello's token: what the client has in memory
            goes on.
        labels: whether the server still needs the client's labels.
        held_out_labels: whether it needs those of the held-out set.
        batch: examples of one of the client's batches.
        slots: places for examples in one of its epochs, a multiple of `batch`.
        moments: mean and deviation of each image channel over all clients' images, with
            pixels taken as 0 to 1.
    """

    token: Annotated[bytes, NAME]
    run: Annotated[bytes, NAME]
    live: Annotated[bool, flag()]
    labels: Annotated[bool, flag()]
    held_out_labels: Annotated[bool, flag()]
    batch: Annotated[int, U32]
    slots: Annotated[int, U32]
    moments: Annotated[
        tuple[tuple[float, float], ...], items("ff", "mean f32, deviation f32", 255)
    ]


@dataclass(frozen=True)
class Plan(Message, kind=8, sender="server"):
    """The server asks for an epoch in A or B, or says where to go on with one.

    Attributes:
        place: the batch to go on with; 0 at the beginning.
        state: 0 A, 1 B, `EVALUATE`, or 3: the client learns alone, without batches.
        view: of its examples that the client is to send in B, from 0.
        key: what the client's draws of this epoch follow from.
        weights: digest of the client weights that the epoch begins with.
    """

    place: Annotated[Place, PLACE]
    state: Annotated[int, U8]
    view: Annotated[int, U8]
    key: Annotated[bytes, KEY]
    weights: Annotated[bytes, DIGEST]

    def check(self) -> None:
        """As `Message.check`."""
        if self.state > LOCAL:
            raise ValueError("clients take no part in such a state")


@dataclass(frozen=True)
class Done(Message, kind=9, sender="server"):
    """The server says that the run is over.

    Attributes:
        epochs: that it had.
        correct: held-out examples that the network got right.
        examples: of the held-out set; 0 where there is none.
        weights: digest of the client weights that the run ended with.
    """

    epochs: Annotated[int, U32]
    correct: Annotated[int, U32]
    examples: Annotated[int, U32]
    weights: Annotated[bytes, DIGEST]


@dataclass(frozen=True)
class PredictionHello(Message, kind=10, sender="client", prefix=b"jsplit"):
    """The client asks a server that predicts; the first of such a connection.

    Activations go up after it, and logits come down, as tensors without a header.

    Attributes:
        version: of the protocol.
        run: that both halves were trained in.
    """

    version: Annotated[int, U16]
    run: Annotated[bytes, NAME]


@dataclass(frozen=True)
class Waiting(Message, kind=11, sender="server"):
    """The server says whom it waits for, which no run depends on; at any time.

    Attributes:
        client: number of the one that it waits for.
        connected: whether that one is.
        present: clients that are connected; before the run, that have said hello.
        clients: of the run.
    """

    client: Annotated[int, U32]
    connected: Annotated[bool, flag()]
    present: Annotated[int, U32]
    clients: Annotated[int, U32]


LABELS_BYTES = Labels.fixed_bytes
"""Of a message of labels before the labels."""

TENSOR_BYTES = Tensor.fixed_bytes
"""Of a tensor's message before the codec's header; then comes the coded payload."""

WEIGHTS_BYTES = ClientWeights.fixed_bytes
"""Of a message of client weights before its coded arrays, and of a `WeightsKept`."""

PLAN_BYTES = Plan.fixed_bytes
"""Of the message that announces an epoch to a client."""


def write_message(message: Message) -> bytes:
    """The bytes of a message."""
    return bytes([message.kind]) + message.layout.write(message)


M = TypeVar("M", bound=Message)


@overload
def read_message(data: bytes) -> Message: ...
@overload
def read_message(data: bytes, allowed: tuple[type[M], ...]) -> M: ...
def read_message(
    data: bytes, allowed: tuple[type[Message], ...] | None = None
) -> Message:
    """The message that `write_message` made these bytes of.

    Args:
        data: from a sender that may send anything.
        allowed: classes of message that may come now; None for all.

    Raises:
        Refusal: MALFORMED, VERSION (a hello of another protocol), or UNEXPECTED.
    """
    if not data or data[0] not in MESSAGES:
        raise Refusal("MALFORMED", "a message of unknown kind")
    found = MESSAGES[data[0]]
    if allowed is not None and found not in allowed:
        expected = " or ".join(each.__name__ for each in allowed)
        raise Refusal("UNEXPECTED", f"{found.__name__}, not {expected}")
    try:
        if found in (Hello, PredictionHello):
            _check_version(data[1:])
        message = found(**found.layout.read(memoryview(data)[1:]))
        message.check()
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise Refusal("MALFORMED", f"a {found.__name__} that cannot be read") from error
    return message


def _check_version(data: bytes) -> None:
    """Refuses a hello of another version, whatever its other fields are."""
    magic, version = struct.unpack_from("<6sH", data)
    if magic == b"jsplit" and version != VERSION:
        raise Refusal(
            "VERSION", f"protocol {version}, but this side speaks {VERSION}; update one"
        )
