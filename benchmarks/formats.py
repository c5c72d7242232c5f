"""Squared error of each 8-bit format against the search, on tensors of several kinds.

    python benchmarks/formats.py

Prints a table and writes `benchmarks/results/formats.json`.
"""

import argparse
import json
import platform
from pathlib import Path

import jax
import numpy as np

from jsplit.codecs import CODECS

FORMATS = ("e5m2", "e4m3", "e3m4")
SIZE = 1_000_000


def tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The kinds of tensor, each of `SIZE` float32 values."""
    normal = rng.normal(size=SIZE)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "gradient-like": normal * np.exp(1.5 * rng.normal(size=SIZE)),
        "student t, 2 degrees": rng.standard_t(2, SIZE),
        "sparse, 1 %": normal * (rng.random(SIZE) < 0.01),
    }


def error(name: str, x: np.ndarray) -> float:
    """Squared error over squared norm, summed in float64."""
    codec = CODECS[name]
    decoded = np.asarray(jax.jit(lambda x: codec.decode(codec.encode(x)))(x))
    exact = x.astype(np.float64)
    return float(np.sum((decoded - exact) ** 2) / np.sum(exact**2))


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    written = Path(__file__).parent / "results" / "formats.json"
    parser.add_argument("--out", type=Path, default=written, help="default %(default)s")
    out = parser.parse_args().out
    rows = {}
    print(f"{'tensor':22} {'float8':>10}" + "".join(f"{name:>8}" for name in FORMATS))
    for kind, x in tensors(np.random.default_rng(0)).items():
        x = x.astype(np.float32)[None]
        searched = error("float8", x)
        ratios = {name: error(name, x) / searched for name in FORMATS}
        rows[kind] = {"float8_relative_squared_error": searched, "ratio": ratios}
        print(
            f"{kind:22} {searched:10.2e}"
            + "".join(f"{r:8.2f}" for r in ratios.values())
        )
    record = {
        "values": SIZE,
        "seed": 0,
        "rows": rows,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }
    out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
