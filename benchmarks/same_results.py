"""Does this working tree compute what another commit computes, to the bit?

    python -m benchmarks.same_results main
    python -m benchmarks.same_results HEAD --only network --out same.json

For changes that must change no result. Small trainings run on a git worktree of the
commit and on a copy of the working tree, one after another, on this machine's CPU. Rows
compare the last checkpoint (both parts, their optimizers, the store of state C) and
what metrics.jsonl and summary.json say of losses, accuracies, states and the account.
Only the command line and the run folders are touched, so all inside the package may be
renamed; arrays with new names are paired in the order of their names, and the row says
so. The exit code is 0 if all is the same, 1 if not, and 2 if REV is not a commit.
"""

import argparse
import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported, here and on both sides

from benchmarks.run_folders import Failure, Result, differences, numbers, result_of

ROOT = Path(__file__).parent.parent
PATIENCE = 600  # seconds that a row's processes may take
STOP = 4  # epochs after which a run is interrupted, in state C
COLUMNS = ("row", "verdict", "states", "arrays", "figures")

Flags = dict[str, Any]
BASE: Flags = {
    **{"model": "cnn", "dataset": "fashion_mnist_10k", "image-size": 14},
    **{"train-examples": 600, "test-examples": 200, "batch-size": 60, "epochs": 6},
}
GATES: dict[str, Flags] = {
    # States A B A B C, then C or A; losses are far enough from the threshold for that.
    "loss": {"gate": "loss", "threshold": 0.6, "loss-reference": "decision"},
    "periodic": {"gate": "periodic", "period": 3},
    "freeze": {"gate": "freeze", "sync-epochs": 2},
    "always": {"gate": "always"},
}
CLIENTS: dict[str, Flags] = {
    "one client": {},
    "3 parallel": {"clients": 3},
    "3 sequential": {"clients": 3, "topology": "sequential"},
    "3 uneven": {"clients": 3, "partition": "uneven:0.5"},
}
OTHERS: dict[str, Flags] = {
    "mixup": {**GATES["freeze"], "mixup": 1},
    "noise and nopeek": {**GATES["periodic"], "noise": 0.5, "nopeek": 1},
    "identity": {**GATES["loss"], "codec": "identity", "grad-codec": "identity"},
    "augmented views": {**GATES["periodic"], "views": "augmented"},
}
CHUNKS = {**GATES["freeze"], "epochs": 11, "chunk": 2}
TWO = {**GATES["loss"], "clients": 2}
FEW = {"image-size": 8, "train-examples": 120, "test-examples": 60, "epochs": 3}


class Side(NamedTuple):
    """One of the two trees at work: its name, its processes' variables, its folder."""

    name: str
    env: dict[str, str]
    folder: Path


def trained(side: Side, flags: Flags) -> Result:
    """A run on one machine."""
    finish(side, run=["run", *words(flags), "--workdir", "run"])
    return result_of(side.folder / "run")


def resumed(side: Side, flags: Flags) -> Result:
    """A run that is asked to stop in state C, and goes on in another process."""
    metrics = side.folder / "run" / "metrics.jsonl"
    with started(side, "stop", ["run", *words(flags), "--workdir", "run"]) as child:
        while child.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= STOP:
                child.send_signal(signal.SIGTERM)
                break
            time.sleep(0.01)
        if child.wait(PATIENCE) != 130:
            raise Failure(f"asked to stop: {child.returncode}, {said(side, 'stop')}")
    finish(side, go_on=["run", "--resume", "--workdir", "run"])
    return result_of(side.folder / "run")


def networked(side: Side, flags: Flags) -> Result:
    """A server and its clients over loopback; in turns with certificates."""
    trust = dict.fromkeys(["server", "client-0", "client-1"], ["--insecure"])
    if "topology" in flags:
        finish(side, certs=["certs", "certs", "--clients", "2"])
        trust = {party: ["--certs", f"certs/{party}"] for party in trust}
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    commands = {"server": ["serve", "--listen", address, "--evaluate", "1"]}
    for number in "01":
        join = ["join", "--server", address, "--client", number]
        commands[f"client-{number}"] = join
    for party, command in commands.items():
        command += [*words(flags), "--workdir", party, *trust[party]]
    finish(side, **commands)
    return result_of(side.folder / "server")


