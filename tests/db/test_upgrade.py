"""From every earlier schema to today's, with real mail in it; reversible, alone, whole after a kill at any point."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from durability.ledger import Ledger, State, look_inside
from running import COMMAND, Service, done, winpop
from winpop.db import migrations
from winpop.db.home import Home
from winpop.db.leases import SERVICE, UPGRADE, Leases
from winpop.db.upgrade import copy_before, upgrade
from winpop.store.blobs import Blobs
from winpop.terms.refusals import Refusal

SCHEMAS = sorted(Path(__file__).parent.joinpath("schemas").glob("*.sql"))
ALICE, BOB, CAROL = "alice@example.com", "bob@example.com", "carol@other.example"
MAIL = {ALICE: ["v-2", "v-4"], BOB: ["v-2", "v-3"], CAROL: ["v-3", "v-5"]}
SIZES = {"v-2": 901, "v-3": 200_000, "v-4": 150_001, "v-5": 400}
BLOBS = {"dc93bf715c5b61c648eacef0fa9e444e": "v-3", "1363361c06dbb21b7981bea081657105": "v-4"}
UPGRADES = """
import sys, pathlib
from winpop.db.home import Home
from winpop.db.upgrade import upgrade
upgrade(Home(pathlib.Path(sys.argv[1])))
"""


def message(token: str, size: int) -> bytes:
    """Return the message with this token, as it was made when the homes of the earlier schemas were."""
    head = f"Subject: {token}\r\nX-Token: {token}\r\n\r\n".encode()
    line = hashlib.sha256(token.encode()).hexdigest().encode() + b"\r\n"
    body = line * (max(size - len(head), 0) // len(line) + 1)
    return head + b"." + body[1:] if size % 2 else head + body


RECEIVED = 3
"""The schema that knows when a message came in."""


def earlier(path: Path, schema: Path) -> Home:
    """Make the home that the winpop of that time left."""
    home = Home(path)
    home.make()
    with contextlib.closing(sqlite3.connect(home.database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(schema.read_text())
    blobs = Blobs(home.mail)
    blobs.make()
    for name, token in BLOBS.items():
        blobs.path(name).write_bytes(message(token, SIZES[token]))
    return home


def ledger() -> Ledger:
    made = Ledger()
    for address, tokens in MAIL.items():
        made.mailbox(address, True)
        for token in tokens:
            made.sending(token, message(token, SIZES[token]), address)
            made.acknowledged(token, address)
    made.lock("example.com", False)
    made.lock("other.example", True)
    made.lock(BOB, True)
    return made


def schema_of(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        number: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return number


@pytest.fixture(params=SCHEMAS, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A home of each earlier schema."""
    return earlier(tmp_path / "home", request.param)


def test_every_earlier_schema_is_tried() -> None:
    assert [int(path.stem) for path in SCHEMAS] == list(range(1, migrations.LATEST))


def test_the_tool_upgrades_and_everything_is_as_it_was(old: Home) -> None:
    schema = schema_of(old.database)
    unique_ids = sqlite3.connect(old.database).execute("SELECT id, unique_id FROM message ORDER BY id").fetchall()
    result = winpop(old.path, "--json", "list")
    assert result.returncode == 0, result.stderr
    assert str(copy_before(old, schema)) in json.loads(result.stdout)["notes"][0]
    assert schema_of(old.database) == migrations.LATEST
    assert schema_of(copy_before(old, schema)) == schema
    assert ledger().violations(look_inside(old)) == []
    with contextlib.closing(sqlite3.connect(old.database)) as connection:
        assert connection.execute("SELECT id, unique_id FROM message ORDER BY id").fetchall() == unique_ids
        assert connection.execute("SELECT value FROM setting WHERE name = 'autologout'").fetchone() == ("900",)
        ages = connection.execute("SELECT DISTINCT strftime('%s', 'now') - received FROM message").fetchall()
        if schema < RECEIVED:
            assert all(0 <= age < 600 for (age,) in ages), "mail counts from the upgrade on"
        keys = connection.execute("SELECT DISTINCT scram_sha_1, scram_sha_256, secret FROM password").fetchall()
        assert keys == [(None, None, None)]
    assert "notes" in done(old.path, "--json", "list")
    assert json.loads(done(old.path, "--json", "list"))["notes"] == []


