"""The status port says what the server's counters say, to this machine alone."""

import collections
import dataclasses
import json
import re
import socket
import sys
import types
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jsplit.cli import main as cli
from jsplit.codecs import CODECS
from jsplit.errors import InputError, Refusal
from jsplit.net.channel import local_channel
from jsplit.net.client_manager import AbsencePolicy, ClientManager
from jsplit.net.client_session import ClientAbsent
from jsplit.net.metrics import LAGGING, families_of, make_registry
from jsplit.net.status import Status, health_of, status_of
from jsplit.net.status_server import serve_status
from jsplit.testing import TINY_RUN, hello_of, run_in_process, waiting_server
from jsplit.wire.messages import write_message
from tests.runs import ROOT, TINY, refused

pytestmark = pytest.mark.usefixtures("cache")

CALM = Status(
    phase="training",
    state="A",
    epoch=2,
    epochs=6,
    lags=(0.5, None),
    connected=(True, False),
    absent=(),
    missing=(),
    waited=0.0,
    limit=300.0,
    crossed=collections.Counter({("activations", "up"): 1000}),
    saved=collections.Counter({("activations", "up"): 200}),
    repeated=collections.Counter({("repeated", "down"): 7}),
    totals={"up": 1000, "down": 7},
    tcp_bytes=1100,
    refused={"SETTINGS": 2},
    reconnections=3,
    unserved=4,
    train_loss=0.25,
    test_accuracy=None,
    seconds=10.0,
    last_seconds=4.0,
)
"""A server in the middle of its training."""


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    (
        ({}, 200, None),
        # In C and under --absent skip nobody is waited for.
        ({"state": "C", "connected": (False, False)}, 200, None),
        ({"absent": (1,)}, 200, None),
        ({"missing": (1,), "waited": 299.0}, 200, None),
        ({"missing": (1,), "waited": 301.0}, 503, "301 s, longer than --wait 300"),
        ({"phase": "gathering", "missing": (0, 1), "waited": 301.0}, 503, "--wait"),
        ({"phase": "failed"}, 503, "has failed"),
        ({"phase": "finished"}, 200, None),
    ),
)
def test_unhealthy_is_who_has_failed_or_waits_beyond_the_limit(changes, code, reason):
    found, body = health_of(CALM._replace(**changes))
    assert found == code
    assert (body["status"] == "ok") == (code == 200)
    assert body["reason"] is None if reason is None else reason in body["reason"]
    assert body["clients"]["waited_for"] == list(changes.get("missing", ()))
    assert (body["epoch"], body["epochs"]) == (2, 6)


def get(port, path):
    """Code, type and body of what the status port answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as to:
            return to.status, to.headers["Content-Type"], to.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_the_port_answers_healthz_and_metrics_and_nothing_else():
    now = CALM
    with serve_status(0, lambda: now) as port:
        code, kind, body = get(port, "/healthz")
        assert (code, kind) == (200, "application/json")
        assert json.loads(body)["clients"]["connected"] == 1
        now = CALM._replace(phase="failed")
        assert get(port, "/healthz")[0] == 503
        code, kind, body = get(port, "/metrics")
        assert code == 200 and kind.startswith("text/plain")
        names = {family.name for family in text_string_to_metric_families(body)}
        assert {"jsplit_phase", "process_cpu_seconds"} <= names
        assert get(port, "/")[0] == get(port, "/healthz/x")[0] == 404
        with pytest.raises(InputError, match=f"--status-port {port}: .* name another"):
            with serve_status(port, lambda: now):
                pass
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()


def test_the_port_is_on_loopback_alone():
    with serve_status(0, lambda: CALM) as port:
        with pytest.raises(OSError), socket.socket() as other:
            other.settimeout(1)
            other.connect(("127.0.0.2", port))


def test_who_asks_nothing_keeps_nobody_from_asking():
    with serve_status(0, lambda: CALM) as port:
        with socket.create_connection(("127.0.0.1", port), 10):
            assert get(port, "/healthz")[0] == 200


def values_of(status):
    """Every sample: by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families_of(status)
        for sample in family.samples
    }


def test_metrics_are_what_the_status_says():
    found = values_of(CALM)
    assert found["jsplit_phase", "training"] == found["jsplit_gate_state", "A"] == 1
    assert found["jsplit_phase", "failed"] == found["jsplit_gate_state", "C"] == 0
    assert found["jsplit_traffic_bytes_total", "activations", "up"] == 1000
    assert found["jsplit_saved_bytes_total", "activations", "up"] == 200
    assert found["jsplit_repeated_bytes_total", "down"] == 7
    assert found["jsplit_message_bytes_total", "up"] == 1000
    assert found["jsplit_tcp_bytes_total",] == 1100
    assert found["jsplit_refusals_total", "SETTINGS"] == 2
    assert found["jsplit_reconnections_total",] == 3
    assert found["jsplit_connections_without_session_total",] == 4
    assert found["jsplit_train_loss",] == 0.25
    assert ("jsplit_test_accuracy",) not in found  # There was no score yet.
    assert found["jsplit_epoch_seconds_sum",] == 10
    assert found["jsplit_client_lag_seconds", "0"] == 0.5
    assert ("jsplit_client_lag_seconds", "1") not in found


