"""Full disks, readers of the log that read nothing, locks while the service is replaced: it goes on, or says so."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import argon2
import pytest

from conftest import fill
from running import COMMAND, Service
from services.wire import (
    ALICE,
    BOB,
    HEADER,
    Wire,
    begin_message,
    change,
    count,
    eventually,
    lock,
    no_defect,
    pop3,
    settle,
    smtp,
    unlock,
)
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import mailboxes
from winpop.store.blobs import Blobs
from winpop.terms.names import Address

LARGE = HEADER + b"x" * 998 + b"\r\n" + b"y" * 400_000 + b"\r\n"


@pytest.mark.parametrize("target", ["example.com", ALICE])
def test_a_lock_ends_the_sessions_of_workers_that_are_being_replaced(home: Home, target: str) -> None:
    with Service(home.path) as running, no_defect(running), pop3(running, ALICE) as session:
        change(home, "set", name="threadcount", values="1")
        eventually(lambda: "info listening" in running.log.read_text())
        time.sleep(0.3)  # now the others know that they are to drain
        assert session.ask(b"NOOP") == b"+OK"
        lock(running, target)
        began = time.monotonic()
        assert session.line().startswith(b"-ERR [AUTH]")
        assert time.monotonic() - began < 1


def test_a_lock_ends_the_sessions_of_a_service_that_stops(home: Home) -> None:
    with Service(home.path) as running, pop3(running, ALICE) as session:
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        lock(running, "example.com")
        assert session.line().startswith(b"-ERR [AUTH]")
        assert running.process.wait(10) == 0


def test_sigterm_before_it_serves_ends_it_with_0(home: Home) -> None:
    database = home.path / "winpop.db"
    shutil.rmtree(home.path)
    with subprocess.Popen(
        [*COMMAND, "--home", str(home.path), "serve", "--pop3", "127.0.0.1:0", "--smtp", "off"]
    ) as it:
        eventually(database.exists)
        it.send_signal(signal.SIGTERM)
        assert it.wait(20) == 0


def test_whoever_reads_no_log_stops_nobody(home: Home) -> None:
    script = "import os, sys; os.dup2(int(sys.argv[1]), 2); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    command = [sys.executable, "-c", script, str(writing), *COMMAND[1:], "--home", str(home.path), "--json", "serve"]
    flags = ["--workers", "1", "--pop3", "127.0.0.1:0", "--smtp", "off"]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True, pass_fds=[writing]) as it:
        assert it.stdout is not None
        port = int(it.stdout.readline().split('"pop3": "127.0.0.1:')[1].split('"')[0])
        for _ in range(1500):  # more lines than a pipe holds
            with Wire(port) as client:
                assert client.line().startswith(b"+OK")
                assert client.ask(b"QUIT").startswith(b"+OK")
        began = time.monotonic()
        it.send_signal(signal.SIGTERM)
        assert it.wait(30) == 0
        assert time.monotonic() - began < 8  # nobody had to be killed
    os.close(reading)
    os.close(writing)


def test_every_reason_to_refuse_a_logon_takes_the_same_time(home: Home) -> None:
    settle(home, failuredelay="1")
    fill(home, {"cheap@cheap.example": b"secret"})
    database = Sqlite(home)
    with database.write() as transaction:
        cheap = mailboxes.find(transaction, Address.parse("cheap@cheap.example"))
        mailboxes.set_password(transaction, cheap.id, argon2.PasswordHasher(1, 8, 1).hash(b"secret"))
    database.close()
    with Service(home.path) as running:
        took = {}
        for user in ("nobody@example.com", "nobody@nowhere.example", ALICE, "cheap@cheap.example", "\N{SNOWMAN}"):
            with pop3(running) as client:
                client.ask(b"USER " + user.encode())
                began = time.monotonic()
                assert client.ask(b"PASS wrong") == b"-ERR [AUTH] The name or the password is wrong"
                took[user] = time.monotonic() - began
    assert min(took.values()) >= 0.99, took
    assert max(took.values()) - min(took.values()) < 0.3, took


def test_no_password_right_or_wrong_gets_into_the_log_or_the_home(home: Home) -> None:
    canary = "CaNaRy-7f3a"
    fill(home, {"dave@dave.example": canary.encode()})
    settle(home, failuredelay="0")
    with Service(home.path) as running:
        running.log_on("dave@dave.example", canary).quit()
        with pop3(running) as client:
            client.ask(b"USER dave@dave.example")
            assert client.ask(f"PASS {canary} wrong".encode()).startswith(b"-ERR [AUTH]")
        assert running.stop() == 0
        said = running.log.read_bytes()
    assert b"dave@dave.example" in said
    kept = [path.read_bytes() for path in home.path.rglob("*") if path.is_file()]
    assert not any(canary.encode() in octets for octets in [said, *kept])


def test_an_alone_service_says_that_changed_listeners_wait(home: Home) -> None:
    with Service(home.path, "--workers", "0") as running:
        change(home, "set", name="lmtp", values="127.0.0.1:9")
        change(home, "set", name="hostname", values="mail.example.com")
        time.sleep(0.5)
        assert "listeners" not in running.log.read_text()  # a flag of this run comes first: nothing waits
    command = [*COMMAND, "--home", str(home.path), "--json", "serve", "--workers", "0", "--smtp", "off"]
    change(home, "set", name="lmtp", values="off")
    change(home, "set", name="pop3", values="127.0.0.1:0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        assert "ready" in it.stdout.readline()
        change(home, "set", name="lmtp", values="127.0.0.1:0")
        time.sleep(0.6)
        it.send_signal(signal.SIGTERM)
        _, said = it.communicate(timeout=15)
    assert "warning listeners" in said


# --- the disk ---


def test_mail_is_refused_for_now_when_the_disk_is_nearly_full_and_all_else_goes_on(home: Home) -> None:
    with Service(home.path) as running, no_defect(running):
        running.send(ALICE, HEADER + b"before\r\n")
        change(home, "set", name="diskreserve", values=str(2**40))
        for _ in range(20):
            with smtp(running) as sender:
                reply = asks_for_data(sender)
            if reply.startswith(b"452 4.3.1"):
                break
            time.sleep(0.1)
        assert reply.startswith(b"452 4.3.1")
        lock(running, "example.com")
        unlock(running, "example.com")
        with pop3(running, ALICE) as client:
            assert client.ask(b"DELE 1").startswith(b"+OK")
            assert client.ask(b"QUIT").startswith(b"+OK")
        change(home, "set", name="diskreserve", values="default")
        time.sleep(1.5)
        running.send(ALICE, HEADER + b"after\r\n")
        assert count(running) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 14 MB of its own; it takes root to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"no small disk: {mounted.stderr!r}")
        pytest.skip("needs root, to mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_on_a_full_disk_nothing_dies_nothing_is_left_and_it_goes_on_by_itself(small_disk: Path, tmp_path: Path) -> None:
    home, root = Home(small_disk / "home"), tmp_path / "mail"
    fill(home, {ALICE: b"secret", BOB: b"secret"})
    settle(home, diskreserve="0", mailroot=str(root), sessionsperaddress="1000")
    Blobs(root).make()
    with Service(home.path) as running, no_defect(running):
        running.send(ALICE, HEADER + b"before\r\n")
        workers = running.workers()
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for _ in range(3):
            with smtp(running) as sender:
                begin_message(sender, ALICE)
                sender.send(LARGE)
                assert sender.ask(b".").startswith(b"452 4.3.1")
        for n in range(2, 60):  # every connection is counted
            with pop3(running, source=f"127.0.0.{n}") as client:
                assert client.ask(b"QUIT").startswith(b"+OK")
        with pop3(running, ALICE) as client:
            assert client.ask(b"RETR 1").startswith(b"+OK")
            assert client.multiline().endswith(b"before\r\n")
        assert running.workers() == workers
        eventually(lambda: [path for path in root.rglob("*") if path.is_file()] == [])
        filler.unlink()
        running.send(ALICE, LARGE)
        assert count(running) == 2


def asks_for_data(sender: Wire) -> bytes:
    sender.ask(b"MAIL FROM:<a@b.example>")
    sender.ask(b"RCPT TO:<alice@example.com>")
    return sender.ask(b"DATA")


def test_a_mail_root_that_is_away_is_not_made_anew_and_its_mail_is_not_called_damaged(home: Home) -> None:
    with Service(home.path) as running:
        running.send(ALICE, LARGE)
        away = home.path / "away"
        home.mail.rename(away)
        with pop3(running, ALICE) as client:
            assert client.ask(b"RETR 1").startswith(b"-ERR [SYS/TEMP]")
            client.ask(b"QUIT")
        time.sleep(1.1)  # the disk is looked at once a second
        with smtp(running) as sender:
            assert asks_for_data(sender).startswith(b"452 ")
    with pytest.raises(AssertionError, match="mailroot-missing"):
        Service(home.path)
    assert not home.mail.exists()
    away.rename(home.mail)
    (home.mail / "tmp").rmdir()  # as a power cut may
    with Service(home.path) as running:
        running.send(ALICE, LARGE)
        assert count(running) == 2


@pytest.mark.parametrize("left", [None, b""])
def test_a_home_that_has_lost_its_database_is_not_begun_anew(home: Home, left: bytes | None) -> None:
    with Service(home.path) as running:
        running.send(ALICE, LARGE)
    home.database.unlink()
    if left is not None:
        home.database.write_bytes(left)
    files = sorted(path for path in home.mail.rglob("*") if path.is_file())
    with pytest.raises(AssertionError, match="database-missing"):
        Service(home.path)
    assert subprocess.run([*COMMAND, "--home", home.path, "check"], capture_output=True, check=False).returncode == 4
    assert sorted(path for path in home.mail.rglob("*") if path.is_file()) == files


def test_without_the_file_of_leases_there_is_still_one_service(home: Home) -> None:
    with Service(home.path):
        home.leases.unlink()
        with pytest.raises(AssertionError, match="service-running"):
            Service(home.path)
