"""Opening a database: made once, never guessed at, and never a traceback for what an administrator can meet."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from winpop.db import migrations, upgrade
from winpop.db.home import Home
from winpop.db.leases import Leases
from winpop.db.sqlite import Sqlite
from winpop.terms.refusals import Kind, Refusal

NOBODY = 65534
OPENS = """
import sys, pathlib
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
print("ready", flush=True)
sys.stdin.readline()
database = Sqlite(Home(pathlib.Path(sys.argv[1])))
with database.write() as transaction:
    transaction.insert("INSERT INTO domain (name) VALUES (?)", sys.argv[2])
database.close()
"""


@pytest.fixture
def bare(tmp_path: Path) -> Home:
    """A home without a database."""
    made = Home(tmp_path / "bare")
    made.make()
    return made


@pytest.fixture
def foreign() -> Iterator[Home]:
    """A home whose owner we are not, or no longer: where the tests run as root they act as nobody."""
    with tempfile.TemporaryDirectory() as directory:  # tmp_path lies where only its owner comes in
        os.chmod(directory, 0o755)  # noqa: PTH101 - a string
        made = Home(Path(directory) / "home")
        made.make()
        Sqlite(made).close()
        yield made
        made.path.chmod(0o700)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def schema(home: Home) -> list[tuple[str]]:
    with contextlib.closing(sqlite3.connect(home.database)) as connection:
        return connection.execute("SELECT name FROM sqlite_schema ORDER BY name").fetchall()


def test_a_new_database_gets_every_step(bare: Home) -> None:
    database = Sqlite(bare)
    assert database.number("PRAGMA user_version") == migrations.LATEST == max(migrations.steps())
    assert database.number("SELECT count(*) FROM message") == 0
    database.close()


def test_an_old_database_gets_the_steps_that_it_lacks(bare: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    Sqlite(bare).close()
    monkeypatch.setattr(migrations, "LATEST", migrations.LATEST + 1)
    later = {**migrations.steps(), migrations.LATEST: ("CREATE TABLE later (a)", "INSERT INTO later VALUES (7)")}
    monkeypatch.setattr(migrations, "steps", lambda: later)
    with pytest.raises(Refusal) as caught:
        Sqlite(bare)
    assert caught.value.code == "schema-older"
    for copy in (upgrade.copy_before(bare, migrations.LATEST - 1), None):  # the second time there is nothing to do
        assert upgrade.upgrade(bare) == copy
        database = Sqlite(bare)
        assert database.number("SELECT sum(a) FROM later") == 7
        database.close()


def test_a_step_that_fails_leaves_the_database_as_it_was(bare: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "steps", lambda: {1: ("CREATE TABLE half (a)", "NONSENSE")})
    with pytest.raises(sqlite3.OperationalError, match="NONSENSE"):
        Sqlite(bare)
    assert schema(bare) == []


def test_four_processes_at_once_make_one_database(bare: Home) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENS, str(bare.path), f"{number}.example"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, error = process.communicate(timeout=30)
        assert (process.returncode, error) == (0, "")
    database = Sqlite(bare)
    assert database.number("SELECT count(*) FROM domain") == 4
    database.close()


def test_a_database_of_a_newer_winpop_is_refused_and_left_alone(bare: Home) -> None:
    with contextlib.closing(sqlite3.connect(bare.database)) as connection:
        connection.execute(f"PRAGMA user_version = {migrations.LATEST + 1}")
    with pytest.raises(Refusal) as caught:
        Sqlite(bare)
    assert caught.value.code == "schema-newer"
    assert schema(bare) == []


@pytest.mark.parametrize("content", [b"hello", b"x" * 5000, b"SQLite format 3\0" + b"y" * 5000])
def test_a_file_that_is_no_database_is_called_damaged_and_left_alone(bare: Home, content: bytes) -> None:
    bare.database.write_bytes(content)
    with pytest.raises(Refusal, match="damaged") as caught:
        Sqlite(bare)
    assert (caught.value.code, caught.value.kind) == ("database-unreachable", Kind.OUT_OF_REACH)
    assert bare.database.read_bytes() == content


def test_a_home_that_is_not_there_is_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        Sqlite(Home(tmp_path / "nowhere"))
    assert (caught.value.code, caught.value.kind) == ("database-unreachable", Kind.OUT_OF_REACH)


@pytest.mark.parametrize(("home_mode", "file_mode"), [(0o755, 0o000), (0o555, 0o444), (0o000, 0o600)])
def test_who_may_not_use_the_database_is_told_so(foreign: Home, home_mode: int, file_mode: int) -> None:
    foreign.database.chmod(file_mode)
    foreign.path.chmod(home_mode)
    with unprivileged(), pytest.raises(Refusal) as caught:
        Sqlite(foreign).write().__enter__()
    assert (caught.value.code, caught.value.kind) == ("not-permitted", Kind.NOT_PERMITTED)


def test_who_may_not_enter_the_home_is_told_so(foreign: Home) -> None:
    foreign.path.chmod(0)
    for enter in (foreign.exists, lambda: Leases(foreign.leases)):
        with unprivileged(), pytest.raises(Refusal) as caught:
            enter()
        assert caught.value.code == "not-permitted"


def test_a_home_in_which_others_may_write_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "shared")
    home.make()
    assert home.path.stat().st_mode & 0o777 == 0o700
    for mode in (0o770, 0o702):
        home.path.chmod(mode)
        with pytest.raises(Refusal) as caught:
            home.make()
        assert caught.value.code == "unsafe-home"


def test_a_file_cannot_be_a_home(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    home = Home(tmp_path / "file" / "home")
    with pytest.raises(Refusal) as caught:
        home.make()
    assert caught.value.code == "bad-home"
    with pytest.raises(Refusal, match="Not a directory"):
        home.exists()
