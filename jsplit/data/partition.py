"""How examples are dealt out to clients."""

import math

import numpy as np

from jsplit.errors import InputError

DEFAULT_UNEVEN_ALPHA = 1.0
MIN_ALPHA, MAX_ALPHA = 1e-6, 1e6
_SCHEMES = "iid, dirichlet:ALPHA, uneven or uneven:ALPHA"


def partition(
    labels: np.ndarray, *, clients: int, scheme: str, seed: int
) -> list[np.ndarray]:
    """Deals examples out to clients.

    * "iid": at random, sizes that differ by at most one.
    * "dirichlet:ALPHA": skewed labels. The examples of each class go to the clients in
      proportions drawn from a symmetric Dirichlet(ALPHA), class by class, as in
      Yurochkin et al. 2019 (arXiv:1905.12022, section 4). Hsu et al. 2019
      (arXiv:1909.06335) draw a mix of classes for each client instead, which fixes
      sizes but cannot use every example once. A small ALPHA gives each client few
      classes; a large one comes near "iid".
    * "uneven" or "uneven:ALPHA": labels at random, sizes in proportions drawn from a
      symmetric Dirichlet(ALPHA); ALPHA is 1 if left out.

    **Guarantees.** Every example is in exactly one shard. Each shard is sorted, int64
    and not empty: where the draw leaves a client with nothing, it gets the last example
    of the largest shard. The result depends on the arguments only.

    Args:
        labels: Integers [N].
        clients: Number of shards, 1 .. N.
        scheme: One of the texts above.
        seed: Seed of the draw, 0 or more.

    Returns:
        One array of indices into `labels` for each client.

    Raises:
        InputError: A wrong number of clients, an unknown scheme, an ALPHA out of range,
            a negative seed.
    """
    if not 1 <= clients <= len(labels):
        raise InputError(
            f"clients is {clients}; give 1 .. {len(labels)}, the number of examples"
        )
    if seed < 0:
        raise InputError(f"seed is {seed}; give 0 or more")
    kind, alpha = check_scheme(scheme)
    rng = np.random.default_rng(seed)
    if kind == "dirichlet":
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    else:
        groups = [np.arange(len(labels))]
    pieces: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for group in groups:
        shuffled = rng.permutation(group)
        if alpha is None:
            split = np.array_split(shuffled, clients)
        else:
            edges = np.cumsum(_dirichlet(rng, alpha, clients))[:-1]
            split = np.split(shuffled, np.rint(edges * len(group)).astype(np.int64))
        for piece, part in zip(pieces, split, strict=True):
            piece.append(part)
    return _fill_empty([np.sort(np.concatenate(piece)) for piece in pieces])


def class_counts(
    labels: np.ndarray, shards: list[np.ndarray], num_classes: int
) -> np.ndarray:
    """Returns how many examples of each class each shard has, [clients, classes]."""
    return np.stack(
        [np.bincount(labels[shard], minlength=num_classes) for shard in shards]
    )


def check_scheme(scheme: str) -> tuple[str, float | None]:
    """A scheme's kind and ALPHA, None for "iid".

    Raises:
        InputError: An unknown scheme, an ALPHA out of range.
    """
    kind, colon, text = scheme.partition(":")
    if scheme == "iid":
        return kind, None
    if scheme == "uneven":
        return kind, DEFAULT_UNEVEN_ALPHA
    if kind not in ("dirichlet", "uneven") or not colon:
        raise InputError(f"partition {scheme!r} is unknown; give {_SCHEMES}")
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not MIN_ALPHA <= alpha <= MAX_ALPHA:
        raise InputError(
            f"partition {scheme!r}: {text!r} is no ALPHA; give a number from "
            f"{MIN_ALPHA:g} to {MAX_ALPHA:g}, as in {kind}:0.3"
        )
    return kind, alpha


def _dirichlet(rng: np.random.Generator, alpha: float, size: int) -> np.ndarray:
    # Through logarithms, because Gamma(alpha) underflows to zero for small alpha:
    # log Gamma(alpha) = log Gamma(alpha + 1) + log(U) / alpha  (Marsaglia, Tsang 2000).
    logs = np.log(rng.standard_gamma(alpha + 1, size))
    logs -= rng.standard_exponential(size) / alpha
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def _fill_empty(shards: list[np.ndarray]) -> list[np.ndarray]:
    sizes = np.array([len(shard) for shard in shards])
    for empty in np.flatnonzero(sizes == 0):
        largest = int(np.argmax(sizes))
        shards[empty], shards[largest] = shards[largest][-1:], shards[largest][:-1]
        sizes[empty], sizes[largest] = 1, sizes[largest] - 1
    return shards
