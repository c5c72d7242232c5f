"""The networks: lists of named blocks that can be cut at any point."""

from functools import partial

from jsplit.models.blocks import Block, Chain, Model, split
from jsplit.models.bottleneck import passing_first_channels, with_bottleneck
from jsplit.models.cnn import cnn
from jsplit.models.cuts import Cut, cuts
from jsplit.models.dct import (
    dct_filters,
    first_kernel_shape,
    mirrored_filters,
    with_dct_filters,
)
from jsplit.models.local_head import LocalHead
from jsplit.models.resnet import resnet18, resnet50
from jsplit.models.vgg import vgg
from jsplit.runtime.registry import Registry, instance_of

_OWN: dict[str, Model] = {
    model.name: model
    for model in (
        Model("cnn", cnn, usual_cut=1),
        Model("vgg11", partial(vgg, "vgg11"), usual_cut=2),
        Model("vgg13", partial(vgg, "vgg13"), usual_cut=4),
        Model("resnet18", resnet18, usual_cut=3),
        Model("resnet50", resnet50, usual_cut=4),
    )
}

MODELS: Registry[Model] = Registry("model", "jsplit.models", _OWN, instance_of(Model))
"""Every network by the name it has on the command line."""

__all__ = [
    "MODELS",
    "Block",
    "Chain",
    "Cut",
    "LocalHead",
    "Model",
    "cnn",
    "cuts",
    "dct_filters",
    "first_kernel_shape",
    "mirrored_filters",
    "passing_first_channels",
    "resnet18",
    "resnet50",
    "split",
    "vgg",
    "with_bottleneck",
    "with_dct_filters",
]
