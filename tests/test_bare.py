"""The library needs seven packages; a command names the one that it lacks."""

import os
import subprocess
import sys
import tomllib

import pytest

from jsplit.cli.main import main
from tests.runs import ROOT

TRAINING = """
import builtins, sys

ALLOWED = {"jsplit", *sys.argv[1:], *sys.stdlib_module_names}
plain_import = builtins.__import__

def checked(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    top = name.partition(".")[0]
    # What the allowed packages import among themselves is theirs.
    if importer.startswith("jsplit") and not level and top not in ALLOWED:
        raise ModuleNotFoundError(f"{importer} imports {name}", name=name)
    return plain_import(name, globals, locals, fromlist, level)

builtins.__import__ = checked

import jsplit
import numpy as np, optax
from flax import linen as nn
import jsplit.codecs, jsplit.models, jsplit.runtime.multihost, jsplit.runtime.sharding
import jsplit.accounting.compression_tally, jsplit.accounting.macs
# Settings need no command line; a server's run keeps checkpoints, which need orbax.
import jsplit.experiment.config, jsplit.net.config, jsplit.net.client, jsplit.net.server

images = np.random.default_rng(0).random((24, 6), np.float32)
labels = np.arange(24, dtype=np.int32) % 3
simulation = jsplit.make_simulation(
    jsplit.from_flax(nn.Dense(4)),
    jsplit.from_flax(nn.Dense(3)),
    train=(images, labels),
    test=(images, labels),
    gate=jsplit.freeze_gate(1),
    optimizer=optax.sgd(0.1),
    batch_size=8,
)
_, _, ledger = simulation.run(step_sizes=np.ones(2))
print(ledger.states, ledger.wire_bytes > 0)
"""


def test_the_library_trains_with_no_more_than_its_own_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = [word.partition(">")[0] for word in project["dependencies"]]
    assert len(allowed) == 7
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, *allowed],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "AB True\n"


@pytest.mark.parametrize("command", ["run", "report"])
def test_a_command_without_its_extra_says_what_to_install(command, monkeypatch, capsys):
    # Only the command: other tests hold the modules that it shares with others.
    monkeypatch.delitem(sys.modules, f"jsplit.cli.{command}", raising=False)
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main([command]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: jsplit {command} needs tyro, which is not")
    assert said.endswith("pip install 'jsplit[all]' brings it\n")
    assert said.count("\n") == 1
