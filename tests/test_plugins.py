"""Codecs, gates and models of other packages, found by their entry points.

Each package here is a module and its metadata in a folder on `sys.path`, as `pip
install` leaves them.
"""

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsplit
from jsplit.cli import main as cli
from jsplit.codecs import CODECS
from jsplit.core.gates import GATES
from jsplit.errors import InputError
from jsplit.experiment.build import check_kept_names
from jsplit.experiment.config import RunConfig, changed, flat, from_mapping
from jsplit.experiment.kept_config import from_kept
from jsplit.experiment.workdir import read_workdir
from jsplit.models import MODELS
from jsplit.net.summary import summarize
from jsplit.testing import run_in_process
from tests.runs import ROOT, run_here

pytestmark = pytest.mark.usefixtures("cache")

MINE = '''
from dataclasses import dataclass
from typing import Annotated

from jsplit import GateChoice, Model, Option, bf16, freeze_gate
from jsplit.models import cnn

codec = bf16()._replace(name="mine")
model = Model("mine", cnn, usual_cut=2)


@dataclass(frozen=True)
class Gate(GateChoice):
    """A twice as long as asked for, one B, then C."""

    name = "mine"
    half: Annotated[int, Option("Half the epochs of A.", least=1, traced=True)] = 2

    def make(self, classes):
        return freeze_gate(2 * self.half)
'''
ENTRIES = {"codecs": "mine = {}:codec", "gates": "mine = {}:Gate"}
ENTRIES["models"] = "mine = {}:model"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package of one module; what was loaded of it is gone afterwards."""
    registries = (CODECS, GATES, MODELS)
    before = [list(registry) for registry in registries]

    def installed(module, source, entries, version="1.5"):
        folder = tmp_path / f"site-{module}"
        metadata = folder / f"{module}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        name = module.replace("_", "-")
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        lines = [f"[jsplit.{kind}]\n{entry}\n" for kind, entry in entries.items()]
        (metadata / "entry_points.txt").write_text("".join(lines).format(module))
        monkeypatch.syspath_prepend(folder)
        return folder

    yield installed
    for registry, names in zip(registries, before, strict=True):
        for name in set(registry) - set(names):
            del registry[name]
    for path in tmp_path.glob("site-*/*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def mine(install):
    entries = {kind: entry.format("the_mine") for kind, entry in ENTRIES.items()}
    return install("the_mine", MINE, entries)


DATA = (
    *("--dataset", "fashion_mnist_10k", "--image-size", "8", "--batch-size", "40"),
    *("--train-examples", "80", "--test-examples", "40"),
)
TINY = (
    *(*DATA, "--model", "mine", "--gate", "mine", "--half", "1"),
    *("--codec", "mine", "--grad-codec", "mine"),
)


def refused(*words):
    with pytest.raises(InputError) as refusal:
        from_mapping(dict(words), "here")
    return str(refusal.value)


def forget():
    """As in a new process: nothing was looked up yet."""
    for registry in (CODECS, GATES, MODELS):
        if "mine" in list(registry):
            del registry["mine"]


def uninstall(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(folder)])
    forget()


def test_a_run_by_a_packages_codec_gate_and_model_is_made_and_read(
    mine, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"
    assert run_here(*TINY, "--epochs", "3", "--chunk", "3", "--workdir", run) == 0
    out = capsys.readouterr().out
    assert "mine gate, mine up" in out and "mine cut after block 2 (conv2)" in out
    kept = flat(read_workdir(run)[1])
    assert (kept["gate"], kept["half"], kept["codec"]) == ("mine", 1, "mine")
    # The package is gone: each reader says so in a line, with the remedy.
    uninstall(mine, monkeypatch)
    for words in (["report", str(run)], ["export", str(run), str(tmp_path / "out")]):
        assert cli.main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--gate 'mine' is unknown; choose always, " in line
        assert line.endswith("or install the package that has it")


@pytest.mark.slow
def test_a_run_by_a_packages_codec_gate_and_model_is_resumed_and_predicts(
    mine, tmp_path
):
    run = tmp_path / "run"
    assert run_here(*TINY, "--epochs", "3", "--workdir", run) == 0
    assert run_here("--resume", "--epochs", "4", "--workdir", run) == 0
    assert json.loads((run / "summary.json").read_text())["states"] == "AABC"
    images = np.zeros((2, 8, 8, 1), np.uint8)
    assert jsplit.load_run(run).predict(images).labels.shape == (2,)


@pytest.mark.parametrize("setting", ["model", "codec", "grad_codec", "gate"])
def test_a_kept_run_whose_package_is_missing_is_refused_by_the_settings_name(
    mine, monkeypatch, setting
):
    kept = flat(changed(RunConfig(), **{setting: "mine"}))
    forget()
    check_kept_names(from_kept(kept, "config.json"), Path("run"))
    uninstall(mine, monkeypatch)
    name = setting.replace("_", "-")
    with pytest.raises(InputError, match=f"--{name} 'mine' is unknown.*or install the"):
        check_kept_names(from_kept(kept, "config.json"), Path("run"))


def test_plan_sweep_and_help_know_what_packages_add(mine, tmp_path, capsys):
    for words in ([], ["--gate", "mine"]):
        with pytest.raises(SystemExit):
            run_here(*words, "--help")
        assert ("--half" in capsys.readouterr().out) == bool(words)
    plan = ["plan", "--model", "mine", "--codecs", "mine,float8", "--dataset"]
    assert cli.main([*plan, "fashion_mnist_10k"]) == 0
    assert "mine" in capsys.readouterr().out
    file = tmp_path / "mine.toml"
    file.write_text('[[grid]]\ngate = "mine"\nhalf = [1, 2]\n')
    assert cli.main(["sweep", str(file), "--dry"]) == 0
    assert "gate=mine,half=2" in capsys.readouterr().out


def test_server_and_client_take_the_settings_of_a_packages_gate(mine, capsys):
    for command in ("serve", "join"):
        with pytest.raises(SystemExit):
            cli.main([command, "--gate", "mine", "--help"])
        assert "--half" in capsys.readouterr().out
        assert cli.main([command, "--gate", "mine", "--half", "0"]) == 2
        assert "--half must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_networked_run_by_what_a_package_adds_takes_its_codec_gate_and_model(
    mine, tmp_path
):
    values = dict(zip((word[2:] for word in TINY[::2]), TINY[1::2], strict=True))
    numbers = {name: int(text) for name, text in values.items() if text.isdigit()}
    names = {name: text for name, text in values.items() if not text.isdigit()}
    settings = {key.replace("-", "_"): v for key, v in (names | numbers).items()}
    config = changed(RunConfig(), **settings, epochs=4)
    run, _ = run_in_process(config, tmp_path)
    assert summarize(config, run)["states"] == "AABC"


def test_looking_up_a_name_of_jsplits_own_imports_no_package(install):
    install("the_loud", "raise SystemExit", {"codecs": "loud = {}:codec"})
    assert CODECS["float8"].name == "float8" and "fl8" not in CODECS
    assert "loud" in CODECS.names() and "loud" not in list(CODECS)
    assert "the_loud" not in sys.modules


def test_a_package_may_import_jsplit_before_it_is_looked_up(mine):
    program = f"""
    import sys
    sys.path.insert(0, {str(mine)!r})
    import the_mine
    from jsplit import CODECS, GATES
    assert CODECS["mine"] is the_mine.codec and GATES["mine"] is the_mine.Gate
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_was_looked_up_once_is_the_same_value_ever_after(mine):
    assert CODECS["mine"] is CODECS["mine"] and list(CODECS)[-1] == "mine"
    assert GATES["mine"] is sys.modules["the_mine"].Gate


