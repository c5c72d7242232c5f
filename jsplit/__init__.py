"""Split learning in JAX: few bits across the cut, client updates gated by the loss.

The values that a training is made of, and the function that puts them together:

    part = from_flax(module)            one side of the network (linen)
    part = from_nnx(module)             the same of an nnx module
    with_precision(part, bfloat16)      the same, computing in bfloat16
    float8(), identity(), ...           codecs
    loss_gate(...), always_gate(), ...  gates
    PARALLEL, SEQUENTIAL, PROPORTIONAL  topologies
    shift, mirror, cutout, mixup, chain what the server does to maps that it stored
    dct_filters, with_dct_filters       first filters that a client need not train
    mirrored_filters(shape)             which of them are mirror images, for mirror
    LocalHead(classes)                  by which a client learns alone at first
    Defence(...)                        what hides examples from the server
    make_simulation(...)                all of it on one machine; run with `.run`
    make_steps(...)                     the jit-compiled steps alone
    Ledger                              what was sent and computed
    load_run(folder)                    what a run has trained, to predict with

See docs/guides/python.md, or `help(jsplit.make_simulation)`, for an example.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsplit.api import *  # noqa: F403
    from jsplit.experiment.trained import Predictions as Predictions
    from jsplit.experiment.trained import TrainedModel as TrainedModel
    from jsplit.experiment.trained import load_run as load_run

__version__ = "0.1.0"

__all__ = [  # noqa: F405
    "CODECS",
    "GATES",
    "LOCAL",
    "MODELS",
    "OFFLINE",
    "PARALLEL",
    "PROPORTIONAL",
    "REFRESH",
    "SEQUENTIAL",
    "STATES",
    "SYNC",
    "Block",
    "Codec",
    "CostModel",
    "Defence",
    "EpochCosts",
    "EpochRecord",
    "Gate",
    "GateChoice",
    "GateState",
    "Layout",
    "Ledger",
    "LocalHead",
    "Metrics",
    "Model",
    "ModelPart",
    "Option",
    "Packet",
    "Predictions",
    "Program",
    "Replay",
    "RunFacts",
    "Shards",
    "SideState",
    "Simulation",
    "Steps",
    "Store",
    "Topology",
    "TrainState",
    "TrainedModel",
    "Transform",
    "after_local",
    "always_gate",
    "bf16",
    "budget_gate",
    "chain",
    "cutout",
    "dct_filters",
    "float8",
    "freeze_gate",
    "from_flax",
    "from_nnx",
    "identity",
    "init_side",
    "load_run",
    "loss_gate",
    "make_layout",
    "make_program",
    "make_shards",
    "make_simulation",
    "make_steps",
    "mirror",
    "mirrored_filters",
    "mixup",
    "packed",
    "payload_costs",
    "periodic_gate",
    "shift",
    "split",
    "top_k",
    "where_sent",
    "wire_costs",
    "with_bottleneck",
    "with_dct_filters",
    "with_precision",
    "with_views",
]

_OF_RUNS = {"Predictions", "TrainedModel", "load_run"}
"""Names that read what runs keep, and so need the packages of the extra `cli`."""


def __getattr__(name: str) -> Any:
    """Loads the library, with JAX, when one of its names is asked for first.

    The command line imports this package before anything else. It must be able to hear
    that it should stop from then on, and JAX takes seconds.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _OF_RUNS:
        return getattr(importlib.import_module("jsplit.api"), name)
    try:
        trained = importlib.import_module("jsplit.experiment.trained")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"jsplit.{name} needs {error.name}, which is not installed; pip install "
            "'jsplit[cli]' brings it"
        ) from error
    return getattr(trained, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
