"""What all tests share: homes with mailboxes in them, the running service, the server of the dialogues."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from dialogues import world
from running import Service
from winpop.auth import passwords
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.directory import settings as settings_table
from winpop.directory.mailboxes import Kept
from winpop.store import downgrades
from winpop.store.blobs import Blobs, Content
from winpop.store.delivery import deliver
from winpop.terms.names import Address, DomainName

settings.register_profile("ci", deadline=None, print_blob=True)
settings.load_profile("ci")
os.environ.pop("WINPOP_HOME", None)  # no test may touch the installation of whoever runs it

KEPT: dict[bytes, Kept] = {}


def kept_of(password: bytes) -> Kept:
    """Return what is kept of the password; hashing is slow by design, so once a run is enough."""
    if password not in KEPT:
        KEPT[password] = passwords.keep(password)
    return KEPT[password]


def hash_of(password: bytes) -> str:
    """Return a hash of the password."""
    return kept_of(password).password_hash


def fill(home: Home, accounts: dict[str, bytes]) -> None:
    """Make a home with these mailboxes and passwords, and their domains."""
    home.make()
    database = Sqlite(home)
    with database.write() as transaction:
        for name, password in accounts.items():
            address = Address.parse(name)
            if not domains.exists(transaction, address.domain):
                domains.add(transaction, address.domain)
            domain = domains.find(transaction, address.domain)
            mailboxes.add(transaction, domain, address, kept_of(password))
    database.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which sample of the faults was tried."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    said = [str(what) for report in reports for name, what in report.user_properties if name == "tried"]
    if said:
        terminalreporter.section("faults that were tried")
        for line in said:
            terminalreporter.write_line(line)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with the mailboxes alice and bob in example.com and carol in other.example; password `secret`."""
    made = Home(tmp_path / "home")
    fill(made, dict.fromkeys(["alice@example.com", "bob@example.com", "carol@other.example"], b"secret"))
    return made


@pytest.fixture
def database(home: Home) -> Iterator[Sqlite]:
    """A connection to the home's database."""
    opened = Sqlite(home)
    yield opened
    opened.close()


@pytest.fixture
def service(home: Home) -> Iterator[Service]:
    """The real service on that home, with two workers."""
    with Service(home.path) as running:
        yield running


@pytest.fixture(scope="session")
def dialogue_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, dict[str, int]]]:
    """The world of the dialogues on the real program, and once more as strangers see it."""
    directory = tmp_path_factory.mktemp("dialogues")
    for name in ("trusted", "stranger"):
        made = Home(directory / name)
        fill(made, {address: mailbox.password for address, mailbox in world.MAILBOXES.items()})
        database = Sqlite(made)
        with database.write() as transaction:
            domains.lock(transaction, domains.find(transaction, DomainName.parse(world.LOCKED_DOMAIN)))
            for address, mailbox in world.MAILBOXES.items():
                if mailbox.locked == "mailbox":
                    mailboxes.lock(transaction, mailboxes.find(transaction, Address.parse(address)))
            values = {
                "failuredelay": "0",
                "hostname": world.HOSTNAME,
                "postmaster": world.POSTMASTER,
                "sessionsperaddress": "1000",
                "scramplus": "2",
            }
            settings_table.store(transaction, values | ({"trusted": "none"} if name == "stranger" else {}))
        database.close()
    with Service(directory / "trusted") as trusted, Service(directory / "stranger", "--workers", "0") as stranger:
        ports = trusted.ports | {"pop3-stranger": stranger.ports["pop3"]}
        yield Home(directory / "trusted"), ports


@pytest.fixture
def dialogue_server(dialogue_service: tuple[Home, dict[str, int]]) -> tuple[str, dict[str, int]]:
    """The server of the dialogues with every mailbox as a dialogue expects it."""
    home, ports = dialogue_service
    database = Sqlite(home)
    with database.write() as transaction:
        transaction.run("DELETE FROM message")
        transaction.run("DELETE FROM body")
        for address, mailbox in world.MAILBOXES.items():
            for message in mailbox.messages:
                plain = not message.startswith(b".") and b"\n." not in message
                content = downgrades.reckon(Content(len(message), message, None), Blobs(home.mail))
                deliver(transaction, [Address.parse(address)], content, b"", plain=plain)
    database.close()
    return "127.0.0.1", ports
