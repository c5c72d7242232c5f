"""A run's settings as plain values: from file and flags, checked, compared.

In a program the gate is a value that holds its own settings. On the command line, in
files and in records all settings stand side by side, those of the gate too: `flat` and
`from_mapping` go from one form to the other.
"""

import math
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jsplit.core.gates import GATES, LossGate
from jsplit.core.option import Described, options_of
from jsplit.errors import InputError
from jsplit.experiment.cluster_config import ClusterConfig
from jsplit.experiment.run_config import RunConfig
from jsplit.runtime.registry import Registry


def all_options() -> dict[str, Described]:
    """Every setting of a run by its flag's name: those of any gate follow `gate`.

    Gates of other packages are among them once they were looked up.

    Raises:
        InputError: if a gate of another package has a setting that is there already.
    """
    found: dict[str, Described] = {}
    for name, known in options_of(RunConfig).items():
        found[name] = known
        if name == "gate":
            found[name] = known._replace(
                types=frozenset({str}), default=known.default.name
            )
            for choice in GATES.values():
                for option, of_gate in options_of(choice).items():
                    if option in found or option in options_of(RunConfig):
                        raise InputError(
                            f"{GATES.described(choice.name)} has a setting {option!r}, "
                            "and so has another gate or the run; give it a name of its "
                            "own"
                        )
                    found[option] = of_gate
    return found


def flat(config: RunConfig) -> dict[str, Any]:
    """A config as plain values side by side: the gate by its name, with its settings.

    `from_mapping` makes the same config of them.
    """
    values: dict[str, Any] = {}
    for name, value in vars(config).items():
        values[name] = value
        if name == "gate":
            kind: Any = type(value)
            values[name] = kind.name
            values |= {
                option: getattr(value, known.field)
                for option, known in options_of(kind).items()
            }
    return values


def changed(config: RunConfig, **values: Any) -> RunConfig:
    """The config with some settings otherwise, called as their flags are.

    Raises:
        InputError: if there is no such setting, or its value is of a wrong type.
    """
    return from_mapping(flat(config) | values, "a changed config")


def from_mapping(values: Mapping[str, Any], source: str) -> RunConfig:
    """A config from plain values, each checked for name and type.

    A file may hold settings of other gates than the chosen one, so that a flag can
    choose such a gate. `check` and `check_choices` look at a config, which no longer
    has them, so their numbers and names are checked here; `of_other_gates` says that
    they have no effect.

    Raises:
        InputError: naming `source`, the key and the value.
    """
    gate = values.get("gate", LossGate.name)
    # Looked up first, because a gate of another package brings settings of its own.
    if isinstance(gate, str) and gate not in GATES:
        raise InputError(f"{source}: {unknown('gate', gate, GATES)}")
    known = all_options()
    plain = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(
                f"{source}: unknown setting {name!r}; the known ones are the flags of "
                "--help, with _ for -"
            )
        if float in known[name].types and type(value) is int:
            value = _as_float(value)
        if type(value) not in known[name].types:
            raise InputError(
                f"{source}: {name} must be {wanted(known[name])}, "
                f"got {shortened(value)}"
            )
        plain[name] = value
    mine = {
        option.field: plain[name]
        for name, option in options_of(GATES[gate]).items()
        if name in plain
    }
    plain["gate"] = GATES[gate](**mine)
    of_run = options_of(RunConfig)
    for name, value in plain.items():
        if name not in of_run and name not in options_of(GATES[gate]):
            try:
                _check_value(name, known[name], value)
            except InputError as error:
                raise InputError(f"{source}: {error}") from error
    return RunConfig(**{name: value for name, value in plain.items() if name in of_run})


def of_other_gates(given: Collection[str], gates: Collection[str]) -> list[str]:
    """Says which of the given settings none of these gates has, a sentence a gate.

    Example:
        >>> of_other_gates(["epochs", "period", "warmup"], ["loss", "always"])
        ['period is for gate periodic, and not for loss or always']
    """
    return [
        f"{' and '.join(theirs)} {'is' if len(theirs) == 1 else 'are'} for gate "
        f"{choice.name}, and not for {' or '.join(gates)}"
        for choice in GATES.values()
        if choice.name not in gates
        if (theirs := [name for name in options_of(choice) if name in given])
    ]


def agreement(config: RunConfig) -> str:
    """What both sides of a networked run must have set the same, a line each."""
    known = all_options()
    return "\n".join(
        f"{name}={value!r}"
        for name, value in flat(config).items()
        if not (known[name].option.speed_only or known[name].option.one_side)
    )


def differences(config: RunConfig, other: RunConfig) -> list[str]:
    """Settings that change the result and differ, as `--flag is a there, b here`.

    There is in `config`, here in `other`.

    Of two gates their names differ; what only one of them has says no more.
    """
    known, theirs = all_options(), flat(other)
    return [
        f"{flag(name)} is {_cut(str(value))} there, {_cut(str(theirs[name]))} here"
        for name, value in flat(config).items()
        if not known[name].option.speed_only
        and name in theirs
        and theirs[name] != value
    ]


