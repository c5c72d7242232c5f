"""What a client's hello must say for the server to take it into the run."""

from collections.abc import Callable
from typing import NamedTuple

from jsplit.errors import Refusal
from jsplit.wire.messages import UNNAMED, Hello

LARGEST_IMAGE = 1024
"""Largest height, width and number of channels of an image."""

MOST_CLASSES = 65536


class AdmissionRules(NamedTuple):
    """What every client of a run must agree to.

    Attributes:
        clients: how many the run has.
        settings: of the run, as lines `name=value`.
        examples_limit: examples that one client may hold.
        image_size: height and width of images in pixels; None if the settings leave
            them open.
        check_capacity: raises a `Refusal` if such examples are too much for the server.
    """

    clients: int
    settings: str
    examples_limit: int
    image_size: int | None
    check_capacity: Callable[[Hello], None]


def check_hello(
    hello: Hello, identity: int | None, run: bytes, rules: AdmissionRules
) -> None:
    """Checks a hello by itself.

    Args:
        hello: what the client says.
        identity: the client that its certificate names; None without certificates.
        run: the run's name; `UNNAMED` while it has none.
        rules: of the run.

    Raises:
        Refusal: IDENTITY, SETTINGS, OTHER_RUN, TOO_LARGE, SHAPE, LABEL or MALFORMED.
    """
    if not hello.client < rules.clients:
        raise Refusal(
            "IDENTITY",
            f"client {hello.client} is not one of the {rules.clients} of this run",
        )
    if identity is not None and identity != hello.client:
        raise Refusal(
            "IDENTITY",
            f"the certificate is client {identity}'s, not {hello.client}'s",
        )
    differing = _differences(rules.settings, hello.settings)
    if differing:
        raise Refusal(
            "SETTINGS",
            f"not the same on both sides: {', '.join(differing)}; give the server "
            "and all clients the same --config and flags",
        )
    if run != UNNAMED and hello.run not in (UNNAMED, run):
        raise Refusal("OTHER_RUN", "the client's --workdir is of another run")
    if not 1 <= hello.examples <= rules.examples_limit:
        raise Refusal(
            "TOO_LARGE",
            f"{hello.examples} examples; this server takes 1 to "
            f"{rules.examples_limit} of a client (its --examples-limit)",
        )
    if hello.held_out > rules.examples_limit:
        raise Refusal(
            "TOO_LARGE",
            f"{hello.held_out} held-out examples; this server takes "
            f"{rules.examples_limit} (its --examples-limit)",
        )
    height, width, _ = hello.image
    fits = 1 <= min(hello.image) and max(hello.image) <= LARGEST_IMAGE
    if not fits or (
        rules.image_size is not None and {height, width} != {rules.image_size}
    ):
        raise Refusal("SHAPE", f"images of {hello.image}")
    if not 1 <= hello.classes <= MOST_CLASSES:
        raise Refusal("LABEL", f"{hello.classes} classes")
    rules.check_capacity(hello)
    pixels = hello.examples * height * width
    if any(
        not total <= squares <= 255 * total <= 255**2 * pixels
        for total, squares in hello.sums
    ):
        raise Refusal("MALFORMED", "sums that no images have")


def check_consistency(
    hello: Hello, known: dict[int, Hello], *, membership_fixed: bool
) -> None:
    """Checks that a hello fits what this client and the others said before.

    Args:
        hello: what the client says.
        known: the first hello of each client.
        membership_fixed: whether the run has begun with those.

    Raises:
        Refusal: SHAPE, UNLIKE or OTHER_DATA.
    """
    own = known.get(hello.client)
    before = own or next(iter(known.values()), None)
    # Before the run begins either of two may be the one that is wrong.
    unlike = "SHAPE" if membership_fixed else "UNLIKE"
    if before is not None and (hello.image, hello.classes) != (
        before.image,
        before.classes,
    ):
        raise Refusal(
            unlike,
            f"images {hello.image} of {hello.classes} classes, where client "
            f"{before.client} has {before.image} of {before.classes}; give one of "
            "the two the --dataset that belongs to the run, or where an .npz merely "
            "has no image of the highest classes, name all classes in its class_names",
        )
    if own is not None and (
        _holdings(hello) != _holdings(own) or _called_otherwise(hello, own)
    ):
        raise Refusal(
            "OTHER_DATA",
            "not the data, or not the class names, that this client began with; bring "
            "those back",
        )
    for other in known.values():
        if _called_otherwise(hello, other):
            raise Refusal(
                unlike,
                f"its classes are called otherwise than client {other.client}'s, or "
                "come in another order, so that the same label would mean two things; "
                "number them alike, and give both .npz the same class_names",
            )


def _called_otherwise(hello: Hello, other: Hello) -> bool:
    """Whether both say what classes are called, and say it differently."""
    unsaid = UNNAMED in (hello.class_names, other.class_names)
    return not unsaid and hello.class_names != other.class_names


def _holdings(hello: Hello) -> tuple[object, ...]:
    return hello.examples, hello.held_out, hello.sums


def _differences(ours: str, theirs: str) -> list[str]:
    """The settings that are not the same, with the server's values.

    What a client sent stays out of the server's log.
    """

    def table(text: str) -> dict[str, str]:
        return dict(line.partition("=")[::2] for line in text.splitlines())

    own, other = table(ours), table(theirs)
    names = [
        f"{name} (the server has {own[name][:40]})"
        for name in own
        if own[name] != other.get(name)
    ]
    # A name of the client's is printed only if it is plainly one.
    names += [
        name if name.isidentifier() and len(name) < 40 else "(no name)"
        for name in other
        if name not in own
    ]
    return names[:8]
