"""What cannot be run is refused at once: one line, exit code 2, nothing left behind."""

import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jsplit.cli import main as cli
from jsplit.cli import parsing, run
from jsplit.data import cifar10, fashion_mnist
from jsplit.errors import InputError
from jsplit.experiment.config import RunConfig, flat
from jsplit.runtime import device
from tests.runs import TINY, refused, run_here

BAD_FLAGS = {
    # One flag, and what its refusal must say: the value and a way out.
    "--model lenet": ("'lenet'", "cnn"),
    "--model=": ("--model ''", "cnn"),
    "--dataset mnist": ("'mnist'", "fashion_mnist_10k"),
    "--dataset missing.npz": ("'missing.npz'", "No such file"),
    "--dataset ~no-such-user/my.npz": ("'~no-such-user/my.npz'", "No such file"),
    "--gate never": ("--gate 'never'", "periodic"),
    "--codec float4": ("--codec 'float4'", "e5m2"),
    "--grad-codec float4": ("--grad-codec 'float4'", "identity"),
    "--precision float16": ("--precision 'float16'", "bfloat16"),
    "--device tpv": ("--device 'tpv'", "auto, cpu, gpu, tpu"),
    "--device gpu": ("--device gpu contradicts JAX_PLATFORMS=cpu", "drop one"),
    "--compile-cache=": ("--compile-cache", "must name a folder, got ''"),
    "--topology ring": ("--topology 'ring'", "sequential"),
    "--partition sorted": ("partition 'sorted'", "dirichlet:ALPHA"),
    "--partition dirichlet:-1": ("'-1'", "dirichlet:0.3"),
    "--loss-rule rise": ("--loss-rule 'rise'", "drop"),
    "--loss-reference best": ("--loss-reference 'best'", "previous"),
    "--refresh-statistics none": ("--refresh-statistics 'none'", "batch"),
    "--cut 0": ("--cut", "at least 1, got 0"),
    "--cut 4": ("--cut 4", "after block 1 to 3"),
    "--cut 1.5": ("--cut", "a whole number, got '1.5'"),
    "--clients 0": ("--clients", "at least 1, got 0"),
    "--clients 201": ("error: --clients is 201", "1 .. 200"),
    "--threshold high": ("--threshold", "a number, got 'high'"),
    "--epochs 0": ("--epochs", "at least 1, got 0"),
    "--epochs=": ("--epochs", "a whole number, got ''"),
    "--epochs 99999999999999999999": ("--epochs", "at most 1000000"),
    "--epochs": ("--epochs needs a value", "--help"),
    "--chunk 0": ("--chunk", "at least 1, got 0"),
    "--chunk 99999999999999999999": ("--chunk", "at most 1000000"),
    "--seed -1": ("--seed", "at least 0, got -1"),
    "--seed 4294967296": ("--seed", "at most 4294967295"),
    "--batch-size 0": ("--batch-size", "at least 1, got 0"),
    "--batch_size x": ("--batch-size", "a whole number, got 'x'"),
    "--batch-size 201": ("--batch-size 201", "200 training examples"),
    "--image-size 3": ("--image-size", "at least 4, got 3"),
    "--image-size 100000000": ("--image-size", "at most 1024"),
    "--learning-rate nan": ("--learning-rate", "finite number, got nan"),
    "--learning-rate 0": ("--learning-rate", "more than 0, got 0"),
    "--momentum 1": ("--momentum", "less than 1, got 1"),
    "--weight-decay inf": ("--weight-decay", "finite number, got inf"),
    "--train-examples 99999": ("error: --train-examples is 99999", "1 .. 10000"),
    "--mixup -1": ("error: --mixup must be", "to 1000, got -1"),
    "--mixup nan": ("mixup must be", "to 1000, got nan"),
    "--mixup 1e-40": ("mixup must be", "0 (none) or from 0.001"),
    "--epoch 3": ("'--epoch'", "did you mean --epochs?"),
    "--no-augmnt": ("'--no-augmnt'", "did you mean --no-augment?"),
    "--no-resume": ("'--no-resume'", "did you mean --resume?"),
    "--bottlenecks 4": (
        "'--bottlenecks'; --bottlenecks is an option of jsplit plan; did",
        "did you mean --bottleneck?",
    ),
    "--dry": ("unknown option '--dry'; --dry is an option of jsplit sweep\n",),
    "--frobnicate": ("'--frobnicate'", "--help"),
    "--augment=False": ("'False' belongs to no option", "--help"),
    "--workdir=": ("--workdir", "must name a folder, got ''"),
    "--config missing.toml": ("missing.toml: No such file", "configs/"),
    "--config .": ("--config .: Is a directory", "configs/"),
    "--config": ("--config needs a value", "--help"),
    "--mesh": ("jax sees one", "--no-mesh"),
    "--coordinator h:1": ("--process-id and --num-processes are missing", "all of"),
    "--process-id 0 --num-processes 2": ("--coordinator is missing", "all of"),
    "--process-id one": ("--process-id", "a whole number, got 'one'"),
    "--proces-id 1": ("'--proces-id'", "did you mean --process-id?"),
    "--num-processes 0": ("--num-processes", "at least 1, got 0"),
    "--coordinator auto --process-id 0": ("--coordinator auto finds", "leave them out"),
    "--coordinator h --process-id 0 --num-processes 1": ("HOST:PORT", "got 'h'"),
    "--coordinator h:x --process-id 0 --num-processes 1": ("HOST:PORT", "got 'h:x'"),
    "--coordinator h:0 --process-id 0 --num-processes 1": ("HOST:PORT", "got 'h:0'"),
    "--coordinator a..b:47 --process-id 1 --num-processes 2 --coordinator-timeout 1": (
        "finds no address for 'a..b'",
        "name an address of process 0 that every process reaches",
    ),
    "--coordinator a..b:47813 --process-id 0 --num-processes 1 "
    "--coordinator-timeout 1": (
        "finds no address for 'a..b'",
        "name an address of process 0 that every process reaches",
    ),
    "--coordinator h:1 --process-id 2 --num-processes 2": (
        "--process-id 2 is outside the 2 processes",
        "give 0 to 1",
    ),
    "--coordinator h:1 --process-id -1 --num-processes 2": ("--process-id -1", "0 to"),
    "--coordinator no.invalid:9 --process-id 1 --num-processes 2 "
    "--coordinator-timeout 1": ("finds no address for 'no.invalid'", "process 0"),
    "--coordinator-timeout 0": ("--coordinator-timeout", "at least 1, got 0"),
}

