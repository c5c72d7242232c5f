"""What a run is asked to do: one flat, frozen record, from file and flags."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jsplit.errors import InputError


def argument(text: str, metavar: str | None = None) -> Any:
    """How a field of a config is described in `--help`, and its value called."""
    return tyro.conf.arg(help=text, metavar=metavar)


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a run. Unset ones (None) follow from the others."""

    model: Annotated[
        str, argument("Network: cnn, vgg11, vgg13, resnet18 or resnet50.")
    ] = "resnet18"
    cut: Annotated[
        int | None,
        argument(
            "Blocks that the client holds; see --show-cuts. None: the model's usual."
        ),
    ] = None
    dataset: Annotated[
        str,
        argument(
            "auto, cifar10, fashion_mnist, fashion_mnist_10k (embedded), tfds:NAME "
            "(any images that TFDS prepared), or the path of an .npz. auto: CIFAR-10 "
            "if it can be had, else the embedded set."
        ),
    ] = "auto"
    data_dir: Annotated[
        str | None, argument("Where datasets lie. None: ~/tensorflow_datasets.")
    ] = None
    image_size: Annotated[
        int | None, argument("Edge of the images in pixels. None: as they are.")
    ] = None
    train_examples: Annotated[
        int | None, argument("Train on this many, balanced over classes. None: all.")
    ] = None
    test_examples: Annotated[
        int | None, argument("Test on this many, balanced over classes. None: all.")
    ] = None
    augment: Annotated[
        bool, argument("Random crops and flips of training images of state A.")
    ] = True

    clients: Annotated[int, argument("How many clients hold the training set.")] = 1
    topology: Annotated[
        str, argument("parallel (parts averaged after A) or sequential (in turns).")
    ] = "parallel"
    partition: Annotated[
        str, argument("iid, dirichlet:ALPHA (label skew) or uneven:ALPHA (sizes).")
    ] = "iid"

    gate: Annotated[
        str,
        argument(
            "loss (the paper's, see --loss-reference), periodic, freeze or always."
        ),
    ] = "loss"
    threshold: Annotated[
        float, argument("loss gate: change of the mean loss that opens it.")
    ] = 0.05
    loss_rule: Annotated[
        str, argument("loss gate: abs, or drop (only a falling loss opens it).")
    ] = "abs"
    loss_reference: Annotated[
        str | None,
        argument(
            "loss gate: change since the last decision for A, the previous epoch, or "
            "an epoch alike. None: decision; alike where B or C see others than A."
        ),
    ] = None
    warmup: Annotated[int, argument("loss gate: so many first epochs run in A.")] = 0
    period: Annotated[int, argument("periodic gate: A every so many epochs.")] = 10
    sync_epochs: Annotated[
        int, argument("freeze gate: epochs of A before it shuts.")
    ] = 5

    codec: Annotated[
        str,
        argument("Activations: float8 (searched), e5m2, e4m3, e3m4, bf16, identity."),
    ] = "float8"
    grad_codec: Annotated[str, argument("Gradients: likewise.")] = "float8"
    refresh_statistics: Annotated[
        str, argument("State B normalises by running or batch statistics.")
    ] = "running"
    refresh_augment: Annotated[
        bool,
        argument("State B augments as A does; else C learns from images as they are."),
    ] = False

    mixup: Annotated[
        float,
        argument(
            "State C mixes stored pairs, shares of Beta(M, M). 0: it does not.", "M"
        ),
    ] = 0.0

    nopeek: Annotated[
        float,
        argument("Client: weight of how much its activations tell of its images."),
    ] = 0.0
    noise: Annotated[
        float,
        argument("Client: Gaussian noise on activations, over their root mean square."),
    ] = 0.0

    precision: Annotated[
        str,
        argument("float32, or bfloat16: networks compute in it, all else in float32."),
    ] = "float32"

    epochs: Annotated[int, argument("Epochs of any state.")] = 200
    batch_size: Annotated[
        int | None,
        argument("Examples of a server step. None: 128, over several clients 100."),
    ] = None
    learning_rate: Annotated[
        float, argument("SGD's, x0.2 after 30, 60 and 80 % of the epochs.")
    ] = 0.05
    momentum: Annotated[float, argument("SGD's.")] = 0.9
    weight_decay: Annotated[float, argument("L2, on every parameter.")] = 5e-4
    seed: Annotated[
        int, argument("Of weights, partition, order, augmentation, dropout.")
    ] = 0

    workdir: Annotated[
        str | None, argument("The run's folder. None: a new one under runs/.")
    ] = None
    device: Annotated[
        str,
        argument("auto (what JAX finds), cpu, gpu or tpu; one that is named must be."),
    ] = "auto"
    compile_cache: Annotated[
        str | None,
        argument(
            "Folder of compiled programs, or off. None: $JAX_COMPILATION_CACHE_DIR, "
            "else one under ~/.cache/jsplit."
        ),
    ] = None
    chunk: Annotated[
        int,
        argument("Epochs per compiled call; progress and checkpoints come after each."),
    ] = 1
    lossless: Annotated[
        bool,
        argument(
            "Also count payloads as the wire's lossless stage makes them; slower."
        ),
    ] = False
    mesh: Annotated[
        bool, argument("Share clients and batches over all devices of all processes.")
    ] = False

    @property
    def reference(self) -> str:
        """What the loss gate compares a loss with."""
        if self.loss_reference is not None:
            return self.loss_reference
        unlike = self.augment and not self.refresh_augment
        return "alike" if unlike or self.mixup > 0 else "decision"

    @property
    def server_batch(self) -> int:
        """Examples of one server step."""
        if self.batch_size is not None:
            return self.batch_size
        return 128 if self.clients == 1 else 100


