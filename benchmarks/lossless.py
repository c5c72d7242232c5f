"""How near does the lossless stage come to the entropy, and what does it cost?

    python -m benchmarks.lossless
    python -m benchmarks.lossless --models vgg11

On the float8 codes of real activations and gradients at each model's usual cut, after
an epoch: bytes over the empirical order-0 entropy of the codes, what was taken of zstd
and a coder of frequencies, and the time to compress and expand a batch both ways over
that of a step in A.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.codec import cut_tensors
from benchmarks.workload import images, runner, simulate
from jsplit.codecs import float8
from jsplit.models import MODELS
from jsplit.wire import compress, expand
from jsplit.wire.coder import CODED, CONSTANT, RAW, ZSTD, entropy

FORMS = {RAW: "none", CONSTANT: "constant", CODED: "frequencies", ZSTD: "zstd"}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    models = ("vgg11", "vgg13", "resnet18")
    parser = measure.arguments(__doc__, rounds=5, models=models)
    parser.add_argument(
        "--batch", type=measure.positive, default=128, help="default 128"
    )
    settings = measure.settings_of(parser, argv)
    found = {
        name: measure_model(name, settings.batch, settings.rounds)
        for name in settings.models
    }
    measure.write("lossless", settings, {"models": found})


def measure_model(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """One model's figures."""
    dataset = images(2 * batch)
    encode = jax.jit(float8().encode)
    kinds = {
        kind: [np.asarray(encode(x[0]).payload).tobytes() for x in tensors]
        for kind, tensors in cut_tensors(name, dataset, batch).items()
    }
    print(f"\n{name}, cut after block {MODELS[name].usual_cut}", flush=True)
    sizes = {kind: size_of(codes) for kind, codes in kinds.items()}
    for kind, size in sizes.items():
        print(
            f"  {kind:12} {size['entropy_bits']:.3f} bits a code; "
            f"{size['over_entropy']:.4f} of that by {', '.join(size['forms'])}"
        )
    first = [codes[0] for codes in kinds.values()]
    packed = [compress(code) for code in first]
    simulation = simulate(name, dataset, batch=batch)
    step = runner(simulation, simulation.state)
    step()
    sides = {
        "step": step,  # two of them
        "compress": lambda: [compress(code) for code in first],
        "expand": lambda: [
            expand(small, len(code)) for small, code in zip(packed, first, strict=True)
        ],
    }
    seconds = measure.interleave(sides, rounds)
    both = [a + b for a, b in zip(seconds["compress"], seconds["expand"], strict=True)]
    share = measure.spread(
        [2 * cost / steps for cost, steps in zip(both, seconds["step"], strict=True)]
    )
    print(f"  both ways over a step {measure.show(share)}", flush=True)
    return {
        "sizes": sizes,
        "share_of_step": share,
        "megabytes_per_second": {
            side: sum(map(len, first)) / 1e6 / statistics.median(seconds[side])
            for side in ("compress", "expand")
        },
    }


def size_of(codes: list[bytes]) -> dict[str, Any]:
    """Bits a code, by entropy and as compressed, batch by batch."""
    length, packed = sum(map(len, codes)), list(map(compress, codes))
    bits = sum(entropy(np.bincount(np.frombuffer(code, np.uint8))) for code in codes)
    return {
        "entropy_bits": bits / length,
        "over_entropy": 8 * sum(map(len, packed)) / bits,
        "forms": sorted({FORMS[code[0]] for code in packed}),
    }


if __name__ == "__main__":
    main()
