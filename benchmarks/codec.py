"""What does a codec cost, against a memory copy and in a step?

    python -m benchmarks.codec
    python -m benchmarks.codec --models vgg11 --no-share
    python -m benchmarks.codec --models vgg11 --codec bits4-channel

On real activations and gradients at each model's usual cut, batch by batch in a jitted
scan, with the axis of one client that the product has: `encode` (search and cast),
`decode`, both, and a `copy` of the same float32 values, in GB/s of those. Then its
share of a state-A step, in two ways: `coding`, the time to code and decode a batch's
activations and gradient by themselves, over that of the step; and `share`, what an
epoch in A with the codec both ways takes longer than one with float32 as it is, which
has less noise where the first is large and is all noise where it is small.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.workload import images, runner, simulate, transform
from jsplit.codecs import CODECS
from jsplit.data import Dataset
from jsplit.models import MODELS
from jsplit.typing import Packet


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    models = ("vgg11", "vgg13", "resnet18")
    parser = measure.arguments(__doc__, rounds=7, models=models)
    cpu = jax.default_backend() == "cpu"
    parser.add_argument(
        "--batch", type=measure.positive, default=128, help="default 128"
    )
    parser.add_argument(
        "--tensors", type=int, default=4, help="coded a call, default 4; at least 2"
    )
    steps = 2 if cpu else 50
    parser.add_argument(
        "--steps",
        type=int,
        default=steps,
        help=f"of A a call, at least 2; here {steps}",
    )
    parser.add_argument(
        "--codec", choices=tuple(CODECS), default="float8", help="default float8"
    )
    parser.add_argument(
        "--no-share", action="store_true", help="the codec alone, without the steps"
    )
    settings = measure.settings_of(parser, argv)
    if min(settings.steps, settings.tensors) < 2:
        parser.error("--steps and --tensors must be at least 2: XLA makes no loop of 1")
    found = {}
    for name in settings.models:
        found[name] = measure_codec(name, settings)
        if not settings.no_share:
            found[name]["share_of_step"] = measure_share(name, settings)
    measure.write("codec", settings, {"models": found})


def measure_codec(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """GB/s on activations and on gradients of one model."""
    dataset = images(settings.tensors * settings.batch)
    print(f"\n{name}, cut after block {MODELS[name].usual_cut}", flush=True)
    found: dict[str, Any] = {}
    for kind, x in cut_tensors(name, dataset, settings.batch).items():
        seconds = measure.interleave(sides_of(x, settings.codec), settings.rounds)
        speeds = {
            side: x.nbytes / 1e9 / statistics.median(times)
            for side, times in seconds.items()
        }
        ratios = {
            f"{side}/copy": measure.ratio(seconds, side, "copy")
            for side in ("encode", "decode", "both")
        }
        print(f"  {kind} {x.shape[1:]}, {x.nbytes / 1e6 / len(x):.1f} MB each")
        for side, speed in speeds.items():
            print(f"    {side:7} {speed:7.2f} GB/s")
        for pair, times in ratios.items():
            print(f"    {pair:12} {measure.show(times, 2)}")
        found[kind] = {
            "shape": list(x.shape[1:]),
            "zeros": float(np.mean(np.asarray(x) == 0)),
            "gigabytes_per_second": speeds,
            "seconds": measure.spreads(seconds),
            "ratios": ratios,
        }
    return found


def measure_share(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """The part of a state-A step that both codecs take."""
    dataset = images(settings.steps * settings.batch)
    tensors = cut_tensors(name, dataset, settings.batch)
    coders = [sides_of(x, settings.codec)["both"] for x in tensors.values()]
    sides: dict[str, Callable[[], Any]] = {
        "coding": lambda: [code() for code in coders]
    }
    for side, codec in (("coded", settings.codec), ("plain", "identity")):
        simulation = simulate(name, dataset, batch=settings.batch, codec=codec)
        sides[side] = runner(simulation, simulation.state)
        sides[side]()
    seconds = measure.interleave(sides, settings.rounds)
    coding = measure.ratio(seconds, "coding", "coded")
    pairs = zip(seconds["plain"], seconds["coded"], strict=True)
    share = measure.spread([1 - plain / coded for plain, coded in pairs])
    print(f"  coding over an A step {measure.show(coding)}")
    print(f"  share of an A step {measure.show(share)}", flush=True)
    return {
        "coding": coding,
        "share": share,
        "seconds": measure.spreads(seconds),
    }


def cut_tensors(name: str, dataset: Dataset, batch: int) -> dict[str, jax.Array]:
    """Real activations and gradients, `Float32[n, 1, batch, ...]`, after an epoch."""
    simulation = simulate(name, dataset, batch=batch, codec="identity")
    trained, _, _ = simulation.run([0.05])
    steps, preprocess = simulation.steps, transform(dataset).evaluate

    def one(x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        raw, labels = x
        key = jax.random.key(0)
        packet, _ = steps.client_forward(trained.client, preprocess(raw), None, key)
        packets = Packet(packet.payload[None], packet.header[None])
        _, _, reply = steps.server_step_with_reply(
            trained.server, packets, labels[None], None, key, jnp.float32(0)
        )
        return packets.payload, reply.payload

    raw = jnp.asarray(dataset.train_images).reshape(-1, batch, *dataset.image_shape)
    labels = jnp.asarray(dataset.train_labels).reshape(-1, batch)
    smashed, gradients = jax.jit(lambda x: jax.lax.map(one, x))((raw, labels))
    return {"activations": smashed, "gradients": gradients}


def sides_of(x: jax.Array, name: str) -> dict[str, Callable[[], Any]]:
    """Each side goes through the tensors one by one, and is warm."""
    codec = CODECS[name].of(x.shape[3:])
    encode, decode = jax.vmap(codec.encode), jax.vmap(codec.decode)

    def scan(one: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return jax.jit(lambda xs: jax.lax.map(one, xs))

    coders = {
        "encode": scan(encode),
        "decode": scan(decode),
        "both": scan(lambda x: decode(encode(x))),
        "copy": jax.jit(jnp.copy),
    }
    packets = jax.block_until_ready(coders["encode"](x))

    def side(name: str) -> Callable[[], Any]:
        given = packets if name == "decode" else x
        return lambda: jax.block_until_ready(coders[name](given))

    sides = {name: side(name) for name in coders}
    for call in sides.values():
        call()
    return sides


if __name__ == "__main__":
    main()