@dataclass(frozen=True)
class ClusterConfig:
    """Which of several processes this is; never kept with the run."""

    coordinator: Annotated[
        str | None,
        argument("HOST:PORT of process 0, or auto (as jax detects the cluster)."),
    ] = None
    process_id: Annotated[
        int | None, argument("This process; 0 leads, writes and prints.")
    ] = None
    num_processes: Annotated[int | None, argument("How many processes there are.")] = (
        None
    )
    coordinator_timeout: Annotated[
        int, argument("Seconds to wait for the other processes at the start.")
    ] = 60


_MOST = 1_000_000
"""Of any count: far above what is used, far below what overflows."""

SPEED_ONLY = frozenset(
    {"chunk", "workdir", "data_dir", "device", "compile_cache", "mesh", "lossless"}
)
"""Fields that may differ when a run is resumed: they do not change its result.

A mesh changes the order of sums, so results agree within rounding only.
"""


TRACED = frozenset(
    {"seed", "learning_rate", "epochs", "threshold", "warmup", "period", "sync_epochs"}
)
"""Fields that are arguments of the compiled program and no part of it."""


ONE_PARTY = SPEED_ONLY | {"dataset", "train_examples", "test_examples"}
"""Fields that concern one party of a networked run alone: where its data comes from."""


def agreement(config: RunConfig) -> str:
    """What both sides of a networked run must have set the same, a line each."""
    return "\n".join(
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(RunConfig)
        if field.name not in ONE_PARTY
    )


def check(config: RunConfig) -> None:
    """Refuses numbers that no run can use.

    Names (model, dataset, gate, codec, ...) are checked where they are looked up.

    Raises:
        InputError: naming the flag, its value and what is possible.
    """
    for name in ("epochs", "clients", "period", "sync_epochs", "chunk"):
        _in_range(config, name, 1, _MOST)
    for name in ("batch_size", "train_examples", "test_examples", "cut"):
        _in_range(config, name, 1, _MOST)
    _in_range(config, "image_size", 4, 1024)
    _in_range(config, "warmup", 0, _MOST)
    _in_range(config, "seed", 0, 2**32 - 1)
    for name in ("threshold", "momentum", "weight_decay", "nopeek", "noise"):
        _in_range(config, name, 0, float("inf"))
    for name in (
        *("threshold", "learning_rate", "momentum", "weight_decay"),
        *("nopeek", "noise"),
    ):
        value = getattr(config, name)
        if not abs(value) < float("inf"):
            raise InputError(f"{flag(name)} must be a finite number, got {value}")
    if config.learning_rate <= 0:
        raise InputError(
            f"--learning-rate must be more than 0, got {config.learning_rate}"
        )
    if config.momentum >= 1:
        raise InputError(f"--momentum must be less than 1, got {config.momentum}")
    for name in ("workdir", "compile_cache"):
        value = getattr(config, name)
        if value is not None and (not value or "\0" in value):
            raise InputError(f"{flag(name)} must name a folder, got {value!r}")


