"""Where the public names of `jsplit` are from; `jsplit.__all__` lists them.

`jsplit` itself loads this on demand.
"""

from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import Ledger
from jsplit.codecs import (
    CODECS,
    bf16,
    float8,
    identity,
    packed,
    top_k,
    where_sent,
)
from jsplit.core.budget import budget_gate
from jsplit.core.defences import Defence
from jsplit.core.epoch_costs import EpochCosts, payload_costs, wire_costs
from jsplit.core.gate import (
    Gate,
    GateState,
    always_gate,
    freeze_gate,
    loss_gate,
    periodic_gate,
)
from jsplit.core.gate_choice import GateChoice, RunFacts
from jsplit.core.gate_phases import after_local, with_views
from jsplit.core.gates import GATES
from jsplit.core.map_moves import cutout, mirror, shift
from jsplit.core.metrics import Metrics
from jsplit.core.mixup import mixup
from jsplit.core.model_part import ModelPart, from_flax, with_precision
from jsplit.core.nnx_part import from_nnx
from jsplit.core.option import Option
from jsplit.core.program import Program, make_program
from jsplit.core.replay import Replay, chain
from jsplit.core.shards import Shards, make_shards
from jsplit.core.simulation import Simulation, make_simulation
from jsplit.core.state import EpochRecord, SideState, TrainState, init_side
from jsplit.core.steps import Steps, make_steps
from jsplit.core.store import Store
from jsplit.core.topology import (
    PARALLEL,
    PROPORTIONAL,
    SEQUENTIAL,
    Layout,
    Topology,
    make_layout,
)
from jsplit.core.transform import Transform
from jsplit.models import (
    MODELS,
    Block,
    LocalHead,
    Model,
    dct_filters,
    mirrored_filters,
    split,
    with_bottleneck,
    with_dct_filters,
)
from jsplit.typing import LOCAL, OFFLINE, REFRESH, STATES, SYNC, Codec, Packet
