"""`jsplit certs`: certificates for the server and the clients of a networked run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jsplit.cli import parsing
from jsplit.cli.terminal import say
from jsplit.core.option import Option
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.net import certificates
from jsplit.net.config import check_clients

CERTS = """\
Makes a private authority in FOLDER/authority, and in FOLDER/server, FOLDER/client-0,
FOLDER/client-1, ... what server and clients need to know one another. Carry each of
those to its machine.
"""


@dataclass(frozen=True)
class CertsCommand:
    """`jsplit certs`."""

    GROUP = "certificates"

    folder: Annotated[
        tyro.conf.Positional[str], Option("New folder for the certificates.", "FOLDER")
    ]
    hosts: Annotated[
        tuple[str, ...],
        Option("Names and addresses under which clients reach the server."),
    ] = ("localhost", "127.0.0.1")
    clients: Annotated[int, Option("Number of clients.")] = 1


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit certs`: makes what server and clients need to know one another."""
    command = parsing.parse(CertsCommand(folder=""), argv, prog, CERTS)
    if not command.folder:
        raise InputError("name a new folder: jsplit certs FOLDER")
    check_clients(command.clients)
    folder = workdir.path_of(command.folder, "FOLDER")
    certificates.make_certificates(folder, list(command.hosts), command.clients)
    say(
        f"made {folder}/authority, {folder}/server and {folder}/client-0"
        + f" to client-{command.clients - 1}" * (command.clients > 1)
        + "; the key in authority/ stays at home"
    )
    return 0
