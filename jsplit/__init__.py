"""Split learning in JAX: few bits across the cut, client updates gated by the loss.

The values that a training is made of, and the function that puts them together:

    part = from_flax(module)            one side of the network
    with_precision(part, bfloat16)      the same, computing in bfloat16
    float8(), identity(), ...           codecs
    loss_gate(...), always_gate(), ...  gates
    PARALLEL, SEQUENTIAL                topologies
    Defence(...)                        what hides examples from the server
    make_simulation(...)                all of it on one machine; run with `.run`
    make_steps(...)                     the jit-compiled steps alone
    Ledger                              what was sent and computed

See the README, or `help(jsplit.make_simulation)`, for an example.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsplit.api import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [  # noqa: F405
    "CODECS",
    "GATES",
    "MODELS",
    "OFFLINE",
    "PARALLEL",
    "REFRESH",
    "SEQUENTIAL",
    "STATES",
    "SYNC",
    "Codec",
    "CostModel",
    "Defence",
    "EpochRecord",
    "Gate",
    "GateChoice",
    "GateState",
    "Layout",
    "Ledger",
    "Metrics",
    "Model",
    "ModelPart",
    "Option",
    "Packet",
    "Program",
    "Shards",
    "SideState",
    "Simulation",
    "Steps",
    "Store",
    "Topology",
    "TrainState",
    "Transform",
    "always_gate",
    "bf16",
    "float8",
    "freeze_gate",
    "from_flax",
    "identity",
    "init_side",
    "loss_gate",
    "make_layout",
    "make_program",
    "make_shards",
    "make_simulation",
    "make_steps",
    "periodic_gate",
    "with_precision",
]


def __getattr__(name: str) -> Any:
    """Loads the library, with JAX, when one of its names is asked for first.

    The command line imports this package before anything else. It must be able to hear
    that it should stop from then on, and JAX takes seconds.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("jsplit.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
