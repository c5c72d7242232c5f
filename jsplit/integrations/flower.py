"""Runs that Flower starts: its apps bring server and clients together.

Flower's messages take seconds each, so a run has one for each client. It holds the
server's address and a certificate that the server made for that client; whom Flower
lets in as a node gets one. The apps then start `jsplit serve` and `jsplit join`, whose
gRPC stream carries the batches. A client whose node fails is asked again as long as the
server waits for it, and goes on where it was.

This needs the extra, in an environment of its own: `pip install 'jsplit[flower]'`.
`examples/flower` is an app that is ready to run, with the settings it reads.
"""

import contextlib
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from jsplit.net import certificates

server, client = ServerApp(), ClientApp()

INVITATION, OUTCOME = "jsplit.invitation", "jsplit.outcome"
"""Names of the records that the one message and its reply hold."""

POLL = 2.0
"""Seconds between questions to Flower, which itself asks its nodes every 3."""

LIFETIME = 90 * 24 * 3600.0
"""Seconds that the message of a run lives; Flower's default is half a day."""

TERMINATION = 60.0
"""Seconds that a process has to save and end when it is asked to."""


class JsplitProcess(NamedTuple):
    """`jsplit` as a process of its own.

    Attributes:
        process: the process itself.
        lines: the last line that it wrote, once there is one.
        reader: the thread that reads the lines, until there are no more.
    """

    process: subprocess.Popen[str]
    lines: list[str]
    reader: threading.Thread

    def outcome(self) -> tuple[int, str]:
        """Waits for its end: the exit code, and the last line."""
        code = self.process.wait()
        self.reader.join()
        return code, self.lines[-1] if self.lines else ""


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Invites one node for each client, and serves them until the run is over.

    Settings of the app (`[tool.flwr.app.config]`, or `flwr run --run-config`):

    `run`: of the training, as words for `jsplit serve` and `jsplit join`;
    `clients`: how many nodes take part;
    `listen`, `address`: HOST:PORT to listen on, and under which clients reach that;
    `serve`: more words for `jsplit serve`, such as `--workdir FOLDER`;
    `patience`: seconds to wait until so many nodes are there.

    Raises:
        RuntimeError: if they do not come, or the server ends with an error.
    """
    settings = context.run_config
    clients, address = int(settings["clients"]), str(settings["address"])
    run = str(settings["run"])
    nodes = nodes_of(grid, clients, float(settings["patience"]))
    with tempfile.TemporaryDirectory(prefix="jsplit-") as base:
        certs = Path(base) / "certs"
        certificates.make_certificates(
            certs, [address.rpartition(":")[0].strip("[]")], clients
        )
        words = [*shlex.split(run), "--clients", str(clients)]
        invitations = [
            RecordDict(
                {
                    INVITATION: ConfigRecord(
                        {
                            "words": shlex.join([*words, "--client", str(number)]),
                            "server": address,
                            **{
                                name: (certs / f"client-{number}" / name).read_bytes()
                                for name in certificates.FILES
                            },
                        }
                    )
                }
            )
            for number in range(clients)
        ]
        with run_jsplit(
            *("serve", *words, "--listen", str(settings["listen"])),
            *("--certs", str(certs / "server")),
            *shlex.split(str(settings["serve"])),
        ) as child:
            invite(grid, nodes, invitations, child)
            code, last = child.outcome()
    if code:
        raise RuntimeError(f"jsplit serve ended with exit code {code}: {last}")


def nodes_of(grid: Grid, clients: int, patience: float) -> list[int]:
    """The nodes that take part, in an order that lasts, so that each keeps its number.

    Raises:
        RuntimeError: if there are not so many after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while len(nodes := sorted(grid.get_node_ids())) < clients:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{len(nodes)} of {clients} nodes came in {patience:g} s; start a "
                "flower-supernode for each client, or wait longer (patience)"
            )
        time.sleep(POLL)
    return nodes[:clients]


def invite(
    grid: Grid,
    nodes: Sequence[int],
    invitations: Sequence[RecordDict],
    child: JsplitProcess,
) -> None:
    """Asks every client to join, again if it failed, until the server has ended."""
    waiting: dict[str, int] = {}
    asked = set(range(len(nodes)))
    while child.process.poll() is None:
        numbers = sorted(asked)
        sent = grid.push_messages(
            [Message(invitations[n], nodes[n], "train", ttl=LIFETIME) for n in numbers]
        )
        waiting |= {name: n for name, n in zip(sent, numbers, strict=True) if name}
        asked -= set(waiting.values())
        time.sleep(POLL)
        for reply in grid.pull_messages(list(waiting)):
            number = waiting.pop(reply.metadata.reply_to_message_id)
            if reply.has_error():
                print(f"client {number}: {reply.error.reason}; asking it again")
                asked.add(number)
                continue
            outcome = reply.content[OUTCOME]
            print(f"client {number}: {outcome['last']}")
            if outcome["code"]:
                asked.add(number)


@client.train()
def join(message: Message, context: Context) -> Message:
    """Takes part in a run until the server says that it is over.

    Settings of the node (`flower-supernode --node-config`): `jsplit`, more words for
    `jsplit join`, such as `--dataset mine.npz --own-data --workdir FOLDER`.
    """
    invitation = message.content[INVITATION]
    with tempfile.TemporaryDirectory(prefix="jsplit-") as base:
        for name in certificates.FILES:
            path = Path(base) / name
            path.touch(mode=0o600)
            path.write_bytes(invitation[name])
        with run_jsplit(
            *("join", *shlex.split(str(invitation["words"]))),
            *("--server", str(invitation["server"]), "--certs", base),
            *shlex.split(str(context.node_config.get("jsplit", ""))),
        ) as child:
            code, last = child.outcome()
    outcome = ConfigRecord({"code": code, "last": last})
    return Message(RecordDict({OUTCOME: outcome}), reply_to=message)


@contextlib.contextmanager
def run_jsplit(*words: str) -> Iterator[JsplitProcess]:
    """Starts `jsplit`, prints what it says, and lets it save and end when left."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "jsplit", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.strip():
                lines[:] = [line.strip()]

    with process:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield JsplitProcess(process, lines, reader)
        finally:
            process.terminate()
            try:
                process.wait(TERMINATION)
            except subprocess.TimeoutExpired:
                process.kill()