def test_a_run_of_many_clients_has_a_bounded_number_of_series():
    many = CALM._replace(lags=(1.0,) * 9_999 + (7.0,), connected=(True,) * 10_000)
    found = values_of(many)
    assert len(found) < LAGGING + 100
    assert found["jsplit_client_lag_max_seconds",] == 7
    assert len(json.dumps(health_of(many._replace(missing=(*range(9999),))))) < 1000


def test_a_server_that_gathers_says_for_whom_it_waits_and_whom_it_refused(tmp_path):
    config = dataclasses.replace(TINY_RUN, clients=2)
    with waiting_server(config, tmp_path) as (run, said):
        before = status_of(run, 60.0)
        assert (before.phase, before.missing) == ("gathering", (0, 1))
        assert before.epochs == 6 and before.state is None
        assert health_of(status_of(run, 0.0))[0] == 503
        for _ in range(2):
            with local_channel(run.admission.handle_connection, 0) as channel:
                channel.send(write_message(hello_of(TINY_RUN)))  # of one client
                with pytest.raises(Refusal, match="SETTINGS"):
                    channel.receive(10)
        assert status_of(run, 60.0).refused == {"SETTINGS": 2}
    (event,) = [one for one in said if one.startswith("refused")]
    assert event.name == "refused"
    assert event.fields == {"reason": "SETTINGS", "client": 0, "remote": "local"}
    assert status_of(run, 60.0).phase == "stopped"


def test_whom_the_training_waits_for_is_known_while_it_waits():
    class Silent:
        """A client that answers when it is asked for the fourth time."""

        connected = False

        def next_message(self, timeout):
            seen.append(manager.waiting)
            if len(seen) < 4:
                raise ClientAbsent(0)
            return "a message"

    seen = []
    setup = types.SimpleNamespace(codec=CODECS["identity"], smashed_shape=(2, 2, 1))
    policy = AbsencePolicy(10.0, skip=False)
    manager = ClientManager(setup, [Silent()], None, policy, lambda: False)
    assert manager.next_message(0) == "a message" and manager.waiting is None
    assert seen == [None, (0, 0.5), (0, 1.0), (0, 1.5)]


@pytest.mark.slow  # The first tier looks at the run of test_networked.py.
def test_the_metrics_of_a_run_are_those_that_it_counted(tmp_path):
    run, _ = run_in_process(TINY_RUN, tmp_path)
    status = status_of(run, 60.0)
    assert (status.phase, status.epoch, status.epochs) == ("finished", 6, 6)
    assert status.state == "C" and status.waited == 0 and health_of(status)[0] == 200
    assert status.lags[0] is not None and status.lags[0] < 120
    assert status.train_loss == run.records[-1]["train_loss"]
    assert status.test_accuracy == run.records[-1]["test_accuracy"]
    found = values_of(status)
    for (kind, way), count in run.counter.crossed.items():
        assert found["jsplit_traffic_bytes_total", *sorted((kind, way))] == count
    both = (found["jsplit_message_bytes_total", way] for way in ("up", "down"))
    assert sum(both) == run.counter.total
    assert found["jsplit_epoch_seconds_count",] == 6


def queries():
    """Every expression of the dashboard and of the alerts, with where it stands."""
    board = json.loads((ROOT / "deploy/grafana/jsplit.json").read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    for panel in panels:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    alerts = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    yield from re.findall(r"alert: (\w+)\n\s+expr: (.+)", alerts)


def exported():
    """The names of every sample that a server's registry may have."""
    suffixes = {
        "counter": ("_total",),
        "info": ("_info",),
        "summary": ("_count", "_sum"),
    }
    registry = make_registry(lambda: CALM)
    return {
        family.name + suffix
        for family in registry.collect()
        for suffix in suffixes.get(family.type, ("",))
    }


def test_dashboard_and_alerts_ask_for_metrics_that_a_server_exports():
    # Prometheus itself makes `up`, of every server that it asks.
    known, seen = exported() | {"up"}, set()
    for where, query in queries():
        named = set(re.findall(r"\b(?:jsplit_|process_|up\b)\w*", query))
        assert named, (where, query)
        assert named <= known, (where, named - known)
        seen |= named
    assert len(seen) > 15


def test_the_page_for_operators_describes_every_metric():
    page = (ROOT / "docs/guides/operator.md").read_text()
    table = page.partition("## Metrics")[2].partition("\n## ")[0]
    own = {name for name in exported() if name.startswith("jsplit_")}
    assert set(re.findall(r"\bjsplit_\w+", table)) == own


def test_without_prometheus_client_the_remedy_is_said(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    words = ("serve", *TINY, "--insecure", "--status-port", "0", "--workdir", "w")
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, lambda: cli.main([*map(str, words)]))
    assert "needs prometheus_client" in said and "pip install 'jsplit[all]'" in said
    assert not list(tmp_path.iterdir())
