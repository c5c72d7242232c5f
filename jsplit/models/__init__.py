"""The networks: lists of named blocks that can be cut at any point."""

from collections.abc import Callable

from jsplit.models.blocks import Block, Chain, split
from jsplit.models.cnn import cnn
from jsplit.models.cuts import Cut, cuts
from jsplit.models.resnet import resnet18, resnet50
from jsplit.models.vgg import vgg

MODELS: dict[str, Callable[[int], tuple[Block, ...]]] = {
    "cnn": cnn,
    "vgg11": lambda classes: vgg("vgg11", classes),
    "vgg13": lambda classes: vgg("vgg13", classes),
    "resnet18": resnet18,
    "resnet50": resnet50,
}
"""`MODELS[name](classes)`: every network by the name it has on the command line."""

USUAL_CUTS = {"cnn": 1, "vgg11": 2, "vgg13": 4, "resnet18": 3, "resnet50": 4}
"""Where each is cut unless told otherwise: after its first pooled or residual stages.

The paper does not say where it cuts.
"""

__all__ = [
    "MODELS",
    "USUAL_CUTS",
    "Block",
    "Chain",
    "Cut",
    "cnn",
    "cuts",
    "resnet18",
    "resnet50",
    "split",
    "vgg",
]
