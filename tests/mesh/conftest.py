"""Compiled programs, runs to compare with, and virtual devices."""

import pytest

from tests.mesh.runs import TINY
from tests.runs import run_here


@pytest.fixture(scope="module")
def one_device(cache, tmp_path_factory):
    """Runs on one device, by their flags; each is made once."""
    made = {}

    def run(*flags):
        if flags not in made:
            path = tmp_path_factory.mktemp("one") / "run"
            assert run_here(*TINY, *flags, "--workdir", path) == 0
            made[flags] = path
        return made[flags]

    return run


@pytest.fixture
def devices(monkeypatch):
    """Sets how many devices the processes that a test starts have."""

    def have(count):
        flags = f"--xla_force_host_platform_device_count={count}"
        monkeypatch.setenv("XLA_FLAGS", flags)

    return have