def test_the_service_upgrades_when_it_starts_and_serves_the_old_mail(old: Home) -> None:
    schema = schema_of(old.database)
    with Service(old.path) as running:
        done(old.path, "unlock", BOB)
        client = running.log_on(BOB)
        for number, token in enumerate(MAIL[BOB], 1):
            octets = b"\r\n".join(client.retr(number)[1]) + b"\r\n"
            assert octets.endswith(message(token, SIZES[token]))
        running.send(ALICE, message("new", 500))
    assert "upgraded" in running.log.read_text()
    assert copy_before(old, schema).exists()


def test_the_copy_in_its_place_is_the_database_of_before(old: Home) -> None:
    schema = schema_of(old.database)
    before = dump(old.database)
    copy = upgrade(old)
    assert copy is not None
    assert copy.stat().st_mode & 0o777 == 0o600
    copy.replace(old.database)
    assert dump(old.database) == before
    assert schema_of(old.database) == schema


def dump(database: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize(("number", "code"), [(SERVICE, "service-running"), (UPGRADE, "schema-upgrading")])
def test_nothing_is_upgraded_under_a_service_or_twice_at_once(old: Home, number: int, code: str) -> None:
    schema = schema_of(old.database)
    with contextlib.closing(Leases(old.leases)) as leases:
        assert leases.take(number)
        with pytest.raises(Refusal) as caught:
            upgrade(old)
        assert caught.value.code == code
    assert schema_of(old.database) == schema
    upgrade(old)
    assert schema_of(old.database) == migrations.LATEST


def test_many_commands_at_once_upgrade_once(old: Home) -> None:
    tools = [
        subprocess.Popen([*COMMAND, "--home", str(old.path), "list"], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(6)
    ]
    ends = [(tool.communicate()[1], tool.returncode) for tool in tools]
    assert all(status == 0 or (status == 1 and b"schema-upgrading" in said) for said, status in ends), ends
    assert any(status == 0 for _, status in ends)
    assert ledger().violations(look_inside(old)) == []


def test_without_room_for_the_copy_nothing_is_changed(old: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = schema_of(old.database)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(Refusal) as caught:
        upgrade(old)
    assert caught.value.code == "disk-full"
    assert schema_of(old.database) == schema
    assert not copy_before(old, schema).exists()


def test_killed_at_any_write_it_is_whole_and_the_next_command_goes_on(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is missing")
        pytest.skip("needs strace (package strace)")
    points = 0
    for call in ("pwrite64", "fsync", "fdatasync", "rename", "unlink"):
        for n in range(1, 100):
            home = earlier(tmp_path / f"{call}-{n}", SCHEMAS[-1])
            inject = f"{call}:signal=KILL:when={n}"
            traced = ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={inject}"]
            ended = subprocess.run([*traced, sys.executable, "-c", UPGRADES, str(home.path)], check=False)
            if ended.returncode == 0:
                break  # there are no more calls of this kind
            assert ended.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}
            points += 1
            upgrade(home)
            assert ledger().violations(look_inside(home)) == []
            if schema_of(home.database) != migrations.LATEST:
                pytest.fail(f"not upgraded after a kill at {call} {n}")
            shutil.rmtree(home.path)
    assert points > 10


def test_look_inside_reads_all_that_the_ledger_asks_for(old: Home) -> None:
    upgrade(old)
    state = look_inside(old)
    emptied = State({address: [] for address in state.mail}, frozenset())
    assert len(ledger().violations(emptied)) == 2 + sum(map(len, MAIL.values()))
