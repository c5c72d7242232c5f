"""`jsplit export`: a trained model as files that others read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jsplit.cli import parsing
from jsplit.cli.terminal import say
from jsplit.core.option import Option
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.export import check_free, export
from jsplit.experiment.trained import load_run
from jsplit.runtime import device

DESCRIPTION = """\
Writes what the run in RUN has trained into a new folder OUT: the joined model, the
client's half and the server's, each as Flax msgpack, Orbax and safetensors, and as a
serialised program (jax.export) that runs without jsplit. OUT/README.md says how to load
each of them.
"""


@dataclass(frozen=True)
class ExportCommand:
    """`jsplit export`."""

    GROUP = "export"

    run: Annotated[tyro.conf.Positional[str], Option("Folder of the run.", "RUN")]
    out: Annotated[
        tyro.conf.Positional[str], Option("Folder to write, which is new.", "OUT")
    ]
    device: Annotated[str, parsing.DEVICE] = "auto"


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit export`: writes the files; returns the exit code."""
    asked = parsing.parse(ExportCommand("", ""), argv, prog, DESCRIPTION)
    if not asked.run or not asked.out:
        raise InputError(f"{prog} needs a RUN and a folder OUT; see --help")
    out = workdir.path_of(asked.out, "OUT")
    check_free(out)
    device.choose(asked.device)
    model = load_run(asked.run, say)
    planned = model.description.config.all_epochs
    if model.epochs < planned:
        say(f"{model.folder} is not finished: epoch {model.epochs} of {planned}")
    parts = export(model, out)
    say(f"{', '.join(parts)} after epoch {model.epochs} in {out}; see {out}/README.md")
    return 0
