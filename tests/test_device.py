"""A device that is named is that one or a refusal in one line."""

import jax
import pytest

from jsplit.cli import run
from jsplit.errors import InputError
from jsplit.runtime import device
from tests.runs import TINY, run_here


@pytest.fixture
def platforms():
    """Sets what JAX_PLATFORMS says; JAX reads it before this only."""
    before = jax.config.jax_platforms
    yield lambda value: jax.config.update("jax_platforms", value)
    jax.config.update("jax_platforms", before)


@pytest.mark.parametrize("name", ["auto", "cpu"])
@pytest.mark.parametrize("allowed", [None, "", "cpu", "cuda,cpu"])
def test_what_is_there_is_taken_and_named(platforms, name, allowed):
    platforms(allowed)
    device.choose(name)
    assert device.describe().startswith("cpu, ")
    assert jax.config.jax_platforms == ("cpu" if name == "cpu" else allowed)


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_a_device_that_is_missing_is_refused_with_a_way_out(platforms, name):
    platforms(None)
    with pytest.raises(InputError, match=f"no {name.upper()} here, only cpu") as said:
        device.choose(name)
    assert "install" in str(said.value) and "--device auto" in str(said.value)


@pytest.mark.parametrize(
    ("name", "allowed", "agree"),
    [
        ("gpu", "cpu", False),
        ("cpu", "cuda", False),
        ("tpu", "cuda,cpu", False),
        ("gpu", "cuda", True),
        ("gpu", "rocm,cpu", True),
        ("gpu", "gpu", True),
    ],
)
def test_a_device_that_jax_platforms_excludes_is_refused(
    platforms, monkeypatch, name, allowed, agree
):
    platforms(allowed)
    monkeypatch.setattr(jax, "default_backend", lambda: name)
    if agree:
        device.choose(name)
        return
    with pytest.raises(InputError, match=f"contradicts JAX_PLATFORMS={allowed}; drop"):
        device.choose(name)


@pytest.mark.parametrize("error", [RuntimeError("Unable to start"), AssertionError()])
def test_a_device_that_does_not_start_is_refused(platforms, monkeypatch, error):
    def fail():
        raise error

    platforms("cuda")
    monkeypatch.setattr(jax, "default_backend", fail)
    with pytest.raises(InputError, match="cannot start on JAX_PLATFORMS=cuda") as said:
        device.choose("auto")
    assert (str(error) or "no such device") in str(said.value)


def test_the_refusal_comes_before_any_data_is_loaded(capsys, monkeypatch, platforms):
    def refuse(*args):
        raise AssertionError("data was loaded")

    platforms(None)
    monkeypatch.setattr(run, "load_dataset", refuse)
    assert run_here(*TINY, "--device", "gpu") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --device gpu: JAX finds no GPU here")
    assert said.count("\n") == 1
