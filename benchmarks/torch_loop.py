"""Plain split learning in PyTorch, as one would write it for speed.

Images lie on the device as uint8, channels last; everything after them is channels
last too. Client and server have an optimizer each; the activations are detached, the
server's gradient goes back into the client's graph, and nothing is copied or waited
for in between. float32 crosses the cut: there is no codec.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import torch_models
from benchmarks.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY
from jsplit import data
from jsplit.data import Dataset
from jsplit.typing import Variables


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def configuration() -> dict[str, Any]:
    """What one must know to judge the figures."""
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "arithmetic": "TF32 in products and convolutions" if gpu else "float32",
        "memory_format": "channels_last",
        "optimizer": "SGD(fused=True)",
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.version(),
    }


class Loop:
    """A split training, ready to run.

    Attributes:
        client: the first blocks.
        server: the rest.
    """

    def __init__(
        self,
        name: str,
        cut: int,
        dataset: Dataset,
        variables: Variables,
        *,
        compiled: bool = False,
    ):
        """Builds both parts with the weights of the uncut Flax network."""
        # On a GPU TF32, as XLA's own default is, and cuDNN's search.
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        blocks = torch_models.MODELS[name](dataset.num_classes)
        torch_models.put(blocks, variables)
        self.client, self.server = (
            part.to(device(), memory_format=torch.channels_last).train()
            for part in torch_models.split(blocks, cut)
        )
        self._optimizers = [_optimizer(part) for part in (self.client, self.server)]
        self._run = (self.client, self.server)
        if compiled:
            self._run = tuple(torch.compile(part) for part in self._run)
        # [n, h, w, c] seen as [n, c, h, w]: channels last without a copy.
        pixels = torch.from_numpy(dataset.train_images).to(device())
        self._images = pixels.permute(0, 3, 1, 2)
        self._labels = torch.from_numpy(dataset.train_labels).long().to(device())
        self._mean, self._std = (
            torch.tensor(values, device=device()).reshape(1, -1, 1, 1)
            for values in data.normalization(dataset.train_images)
        )

    def logits(self, count: int) -> np.ndarray:
        """Of the first `count` images, as in evaluation."""
        with torch.no_grad():
            self.client.eval(), self.server.eval()
            logits = self.server(self.client(self._batch(torch.arange(count))))
            self.client.train(), self.server.train()
        return logits.cpu().numpy()

    def epochs(self, batch: int) -> Callable[[], float]:
        """Trains by one epoch a call, and returns its mean loss."""
        client, server = self._run
        client_optimizer, server_optimizer = self._optimizers

        def step(rows: torch.Tensor) -> torch.Tensor:
            smashed = client(self._batch(rows))
            received = smashed.detach().requires_grad_()
            loss = functional.cross_entropy(server(received), self._labels[rows])
            server_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            server_optimizer.step()
            client_optimizer.zero_grad(set_to_none=True)
            smashed.backward(received.grad)
            client_optimizer.step()
            return loss.detach()

        def epoch() -> float:
            order = torch.randperm(len(self._labels), device=device())
            losses = [step(rows) for rows in order.split(batch)]
            # Reading the number waits for the device.
            return float(torch.stack(losses).mean())

        return epoch

    def _batch(self, rows: torch.Tensor) -> torch.Tensor:
        pixels = self._images[rows.to(device())].float()
        return (pixels / 255 - self._mean) / self._std


def _optimizer(part: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        part.parameters(),
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        fused=True,  # the fastest of the three here, on a CPU too
    )
