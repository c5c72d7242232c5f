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
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsplit.typing import Variables

_RESEMBLANCE = 0.9
"""Correlation of neighbouring pixels, and of neighbouring channels, that is assumed.

Of 5,000 images of CIFAR-10 the nine coefficients of widest spread have 0.5 to 1.6 times
the standard deviation that follows from it."""


def dct_filters(
    kernel: Float[Array, "k k i o"], *, dc: bool = True
) -> Float[Array, "k k i o"]:
    """The kernel of a convolution with cosines in place of its first filters.

    Filters 0 and 1 are the coefficient of widest spread and its negative, 2 and 3 the
    next, and so on; after all `k k i` coefficients (`(k k - 1) i` without `dc`), or
    where `o` ends, the kernel stays as it is. The spread is that of a first-order
    autoregressive image (each pixel and channel correlates 0.9 with its neighbour) of
    variance 1, and each filter is divided by it: what comes out has a variance near 1.

    Args:
        kernel: of images whose channels have mean 0 and variance 1; floating point.
        dc: whether coefficients are among them that are the same all over the patch,
            as JPEG calls those; without, only what differs from place to place is
            seen: edges and curves, and along a padded border how far it is from 0.

    Returns:
        The same shape and dtype.

    Raises:
        ValueError: if it is no kernel of floating-point numbers, or empty; without
            `dc`, if it sees a single pixel.

    Example:
        >>> filters = dct_filters(jnp.zeros((3, 3, 1, 4)))
        >>> [round(float(tap), 2) for tap in filters[:, 0, 0, 0]]  # a mean
        [0.12, 0.12, 0.12]
        >>> [round(float(tap), 2) for tap in filters[0, :, 0, 2]]  # an edge
        [0.57, 0.0, -0.57]
        >>> bool((filters[..., 1] == -filters[..., 0]).all())
        True
        >>> edges = dct_filters(jnp.zeros((3, 3, 1, 2)), dc=False)
        >>> bool((edges == filters[..., 2:]).all())
        True
    """
    *sizes, features = _checked(kernel.shape, dc)
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise ValueError(f"a kernel of cosines must be floats, got {kernel.dtype}")
    bases = [_cosines(size) for size in sizes]
    filters = []
    for at, spread in _widest_first(sizes, dc)[: -(-features // 2)]:
        waves = [basis[f] for basis, f in zip(bases, at, strict=True)]
        wave = np.einsum("h,w,c->hwc", *waves) / spread
        filters += [wave, -wave]
    chosen = jnp.asarray(np.stack(filters, axis=-1)[..., :features], kernel.dtype)
    return jnp.asarray(kernel).at[..., : chosen.shape[-1]].set(chosen)


def mirrored_filters(shape: Sequence[int], *, dc: bool = True) -> list[int]:
    """Which filter sees in an image what each of these sees in its mirror image.

    A cosine is symmetric left and right, and then it is itself, or mirroring changes
    its sign, and then it is the other one of its pair. So the maps of a mirrored image
    are, within rounding, the mirrored maps with those exchanged, if the convolution and
    what follows treat left and right alike: stride 1 with an odd kernel (or without
    padding), and a pooling that leaves no column over. Filters that are no cosines, or
    whose pair is not complete, count as symmetric, which they are not.

    Args:
        shape: of the kernel, `(k, k, i, o)`.
        dc: as of `dct_filters`.

    Returns:
        `o` places, from 0.

    Raises:
        ValueError: if it is no shape of a kernel, or one of an empty one; without
            `dc`, if it sees a single pixel.

    Example:
        >>> mirrored_filters((3, 3, 1, 8))  # of 2 and 3, an edge across, the other
        [0, 1, 3, 2, 4, 5, 6, 7]
    """
    *sizes, features = _checked(shape, dc)
    places = list(range(features))
    for number, ((_, across, _), _) in enumerate(_widest_first(sizes, dc)):
        plus, minus = 2 * number, 2 * number + 1
        if across % 2 and minus < features:
            places[plus], places[minus] = minus, plus
    return places


def dct_filter_count(sizes: Sequence[int], *, dc: bool = True) -> int:
    """How many filters are cosines at most, both signs counted.

    Args:
        sizes: of the kernel, `(k, k, i)`.
        dc: as of `dct_filters`.

    Example:
        >>> dct_filter_count((3, 3, 3)), dct_filter_count((3, 3, 3), dc=False)
        (54, 48)
    """
    return 2 * len(_widest_first(sizes, dc))


def with_dct_filters(
    variables: Variables, block: str, channels: int, *, dc: bool = True
) -> Variables:
    """Variables of a network whose first convolution begins with `dct_filters`.

    Args:
        variables: of a network, or of its first part.
        block: the name of its first block.
        channels: of its images.
        dc: as of `dct_filters`.

    Returns:
        The same, but for the kernel of that block.

    Raises:
        ValueError: if there is no such block, or it has not exactly one kernel that
            takes such images; without `dc`, if that sees a single pixel.

    Example:
        >>> variables = {"params": {"stem": {"kernel": jnp.zeros((3, 3, 3, 8))}}}
        >>> begun = with_dct_filters(variables, "stem", channels=3)
        >>> round(float(begun["params"]["stem"]["kernel"][0, 0, 0, 0]), 2)
        0.04
    """
    leaves, structure = jax.tree.flatten(variables)
    index = _first_kernel(variables, block, channels)
    leaves[index] = dct_filters(leaves[index], dc=dc)
    return jax.tree.unflatten(structure, leaves)


def first_kernel_shape(
    variables: Variables, block: str, channels: int
) -> tuple[int, ...]:
    """The shape of the kernel that `with_dct_filters` would change.

    Args:
        variables: of a network, or of its first part; arrays or their shapes.
        block: the name of its first block.
        channels: of its images.

    Raises:
        ValueError: if there is no such block, or it has not exactly one kernel that
            takes such images.

    Example:
        >>> variables = {"params": {"stem": {"kernel": jnp.zeros((3, 3, 3, 8))}}}
        >>> first_kernel_shape(variables, "stem", channels=3)
        (3, 3, 3, 8)
    """
    index = _first_kernel(variables, block, channels)
    shape: tuple[int, ...] = jax.tree.leaves(variables)[index].shape
    return shape


def _first_kernel(variables: Variables, block: str, channels: int) -> int:
    """Its place among the leaves."""
    kernels = [
        index
        for index, (path, leaf) in enumerate(
            jax.tree_util.tree_leaves_with_path(variables)
        )
        if [getattr(key, "key", None) for key in path[:2]] == ["params", block]
        and leaf.ndim == 4
        and leaf.shape[2] == channels
    ]
    if block not in variables["params"]:
        there = ", ".join(variables["params"]) or "none"
        raise ValueError(f"there is no block {block} with parameters, but {there}")
    if len(kernels) != 1:
        raise ValueError(
            f"block {block} has {len(kernels)} kernels of images with {channels} "
            "channels, and cosines are for a single one"
        )
    return kernels[0]


def _checked(shape: Sequence[int], dc: bool) -> Sequence[int]:
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(
            "a kernel has height, width, channels and filters, 1 or more of each, got "
            f"{tuple(shape)}"
        )
    if not dc and math.prod(shape[:2]) == 1:
        raise ValueError("a kernel that sees a single pixel has no filters without dc")
    return shape


def _widest_first(
    sizes: Sequence[int], dc: bool
) -> list[tuple[tuple[int, ...], float]]:
    """The frequencies of coefficients with their spread, the widest first."""
    spreads = [_spread(_cosines(size)) for size in sizes]
    found = [
        (at, float(np.prod([axis[f] for axis, f in zip(spreads, at, strict=True)])))
        for at in itertools.product(*map(range, sizes))
        if dc or any(at[:2])
    ]
    # Rounded, so that what is equal but for rounding keeps its order everywhere.
    return sorted(found, key=lambda one: -round(one[1], 9))


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