def test_what_the_program_registers_takes_the_place_of_a_packages(mine):
    own = CODECS["bf16"]._replace(name="mine")
    CODECS["mine"] = own
    assert CODECS["mine"] is own


@pytest.mark.parametrize(
    ("page", "module", "registry"),
    [("gates", "twice_gate", GATES), ("codecs", "byte_codec", CODECS)],
)
def test_the_package_of_the_guide_is_found(install, page, module, registry):
    text = (ROOT / f"docs/guides/{page}.md").read_text()
    blocks = dict(re.findall(r"```\w+\n# ([\w.]+)\n(.*?)```", text, re.DOTALL))
    project = tomllib.loads(blocks["pyproject.toml"])["project"]
    assert project["name"] == module.replace("_", "-")
    ((group, entries),) = project["entry-points"].items()
    ((name, reference),) = entries.items()
    kind, entry = group.removeprefix("jsplit."), f"{name} = {reference}"
    install(module, blocks[f"{module}.py"], {kind: entry})
    assert registry[name].name == name


def test_the_codec_of_the_guide_keeps_its_promises(install):
    text = (ROOT / "docs/guides/codecs.md").read_text()
    (source,) = re.findall(r"```py\n# byte_codec.py\n(.*?)```", text, re.DOTALL)
    install("byte_codec", source, {"codecs": "byte = byte_codec:byte"})
    codec, x = CODECS["byte"], jnp.linspace(-3, 5, 24, dtype=jnp.float32).reshape(4, 6)
    packet = jax.jit(codec.encode)(x)
    assert (packet.payload.dtype, packet.header.shape) == (jnp.uint8, (4,))
    np.testing.assert_allclose(codec.decode(packet), x, atol=5 / 127)