BAD_GATES = {
    "--threshold -1": ("--threshold", "at least 0, got -1"),
    "--threshold nan": ("--threshold", "finite number, got nan"),
    "--warmup 99999999999": ("--warmup", "at most 1000000"),
    "--warmup": ("--warmup needs a value", "--help"),
    "--gate periodic --period 0": ("--period", "at least 1, got 0"),
    "--period=5": ("--period is for --gate periodic", "leave one"),
    "--gate freeze --threshold 0.1": ("--threshold is for --gate loss", "leave one"),
    "--gate always --loss-rule abs": ("--loss-rule is for --gate loss", "leave one"),
    "--loss-reference alike": ("'alike' is unknown", "same-state"),
}

BAD_CONFIGS = {
    "epochs = \n": ("not TOML", "line 1"),
    "epocs = 3": ("unknown setting 'epocs'", "--help"),
    "[run]\nepochs = 3": ("unknown setting 'run'", "--help"),
    'epochs = "3"': ("epochs must be a whole number, got '3'", ""),
    "epochs = true": ("epochs must be a whole number, got True", ""),
    "cut = 1.5": ("cut must be a whole number, got 1.5", ""),
    "augment = 1": ("augment must be true or false, got 1", ""),
    "threshold = [1]": ("threshold must be a number, got [1]", ""),
    "model = 3": ("model must be text, got 3", ""),
    "threshold = nan": ("--threshold must be a finite number, got nan", ""),
    "period = 0": ("--period must be at least 1, got 0", "my.toml"),
    'gate = "freeze"\nloss_rule = "up"': ("--loss-rule 'up' is unknown", "abs, drop"),
    "threshold = 1" + "0" * 400: ("--threshold must be a finite number, got inf", ""),
    "epochs = 1" + "0" * 400: ("--epochs must be at most 1000000, got 1000", "..."),
    "seed = 1" + "0" * 5000: ("seed has a number of thousands of digits", "shorter"),
    "seed = " + "[" * 5000 + "]" * 5000: ("cannot be read as TOML", "recursion"),
    'workdir = "a\\u0000b"': ("--workdir must name a folder", "a\\x00b"),
}


@pytest.fixture(autouse=True)
def never_builds(monkeypatch, tmp_path):
    """In an empty folder, with a training that must not even be put together."""

    def refuse(*args, **kwargs):
        raise AssertionError("a bad input got as far as building")

    monkeypatch.setattr("jsplit.experiment.build.make_simulation", refuse)
    monkeypatch.chdir(tmp_path)


def refusal(capsys, *flags: object) -> str:
    """The one line on standard error that these flags are refused with."""
    return refused(capsys, lambda: run_here(*flags))


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_a_bad_flag_is_refused_in_one_line_that_names_value_and_remedy(capsys, flags):
    said = refusal(capsys, *TINY, "--workdir", "w", *shlex.split(flags))
    for part in BAD_FLAGS[flags]:
        assert part in said


