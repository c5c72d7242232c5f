"""Small networks and data that several tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jsplit.core.model_part import ModelPart, from_flax
from jsplit.models import MODELS, Chain, split
from jsplit.models.layers import Conv

OPTIMIZER = optax.chain(
    optax.add_decayed_weights(5e-4), optax.trace(0.9), optax.scale(-1.0)
)


class Encoder(nn.Module):
    """A client part without batch statistics."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(nn.Dense(8)(x))


class Classifier(nn.Module):
    """A server part without batch statistics."""

    classes: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.classes)(x)


class NormedEncoder(nn.Module):
    """A client part with batch statistics that heeds the mask."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        mask = None if mask is None else mask[:, None]
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x, mask=mask))


def normed_parts() -> tuple[ModelPart, ModelPart]:
    return from_flax(NormedEncoder()), from_flax(Classifier())


def dense_parts(classes: int = 3) -> tuple[ModelPart, ModelPart]:
    return from_flax(Encoder()), from_flax(Classifier(classes))


def cnn_parts(classes: int = 3, cut: int = 1) -> tuple[ModelPart, ModelPart]:
    client, server = split(MODELS["cnn"](classes), cut)
    return from_flax(client), from_flax(server)


def blobs(count: int, seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Points `Float32[n, 5]` around one centre a class: easy to learn."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, 5)) * 2
    labels = rng.integers(0, classes, count).astype(np.int32)
    points = centres[labels] + rng.normal(size=(count, 5))
    return points.astype(np.float32), labels


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images `Float32[n, 8, 8, 1]` of three classes, brighter in another place each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    pixels = rng.normal(size=(count, 8, 8, 1)).astype(np.float32)
    for label in range(3):
        pixels[labels == label, label * 2 : label * 2 + 3] += 1
    return pixels, labels


CLASSES = 10


def whole(name: str) -> Chain:
    """A model, uncut."""
    return Chain(MODELS[name](CLASSES))


@functools.cache
def products(name):
    """Each convolution and dense layer: block, input and kernel shape, stride."""
    found = []

    def record(call, args, kwargs, context):
        layer = context.module
        if context.method_name == "__call__" and isinstance(layer, Conv | nn.Dense):
            shape = args[0].shape
            window = (layer.size,) * 2 if isinstance(layer, Conv) else ()
            kernel = (*window, shape[-1], layer.features)
            found.append((layer.path[0], shape, kernel, getattr(layer, "stride", 1)))
        return call(*args, **kwargs)

    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(whole(name).init, jax.random.key(0), x)
    return found