def check(config: RunConfig) -> None:
    """Refuses numbers that no run can use.

    Names (model, dataset, gate, codec, ...) are checked where they are looked up.

    Raises:
        InputError: naming the flag, its value and what is possible.
    """
    for name, known, value in _each(config):
        check_range(name, known, value)
    fault = config.gate.fault()
    if fault is not None:
        raise InputError(fault)
    for name in ("workdir", "compile_cache"):
        value = getattr(config, name)
        if value is not None and (not value or "\0" in value):
            raise InputError(f"{flag(name)} must name a folder, got {value!r}")


def check_choices(config: RunConfig) -> None:
    """Refuses names that are none of the choices.

    Raises:
        InputError: naming the flag, its value and the choices.
    """
    for name, known, value in _each(config):
        _check_choice(name, known, value)


def _each(config: RunConfig) -> Iterator[tuple[str, Described, Any]]:
    known = all_options()
    return ((name, known[name], value) for name, value in flat(config).items())


def _check_value(name: str, known: Described, value: Any) -> None:
    check_range(name, known, value)
    _check_choice(name, known, value)


def _check_choice(name: str, known: Described, value: Any) -> None:
    if known.choices is not None and value not in known.choices:
        raise InputError(unknown(name, value, known.choices))


def check_ranges(settings: Any) -> None:
    """Refuses numbers that the settings of a dataclass cannot have.

    Raises:
        InputError: as for `check_range`.
    """
    kind: Any = type(settings)
    for name, known in options_of(kind).items():
        check_range(name, known, getattr(settings, known.field))


def check_range(name: str, known: Described, value: Any) -> None:
    """Refuses a number that a setting cannot have.

    Raises:
        InputError: naming the flag, its value and what is possible.
    """
    option = known.option
    bounds = (option.least, option.most, option.above, option.below)
    if value is None or all(bound is None for bound in bounds):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{flag(name)} must be a finite number, got {value}")
    for bound, fits, words in (
        (option.least, lambda bound: value >= bound, "at least"),
        (option.most, lambda bound: value <= bound, "at most"),
        (option.above, lambda bound: value > bound, "more than"),
        (option.below, lambda bound: value < bound, "less than"),
    ):
        if bound is not None and not fits(bound):
            raise InputError(
                f"{flag(name)} must be {words} {bound}, got {shortened(value)}"
            )


def check_cluster(cluster: ClusterConfig) -> None:
    """Refuses settings by which no processes can meet.

    Raises:
        InputError: naming the flag, its value and what is possible.
    """
    check_ranges(cluster)
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


def flag(name: str) -> str:
    """A field's name as it is typed: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")


def tables_of(path: Path, source: str, ready: str) -> dict[str, Any]:
    """What a TOML file holds, with or without a byte order mark.

    Args:
        path: of the file.
        source: what it is called in an error.
        ready: where such files lie that come with jsplit.

    Raises:
        InputError: if it is missing or not TOML of UTF-8, or a number in it is too long
            to be read.
    """
    try:
        # Some editors begin a file with a mark.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not TOML, which is UTF-8 ({error}); save it as UTF-8"
        ) from error
    except ValueError as error:
        raise InputError(f"{source}: {error}; the ready ones lie in {ready}") from error
    except OSError as error:
        # A path that was meant to be taken from another folder is seen to be none.
        reason = error.strerror
        if isinstance(error, FileNotFoundError):
            reason = f"No such file or directory at {path.absolute()}"
        raise InputError(
            f"{source}: {reason}; the ready ones lie in {ready}"
        ) from error
    long = re.search(r"""^[ \t]*([\w"'.-]+)[ \t]*=.*?[\d_]{4000}""", text, re.MULTILINE)
    if long is not None:
        raise InputError(
            f"{source}: {long[1]} has a number of thousands of digits; write a shorter "
            "one"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source} is not TOML: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} cannot be read as TOML: {error}") from error


def _as_float(value: int) -> float:
    """The number as a float; what is too large for one is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def shortened(value: object) -> str:
    """A value as an error shows it."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print an integer so long.
        return "a number of thousands of digits"
    return _cut(text)


def _cut(text: str) -> str:
    """The beginning of a text that is too long for a line."""
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def wanted(known: Described) -> str:
    """What a setting takes, for people: `a whole number`."""
    said = {int: "a whole number", float: "a number", bool: "true or false"}
    return next((words for kind, words in said.items() if kind in known.types), "text")


def unknown(name: str, value: object, choices: Collection[str]) -> str:
    """What to say of a name that is none of the choices."""
    said = f"{flag(name)} {value!r} is unknown; choose "
    if isinstance(choices, Registry):
        return f"{said}{', '.join(choices.names())}, or install the package that has it"
    return said + ", ".join(choices)
