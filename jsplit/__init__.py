"""Split learning in JAX: few bits across the cut, client updates gated by the loss.

The values that a training is made of, and the function that puts them together:

    part = from_flax(module)            one side of the network
    with_precision(part, bfloat16)      the same, computing in bfloat16
    float8(), identity(), ...           codecs
    loss_gate(...), always_gate(), ...  gates
    PARALLEL, SEQUENTIAL                topologies
    shift, mirror, cutout, mixup, chain what the server does to maps that it stored
    LocalHead(classes)                  by which a client learns alone at first
    Defence(...)                        what hides examples from the server
    make_simulation(...)                all of it on one machine; run with `.run`
    make_steps(...)                     the jit-compiled steps alone
    Ledger                              what was sent and computed

    load_run(folder)                    what a run has trained, to predict with

See the README, or `help(jsplit.make_simulation)`, for an example.
"""

from typing import TYPE_CHECKING, Any

from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import Ledger
from jsplit.codecs import CODECS, bf16, float8, identity
from jsplit.core.defences import Defence
from jsplit.core.gate import (
    Gate,
    GateState,
    always_gate,
    freeze_gate,
    loss_gate,
    periodic_gate,
)
from jsplit.core.gate_phases import after_local, with_views
from jsplit.core.gates import GATES, GateChoice
from jsplit.core.map_moves import cutout, mirror, shift
from jsplit.core.metrics import Metrics
from jsplit.core.mixup import mixup
from jsplit.core.model_part import ModelPart, from_flax, with_precision
from jsplit.core.option import Option
from jsplit.core.program import Program, make_program
from jsplit.core.replay import Replay, chain
from jsplit.core.schedule import Shards, make_shards
from jsplit.core.simulation import Simulation, make_simulation
from jsplit.core.state import EpochRecord, SideState, TrainState, init_side
from jsplit.core.steps import Steps, make_steps
from jsplit.core.store import Store
from jsplit.core.topology import PARALLEL, SEQUENTIAL, Layout, Topology, make_layout
from jsplit.core.transform import Transform
from jsplit.models import MODELS, LocalHead, Model, with_bottleneck
from jsplit.typing import LOCAL, OFFLINE, REFRESH, STATES, SYNC, Codec, Packet

if TYPE_CHECKING:
    from jsplit.experiment.trained import Predictions as Predictions
    from jsplit.experiment.trained import TrainedModel as TrainedModel
    from jsplit.experiment.trained import load_run as load_run

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Names that read what runs keep, and so need the packages of the extra `cli`."""
    if name not in ("Predictions", "TrainedModel", "load_run"):
        raise AttributeError(f"module 'jsplit' has no attribute {name!r}")
    try:
        from jsplit.experiment import trained
    except ModuleNotFoundError as error:
        raise ImportError(
            f"jsplit.{name} needs {error.name}, which is not installed; pip install "
            "'jsplit[cli]' brings it"
        ) from error
    return getattr(trained, name)


__all__ = [
    "CODECS",
    "GATES",
    "LOCAL",
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
    "LocalHead",
    "Metrics",
    "Model",
    "ModelPart",
    "Option",
    "Packet",
    "Program",
    "Replay",
    "Shards",
    "SideState",
    "Simulation",
    "Steps",
    "Store",
    "Topology",
    "TrainState",
    "Transform",
    "after_local",
    "always_gate",
    "bf16",
    "chain",
    "cutout",
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
    "mirror",
    "mixup",
    "periodic_gate",
    "shift",
    "with_bottleneck",
    "with_precision",
    "with_views",
]