def attacked(side: Side, flags: Flags) -> Result:
    """A run, and what a server learns from what it sent."""
    arrays, figures = trained(side, flags)
    finish(side, privacy=["privacy", "run"])
    text = (side.folder / "run" / "privacy.json").read_text("utf-8")
    return Result(arrays, figures | numbers({"privacy": json.loads(text)}))


ROWS: dict[str, tuple[Callable[[Side, Flags], Result], Flags]] = {
    **{
        f"{gate}, {clients}": (trained, {**BASE, **GATES[gate], **CLIENTS[clients]})
        for gate in GATES
        for clients in CLIENTS
    },
    **{name: (trained, {**BASE, **flags}) for name, flags in OTHERS.items()},
    "resumed": (resumed, {**BASE, **CHUNKS}),
    "network, parallel": (networked, {**BASE, **TWO}),
    "network, sequential": (networked, {**BASE, **TWO, "topology": "sequential"}),
    "privacy": (attacked, {**BASE, **FEW, "gate": "freeze", "sync-epochs": 1}),
}


def words(flags: Flags) -> list[str]:
    """The flags as they are typed."""
    pairs = [[f"--{name}", str(value)] for name, value in flags.items()]
    return [word for pair in pairs for word in pair if word != "True"]


@contextlib.contextmanager
def started(side: Side, name: str, command: list[str]) -> Iterator[subprocess.Popen]:
    """A process of `jsplit` that does not outlive this; what it says is in a file."""
    side.folder.mkdir(parents=True, exist_ok=True)
    full = [sys.executable, "-m", "jsplit", *command]
    with open(side.folder / f"{name}.log", "wb") as out:
        where = {"cwd": side.folder, "env": side.env, "stdout": out, "stderr": out}
        child = subprocess.Popen(full, **where)
    with child:
        try:
            yield child
        finally:
            child.kill()


def finish(side: Side, **commands: list[str]) -> None:
    """Runs processes together to their ends; fails as soon as one of them does."""
    deadline = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(started(side, name, command))
            for name, command in commands.items()
        }
        while time.monotonic() < deadline:
            codes = {name: child.poll() for name, child in running.items()}
            for name in filter(codes.get, codes):
                raise Failure(f"{name} ended with {codes[name]}, {said(side, name)}")
            if None not in codes.values():
                return
            time.sleep(0.05)
    raise Failure(f"{', '.join(commands)}: no end within {PATIENCE} seconds")


def said(side: Side, name: str) -> str:
    """What a process said of its error, or last."""
    lines = (side.folder / f"{name}.log").read_text(errors="replace").split("\n")
    errors = [line for line in lines if line.startswith("error:")]
    return "; ".join(errors) or next(filter(str.strip, reversed(lines)), "silently")


def compared(name: str, sides: Sequence[Side]) -> dict[str, Any]:
    """What came of a row, as plain values; printed too."""
    row: dict[str, Any] = {"row": name, "verdict": "FAILED", "seconds": []}
    results = []
    for side in sides:
        began = time.monotonic()
        try:
            results.append(ROWS[name][0](side, ROWS[name][1]))
        except Exception as error:  # whatever it is, the others must have their turn
            kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
            row["differences"] = [f"{side.name}: {kind}{error}"]
            break
        row["seconds"].append(round(time.monotonic() - began, 1))
    else:
        unlike, row["remarks"] = differences(*results)
        row["verdict"], row["differences"] = "DIFFERS" if unlike else "same", unlike
        row["states"] = results[0].figures["summary.states"]
        row["arrays"], row["figures"] = map(len, results[0])
    seconds = " + ".join(f"{it:.0f}" for it in row["seconds"])
    notes = row.get("remarks", []) + row["differences"]
    more = [f"{len(notes) - 3} more"] * (len(notes) > 3)
    show(*[row.get(it, "-") for it in COLUMNS], seconds, "; ".join(notes[:3] + more))
    return row