@pytest.mark.parametrize("flags", BAD_GATES)
def test_a_bad_flag_of_a_gate_is_refused_even_where_another_gate_runs(capsys, flags):
    said = refusal(capsys, "--model", "cnn", "--workdir", "w", *shlex.split(flags))
    for part in BAD_GATES[flags]:
        assert part in said


@pytest.mark.parametrize("text", BAD_CONFIGS)
def test_a_bad_config_file_is_refused_in_one_line_that_says_what_is_wrong(capsys, text):
    Path("my.toml").write_text(text)
    said = refusal(capsys, "--config", "my.toml")
    for part in BAD_CONFIGS[text]:
        assert part in said


@pytest.mark.parametrize("command", ["run", "serve", "join"])
def test_what_in_a_file_is_for_another_gate_is_said_to_have_no_effect(
    capsys, monkeypatch, command
):
    def stop(*args):
        raise InputError("stopped here")

    if command == "run":
        monkeypatch.setattr(run, "load_dataset", stop)
    else:
        monkeypatch.setattr(device, "choose", stop)
    Path("my.toml").write_text("period = 3\nthreshold = 0.1\nwarmup = 2\n")
    words = [command, "--config", "my.toml"]
    words += ["--insecure"] if command != "run" else []
    for gate, said in {
        "loss": ["period is for gate periodic, and not for loss"],
        "periodic": ["threshold and warmup are for gate loss, and not for periodic"],
    }.items():
        assert cli.main([*words, "--gate", gate]) == 2
        out, err = capsys.readouterr()
        assert "stopped here" in err
        lines = out.splitlines()
        assert len(lines) == len(said)
        for line, sentence in zip(lines, said, strict=True):
            # A server and a client begin theirs with a time and a level.
            note = f"note: --config my.toml: {sentence}; that has no effect"
            assert line.endswith(note) and (command != "run" or line == note)
    Path("my.toml").write_text("threshold = -1.0\n")
    assert cli.main([*words, "--gate", "always"]) == 2
    assert "threshold is for gate loss, and not for always" in capsys.readouterr().out
    Path("my.toml").write_text("threshold = 0.1\n")
    assert cli.main(words) == 2
    assert capsys.readouterr().out == ""


def test_a_config_file_that_is_no_text_is_refused(capsys):
    Path("my.toml").write_bytes(b"\xff\xfe\x00")
    assert "my.toml is not TOML" in refusal(capsys, "--config=my.toml")


@pytest.mark.parametrize("words", [["train"], ["--epochs", "3"]])
def test_an_unknown_command_is_refused_and_the_known_ones_named(capsys, words):
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert (
        repr(words[0]) in said
        and ", ".join(cli.COMMANDS) in said
        and said.count("\n") == 1
    )


@pytest.mark.parametrize("content", [b"PK nonsense", b"", b"\x93NUMPY\x01\x00v"])
def test_a_corrupt_npz_is_refused(capsys, content):
    Path("my.npz").write_bytes(content)
    said = refusal(capsys, "--dataset", "my.npz", "--workdir", "w")
    assert "'my.npz'" in said and "numpy.savez" in said


def test_an_npz_without_the_arrays_is_refused(capsys):
    np.savez("my.npz", images=np.zeros((4, 8, 8, 1), np.uint8))
    assert "my.npz" in refusal(capsys, "--dataset", "my.npz", "--workdir", "w")


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_dataset_named_outright_is_not_replaced_where_there_is_no_network(
    capsys, monkeypatch, name
):
    def unreachable(url):
        raise OSError(f"{url} cannot be fetched")

    for module in (cifar10, fashion_mnist):
        monkeypatch.setattr(module, "check_reachable", unreachable)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", Path("none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd() / "cache"))
    monkeypatch.delenv("JSPLIT_CIFAR10_ARCHIVE", raising=False)
    said = refusal(capsys, "--dataset", name, "--data-dir", ".", "--workdir", "w")
    assert name in said and "cannot be fetched" in said and "fashion_mnist_10k" in said


def test_a_config_with_a_byte_order_mark_is_read_as_usual():
    Path("my.toml").write_bytes(b'\xef\xbb\xbfmodel = "cnn"\n')
    assert parsing.settings(["--config", "my.toml"]) == {"model": "cnn"}


def test_a_config_that_is_not_utf_8_is_refused_with_the_remedy(capsys):
    Path("my.toml").write_text('model = "cnn"\n', encoding="utf-16")
    assert "save it as UTF-8" in refusal(capsys, "--config", "my.toml")


