"""The examples in docstrings, in the README and in docs do what they say."""

import ast
import doctest
import importlib
import re

import jax
import jax.numpy as jnp
import pytest

from jsplit.core import simulation
from tests.runs import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT / "jsplit").with_suffix("").parts)
    for path in (ROOT / "jsplit").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_say_what_comes_out(name):
    # What differs is printed, and pytest shows it.
    found = doctest.testmod(importlib.import_module(f"jsplit.{name}"))
    assert found.attempted > 0, f"jsplit.{name} has no examples"
    assert not found.failed


def program_in(page: str) -> str:
    """The one Python program that a page of the repository shows."""
    (program,) = re.findall(
        r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL
    )
    return program


def simulation_in(program: str) -> str:
    """The call of `make_simulation`, without its layout."""
    (call,) = [
        node
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "jsplit.make_simulation"
    ]
    return ast.unparse(call)


def test_the_readme_s_program_runs_in_at_most_twelve_lines(capsys):
    program = program_in("README.md")
    assert len([line for line in program.splitlines() if line]) <= 12
    exec(program, {})
    said = re.fullmatch(
        r"(A[ABC]{19}) (\d+)(?:\.0)? (\d+\.\d+)\n", capsys.readouterr().out
    )
    assert said and "C" in said[1]
    assert int(said[2]) > 150 and float(said[3]) > 4


def test_the_guide_s_program_runs(capsys):
    exec(program_in("docs/guides/python.md"), {})
    said = re.fullmatch(
        r"(A[ABC]{19})  accuracy (\d\.\d{3}), communication /(\d+\.\d)\n",
        capsys.readouterr().out,
    )
    assert said and "C" in said[1]
    assert float(said[2]) > 0.8 and float(said[3]) > 4


def test_what_the_guide_shows_beside_its_program_runs_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "docs/guides/python.md"
    shown = re.findall(r"```py\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(shown) > 1
    names = {}
    exec(program_in(page), names)
    for program in shown:
        if "jsplit.cli" not in program:  # a launcher takes the command's place
            exec(program, names)
    assert names["predicted"].shape == (200,) and int(names["state"].epoch) == 40
    assert names["client"].init(jax.random.key(0), jnp.ones((1, 8)))["params"]["narrow"]


def test_the_docstring_makes_the_guide_s_simulation():
    (example,) = doctest.DocTestFinder(recurse=False).find(
        simulation.make_simulation, module=simulation
    )
    shown = "".join(line.source for line in example.examples)
    assert simulation_in(shown) == simulation_in(program_in("docs/guides/python.md"))