# What is refused

GATE = """
from dataclasses import dataclass
from typing import Annotated
from jsplit import GateChoice, Option, always_gate
{above}
class Gate(GateChoice):
    name = "mine"
    {fields}
    def {make}(self, classes):
        return always_gate()
"""
ABOVE = "@dataclass(frozen=True)"
GATES_OF = {
    "it is no dataclass": ("", 'x: Annotated[int, Option("X.")] = 1', "make"),
    "it has no method make": (ABOVE, "", "made"),
    "x is not annotated with an Option": (ABOVE, "x: int = 1", "make"),
    "x has no default": (ABOVE, 'x: Annotated[int, Option("X.")]', "make"),
    "x is no number, text": (ABOVE, 'x: Annotated[list, Option("X.")] = 1', "make"),
    "NameError: name 'Y'": (ABOVE, 'x: "Annotated[Y, Option(0)]" = 1', "make"),
}
SAID = "the {} 'mine' of the package the-bad 1.5 can"


@pytest.mark.parametrize(("said", "made"), GATES_OF.items())
def test_a_gate_that_could_not_be_kept_is_refused(install, said, made):
    above, fields, make = made
    source = GATE.format(above=above, fields=fields, make=make)
    install("the_bad", source, {"gates": "mine = {}:Gate"})
    message = refused(("gate", "mine"))
    assert message.startswith(SAID.format("gate")) and said in message
    assert message.endswith("; mend or uninstall the-bad 1.5")


@pytest.mark.parametrize(
    ("kind", "source", "said"),
    [
        ("codec", "import none_such\n", "not be loaded (ModuleNotFoundError: No modu"),
        ("codec", "1 / 0\n", "not be loaded (ZeroDivisionError: "),
        (
            "codec",
            "raise ValueError('a\\nb')",
            "not be loaded (ValueError: a); mend or",
        ),
        ("codec", "other = 1\n", "not be loaded (AttributeError: "),
        ("codec", "it = 3\n", "not be used: it is of type int, not Codec"),
        ("model", "it = {}\n", "not be used: it is of type dict, not Model"),
        ("gate", "it = str\n", "not be used: it is no subclass of GateChoice"),
        (
            "codec",
            "from jsplit import bf16\nit = bf16()\n",
            "not be used: it calls itself 'bf16', and must have the same name",
        ),
    ],
)
def test_what_cannot_be_loaded_or_is_something_else_is_refused_by_the_packages_name(
    install, capsys, tmp_path, kind, source, said
):
    install("the_bad", source, {f"{kind}s": "mine = {}:it"})
    workdir = tmp_path / "run"
    small = ("--model", "cnn", *DATA, "--epochs", "1")
    assert run_here(*small, f"--{kind}", "mine", "--workdir", workdir) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert SAID.format(kind) + said in line and "uninstall the-bad 1.5" in line
    assert not workdir.exists()


def test_a_package_that_takes_a_name_of_jsplits_own_is_refused(install):
    install("the_bad", MINE, {"codecs": "float8 = {}:codec"})
    with pytest.raises(InputError) as refusal:
        CODECS["float8"]
    assert str(refusal.value) == (
        "the codec 'float8' of the package the-bad 1.5 has a name of jsplit's own; "
        "rename it there, or uninstall the-bad 1.5"
    )
    assert CODECS["bf16"].name == "bf16" and "the_bad" not in sys.modules


def test_a_name_that_two_packages_have_is_refused(install):
    install("one_pack", MINE, {"codecs": "mine = {}:codec"})
    install("two_pack", MINE, {"codecs": "mine = {}:codec"})
    with pytest.raises(InputError, match=r"two-pack 1.5 and one-pack 1.5 is in each"):
        CODECS["mine"]


def test_a_gates_setting_that_is_there_already_is_refused(install):
    field = 'epochs: Annotated[int, Option("X.")] = 1'
    source = GATE.format(above=ABOVE, fields=field, make="make")
    install("the_bad", source, {"gates": "mine = {}:Gate"})
    message = refused(("gate", "mine"))
    assert "package the-bad 1.5 has a setting 'epochs', and so has another" in message
