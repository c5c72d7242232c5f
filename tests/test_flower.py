"""`flwr run` starts a run, and its batches cross our stream. For the extra alone."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jsplit.testing import (
    TINY_RUN,
    compile_once,
    free_port,
    result_of,
    run_in_process,
    words_for,
)
from tests.runs import ROOT

pytest.importorskip("flwr", reason="jsplit[flower] is not installed: make flower")

SECONDS = 300


def program(name):
    """One of Flower's own, beside this Python."""
    return str(Path(sys.executable).with_name(name))


@contextlib.contextmanager
def running(*words, env, log):
    with open(log, "wb") as out:
        child = subprocess.Popen(words, env=env, cwd=log.parent, stdout=out, stderr=out)
    with child:
        try:
            yield child
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(20)
            child.kill()


def ended(path):
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.5)
    return json.loads(path.read_text())


def test_flwr_run_trains_to_the_bit_as_without_flower(tmp_path):
    with compile_once(tmp_path / "kept") as cache:
        expected, _ = run_in_process(TINY_RUN, tmp_path / "local")
    home = tmp_path / "home"
    home.mkdir()
    link, node, stream = (f"127.0.0.1:{free_port()}" for _ in range(3))
    (home / "config.toml").write_text(
        f'[superlink.local]\naddress = "{link}"\ninsecure = true\n'
    )
    env = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def at(address):
        host, _, port = address.partition(":")
        return ("--insecure", "--host", host, "--port", port)

    run = " ".join(word for word in words_for(TINY_RUN))
    folder = tmp_path / "server"
    settings = (
        f'clients=1 run="{run}" listen="{stream}" address="{stream}" '
        f'serve="--workdir {folder}" patience=60.0'
    )
    logs = {name: tmp_path / f"{name}.log" for name in ("link", "node", "run")}
    own = f'jsplit="--workdir {tmp_path / "client"}"'
    without = "--disable-runtime-dependency-installation"
    with (
        running(
            *(program("flower-superlink"), *at(link), without),
            env=env,
            log=logs["link"],
        ),
        running(
            *(program("flower-supernode"), *at(node), "--superlink", link),
            *("--node-config", own),
            env=env,
            log=logs["node"],
        ),
    ):
        for _ in range(30):  # Until the link listens.
            submitted = subprocess.run(
                [program("flwr"), "run", str(ROOT / "examples" / "flower"), "local"]
                + ["--run-config", settings],
                env=env,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
            if submitted.returncode == 0:
                break
            time.sleep(1)
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        try:
            summary = ended(folder / "summary.json")
        except AssertionError:
            print(*(log.read_text() for log in logs.values() if log.exists()))
            raise
    assert summary["states"] == expected.ledger.states
    assert summary["network"]["counted"]["activations"]["up"] > 0
    assert result_of(tmp_path, expected) == result_of(tmp_path / "local", expected)
