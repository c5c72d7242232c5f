"""What to tell people before a run whose settings do not do what one may expect."""

from collections.abc import Sequence

from jsplit.core.gates import FreezeGate
from jsplit.core.option import options_of
from jsplit.core.topology import Layout
from jsplit.experiment.config import flag
from jsplit.experiment.parts import COSINES, kernel_shape_of, sends_cosines
from jsplit.experiment.run_config import RunConfig
from jsplit.experiment.run_labels import unlike
from jsplit.models.dct import dct_filter_count, mirrored_filters


def caveats_of(
    config: RunConfig, image_shape: Sequence[int] | None = None
) -> list[str]:
    """All that is to be said of a run, each in one sentence without its first capital.

    Args:
        config: of the run, whose names are known.
        image_shape: `(h, w, c)`; None where it is not known, and nothing is said of
            first filters.
    """
    found = [config.gate.caveat(unlike(config)), unheeded(config)]
    if image_shape is not None and sends_cosines(config):
        kernel = kernel_shape_of(config, tuple(image_shape))
        found += [untrained_channels(config, kernel), parted_pair(config, kernel)]
    return [caveat for caveat in found if caveat is not None]


def whole_batch(config: RunConfig, layout: Layout) -> str | None:
    """Of the usual batch, where that is more than there is: it is all examples.

    Args:
        config: of the run.
        layout: of its epochs.

    Example:
        >>> from jsplit.core.topology import PARALLEL, make_layout
        >>> whole_batch(RunConfig(), make_layout([99], PARALLEL, 128))
        'batches of 99, all examples: one step an epoch; see --batch-size'
        >>> whole_batch(RunConfig(batch_size=99), make_layout([99], PARALLEL, 99))
        >>> whole_batch(RunConfig(), make_layout([128], PARALLEL, 128))
    """
    asked = config.batch_size is not None or layout.examples >= config.server_batch
    if asked or layout.groups * layout.steps > 1:
        return None
    return (
        f"batches of {layout.examples}, all examples: one step an epoch; see "
        "--batch-size"
    )


def unheeded(config: RunConfig) -> str | None:
    """Of settings of B and C in a run that is always in A.

    Example:
        >>> from jsplit.core.gates import AlwaysGate
        >>> unheeded(RunConfig(gate=AlwaysGate(), replay_shift=1, mixup=0.2))
        'always A has no B and no C, so --replay-shift 1 and --mixup 0.2 do nothing'
        >>> unheeded(RunConfig(replay_shift=1))
    """
    if config.gate.leaves_a or config.replay_always:
        return None
    given = [
        flag(name) + (f" {value}" if value is not True else "")
        for name, known in options_of(RunConfig).items()
        if known.option.beyond_a
        if (value := getattr(config, known.field)) != known.default
    ]
    if not given:
        return None
    *others, last = given
    named = f"{', '.join(others)} and {last}" if others else last
    does = "do" if others else "does"
    return f"always A has no B and no C, so {named} {does} nothing"


def untrained_channels(config: RunConfig, kernel: Sequence[int]) -> str | None:
    """Of channels that are no cosines and that nobody trains.

    Args:
        config: of a run that sends cosines.
        kernel: shape of the first convolution's.

    Example:
        >>> config = RunConfig(
        ...     model="vgg11", cut=1, first_filters="dct", gate=FreezeGate(0)
        ... )
        >>> untrained_channels(config, (3, 3, 3, 64)).split("; ")[0]
        'of 64 channels that cross 54 are cosines, and the others stay random'
    """
    gate = config.gate
    untrained = isinstance(gate, FreezeGate) and not gate.sync_epochs
    if not untrained or config.local_epochs:
        return None
    *sizes, features = kernel
    cosines = dct_filter_count(sizes, dc=COSINES[config.first_filters])
    crossing = config.bottleneck or features
    if crossing <= cosines:
        return None
    return (
        f"of {crossing} channels that cross {cosines} are cosines, and the others stay "
        f"random; --bottleneck {cosines} leaves those out"
    )


def parted_pair(config: RunConfig, kernel: Sequence[int]) -> str | None:
    """Of a bottleneck that parts the last cosine from what it becomes when mirrored.

    Args:
        config: of a run that sends cosines.
        kernel: shape of the first convolution's.

    Example:
        >>> config = RunConfig(first_filters="dct", bottleneck=5, replay_mirror=True)
        >>> parted_pair(config, (3, 3, 3, 64)).split("; ")[0]
        '--replay-mirror gives the last of 5 channels the wrong sign'
    """
    *sizes, features = kernel
    crossing = config.bottleneck or features
    dc = COSINES[config.first_filters]
    every = mirrored_filters((*sizes, max(features, crossing)), dc=dc)
    mirrors = config.replay_mirror and unheeded(config) is None
    if not mirrors or every[crossing - 1] < crossing:
        return None
    others = [str(n) for n in (crossing + 1, crossing - 1) if 1 <= n < features]
    remedy = f"take --bottleneck {' or '.join(others)}"
    return (
        f"--replay-mirror gives the last of {crossing} channels the wrong sign; the "
        "one that it becomes in a mirrored image does not cross: "
        f"{remedy if others else 'leave --replay-mirror out'}"
    )
