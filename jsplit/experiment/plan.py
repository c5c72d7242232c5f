"""What the cuts of a network would cost runs: shapes and counts, nothing is trained.

Bytes and multiply-accumulates are what the ledger of such a run would hold, to the
byte; nothing here says what accuracy it would reach.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.accounting.cost_model import CostModel, PlainCosts
from jsplit.accounting.ledger import Ledger
from jsplit.accounting.macs import as_counted
from jsplit.core.init import head_bytes, make_cost_model, smashed_of
from jsplit.core.model_part import ModelPart
from jsplit.core.state import SideState
from jsplit.data import Dataset
from jsplit.experiment.at_cut import codec_of, codecs_of
from jsplit.experiment.build import (
    begun_side,
    blocks_of,
    check_batch,
    layout_of,
    shares_of,
)
from jsplit.experiment.config import RunConfig
from jsplit.experiment.parts import cut_index, head_of, parts_of
from jsplit.models import MODELS


class PlanData(NamedTuple):
    """What a plan needs to know of a training set.

    Attributes:
        name: of it.
        image_shape: `(h, w, c)`.
        classes: that the network tells apart.
        label_classes: that labels are written for, at most as many.
        sizes: examples of each client.
    """

    name: str
    image_shape: tuple[int, int, int]
    classes: int
    label_classes: int
    sizes: tuple[int, ...]

    @property
    def image_bytes(self) -> int:
        """Of one image as it is, 8 bits a value."""
        return int(np.prod(self.image_shape))

    @property
    def examples(self) -> int:
        """Over all clients."""
        return sum(self.sizes)


class PlannedCut(NamedTuple):
    """One cut, and what a client has there.

    Attributes:
        number: of blocks that the client holds, a bottleneck apart.
        name: the last of them.
        bottleneck: channels that cross; None for all.
        shape: of one example's activations as they cross.
        costs: with the codecs of the config.
        memory: bytes that a step of A takes at the client, beside images: weights,
            statistics, optimizer state and gradients of its part, and what
            differentiation keeps of a batch (before the compiler makes it less).
    """

    number: int
    name: str
    bottleneck: int | None
    shape: tuple[int, ...]
    costs: CostModel
    memory: int


class Crossing(NamedTuple):
    """What one more epoch sends, every byte; labels, which cross once, are not in it.

    Attributes:
        up: from clients to the server.
        down: the other way.
    """

    up: int
    down: int


def data_of(config: RunConfig, dataset: Dataset) -> PlanData:
    """What a plan needs of a dataset, dealt to clients as in a run.

    Raises:
        InputError: if the clients cannot share it as asked, or a batch is larger.
    """
    check_batch(config, len(dataset.train_labels))
    return PlanData(
        dataset.name,
        dataset.image_shape,
        dataset.num_classes,
        int(np.max(dataset.train_labels)) + 1,
        tuple(len(share) for share in shares_of(config, dataset)),
    )


def every_cut(config: RunConfig, dataset: Dataset, data: PlanData) -> list[PlannedCut]:
    """Every cut of the config's network, from the first to the last."""
    last = len(blocks_of(config, dataset)) - 1
    return [
        planned_cut(dataclasses.replace(config, cut=number, bottleneck=None), data)
        for number in range(1, last + 1)
    ]


def planned_cut(config: RunConfig, data: PlanData) -> PlannedCut:
    """The config's cut; a head to learn alone by is counted if it has local epochs.

    Raises:
        InputError: if a bottleneck is none there.
    """
    client, _ = parts_of(config, data.classes, data.image_shape)
    layout = layout_of(config, data.sizes)
    x = jnp.zeros((1, *data.image_shape), jnp.float32)
    side = begun_side(config, client, x)
    smashed = smashed_of(client, side, x)
    head = head_of(config, data.classes)
    codec, grad_codec = codecs_of(config, smashed.shape[1:])
    costs = make_cost_model(
        client,
        side,
        x,
        smashed,
        head=None if head is None else (head, begun_side(config, head, smashed)),
        plain=None if config.bottleneck is None else _plain(config, data),
        sizes=data.sizes,
        layout=layout,
        codec=codec,
        grad_codec=grad_codec,
        classes=data.label_classes,
    )
    number = cut_index(config)
    return PlannedCut(
        number,
        MODELS[config.model](data.classes)[number - 1].name,
        config.bottleneck,
        smashed.shape[1:],
        costs,
        _memory(client, side, (layout.batch, *data.image_shape)),
    )


def coded(cut: PlannedCut, codec: str, grad_codec: str) -> CostModel:
    """What an epoch costs at a cut with other codecs."""
    up = codec_of("--codecs", codec, cut.shape)
    down = codec_of("--grad-codecs", grad_codec, cut.shape, up)
    return dataclasses.replace(
        cut.costs,
        payload_bits=up.payload_bits(cut.shape),
        grad_payload_bits=down.payload_bits(cut.shape),
        header_bytes=head_bytes(up, cut.shape),
        grad_header_bytes=head_bytes(down, cut.shape),
    )


def codec_sizes(
    names: Iterable[str], shape: tuple[int, ...], answered: str | None = None
) -> list[list[str]]:
    """Codecs by what they make of an example, the largest first; equals together.

    Args:
        names: of codecs.
        shape: of the example's values.
        answered: of gradients: the codec of the activations that they answer.

    Example:
        >>> codec_sizes(["float8", "e5m2", "identity"], (4, 4, 8))
        [['identity'], ['float8', 'e5m2']]
    """
    found: dict[tuple[int, int], list[str]] = {}
    up = None if answered is None else codec_of("--codecs", answered, shape)
    flag = "--codecs" if answered is None else "--grad-codecs"
    for name in names:
        codec = codec_of(flag, name, shape, up)
        size = codec.payload_bits(shape), head_bytes(codec, shape)
        found.setdefault(size, []).append(name)
    return [found[size] for size in sorted(found, reverse=True)]


def crossing(costs: CostModel, state: str) -> Crossing:
    """What an epoch in A or B sends after one in A."""
    before, after = Ledger.of(costs, "A"), Ledger.of(costs, "A" + state)
    return Crossing(
        *(
            sum(after.wire[kind][way] - before.wire[kind][way] for kind in after.wire)
            for way in ("up", "down")
        )
    )


def _plain(config: RunConfig, data: PlanData) -> PlainCosts:
    """As `plain_costs` of a run, which compiles."""
    plain = dataclasses.replace(config, bottleneck=None, local_epochs=0)
    return planned_cut(plain, data).costs.baseline


def _memory(client: ModelPart, side: SideState, images: tuple[int, ...]) -> int:
    params, key = side.variables["params"], jax.random.key(0)

    def kept(params: object, x: jax.Array) -> object:
        def forward(params: object) -> jax.Array:
            variables = {**side.variables, "params": params}
            return client.apply(variables, x, mask=None, key=key, train=True)[0]

        return jax.vjp(forward, params)[1]

    with as_counted():
        held = jax.eval_shape(kept, params, jax.ShapeDtypeStruct(images, jnp.float32))
    batch = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))
    return batch + sum(leaf.nbytes for leaf in jax.tree.leaves((side, params)))