def check_cluster(cluster: ClusterConfig) -> None:
    """Refuses settings by which no processes can meet.

    Raises:
        InputError: naming the flag, its value and what is possible.
    """
    _in_range(cluster, "num_processes", 1, _MOST)
    _in_range(cluster, "coordinator_timeout", 1, _MOST)
    address, number, count = (
        cluster.coordinator,
        cluster.process_id,
        cluster.num_processes,
    )
    if address == "auto":
        if number is not None or count is not None:
            raise InputError(
                "--coordinator auto finds --process-id and --num-processes by itself; "
                "leave them out, or name the coordinator's HOST:PORT"
            )
        return
    trio = {"coordinator": address, "process_id": number, "num_processes": count}
    missing = [flag(name) for name, value in trio.items() if value is None]
    if len(missing) == len(trio):
        return
    if missing:
        raise InputError(
            f"several processes need all of {', '.join(map(flag, trio))}, but "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
    assert address is not None and number is not None and count is not None
    parts = host_and_port(address)
    if parts is None or parts[1] == 0:
        raise InputError(
            f"--coordinator must be HOST:PORT of process 0, or auto, got {address!r}"
        )
    if not 0 <= number < count:
        raise InputError(
            f"--process-id {number} is outside the {count} processes; give 0 to "
            f"{count - 1}, or more --num-processes"
        )


def host_and_port(address: str) -> tuple[str, int] | None:
    """The two parts of `HOST:PORT`, port 0 to 65535; None if it has not that form."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return None
    return host, int(port)


def _in_range(
    config: RunConfig | ClusterConfig, name: str, least: int, most: float
) -> None:
    value = getattr(config, name)
    if value is not None and value < least:
        raise InputError(f"{flag(name)} must be at least {least}, got {value}")
    if value is not None and value > most:
        raise InputError(f"{flag(name)} must be at most {most}, got {value}")


def flag(name: str) -> str:
    """A field's name as it is typed: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")


def read_toml(path: Path) -> RunConfig:
    """The defaults that a config file states.

    Raises:
        InputError: if it is missing, not TOML, or has an unknown key or a value of the
            wrong type.
    """
    source = f"--config {path}"
    return from_mapping(tables_of(path, source, "configs/"), source)


def tables_of(path: Path, source: str, ready: str) -> dict[str, Any]:
    """What a TOML file holds.

    Args:
        path: of the file.
        source: what it is called in an error.
        ready: where such files lie that come with jsplit.

    Raises:
        InputError: if it is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{source}: {error.strerror}; the ready ones lie in {ready}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is not TOML: {error}") from error


def from_mapping(values: dict[str, Any], source: str) -> RunConfig:
    """A config from plain values, each checked for name and type.

    Raises:
        InputError: naming `source`, the key and the value.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(RunConfig)}
    plain = {}
    for name, value in values.items():
        if name not in kinds:
            raise InputError(
                f"{source}: unknown setting {name!r}; the known ones are the flags of "
                "--help, with _ for -"
            )
        allowed = _types(kinds[name])
        if float in allowed and type(value) is int:
            value = float(value)
        if type(value) not in allowed:
            raise InputError(
                f"{source}: {name} must be {wanted(kinds[name])}, got {value!r}"
            )
        plain[name] = value
    return RunConfig(**plain)


def _types(annotation: Any) -> set[type]:
    kind = annotation.__origin__
    return set(getattr(kind, "__args__", (kind,)))


def wanted(annotation: Any) -> str:
    """What a setting of this type takes, for people: `a whole number`."""
    said = {int: "a whole number", float: "a number", bool: "true or false"}
    return next((said[kind] for kind in said if kind in _types(annotation)), "text")


def differences(config: RunConfig, other: RunConfig) -> list[str]:
    """Settings that change the result and are not the same, as `--flag a, not b`."""
    return [
        f"{flag(field.name)} {getattr(other, field.name)}, not "
        f"{getattr(config, field.name)}"
        for field in dataclasses.fields(RunConfig)
        if field.name not in SPEED_ONLY
        and getattr(config, field.name) != getattr(other, field.name)
    ]
