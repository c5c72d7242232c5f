"""The learning rate of each epoch of a run."""

import math

import numpy as np

from jsplit.core.topology import TOPOLOGIES, share_of_batch
from jsplit.experiment.run_config import RunConfig


def step_sizes_of(config: RunConfig) -> np.ndarray:
    """The lab's recipe: x0.2 at 60, 120 and 160 of 200 epochs, in proportion.

    Clients that learn alone do so before, over half a cosine (Loshchilov & Hutter
    2017, arXiv:1608.03983), of which the few epochs that they need make more than of
    steps down. Where several share a batch, each learns from a part of one, and its
    rate is lower by the square root of that part (Krizhevsky 2014, arXiv:1404.5997):
    with 10 clients the whole rate loses what was learned to noise, and a tenth of it
    gets nowhere. The part is an equal one, whatever clients hold.
    """
    _, members = TOPOLOGIES[config.topology].arrange(config.clients)
    batch = config.server_batch
    part = share_of_batch(batch, members) / batch
    passed = np.arange(config.local_epochs) / max(1, config.local_epochs)
    alone = math.sqrt(part) * (1 + np.cos(np.pi * passed)) / 2

    shares = np.asarray([0.3, 0.6, 0.8])
    epochs = np.arange(config.epochs)
    after = 0.2 ** (epochs[:, None] >= shares * config.epochs).sum(axis=1)
    sizes = config.learning_rate * np.concatenate([alone, after])
    return sizes.astype(np.float32)
