"""A trained model as files for others: weights in three formats, and a program.

README.md            how to load each of them
model.json           what goes in, what comes out, mean and deviation
joined.*             the whole model: uint8 images to logits
client.*, server.*   its halves: images to activations, activations to logits
*.msgpack            the Flax variable tree (flax.serialization)
*.orbax              the same as an Orbax checkpoint
*.safetensors        the same as named arrays
*.jaxexport          a serialised program with the weights in it (jax.export)
"""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import flatbuffers  # noqa: F401 - `jax.export` needs it, and would say so late
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax import export as jax_export

from jsplit.errors import InputError
from jsplit.experiment.description import as_json, write_description
from jsplit.experiment.trained import SIDES, TrainedModel
from jsplit.experiment.weights import merged, to_bytes, write_safetensors
from jsplit.runtime import atomic
from jsplit.typing import Variables

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""That every program runs on."""

JOINED = "joined"


def export(model: TrainedModel, out: Path) -> list[str]:
    """Writes what a folder holds of a model, each half and, with both, the joined one.

    The folder appears under its name when all of it is written.

    Args:
        model: as `load_run` reads it.
        out: a folder that does not exist or is empty.

    Returns:
        The parts that were written: of `joined`, `client`, `server`.

    Raises:
        InputError: if the folder holds anything already or cannot be written.
    """
    check_free(out)
    unfinished = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    try:
        unfinished.mkdir(parents=True)
        parts = _parts(model)
        for name, (variables, program, example) in parts.items():
            _write(unfinished / name, model, variables, program, example)
        write_description(unfinished, model.description)
        atomic.write_text(unfinished / "README.md", _readme(model, list(parts)))
        os.replace(unfinished, out)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}; name another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return list(parts)


def check_free(out: Path) -> None:
    """Refuses a folder that an export cannot have, before any work is done.

    Raises:
        InputError: if it holds anything already, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already; name a folder that is not")


Part = tuple[Variables, Callable[[jax.Array], jax.Array], jax.ShapeDtypeStruct]
"""Variables, a program of them, and what a batch of one that goes in looks like."""


def _parts(model: TrainedModel) -> dict[str, Part]:
    images = jax.ShapeDtypeStruct((1, *model.description.image_shape), jnp.uint8)
    parts: dict[str, Part] = {}
    if model.client is not None and model.server is not None:
        variables = merged(model.client.variables, model.server.variables)
        parts[JOINED] = (variables, model.logits, images)
    if model.client is not None:
        parts["client"] = (model.client.variables, model.smash, images)
    if model.server is not None:
        parts["server"] = (model.server.variables, model.classify, model.smashed)
    return parts


def _write(
    base: Path,
    model: TrainedModel,
    variables: Variables,
    program: Callable[[jax.Array], jax.Array],
    example: jax.ShapeDtypeStruct,
) -> None:
    def path(ending: str) -> Path:
        return base.with_name(f"{base.name}.{ending}")

    host = jax.device_get(variables)
    atomic.write_bytes(path("msgpack"), to_bytes(host))
    about = as_json(model.description) | {"part": base.name, "epochs": model.epochs}
    write_safetensors(path("safetensors"), host, about)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path("orbax").absolute(), host)
    atomic.write_bytes(path("jaxexport"), serialized(program, example))


def serialized(
    program: Callable[[jax.Array], jax.Array], example: jax.ShapeDtypeStruct
) -> bytes:
    """A program of batches of any length, for all platforms, as bytes.

    Args:
        program: of one array whose first axis counts examples.
        example: what a batch of one looks like.
    """
    (batch,) = jax_export.symbolic_shape("batch")
    argument = jax.ShapeDtypeStruct((batch, *example.shape[1:]), example.dtype)
    exported = jax_export.export(jax.jit(program), platforms=PLATFORMS)(argument)
    return bytes(exported.serialize())


def _readme(model: TrainedModel, parts: list[str]) -> str:
    about, name = model.description, parts[0]
    shape = "x".join(map(str, about.image_shape))
    takes = {
        JOINED: f"uint8 images [batch, {shape}] to logits [batch, {about.num_classes}]",
        "client": f"uint8 images [batch, {shape}] to the activations at the cut",
        "server": f"those activations to logits [batch, {about.num_classes}]",
    }
    missing = [side for side in SIDES if side not in parts]
    lines = [f"- `{part}`: {takes[part]}" for part in parts]
    lines += [
        f"- the {side}'s half is not here: the run's folder did not hold it"
        for side in missing
    ]
    return _README.format(
        model=about.config.model,
        epochs=model.epochs,
        name=name,
        parts="\n".join(lines),
        jax=jax.__version__,
    )


_README = """\
# A model trained by jsplit: {model}, {epochs} epochs

{parts}

Normalisation is part of the programs; `model.json` has its numbers, the shape of
images and the names of classes. Nothing below needs jsplit.

A program (`.jaxexport`), for a CPU, GPU or TPU. It was written by jax {jax}; later
releases read it for at least six months (`pip install jax flatbuffers`):

```python
from pathlib import Path
from jax import export

program = export.deserialize(bytearray(Path("{name}.jaxexport").read_bytes()))
outputs = program.call(inputs)
```

Weights, by the names of their variables (`params.BLOCK.LAYER.kernel`):

```python
import safetensors.numpy
arrays = safetensors.numpy.load_file("{name}.safetensors")

from flax import serialization
tree = serialization.msgpack_restore(Path("{name}.msgpack").read_bytes())

import orbax.checkpoint as ocp
tree = ocp.StandardCheckpointer().restore(Path("{name}.orbax").absolute())
```

With jsplit, `--init {name}.safetensors` begins another run from these weights.
"""
