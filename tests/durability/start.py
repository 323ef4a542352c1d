"""A start after a crash: no hand is needed, and it takes under ten seconds with 100,000 messages in the store.

Invariant: the time is from the start of the program to the first message that a client has fetched.
"""

import os
import signal
import tempfile
import time
from pathlib import Path

from conftest import fill
from durability.ledger import message
from durability.report import Extent, Result
from running import Service, log_on
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.store.blobs import Content
from winpop.store.delivery import deliver
from winpop.terms.names import Address

MESSAGES, MAILBOXES, _BATCH = 100_000, 100, 5_000
WITHIN = 10.0


def run(extent: Extent) -> Result:
    """Fill a store, kill its service while mail comes in, start it again; several times when in full."""
    result = Result("start after kill -9 with 100,000 messages")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        home = Home(Path(directory, "home"))
        names = [f"user{n}@example.com" for n in range(MAILBOXES)]
        fill(home, dict.fromkeys(names, b"secret"))
        _fill(home, names)
        slowest = 0.0
        for n in range(5 if extent.full else 1):
            _crash(home, names, n)
            took = _start(home, names[n])
            slowest = max(slowest, took)
            result.points += 1
            result.states += 1
            if took >= WITHIN:
                result.violated(f"start {n}", [f"it took {took:.1f} s"])
        size = home.database.stat().st_size
    result.of = result.points
    result.notes.append(f"slowest {slowest:.2f} s, {size >> 20} MiB of database")
    result.seconds = time.monotonic() - began
    return result


def _fill(home: Home, names: list[str]) -> None:
    database = Sqlite(home)
    octets = message("filler", 900)
    content = Content(len(octets), octets, None)
    recipients = [Address.parse(name) for name in names]
    for first in range(0, MESSAGES, _BATCH):
        with database.write() as transaction:
            for n in range(first, first + _BATCH):
                deliver(transaction, [recipients[n % MAILBOXES]], content, b"Return-Path: <>\r\n", plain=True)
    database.close()


def _crash(home: Home, names: list[str], n: int) -> None:
    """Kill the service with some mail in its log that no checkpoint has seen."""
    with Service(home.path) as service:
        for _ in range(50):
            service.send(names[n], message(f"late-{n}", 60_000).decode())
        os.killpg(service.process.pid, signal.SIGKILL)


def _start(home: Home, name: str) -> float:
    began = time.monotonic()
    with Service(home.path) as service:
        client = log_on(service.ports["pop3"], name)
        assert client.stat()[0] >= MESSAGES // MAILBOXES + 50
        client.retr(1)
        took = time.monotonic() - began
        client.close()
    return took
