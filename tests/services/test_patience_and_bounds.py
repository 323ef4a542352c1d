"""How long a client may take, and how much of it the service keeps: neither one that reads slowly, nor one that reads
quickly, nor one that never ends, has more than its share; and however it reads, it gets the octets in their order.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from running import Service
from services.test_damaged_rows import PREFIX, bring
from services.test_fetching import COMMANDS, Bio, lines, over_tls
from services.wire import (
    ALICE,
    BOB,
    HEADER,
    STRANGER,
    Wire,
    memory,
    no_defect,
    place,
    pop3,
    settle,
)
from winpop.db.home import Home

MB = 1 << 20


@contextlib.contextmanager
def serving(home: Home, **settings: str) -> Iterator[Service]:
    """One worker with these settings."""
    settle(home, **settings)
    with Service(home.path, "--workers", "1") as running, no_defect(running):
        yield running


def patience(seconds: float) -> float:
    """Return how long it may take where more processes want to run than can."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def test_what_is_sent_behind_the_end_of_tls_is_not_kept(home: Home) -> None:
    """RFC 8446 §6.1; a logon that fails is answered late, and until then the connection stands."""
    junk = b"\x17\x03\x03\x40\x00" + os.urandom(1 << 14)
    with serving(home, failuredelay="10") as service:
        (worker,) = service.workers()
        over_tls(service, ALICE, port="pop3s").close()  # what TLS and a password need is there
        client = Bio(service.ports["pop3s"])
        with client.socket:
            client.handshake(behind=COMMANDS.replace(b"PASS secret", b"PASS wrong"))
            client.close_notify()
            time.sleep(0.5)  # the password was compared
            before = memory(worker)
            for _ in range(48 * MB // len(junk)):
                client.socket.sendall(junk)  # fails where nobody reads, or the connection is no more
            assert memory(worker) - before < 6 * MB


def test_in_a_session_that_is_older_than_stalltime_a_large_message_may_begin_slowly(home: Home) -> None:
    text = HEADER + lines(1, 20 * MB)
    for user in (ALICE, BOB):
        bring(home, user, text, "1")
    with (
        serving(home, stalltime="3") as service,
        pop3(service, ALICE, buffer=65536) as clear,
        over_tls(service, BOB) as secured,
    ):
        time.sleep(3.5)
        for wire in (clear, secured):
            wire.send(b"RETR 1\r\n")
        time.sleep(1)  # takes nothing, for less than stalltime
        expected = PREFIX + b"1\r\n" + text + b".\r\n"
        for first, octets in together(clear, secured, len(expected)):
            assert first.startswith(b"+OK")
            assert octets == expected


def together(one: Wire, other: Wire, count: int) -> list[tuple[bytes, bytes]]:
    """Read a line and so many octets from both at a time, so that neither waits for the other."""

    def read(wire: Wire) -> tuple[bytes, bytes]:
        return wire.line(), wire.octets(count)

    with ThreadPoolExecutor() as threads:
        return list(threads.map(read, (one, other)))


def test_who_goes_on_and_on_before_the_logon_is_let_go(home: Home) -> None:
    with serving(home) as service, Wire(service.ports["pop3"], STRANGER) as wire:
        wire.send(b"CAPA\r\n" * 200)
        said = wire.rest()
    assert said.count(b"+OK Capabilities") == 100
    assert said.endswith(b"-ERR Too many errors\r\n")


def test_who_reads_quickly_holds_up_nobody(home: Home) -> None:
    """Each UIDL of ten thousand is some 300 kB, and the next is always asked for already."""
    place(home, BOB, HEADER + b"hello\r\n", times=10_000)
    over = threading.Event()
    came = 0

    def ask(wire: Wire) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                wire.send(b"UIDL\r\n" * 1000)

    def read(wire: Wire) -> None:
        nonlocal came
        room = bytearray(4 * MB)
        with contextlib.suppress(OSError):
            while not over.is_set() and (count := wire.socket.recv_into(room)):
                came += count

    with serving(home, scram="0") as service, pop3(service, BOB) as busy:
        assert busy.ask(b"DELE 1").startswith(b"+OK")  # so that each listing is made anew
        threads = [threading.Thread(target=work, args=(busy,)) for work in (ask, read)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.3)
            took = []
            for _ in range(3):
                began = time.monotonic()
                with pop3(service, ALICE) as wire:
                    assert wire.ask(b"STAT") == b"+OK 0 0"
                took.append(time.monotonic() - began)
        finally:
            over.set()
            busy.socket.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
        assert min(took) < 0.3, took  # the quickest: what else the machine does holds up one or the other
        assert came > 2 * MB


def test_a_file_does_not_overtake_small_messages_that_the_client_has_not_taken(home: Home) -> None:
    """How much of them lies where when it is the file's turn depends on their number."""
    small, large = HEADER + lines(1, 6000), HEADER + lines(2, 512 * 1024)
    bring(home, ALICE, small, "1")
    bring(home, ALICE, large, "2")
    order = [number for smalls in range(24) for number in [*[1] * (smalls * 9), 2]]
    with serving(home) as service, pop3(service, ALICE, buffer=4096) as wire:
        wire.send(b"".join(b"RETR %d\r\n" % number for number in order))
        time.sleep(0.5)  # the system's room for the connection is filled
        for at, number in enumerate(order):
            assert wire.line().startswith(b"+OK"), at
            expected = PREFIX + b"%d\r\n" % number + (small if number == 1 else large) + b".\r\n"
            assert wire.octets(len(expected)) == expected, at


def test_what_a_client_sends_that_reads_nothing_is_not_kept(home: Home) -> None:
    """Not even in pieces that are shorter than what is read at once, behind replies that are few."""
    place(home, ALICE, HEADER + lines(1, 43 * 1024))
    with serving(home) as service, pop3(service, ALICE, buffer=4096) as client:
        (worker,) = service.workers()
        for _ in range(150):  # far more than the system holds for it
            client.send(b"RETR 1\r\n")
            time.sleep(0.004)
        before = memory(worker)
        client.socket.settimeout(0.1)
        with contextlib.suppress(TimeoutError):  # nobody reads it
            for _ in range(1500):
                client.send(b"NOOP\r\n" * 400)
                time.sleep(0.002)
        assert memory(worker) - before < MB
