"""Backups and restores while the service runs: mail comes in and goes out, and nothing is lost or made up."""

import contextlib
import poplib
import smtplib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from admin.test_backup_restore import blobs_and_rows_agree
from durability.ledger import TOKEN, Found, Ledger, State, look_inside, message
from running import Service, asked, done, winpop
from winpop.db.home import Home

ALICE, BOB, CAROL = "alice@example.com", "bob@example.com", "carol@other.example"


class Load:
    """Deliveries to everybody, and a user who fetches and deletes, until it is stopped; all in the ledger."""

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self.service, self.ledger = service, ledger
        self.wrong: list[str] = []
        self.gone: set[str] = set()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work, *more))
            for work, *more in [(self._deliver, "x"), (self._deliver, "y"), (self._fetch, ALICE)]
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _guarded(self, work: Callable[..., None], *more: str) -> None:
        try:
            number = 0
            while not self._stop.is_set():
                work(number, *more)
                number += 1
        except Exception as error:  # noqa: BLE001 - the test says it
            self.wrong.append(repr(error))

    def _deliver(self, number: int, name: str) -> None:
        token = f"{name}-{number}"
        octets = message(token, 200_001 if number % 10 == 5 else 900 + number)
        some = (ALICE, BOB, CAROL)[: number % 3 + 1]
        self.ledger.sending(token, octets, *some)
        with smtplib.SMTP("127.0.0.1", self.service.ports["smtp"], timeout=20) as client:
            client.sendmail("sender@elsewhere.example", list(some), octets)
        self.ledger.acknowledged(token, *some)

    def _fetch(self, number: int, mailbox: str) -> None:
        del number
        client = self.service.log_on(mailbox)
        tokens = []
        for n in range(1, min(client.stat()[0], 5) + 1):
            octets = b"\r\n".join(client.retr(n)[1]) + b"\r\n"
            match = TOKEN.search(octets)
            assert match
            tokens.append(match[1].decode())
            client.dele(n)
        self.ledger.deleting(mailbox, tokens)
        client.quit()
        self.ledger.deleted(mailbox, tokens)
        self.gone |= set(tokens)
        time.sleep(0.05)


def octets_by_unique_id(state: State) -> dict[str, bytes]:
    return {found.unique_id: found.octets for mail in state.mail.values() for found in mail}


@pytest.mark.timeout(300)
def test_backups_under_load_are_whole_and_the_last_is_everything(home: Home, tmp_path: Path) -> None:
    kept, ledger = tmp_path / "kept", Ledger()
    with Service(home.path) as service:
        with Load(service, ledger) as load:
            until = time.monotonic() + 8
            said: list[dict[str, Any]] = []
            while time.monotonic() < until or len(said) < 3:
                said.append(asked(home.path, "backup", str(kept)))
        assert load.wrong == []
        said.append(asked(home.path, "backup", str(kept)))
        done(home.path, "lock", BOB)
    assert all(each["kept"] for each in said[2:])
    ledger.lock(BOB, True)
    assert ledger.violations(look_inside(home)) == []
    shown = asked(home.path, "restore", str(kept), "/list")["snapshots"]
    assert [each["messages"] for each in shown] == [each["messages"] for each in said]
    new = Home(tmp_path / "last")
    done(new.path, "restore", str(kept))
    assert look_inside(new).mail == look_inside(home).mail
    ledger.lock(BOB, False)  # which came after the backup
    assert ledger.violations(look_inside(new)) == []
    assert blobs_and_rows_agree(new)
    whole = octets_by_unique_id(look_inside(home))
    for each in shown[:-1]:  # those made under load: all whole, nothing that was never sent
        then = Home(tmp_path / each["time"])
        done(then.path, "restore", str(kept), "/at", each["time"])
        state = look_inside(then)
        assert sum(map(len, state.mail.values())) == each["messages"]
        for address, mail in state.mail.items():
            assert not any(found.trouble for found in mail)
            newer = [found for found in look_inside(home).mail[address] if found in mail]
            assert newer == [found for found in mail if found.unique_id in whole]  # in their order, octet for octet
            gone = [found for found in mail if found.unique_id not in whole]
            assert {token(found) for found in gone} <= load.gone


def token(found: Found) -> str:
    match = TOKEN.search(found.octets)
    assert match
    return match[1].decode()


def test_what_was_restored_can_be_fetched_and_is_locked_as_it_was(home: Home, tmp_path: Path) -> None:
    kept, new = str(tmp_path / "kept"), tmp_path / "new"
    with Service(home.path) as service:
        for n in range(3):
            service.send([ALICE, BOB, CAROL][n], message(f"m-{n}", 900 + n))
        done(home.path, "lock", BOB)
        done(home.path, "lock", "other.example")
        unique_ids = [line.split()[1] for line in service.log_on(ALICE).uidl()[1]]
        done(home.path, "backup", kept)
    done(new, "restore", kept)
    with Service(new) as service:
        client = service.log_on(ALICE)
        assert [line.split()[1] for line in client.uidl()[1]] == unique_ids
        with pytest.raises(poplib.error_proto, match="AUTH"):
            service.log_on(ALICE, "not it")
        for locked in (BOB, CAROL):
            with pytest.raises(poplib.error_proto, match="locked"):
                service.log_on(locked)
        done(new, "unlock", "other.example")
        assert service.log_on(CAROL).stat()[0] == 1


def test_a_restore_while_users_are_connected(home: Home, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    with Service(home.path) as service:
        for n in range(4):
            service.send(ALICE, message(f"m-{n}", 200_000 if n == 1 else 900))
        done(home.path, "backup", kept)
        state = look_inside(home)
        client = service.log_on(ALICE)
        client.dele(1)
        client.dele(2)
        client.quit()
        service.send(ALICE, message("newer", 900))
        session = service.log_on(ALICE)
        assert session.stat()[0] == 3
        assert asked(home.path, "restore", kept)["messages"] == 2
        assert session.stat()[0] == 3  # its snapshot stays
        session.dele(1)
        session.quit()
        assert service.log_on(ALICE).stat()[0] == 4
        mail = look_inside(home).mail[ALICE]
        assert mail[:3] == [*state.mail[ALICE][:2], state.mail[ALICE][3]]
        assert token(mail[3]) == "newer"
        done(home.path, "delete", "example.com", "--yes")
        with contextlib.suppress(poplib.error_proto):
            service.log_on(ALICE)
        assert asked(home.path, "restore", kept, "example.com")["mailboxes"] == 2
        assert service.log_on(ALICE).stat()[0] == 4


def test_a_restored_setting_is_taken_at_once(home: Home, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    done(home.path, "set", "linelength", "100")
    done(home.path, "backup", kept)
    new = tmp_path / "new"
    done(new, "add", "new.example")
    with Service(new):
        assert asked(new, "restore", kept)["settings"] == ["linelength"]
        assert asked(new, "get", "linelength")["settings"][0]["value"] == "100"
        assert [each["operation"] for each in asked(new, "audit")["audit"]].count("restore") == 3
    assert winpop(new, "restore", kept, "nobody@example.com").returncode == 1
