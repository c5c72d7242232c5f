"""The contracts of import-linter hold what they say, and catch who breaks them."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib

from tests.runs import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

VIOLATIONS = {
    # What a module must not import, and the contract that says so.
    "jsplit.core.state -> pathlib": "The method knows no files, sockets or processes",
    "jsplit.models.cuts -> socket": "The method knows no files, sockets or processes",
    "jsplit.core.store -> rich": "import no package of an extra",
    "jsplit.codecs.plain -> orbax": "import no package of an extra",
    "jsplit.runtime.device -> tyro": "import no package of an extra",
    "jsplit.core.gate -> jsplit.experiment.config": "only the packages below it",
    "jsplit.data.files -> tensorflow": "Nothing imports TensorFlow",
}


def plain(requirement):
    """The name of a distribution: `orbax-checkpoint` of `orbax_checkpoint>=0.12`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def contract(id):
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    return next(contract for contract in contracts if contract["id"] == id)


def test_the_method_is_forbidden_every_package_of_every_extra():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    optional = {
        plain(requirement)
        for name, requirements in extras.items()
        for requirement in requirements
        if name not in ("dev", "docs")
    }
    optional -= {"jsplit", *map(plain, project["dependencies"])}
    assert {"rich", "grpcio", "array-record", "torch"} <= optional
    known = importlib.metadata.packages_distributions()
    modules = {}
    for module, distributions in known.items():
        for distribution in distributions:
            modules.setdefault(plain(distribution), set()).add(module)
    forbidden = contract("method-without-extras")["forbidden_modules"]
    missing = [
        name
        for name in sorted(optional)
        if not modules.get(name, {name.replace("-", "_")}) & {*forbidden}
    ]
    assert missing == []


def test_an_import_against_a_contract_is_caught(tmp_path):
    shutil.copytree(ROOT / "jsplit", tmp_path / "jsplit")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for violation in VIOLATIONS:
        importer, imported = violation.split(" -> ")
        path = tmp_path / (importer.replace(".", "/") + ".py")
        path.write_text(path.read_text() + f"\nimport {imported}\n")
    command = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
    )
    assert done.returncode == 1, done.stderr
    _, _, broken = done.stdout.partition("Broken contracts")
    said = {}
    for paragraph in re.split(r"\n(?=[^\n]+\n-+\n)", broken):
        said[paragraph.strip().partition("\n")[0]] = paragraph
    for violation, name in VIOLATIONS.items():
        (paragraph,) = (text for title, text in said.items() if name in title)
        assert violation in paragraph
