"""Real processes over gRPC and mutual TLS end bit for bit as one process does."""

import dataclasses
import json
import time

import pytest

from jsplit.experiment.quantities import human_bytes
from jsplit.net import certificates
from jsplit.testing import (
    TINY_RUN,
    NetworkProcesses,
    result_of,
    run_in_process,
    run_in_processes,
)
from tests.runs import lines_of
from tests.tiers import sample

CASES = (
    (1, "parallel"),
    (1, "sequential"),
    (2, "parallel"),
    (2, "sequential"),
    (5, "parallel"),
    (5, "sequential"),
)


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certs") / "made"
    certificates.make_certificates(folder, ["127.0.0.1"], 5)
    return folder


@pytest.fixture(scope="module")
def reference(cache, tmp_path_factory):
    """Each case's run in this process, made once."""
    made = {}

    def get(clients, topology):
        if (clients, topology) not in made:
            path = tmp_path_factory.mktemp("reference")
            config = dataclasses.replace(TINY_RUN, clients=clients, topology=topology)
            run, _ = run_in_process(config, path)
            made[clients, topology] = (config, run, result_of(path, run))
        return made[clients, topology]

    return get


@pytest.mark.parametrize(("clients", "topology"), sample(CASES, (2, "sequential")))
def test_processes_end_as_one_process_does(
    clients, topology, reference, cache, certs, tmp_path
):
    config, run, expected = reference(clients, topology)
    serve, join = ("--log", "json", "--status-port", "0"), ("--log", "json")
    run_in_processes(config, tmp_path, cache, certs, serve, join)
    assert result_of(tmp_path, run) == expected
    for name in ("server", *(f"client-{n}" for n in range(clients))):
        lines = (tmp_path / f"{name}.log").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        assert all({"time", "level", "message"} <= event.keys() for event in events)
        # A busy machine may take a client for a stranger that never said hello.
        events = [
            event for event in events if event["event"] != "connection_without_session"
        ]
        names = [event["event"] for event in events]
        began = "listening" if name == "server" else "joining"
        assert names[0] == began and names[-1] == "finished"
        epochs = [event for event in events if event["event"] == "epoch"]
        assert len(epochs) == (6 if name == "server" else 3)
        last = events[-1]
        if name != "server":
            assert epochs[-1]["total_bytes"] <= last["sent"] + last["received"]
            continue
        # The line says what the fields say, each by a name of its own.
        records = lines_of(tmp_path / "server")
        for event, record in zip(epochs, records, strict=True):
            assert event["predicted_bytes"] == record["wire_bytes"]
            assert event["reduction"] == record["wire_reduction"]
            assert event["total_bytes"] == record["counted_bytes"]
            predicted = human_bytes(record["wire_bytes"])
            said = f"predicted {predicted} (/{record['wire_reduction']:.2f})  crossed"
            crossed = human_bytes(record["counted_bytes"])
            assert f"{said} {crossed}  ETA" in event["message"]
        assert last["total_bytes"] > epochs[-1]["total_bytes"]
    summary = json.loads((tmp_path / "server" / "summary.json").read_text())
    network = summary["network"]
    for ways in network["difference"].values():
        assert ways == {"up": 0, "down": 0}
    assert network["counted"]["repeated"] == {"up": 0, "down": 0}
    socket = network["socket"]
    assert socket["tcp_bytes"] > socket["message_bytes"]
    for folder in (tmp_path / "server", tmp_path / "client-0"):
        readable = [p for p in (folder, *folder.rglob("*")) if p.stat().st_mode & 0o77]
        assert readable == [], "others can read what the command line wrote"


@pytest.mark.slow
def test_a_finished_run_served_again_keeps_its_summary(cache, tmp_path):
    serve = ("--linger", "0")
    with NetworkProcesses(TINY_RUN, tmp_path, cache, None, serve) as started:
        for name in started.names():
            started.start(name)
        assert set(started.wait().values()) == {0}, started.log("server")
        summary = (tmp_path / "server" / "summary.json").read_text()
        again = started.start("server")
        assert again.wait(120) == 0, started.log("server")
    assert (tmp_path / "server" / "summary.json").read_text() == summary


@pytest.mark.slow
def test_an_older_summary_is_refused_with_what_makes_it_again(cache, tmp_path):
    file = tmp_path / "server" / "summary.json"
    given = TINY_RUN, tmp_path, cache, None, ("--linger", "0")
    with NetworkProcesses(*given) as processes:
        for name in processes.names():
            processes.start(name)
        assert set(processes.wait().values()) == {0}, processes.log("server")
        summary = json.loads(file.read_text())
        older = {name: value for name, value in summary.items() if name != "dataset"}
        file.write_text(json.dumps(older))
        assert processes.start("server").wait(120) == 2
        remedy = "delete it, and jsplit serve --resume --linger 0 --workdir"
        assert f"of another version (no dataset); {remedy}" in processes.log("server")
        file.unlink()
        # No client is there to help.
        assert processes.start("server").wait(120) == 0, processes.log("server")
    again = json.loads(file.read_text())
    for unlike in (summary, again):
        del unlike["network"], unlike["device"]
    assert again == summary


@pytest.mark.slow
@pytest.mark.parametrize("victim", ("server", "client-0", "client-1"))
def test_a_party_killed_and_started_again_changes_nothing(
    victim, reference, cache, certs, tmp_path
):
    config, run, expected = reference(2, "parallel")
    with NetworkProcesses(config, tmp_path, cache, certs) as started:
        for name in started.names():
            started.start(name)
        metrics = tmp_path / "server" / "metrics.jsonl"
        for epochs in (1, 3):
            deadline = time.monotonic() + 120
            while not (metrics.exists() and metrics.read_text().count("\n") >= epochs):
                assert time.monotonic() < deadline, started.log("server")
                time.sleep(0.01)
            started.kill(victim)
            started.start(victim)
        codes = started.wait()
    assert set(codes.values()) == {0}, started.log("server") + started.log(victim)
    assert result_of(tmp_path, run) == expected
