"""First filters that nobody has to learn: those of the discrete cosine transform.

What the first convolution of a trained network tells apart is much the same for all
photographs: brightness, colours, edges. The principal components of small patches of
them are that, too, and come close to the cosines of the discrete transform (Ahmed,
Natarajan & Rao 1974), because neighbouring pixels resemble each other. As first filters
they serve a network as well as learned ones do (Ulicny et al. 2019, arXiv:1812.03205),
and scaled to equal spread, each with both signs because a ReLU follows, they let it
learn faster (Jordan 2024, arXiv:2404.00498, by components of its own images).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsplit.typing import Variables

_RESEMBLANCE = 0.9
"""Correlation of neighbouring pixels, and of neighbouring channels, that is assumed.

Of 5,000 images of CIFAR-10 the nine coefficients of widest spread have 0.5 to 1.6 times
the standard deviation that follows from it."""


def dct_filters(kernel: Float[Array, "k k i o"]) -> Float[Array, "k k i o"]:
    """The kernel of a convolution with cosines in place of its first filters.

    Filters 0 and 1 are the coefficient of widest spread and its negative, 2 and 3 the
    next, and so on; after all `k k i` coefficients, or where `o` ends, the kernel stays
    as it is. The spread is that of a first-order autoregressive image (each pixel and
    channel correlates 0.9 with its neighbour) of variance 1, and each filter is divided
    by it: what comes out has a variance near 1.

    Args:
        kernel: of images whose channels have mean 0 and variance 1.

    Returns:
        The same shape and dtype.

    Example:
        >>> filters = dct_filters(jnp.zeros((3, 3, 1, 4)))
        >>> [round(float(tap), 2) for tap in filters[:, 0, 0, 0]]  # a mean
        [0.12, 0.12, 0.12]
        >>> [round(float(tap), 2) for tap in filters[0, :, 0, 2]]  # an edge
        [0.57, 0.0, -0.57]
        >>> bool((filters[..., 1] == -filters[..., 0]).all())
        True
    """
    *sizes, features = kernel.shape
    bases = [_cosines(size) for size in sizes]
    spreads = [_spread(basis) for basis in bases]
    frequencies = itertools.product(*map(range, sizes))

    def spread(at: tuple[int, ...]) -> float:
        chosen = (axis[f] for axis, f in zip(spreads, at, strict=True))
        return float(np.prod(list(chosen)))

    # Rounded, so that what is equal but for rounding keeps its order everywhere.
    widest = sorted(frequencies, key=lambda at: -round(spread(at), 9))
    filters = []
    for at in widest[: -(-features // 2)]:
        waves = [basis[f] for basis, f in zip(bases, at, strict=True)]
        wave = np.einsum("h,w,c->hwc", *waves) / spread(at)
        filters += [wave, -wave]
    chosen = jnp.asarray(np.stack(filters, axis=-1)[..., :features], kernel.dtype)
    return kernel.at[..., : chosen.shape[-1]].set(chosen)


def with_dct_filters(variables: Variables, block: str, channels: int) -> Variables:
    """Variables of a network whose first convolution begins with `dct_filters`.

    Args:
        variables: of a network, or of its first part.
        block: the name of its first block.
        channels: of its images.

    Returns:
        The same, but for the kernel of that block.

    Raises:
        ValueError: if the block has not exactly one kernel that takes such images.

    Example:
        >>> variables = {"params": {"stem": {"kernel": jnp.zeros((3, 3, 3, 8))}}}
        >>> begun = with_dct_filters(variables, "stem", channels=3)
        >>> round(float(begun["params"]["stem"]["kernel"][0, 0, 0, 0]), 2)
        0.04
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    kernels = [
        index
        for index, (path, leaf) in enumerate(leaves)
        if [getattr(key, "key", None) for key in path[:2]] == ["params", block]
        and leaf.ndim == 4
        and leaf.shape[2] == channels
    ]
    if len(kernels) != 1:
        raise ValueError(
            f"block {block} has {len(kernels)} kernels that take {channels} channels, "
            "and cosines are for a single one"
        )
    arrays = [leaf for _, leaf in leaves]
    arrays[kernels[0]] = dct_filters(arrays[kernels[0]])
    return jax.tree.unflatten(structure, arrays)


def _cosines(size: int) -> np.ndarray:
    """The orthonormal transform: a frequency in each row."""
    at, frequency = np.arange(size), np.arange(size)[:, None]
    waves = np.cos(np.pi * (2 * at + 1) * frequency / (2 * size))
    return waves / np.linalg.norm(waves, axis=1, keepdims=True)


def _spread(basis: np.ndarray) -> np.ndarray:
    """The standard deviation of each coefficient along one axis."""
    at = np.arange(len(basis))
    covariance = _RESEMBLANCE ** np.abs(at[:, None] - at)
    return np.sqrt(np.einsum("fi,ij,fj->f", basis, covariance, basis))