NAMES = {
    "w" * 300: "File name too long",
    "/".join(["w" * 200] * 30): "File name too long",
    "bad\udcff": "is not UTF-8",
    "~no-such-user/w": "Could not determine home",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_workdir_that_no_folder_can_be_called_is_refused_before_any_work(
    capsys, monkeypatch, name
):
    def load(*args):
        raise AssertionError("work was done")

    monkeypatch.setattr(run, "load_dataset", load)
    said = refusal(capsys, *TINY, "--workdir", name)
    assert "--workdir" in said and NAMES[name] in said and "name a" in said


@pytest.mark.parametrize("command", ["sweep", "report", "privacy", "certs", "serve"])
def test_every_command_refuses_a_folder_that_is_called_too_long(capsys, command):
    Path("my.toml").write_text('[[grid]]\nmodel = "cnn"\n')
    words = {
        "sweep": ["my.toml", "--folder", "w" * 300],
        "serve": ["--insecure", "--workdir", "w" * 300],
    }
    argv = [command, *words.get(command, ["w" * 300])]
    assert "File name too long" in refused(capsys, lambda: cli.main(argv))


def test_a_workdir_that_is_a_file_or_under_one_is_refused(capsys):
    Path("w").write_text("mine")
    assert "w is a file; name a folder" in refusal(capsys, *TINY, "--workdir", "w")
    said = refusal(capsys, *TINY, "--workdir", "w/run")
    assert "w cannot be written; name another" in said
    assert Path("w").read_text() == "mine"


def test_a_workdir_with_files_of_another_is_refused_and_left_alone(capsys):
    Path("w").mkdir()
    Path("w/notes.txt").write_text("mine")
    said = refusal(capsys, *TINY, "--workdir", "w")
    assert "not a jsplit run; name another folder" in said


def test_a_workdir_that_holds_a_run_is_refused_without_resume(capsys):
    _keep_config("w")
    said = refusal(capsys, *TINY, "--workdir", "w")
    assert "holds a run already" in said and "--resume" in said


@pytest.mark.parametrize("exists", [True, False])
def test_a_workdir_that_cannot_be_written_is_refused(capsys, monkeypatch, exists):
    # Root may write anywhere, so the system's answer is made up.
    if exists:
        Path("w").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    said = refusal(capsys, *TINY, "--workdir", "w")
    assert "cannot be written; name another" in said


def test_a_workdir_that_the_system_refuses_leaves_nothing_half_made(
    capsys, monkeypatch
):
    monkeypatch.setattr(run, "build", lambda config, _: SimpleNamespace(config=config))
    said = refusal(capsys, *TINY, "--workdir", "/proc/jsplit/run")
    assert "/proc/jsplit/run" in said and "name another folder" in said

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = refusal(capsys, *TINY, "--workdir", "w")
    assert "No space left on device; name another folder" in said


def test_resume_without_a_workdir_is_refused(capsys):
    assert "add --workdir FOLDER" in refusal(capsys, "--resume")
    Path("my.toml").write_text("epochs = 3")
    said = refusal(capsys, "--config", "my.toml", "--resume")
    assert "add --workdir FOLDER" in said


@pytest.mark.parametrize("kind", ["missing", "empty", "foreign", "file"])
def test_resume_of_a_folder_without_a_run_is_refused(capsys, kind):
    if kind == "file":
        Path("w").write_text("mine")
    elif kind != "missing":
        Path("w").mkdir()
    if kind == "foreign":
        Path("w/notes.txt").write_text("mine")
    said = refusal(capsys, "--resume", "--workdir", "w")
    assert "--workdir w" in said and ("no run" in said or "not a jsplit run" in said)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": "other"}', '{"format": "jsplit-run-1"}', "\0"],
)
def test_resume_with_a_corrupt_config_is_refused(capsys, text):
    Path("w").mkdir()
    Path("w/config.json").write_text(text)
    said = refusal(capsys, "--resume", "--workdir", "w")
    assert "w: its config.json is not a jsplit run's" in said


def test_resume_with_a_config_of_wrong_settings_is_refused(capsys):
    _keep_config("w", epochs="many")
    said = refusal(capsys, "--resume", "--workdir", "w")
    assert "w/config.json: epochs must be a whole number, got 'many'" in said


def test_resume_with_another_config_names_each_flag_and_both_values(capsys):
    _keep_config("w", epochs=3)
    said = refusal(
        capsys, "--resume", "--workdir", "w", "--epochs", 2, "--gate", "always"
    )
    assert "--epochs is 3 there, 2 here" in said
    assert "--gate is loss there, always here" in said


def test_resume_with_other_data_is_refused_before_the_first_checkpoint(capsys):
    _keep_config("w", dataset="fashion_mnist_10k")
    said = refusal(capsys, "--resume", "--workdir", "w")
    assert "started on other data (what was there then)" in said


def _keep_config(workdir: str, **config: object) -> None:
    """A folder as a killed run leaves it, before its first checkpoint."""
    Path(workdir).mkdir()
    data = {"name": "it", "source": "what was there then", "fingerprint": "0"}
    settings = flat(RunConfig()) | config
    record = {"format": "jsplit-run-1", "config": settings, "dataset": data}
    (Path(workdir) / "config.json").write_text(json.dumps(record))
