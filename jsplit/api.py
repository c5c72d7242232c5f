"""Where the public names of `jsplit` are from; `jsplit` itself loads this on demand."""

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
from jsplit.core.gates import GATES, GateChoice
from jsplit.core.metrics import Metrics
from jsplit.core.model_part import ModelPart, from_flax, with_precision
from jsplit.core.option import Option
from jsplit.core.program import Program, make_program
from jsplit.core.schedule import Shards, make_shards
from jsplit.core.simulation import Simulation, make_simulation
from jsplit.core.state import EpochRecord, SideState, TrainState, init_side
from jsplit.core.steps import Steps, make_steps
from jsplit.core.store import Store
from jsplit.core.topology import PARALLEL, SEQUENTIAL, Layout, Topology, make_layout
from jsplit.core.transform import Transform
from jsplit.models import MODELS, Model
from jsplit.typing import OFFLINE, REFRESH, STATES, SYNC, Codec, Packet

__all__ = [
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
