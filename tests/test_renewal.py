"""Further clients of an authority, renewed certificates, and those that end soon."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from jsplit.cli.main import main
from jsplit.errors import InputError
from jsplit.net import certificates, renewal
from jsplit.net.certificates import FILES, make_certificates, read_credentials
from jsplit.net.grpc_channel import connect, serve
from jsplit.testing import TINY_RUN, words_for

DAY = datetime.timedelta(days=1)


@pytest.fixture
def certs(tmp_path, monkeypatch):
    """A folder of certificates for the server and a client that end in ten days."""
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "DAYS", 10)
        make_certificates(tmp_path / "certs", ["127.0.0.1"], 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "certs"


def certificate(folder: Path, name="certificate.pem") -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / name).read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def quiet(folder: Path, *, server: bool = False):
    return read_credentials(folder, server=server, notify=pytest.fail)


def greet(channel, identity):
    channel.send(f"you are {identity}".encode())
    channel.close()


def heard(server, client) -> bytes:
    """What a server with these credentials says to a client with those."""
    with (
        serve("127.0.0.1:0", server, 3, 2**20, greet) as listener,
        connect(f"127.0.0.1:{listener.port}", client, 2**20) as channel,
    ):
        return channel.receive(10)


def test_a_further_client_is_let_in_and_nothing_else_is_touched(certs, capsys):
    before = contents(certs)
    assert main(["certs", "add", "client-2"]) == 0
    assert contents(certs).items() >= before.items()
    added = contents(certs).keys() - before.keys()
    assert added == {f"client-2/{name}" for name in FILES}
    for path in (certs / "client-2").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (certs / "client-2").stat().st_mode & 0o777 == 0o700
    ends = certificate(certs / "client-2").not_valid_after_utc
    assert ends == certificate(certs / "authority").not_valid_after_utc
    assert f"certs/client-2 ends on {ends:%Y-%m-%d}\n" in capsys.readouterr().out
    server = read_credentials(certs / "server", server=True, notify=print)
    client = read_credentials(certs / "client-2", server=False, notify=print)
    assert heard(server, client) == b"you are 2"


def test_renewing_keeps_keys_and_names_and_says_when_each_ends(certs, capsys):
    before, old = contents(certs), certificate(certs / "server")
    assert main(["certs", "renew"]) == 0
    said, after = capsys.readouterr().out, contents(certs)
    for name in ("authority", "server", "client-0"):
        assert after[f"{name}/key.pem"] == before[f"{name}/key.pem"]
        ends = certificate(certs / name).not_valid_after_utc
        assert ends > datetime.datetime.now(datetime.UTC) + 800 * DAY
        assert f"certs/{name} ends on {ends:%Y-%m-%d}\n" in said
    new = certificate(certs / "server")
    assert new.public_key() == old.public_key() and new.subject == old.subject
    assert [e.value for e in new.extensions] == [e.value for e in old.extensions]
    for path in certs.rglob("*.pem"):
        assert path.stat().st_mode & 0o777 == 0o600
    server = quiet(certs / "server", server=True)
    assert heard(server, quiet(certs / "client-0")) == b"you are 0"


def test_who_is_renewed_and_who_is_not_yet_trust_each_other(certs):
    old = read_credentials(certs / "server", server=True, notify=print)
    renewal.renew_certificates(certs, ["client-0"])
    new = quiet(certs / "client-0")
    assert heard(old, new) == b"you are 0"
    assert contents(certs)["server/certificate.pem"] == old.certificate


def test_a_private_key_need_not_come_back_to_be_renewed(certs):
    (certs / "client-0" / "key.pem").unlink()
    places = [ending.place.name for ending in renewal.renew_certificates(certs)]
    assert places == ["authority", "server", "client-0"]


REFUSED = {
    "add": "name the new clients: jsplit certs add client-2",
    "add client-0": "certs/client-0 is there already; jsplit certs renew client-0",
    "add client-7 client-0": "certs/client-0 is there already",
    "add server": "NAME 'server' is no client's; the first is client-0",
    "add client-07": "NAME 'client-07' is no client's",
    "add client-10000": "possible client-9999",
    "add ../client-1": "NAME '../client-1' is no client's",
    "add client-1 --folder nowhere": "--folder nowhere has no authority in it (No such",
    "add client-1 --folder certs/server": "certs/server has no authority in it",
    "renew client-5": "client-5/certificate.pem: No such file or directory; bring that",
    "renew server client-5": "client-5/certificate.pem: No such file",
    "renew authority": "NAME 'authority' is neither server nor a client",
    "renew --folder nowhere": "on the machine where authority/ is kept",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_added_or_renewed_is_refused_and_nothing_changes(
    words, certs, capsys
):
    before = contents(certs)
    assert main(["certs", *words.split()]) == 2
    said = capsys.readouterr().err
    assert REFUSED[words] in said and said.count("\n") == 1
    assert contents(certs) == before


def test_a_certificate_of_another_authority_is_not_renewed(certs, tmp_path):
    make_certificates(tmp_path / "other", ["127.0.0.1"], 1)
    (tmp_path / "other" / "client-0").rename(certs / "client-1")
    before = contents(certs)
    with pytest.raises(InputError, match="client-1/cert.* is not of the authority"):
        renewal.renew_certificates(certs)
    assert contents(certs) == before


def test_clients_that_cannot_all_be_added_are_not_added(certs, monkeypatch):
    before, rename, renamed = contents(certs), renewal.os.rename, []

    def once(*given):
        if renamed:
            raise OSError(28, "No space left on device")
        renamed.append(given)
        rename(*given)

    monkeypatch.setattr(renewal.os, "rename", once)
    with pytest.raises(InputError, match="No space left on device"):
        renewal.add_clients(certs, ["client-1", "client-2"])
    assert renamed and contents(certs) == before
    assert sorted(path.name for path in certs.iterdir()) == [
        *("authority", "client-0", "server")
    ]


def test_a_file_that_cannot_be_renewed_is_the_old_one_whole(certs, monkeypatch):
    before = contents(certs)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left .* say the same once more"):
        renewal.renew_certificates(certs)
    assert contents(certs) == before


@pytest.mark.parametrize("command", ("serve", "join"))
def test_a_certificate_that_ends_soon_is_warned_of_with_the_remedy(
    command, certs, capsys, monkeypatch
):
    def enough(*_, **__):
        raise InputError("started")

    monkeypatch.setattr("jsplit.runtime.device.choose", enough)
    place = certs / ("server" if command == "serve" else "client-0")
    words = (*words_for(TINY_RUN), "--workdir", "w", "--certs", str(place))
    assert main([command, *words]) == 2
    ends = certificate(place).not_valid_after_utc
    (line,) = [s for s in capsys.readouterr().out.splitlines() if " WARNING " in s]
    assert (
        "certificate_ends days=9 - "
        f"the certificate in {place} ends on {ends:%Y-%m-%d}, in 9 days; "
    ) in line
    assert "jsplit certs renew, and carry authority.pem and certificate.pem" in line
    assert main(["certs", "renew"]) == 0
    capsys.readouterr()
    assert main([command, *words]) == 2
    assert "WARNING" not in capsys.readouterr().out


def test_an_authority_that_ends_before_its_certificate_is_warned_of(certs):
    said: list[str] = []
    old = (certs / "client-0" / "authority.pem").read_bytes()
    renewal.renew_certificates(certs)
    (certs / "client-0" / "authority.pem").write_bytes(old)
    read_credentials(certs / "client-0", server=False, notify=said.append)
    assert len(said) == 1 and "in 9 days" in said[0]


def test_an_expired_certificate_is_refused_and_renewed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "DAYS", -0.01)
        make_certificates(tmp_path / "certs", ["127.0.0.1"], 1)
    with pytest.raises(InputError, match="ended on 20.*; where the authority is, say"):
        quiet(tmp_path / "certs" / "client-0")
    with pytest.raises(InputError, match="authority of .* ended on 20.*certs renew"):
        renewal.add_clients(tmp_path / "certs", ["client-1"])
    renewal.renew_certificates(tmp_path / "certs")
    quiet(tmp_path / "certs" / "client-0")


def test_a_clock_that_is_before_the_certificate_is_named(certs, monkeypatch):
    yesterday = datetime.datetime.now(datetime.UTC) - DAY

    class Earlier(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return yesterday

    monkeypatch.setattr(certificates.datetime, "datetime", Earlier)
    with pytest.raises(InputError, match="valid from .* set this machine's clock"):
        quiet(certs / "client-0")
