"""The example's units and commands, on one machine."""

import configparser
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jsplit.testing import free_port
from tests.runs import ROOT

EXAMPLE = ROOT / "examples" / "two_machines"


def command(unit: str) -> list[str]:
    """What a unit starts, after the program's own path."""
    parser = configparser.RawConfigParser(strict=False)  # Some keys come twice.
    parser.read(EXAMPLE / unit)
    words = shlex.split(parser["Service"]["ExecStart"])
    assert words[0] == "/opt/jsplit/bin/jsplit"
    assert parser["Service"]["Restart"] == "on-failure"
    return words[1:]


def by_hand() -> list[list[str]]:
    lines = (EXAMPLE / "README.md").read_text().splitlines()
    return [
        shlex.split(line)[1:]
        for line in lines
        if line.startswith(("    jsplit serve", "    jsplit join"))
    ]


def units() -> list[list[str]]:
    client = command("jsplit-client@.service")
    return [
        command("jsplit-server.service"),
        *([word.replace("%i", number) for word in client] for number in "01"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("commands", (by_hand, units))
def test_the_example_runs_to_its_end(commands, tmp_path):
    jsplit = [sys.executable, "-m", "jsplit"]
    certs = shlex.split("certs certs --hosts 127.0.0.1 --clients 2")
    subprocess.run([*jsplit, *certs], cwd=tmp_path, check=True, env=environment())
    port = free_port()
    names = ("server", "client-0", "client-1")
    children = {}
    try:
        for name, words in zip(names, commands(), strict=True):
            home = tmp_path / name
            home.mkdir()
            here = {
                "/etc/jsplit/run.toml": EXAMPLE / "run.toml",
                "run.toml": EXAMPLE / "run.toml",
                "/etc/jsplit/certs": tmp_path / "certs" / name,
                "${CREDENTIALS_DIRECTORY}": tmp_path / "certs" / name,
                "0.0.0.0:7070": f"127.0.0.1:{port}",
                "server.example:7070": f"127.0.0.1:{port}",
                "/var/cache/jsplit": tmp_path / "cache",
            }
            words = [
                str(here.get(word, word.replace("/var/lib/jsplit", str(home))))
                for word in words
            ]
            children[name] = subprocess.Popen(
                [*jsplit, *words, "--epochs", "3"],
                cwd=home,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        said = {
            name: child.communicate(timeout=240) for name, child in children.items()
        }
    finally:
        for child in children.values():
            child.kill()
    codes = {name: child.returncode for name, child in children.items()}
    assert set(codes.values()) == {0}, said
    (summary,) = tmp_path.glob("server/**/summary.json")
    found = json.loads(summary.read_text())
    assert found["states"][0] == "A" and found["test_accuracy"] > 0.2
    for ways in found["network"]["difference"].values():
        assert ways == {"up": 0, "down": 0}


def environment() -> dict[str, str]:
    import os

    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(ROOT))}