def show(*cells: Any) -> None:
    """Prints a line of the table."""
    line = "{:23}{:8}{:12}{:>7}{:>8}  {:10}{}".format(*cells)
    print(line.rstrip(), flush=True)


def git(*command: str) -> str:
    """What git says of this repository; a `Failure` with its reason if it refuses."""
    full = ["git", "-C", str(ROOT), *command]
    done = subprocess.run(full, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().replace("\n", "; ")
        raise Failure(f"git {command[0]} refused ({reason.removeprefix('fatal: ')})")
    return done.stdout.strip()


def environment(base: Path, name: str) -> dict[str, str]:
    """The variables of a side: only where `jsplit` is found differs."""
    env = {
        # As many threads on both; the second compiles faster, and sums all the same.
        **{"NPROC": str(len(os.sched_getaffinity(0)))},
        **{"XLA_FLAGS": "--xla_backend_optimization_level=1", **os.environ},
        **{"JAX_COMPILATION_CACHE_DIR": str(base / "programs")},
        **{"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "COLUMNS": "200"},
        **{"PYTHONPATH": str(base / name), "GRPC_VERBOSITY": "ERROR"},
    }
    asking = "import importlib.util as it; print(it.find_spec('jsplit').origin)"
    full = [sys.executable, "-c", asking]
    origin = subprocess.run(full, cwd=base, env=env, stdout=subprocess.PIPE, text=True)
    if Path(origin.stdout.strip()).parent != base / name / "jsplit":
        raise Failure(f"the tree {name} holds no package jsplit")
    return env


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both sides of every row, compares, prints and writes; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rev", metavar="REV", help="the commit to compare with")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--out", type=Path, help="a JSON file for what is found")
    asked = parser.parse_args(argv)
    names = [name for name in ROWS if asked.only in name]
    if not names:
        parser.error(f"--only {asked.only}: no row of {'; '.join(ROWS)}")
    if asked.out is not None and not os.access(asked.out.parent, os.W_OK):
        parser.error(f"--out {asked.out}: its folder cannot be written")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without tidying up
    logging.getLogger("absl").setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        try:
            commit = git("rev-parse", "--verify", asked.rev + "^{commit}", "--")
            git("worktree", "add", "--detach", str(base / "before"), commit)
            stack.callback(git, "worktree", "remove", "--force", str(base / "before"))
            # A copy, so that what is edited meanwhile makes no mixture.
            shutil.copytree(ROOT / "jsplit", base / "after" / "jsplit")
            envs = {side: environment(base, side) for side in ("before", "after")}
        except (OSError, Failure) as error:
            print(f"error: REV {asked.rev}: {error}", file=sys.stderr)
            return 2
        rows = []
        show(*COLUMNS, "seconds", "")
        for name in names:
            folder = base / name.replace(", ", "-").replace(" ", "-")
            sides = [Side(side, env, folder / side) for side, env in envs.items()]
            rows.append(compared(name, sides))
    same = sum(row["verdict"] == "same" for row in rows)
    seconds = sum(sum(row["seconds"]) for row in rows)
    print(f"{same} of {len(rows)} rows are the same; {seconds:.0f} seconds")
    if asked.out is not None:
        packages = ("jax", "jaxlib", "flax", "optax", "numpy")
        found = {
            "benchmark": "same_results",
            "before": commit,
            "after": git("rev-parse", "HEAD"),
            "uncommitted": bool(git("status", "--porcelain", "--", "jsplit")),
            "versions": {it: importlib.metadata.version(it) for it in packages},
            "rows": rows,
        }
        asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if same == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
