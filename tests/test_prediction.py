"""Prediction over a network: two halves of one run, and nobody else's."""

import contextlib
import csv
import dataclasses
import io
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import jsplit
from jsplit.cli.main import main
from jsplit.core.gates import FreezeGate
from jsplit.errors import InputError, RunError
from jsplit.experiment.build import load_dataset
from jsplit.experiment.workdir import RunFolder
from jsplit.net import prediction
from jsplit.net.channel import local_channel
from jsplit.net.prediction import PredictionServer, remote_logits, run_name
from jsplit.testing import TINY_RUN, compile_once, run_in_process
from jsplit.testing.network import hello_of
from jsplit.wire.messages import (
    VERSION,
    Goodbye,
    Place,
    PredictionHello,
    Tensor,
    write_message,
)
from tests.runs import ROOT, refused
from tests.test_export import trained_folder

CONFIG = dataclasses.replace(TINY_RUN, epochs=2, gate=FreezeGate(1), codec="bf16")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of the server and the client of a finished run, and the run."""
    with compile_once(tmp_path_factory.getbasetemp()):
        path = tmp_path_factory.mktemp("run")
        run, _ = run_in_process(CONFIG, path)
    return path / "server", path / "client-0", run


@pytest.fixture(scope="module")
def halves(folders):
    return tuple(map(jsplit.load_run, folders[:2]))


@pytest.fixture
def server(halves):
    said = []
    found = PredictionServer(halves[0], run_name(halves[0].folder), said.append)
    return found, said


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(CONFIG, print)


def connector(server, identity=None):
    return lambda: local_channel(server.handle_connection, identity)


def test_the_score_over_the_network_is_that_of_the_run(
    folders, halves, server, dataset
):
    client, name = halves[1], run_name(folders[1])
    logits = remote_logits(client, name, dataset.test_images, connector(server[0], 0))
    right = int(np.sum(np.argmax(logits, -1) == dataset.test_labels))
    assert right == folders[2].records[-1]["test_correct"]
    assert server[1] == ["predicted 100 examples for client 0"]


def test_batches_of_any_number_are_answered_in_order(
    halves, server, dataset, monkeypatch
):
    client, name = halves[1], run_name(halves[1].folder)
    whole = remote_logits(client, name, dataset.test_images[:7], connector(server[0]))
    monkeypatch.setattr(prediction, "TEST_BATCH", 3)
    parts = remote_logits(client, name, dataset.test_images[:7], connector(server[0]))
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)


def test_halves_of_two_runs_do_not_predict_together(halves, server, dataset):
    with pytest.raises(InputError, match="OTHER_RUN: the client's half was trained in"):
        remote_logits(
            halves[1], bytes(16), dataset.test_images[:1], connector(server[0])
        )
    assert server[1][0].startswith("refused local: OTHER_RUN")


def _hello(halves):
    return PredictionHello(VERSION, run_name(halves[0].folder))


@pytest.mark.parametrize(
    ("messages", "name"),
    [
        (lambda hello: [hello_of(CONFIG)], "UNEXPECTED"),
        (lambda hello: [dataclasses.replace(hello, version=VERSION + 1)], "VERSION"),
        (lambda hello: [hello, hello], "UNEXPECTED"),
        (lambda hello: [hello, tensor(rows=0)], "SHAPE"),
        (lambda hello: [hello, tensor(rows=501)], "SHAPE"),
        (lambda hello: [hello, tensor(values=7)], "SHAPE"),
        (lambda hello: [hello, tensor(dtype=0)], "DTYPE"),
        (lambda hello: [hello, tensor(body=b"\xff")], "MALFORMED"),
    ],
)
def test_what_is_no_question_is_refused_by_name_and_the_server_goes_on(
    halves, server, dataset, messages, name
):
    for _ in range(2):
        with connector(server[0])() as channel:
            for message in messages(_hello(halves)):
                channel.send(write_message(message))
            with pytest.raises(jsplit.errors.Refusal, match=f"^{name}: "):
                channel.receive(20.0)
    run = run_name(halves[1].folder)
    found = remote_logits(halves[1], run, dataset.test_images[:1], connector(server[0]))
    assert found.shape == (1, 10)


def tensor(dtype=2, rows=1, values=256, body=b""):
    return Tensor(Place(0, 0, 0), dtype, rows, values, b"", body)


def test_a_connection_that_ends_is_no_fault(halves, server):
    with connector(server[0])() as channel:
        channel.send(write_message(_hello(halves)))
        channel.send(write_message(Goodbye()))
    assert server[1] == []


def test_a_server_that_is_not_there_is_said_in_one_line(halves, dataset):
    @contextlib.contextmanager
    def nobody():
        raise jsplit.net.channel.ConnectionLost("nobody there")
        yield

    with pytest.raises(RunError, match="nobody there.*; is jsplit serve --predict run"):
        remote_logits(halves[1], bytes(16), dataset.test_images[:1], nobody)


def test_a_folder_that_names_no_networked_run_is_said_to_be_none(folders, tmp_path):
    copy = shutil.copytree(folders[1], tmp_path / "copy")
    (copy / "run").unlink()
    with pytest.raises(
        InputError, match="copy is no folder of a networked run's"
    ) as no:
        run_name(copy)
    assert "holds neither members.json nor run" in str(no.value)
    (copy / "run").write_bytes(b"short")
    with pytest.raises(InputError, match="copy is no folder .*a name of 5 bytes"):
        run_name(copy)


def test_a_run_on_one_machine_needs_no_server_to_predict(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunFolder(trained_folder(tmp_path / "whole")).config.write_text("{}")
    words = ("serve", "--predict", "--workdir", "whole", "--insecure")
    said = refused(capsys, lambda: main(words))
    assert "whole is of a run on one machine" in said and "Errno" not in said
    assert "use jsplit predict whole with the images" in said


# The commands


@contextlib.contextmanager
def serving(folder):
    """The address of `jsplit serve --predict` in a process of its own."""
    words = ("serve", "--predict", "--workdir", folder, "--insecure")
    with subprocess.Popen(
        [sys.executable, "-m", "jsplit", *words, "--listen", "127.0.0.1:0"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            line = process.stdout.readline()
            yield re.search(r"listening on (127\.0\.0\.1:\d+) to predict", line)[1]
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=20)[0].splitlines()
            assert process.returncode == 130
            assert said[-1].endswith("stopped") and "stopping" in said[-2]
        finally:
            process.kill()


def test_predict_asks_a_server_by_two_commands(folders, dataset, tmp_path, capsys):
    file = tmp_path / "some.npz"
    np.savez(file, images=dataset.test_images, labels=dataset.test_labels)
    with serving(folders[0]) as address:
        words = ("--server", address, "--insecure")
        assert main(["predict", str(folders[1]), str(file), *words]) == 0
    shown = capsys.readouterr()
    right = folders[2].records[-1]["test_correct"]
    assert shown.err == f"accuracy {right / 100:.2%}: {right} of 100 images\n"
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    assert len(rows) == 100 and "p_ankle boot" in rows[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "{client}", "x.npz", "--server", "here"), "--server must be HOST"),
        (
            ("predict", "{client}", "x.npz", "--server", "127.0.0.1:1"),
            "--certs FOLDER is needed",
        ),
        (("predict", "{client}", "x.npz"), "jsplit predict --server HOST:PORT asks it"),
        (("serve", "--predict"), "--predict needs the server's folder"),
        (
            ("serve", "--predict", "--workdir", "{client}", "--insecure"),
            "holds the client's half alone",
        ),
        (
            ("serve", "--predict", "--workdir", "{server}", "--model", "vgg11"),
            "--model is for a training; with --predict the folder says all settings",
        ),
    ],
)
def test_what_cannot_predict_is_refused_in_one_line(
    folders, words, said, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    # Pictures that are cut to fit, which would be said.
    np.savez("x.npz", images=np.zeros((1, 8, 12), np.uint8))
    names = {"server": folders[0], "client": folders[1]}
    words = [word.format(**names) for word in words]
    assert said in refused(capsys, lambda: main(words))


@pytest.mark.parametrize("words", ["--certs c", "--insecure", "--ping-timeout 9"])
def test_what_is_for_a_server_is_refused_where_none_is_named(words, capsys):
    said = refused(capsys, lambda: main(["predict", "run", "x.npz", *words.split()]))
    assert f"{words.split()[0]} is for --server, and none is named" in said
