"""`jsplit certs`: certificates for the server and the clients of a networked run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jsplit.cli import parsing
from jsplit.cli.terminal import folded, say
from jsplit.core.option import Option
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.net import certificates, renewal
from jsplit.net.config import check_clients

CERTS = """\
Makes a private authority in FOLDER/authority, and in FOLDER/server, FOLDER/client-0,
FOLDER/client-1, ... what server and clients need to know one another. Carry each of
those to its machine. Later, jsplit certs add NAME... makes further clients under the
same authority, and jsplit certs renew [NAME...] renews what is about to end.
"""

ADD = """\
Makes further clients, such as client-2, under the authority in --folder, and leaves all
that is there as it is. It says when each certificate ends.
"""

RENEW = """\
Renews certificates under the authority in --folder: all that are there, or those that
are named (server, client-0, ...), and the authority's own. Keys and names stay, so only
authority.pem and certificate.pem need be carried to each machine, whose private key
never comes here. It says when each certificate ends.
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


@dataclass(frozen=True)
class SignCommand:
    """`jsplit certs add` and `jsplit certs renew`."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        Option("Folders in --folder, such as client-2.", "NAME"),
    ] = ()
    folder: Annotated[
        str, Option("Folder that jsplit certs made, with authority/ in it.")
    ] = "certs"


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit certs`: makes what server and clients need to know one another."""
    if argv and argv[0] in ("add", "renew"):
        return _sign(argv[0], argv[1:], f"{prog} {argv[0]}")
    command = parsing.parse(CertsCommand(folder=""), argv, prog, CERTS)
    if not command.folder:
        raise InputError("name a new folder: jsplit certs FOLDER")
    check_clients(command.clients)
    folder = workdir.path_of(command.folder, "FOLDER")
    certificates.make_certificates(folder, list(command.hosts), command.clients)
    made = (
        f"made {folder}/authority, {folder}/server and {folder}/client-0"
        + f" to client-{command.clients - 1}" * (command.clients > 1)
        + "; the key in authority/ stays at home"
    )
    say(folded(made))
    return 0


def _sign(verb: str, argv: Sequence[str], prog: str) -> int:
    about = ADD if verb == "add" else RENEW
    command = parsing.parse(SignCommand(), argv, prog, about)
    folder = workdir.path_of(command.folder, "--folder")
    if verb == "renew":
        endings = renewal.renew_certificates(folder, command.names)
        what = "carry authority.pem and certificate.pem of each to its machine"
    elif not command.names:
        raise InputError("name the new clients: jsplit certs add client-2")
    else:
        endings = renewal.add_clients(folder, command.names)
        what = "carry each folder to its machine"
    for place, day in endings:
        say(f"{place} ends on {day}")
    say(f"{what}; the key in authority/ stays at home")
    return 0
