"""The same networks in PyTorch, block for block as in `jsplit/models`.

Named as there, so that weights made by jsplit can be put into them and both sides of a
comparison start from the same function.
"""

from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from torch import nn

from jsplit.typing import Variables

VGG = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg13": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
}


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Without bias: batch normalisation follows."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (a 1x1 convolution where shapes differ)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs, 3, stride), _norm(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs), _norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                conv(inputs, outputs, 1, stride), _norm(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[b, c, h, w]` to `[b, outputs, h / stride, w / stride]`."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        y += self.shortcut(x)
        return self.relu(y)


class Mean(nn.Module):
    """Mean over the pixels: `[b, c, h, w]` to `[b, c]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mean."""
        return x.mean((2, 3))


_norm = partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1)


def _conv_block(inputs: int, outputs: int, pool: bool) -> nn.Module:
    layers = [conv(inputs, outputs), _norm(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def _head(
    inputs: int, classes: int, hidden: tuple[int, ...] = (), dropout: float = 0.0
) -> nn.Module:
    layers: list[nn.Module] = [Mean()]
    for width in hidden:
        # As in jsplit, dropout stands before each hidden layer.
        layers += [nn.Dropout(dropout)] if dropout else []
        layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def _convs(widths: list[tuple[int, bool]]) -> OrderedDict[str, nn.Module]:
    """Numbered convolution blocks from (width, pooled)."""
    blocks, inputs = OrderedDict(), 3
    for number, (width, pool) in enumerate(widths, start=1):
        blocks[f"conv{number}"] = _conv_block(inputs, width, pool)
        inputs = width
    return blocks


def _cnn(classes: int) -> OrderedDict[str, nn.Module]:
    blocks = _convs([(16, True), (32, True), (64, True)])
    blocks["head"] = _head(64, classes, hidden=(64,))
    return blocks


def _vgg(name: str, classes: int) -> OrderedDict[str, nn.Module]:
    blocks = _convs(
        [
            (width, index == len(stage) - 1)
            for stage in VGG[name]
            for index, width in enumerate(stage)
        ]
    )
    blocks["head"] = _head(512, classes, hidden=(512, 512), dropout=0.5)
    return blocks


def _resnet18(classes: int) -> OrderedDict[str, nn.Module]:
    blocks = OrderedDict(stem=_conv_block(3, 64, False))
    inputs = 64
    for stage in (1, 2, 3, 4):
        for number, stride in ((0, 1 if stage == 1 else 2), (1, 1)):
            outputs = 64 * 2 ** (stage - 1)
            blocks[f"layer{stage}_{number}"] = Residual(inputs, outputs, stride)
            inputs = outputs
    blocks["head"] = _head(512, classes)
    return blocks


MODELS = {
    "cnn": _cnn,
    "vgg11": partial(_vgg, "vgg11"),
    "vgg13": partial(_vgg, "vgg13"),
    "resnet18": _resnet18,
}
"""`MODELS[name](classes)`: blocks by name, in order, for 32x32x3 images."""


def split(
    blocks: OrderedDict[str, nn.Module], cut: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """The client's first `cut` blocks and the server's rest."""
    items = list(blocks.items())
    return nn.Sequential(OrderedDict(items[:cut])), nn.Sequential(
        OrderedDict(items[cut:])
    )


@torch.no_grad()
def put(blocks: OrderedDict[str, nn.Module], variables: Variables) -> None:
    """Gives the blocks the weights of the uncut Flax network.

    Within a block the layers of each kind come in the same order on both sides.

    Raises:
        ValueError: if they have another number of parameters, or other shapes.
    """
    params = variables["params"]
    theirs = sum(leaf.size for tree in params.values() for leaf in _leaves(tree))
    ours = sum(p.numel() for block in blocks.values() for p in block.parameters())
    if theirs != ours or set(params) != set(blocks):
        raise ValueError(f"{ours} parameters in PyTorch, {theirs} in jsplit")
    for name, block in blocks.items():
        for kind, flax_name in (
            (nn.Conv2d, "Conv"),
            (nn.BatchNorm2d, "Norm"),
            (nn.Linear, "Dense"),
        ):
            layers = [layer for layer in block.modules() if isinstance(layer, kind)]
            for number, layer in enumerate(layers):
                tree = params[name][f"{flax_name}_{number}"]
                for parameter, key in (("weight", _WEIGHT[kind]), ("bias", "bias")):
                    target = getattr(layer, parameter)
                    if target is not None:
                        target.copy_(_as_torch(tree[key]))


_WEIGHT = {nn.Conv2d: "kernel", nn.BatchNorm2d: "scale", nn.Linear: "kernel"}


def _as_torch(leaf: object) -> torch.Tensor:
    """[h, w, i, o] to [o, i, h, w]; [i, o] to [o, i]."""
    array = np.array(leaf)
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,))
    return torch.from_numpy(array.transpose(axes).copy())


def _leaves(tree: object) -> list[np.ndarray]:
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in _leaves(branch)]
    return [np.asarray(tree)]
