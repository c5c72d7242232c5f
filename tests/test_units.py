"""The systemd units of the example let a process do no more than it needs."""

import configparser
import shutil
import subprocess

import pytest

from jsplit.cli.terminal import INTERRUPTED
from tests.runs import ROOT

EXAMPLE = ROOT / "examples" / "two_machines"
UNITS = ("jsplit-server.service", "jsplit-client@.service")

HARDENED = {
    "DynamicUser": "yes",
    "StateDirectory": "jsplit",
    "StateDirectoryMode": "0700",
    "UMask": "0077",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "RestrictNamespaces": "yes",
    "SystemCallArchitectures": "native",
}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def service(unit: str) -> dict[str, list[str]]:
    """What a unit's section of that name says, in order; some keys come twice."""
    said: dict[str, list[str]] = {}
    section = ""
    for line in (EXAMPLE / unit).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            said.setdefault(name, []).append(value)
    return said


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_hardened_and_lets_xla_compile(unit):
    said = service(unit)
    assert {name: said[name][-1] for name in HARDENED} == HARDENED
    assert "MemoryDenyWriteExecute" not in said, "XLA could run no program"
    assert said["SystemCallFilter"] == ["@system-service", "~@privileged"]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_starts_again_what_broke_and_not_what_is_refused_for_good(unit):
    said = service(unit)
    assert said["Restart"] == ["on-failure"]
    assert said["RestartPreventExitStatus"] == ["2"], "bad input"
    # Of SIGTERM, by which systemd stops it, and of Ctrl-C.
    assert said["SuccessExitStatus"] == [f"{INTERRUPTED} {128 + 15}"]
    parser = configparser.RawConfigParser(strict=False)
    parser.read(EXAMPLE / unit)
    assert parser["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_writes_where_it_may_and_reads_the_keys_that_it_is_given(unit):
    said = service(unit)
    (start,) = said["ExecStart"]
    words = start.split()
    assert words[words.index("--certs") + 1] == "${CREDENTIALS_DIRECTORY}"
    assert words[words.index("--workdir") + 1].startswith("/var/lib/jsplit/")
    assert words[words.index("--compile-cache") + 1] == "/var/cache/jsplit"
    assert said["CacheDirectory"] == ["jsplit"]
    files = [one.partition(":")[0] for one in said["LoadCredential"]]
    assert files == ["authority.pem", "certificate.pem", "key.pem"]


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_a_unit_and_finds_it_little_exposed(unit, tmp_path):
    text = (EXAMPLE / unit).read_text().replace("/opt/jsplit/bin/jsplit", "/bin/true")
    name = unit.replace("@.", "@0.")
    for each in (unit, name):
        (tmp_path / each).write_text(text)
    for words in (
        ("verify", "--man=no"),
        ("security", "--offline=true", "--no-pager", "--threshold=20"),
    ):
        ended = subprocess.run(
            ["systemd-analyze", *words, f"./{name}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        if words[0] == "verify":
            assert ended.stderr == "", "it warns of what it does not understand"
