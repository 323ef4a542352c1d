"""Messages on their way: the same octets whichever way they go, and whoever leaves in the middle."""

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from running import Service
from services.test_damaged_rows import PREFIX, bring
from services.test_defects import on_path
from services.wire import (
    ALICE,
    HEADER,
    Wire,
    descriptors,
    eventually,
    holder_of,
    lock,
    logs_on,
    no_defect,
    pop3,
    refusal,
    settle,
    unlock,
)
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.store.blobs import PIECE, SMALL, Blobs, Draft
from winpop.store.delivery import deliver
from winpop.terms.names import Address

PERM = b"-ERR [SYS/PERM] "


@pytest.fixture(params=["2", "1"])
def service(home: Home, request: pytest.FixtureRequest) -> Iterator[Service]:
    with Service(home.path, "--workers", request.param) as running, no_defect(running):
        yield running


def lines(number: int, size: int) -> bytes:
    """Lines of which no two are alike, of some `size` octets."""
    return b"".join(b"%08d of %04d\r\n" % (at, number) for at in range(size // 18 + 1))


def body(number: int) -> bytes:
    """One of a hundred: small, empty, with dots, around the bounds, large."""
    match number % 10:
        case 0:
            return HEADER + lines(number, SMALL + number * 1500)
        case 1:
            return HEADER + b".\r\n..\r\n.two\r\n" + lines(number, 200) + b".\r\n"
        case 2:
            return b".begins with one" + HEADER + lines(number, 300)
        case 3 if number % 20 == 3:
            return HEADER + lines(number, PIECE + SMALL) + b".\r\n.x\r\n" + lines(number, PIECE)
        case 4:
            return HEADER + b"no end of the last line"
        case 5 if number % 20 == 5:
            return (HEADER + lines(number, 2 * SMALL))[:-2] + b"x"  # a blob without an end of the last line
        case 6 if number % 20 == 6:
            return (HEADER + lines(number, 2 * SMALL))[:SMALL]
        case 6:
            return (HEADER + lines(number, 2 * SMALL))[: SMALL + 1]
        case _:
            return HEADER + lines(number, number * 40)


def whole(number: int) -> bytes:
    text = PREFIX + b"%d\r\n" % number + body(number)
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def stuffed(text: bytes) -> bytes:
    return (b".." + text[1:] if text.startswith(b".") else text).replace(b"\r\n.", b"\r\n..") + b".\r\n"


def hundred(home: Home) -> None:
    blobs, database = Blobs(home.mail), Sqlite(home)
    blobs.make()
    with database.write() as transaction:
        for number in range(100):
            draft = Draft(blobs)
            draft.write(body(number))
            plain = b"\n." not in body(number) and not body(number).startswith(b".")
            prefix = PREFIX + b"%d\r\n" % number
            deliver(transaction, [Address.parse(ALICE)], draft.finish(), prefix, plain=plain)
    database.close()


def over_tls(service: Service, user: str = "", *, port: str = "pop3") -> Wire:
    """Return a client that has begun TLS."""
    wire = Wire(service.ports[port])
    with wire.kept():
        if port == "pop3":
            wire.line()
            assert wire.ask(b"STLS").startswith(b"+OK")
        wire.start_tls()
        if port == "pop3s":
            assert wire.line().startswith(b"+OK")
        if user:
            assert wire.ask(b"USER " + user.encode()).startswith(b"+OK")
            assert wire.ask(b"PASS secret").startswith(b"+OK")
    return wire


def all_at_once(wire: Wire, order: list[int]) -> bytes:
    """Send all commands together, and read what comes until the end."""
    commands = b"".join(b"RETR %d\r\n" % (number + 1) for number in order) + b"QUIT\r\n"
    wire.send(commands)
    text = bytearray()
    while piece := wire._read.read1():
        text += piece
    return bytes(text)


def one_by_one(wire: Wire, order: list[int]) -> bytes:
    text = bytearray()
    for number in order:
        wire.send(b"RETR %d\r\n" % (number + 1))
        first = wire._read.readline()
        text += first
        assert first.startswith(b"+OK"), first
        while (line := wire._read.readline()) != b".\r\n":
            assert line
            text += line
        text += line
    wire.send(b"QUIT\r\n")
    return bytes(text) + wire.rest()


def test_a_hundred_messages_are_the_same_octets_whichever_way_they_are_fetched(home: Home, service: Service) -> None:
    hundred(home)
    forwards = list(range(100))
    mixed = [number * 37 % 100 for number in range(100)]
    for order in (forwards, mixed):
        with pop3(service, ALICE) as wire:
            separately = one_by_one(wire, order)
        at = 0
        for number in order:
            first = separately[at : at + 200].partition(b"\r\n")[0]
            assert first.startswith(b"+OK")
            expected = stuffed(whole(number))
            at += len(first) + 2
            assert separately[at : at + len(expected)] == expected, number
            at += len(expected)
        assert separately[at:].startswith(b"+OK")
        for begin in (pop3, over_tls, partial(over_tls, port="pop3s")):
            with begin(service, ALICE) as wire:
                assert all_at_once(wire, order) == separately
        with over_tls(service, ALICE) as wire:
            assert one_by_one(wire, order) == separately


def test_a_client_that_reads_slowly_gets_the_same_octets(home: Home, service: Service) -> None:
    order = [0, 1, 90, 3, 80, 90, 5, 70, 2]
    hundred(home)
    with pop3(service, ALICE) as wire:
        expected = all_at_once(wire, order)
    for buffer in (2048, 65536):
        with pop3(service, ALICE, buffer=buffer) as wire:
            wire.send(b"".join(b"RETR %d\r\n" % (number + 1) for number in order) + b"QUIT\r\n")
            text = b""
            while piece := wire._read.read1(9000):
                text += piece
                time.sleep(0.001)
            assert text == expected


def test_the_top_of_a_blob_is_its_header_and_so_many_lines_and_the_session_goes_on(
    home: Home, service: Service
) -> None:
    bring(home, ALICE, HEADER + lines(0, 3 * SMALL), "0")
    start = PREFIX + b"0\r\n" + HEADER
    text = lines(0, 3 * SMALL)
    for begin in (pop3, over_tls):
        with begin(service, ALICE) as wire:
            for count in (0, 1, 7, 10_000, 10**6):
                assert wire.ask(b"TOP 1 %d" % count).startswith(b"+OK")
                assert wire.multiline() == start + b"".join(text.splitlines(keepends=True)[:count])
            wire.send(b"TOP 1 0\r\nRETR 1\r\nTOP 1 0\r\nNOOP\r\n")
            for expected in (start, start + text, start):
                assert wire.line().startswith(b"+OK")
                assert wire.multiline() == expected
            assert wire.line().startswith(b"+OK")


def enormous(home: Home, size: int = 20 << 20) -> int:
    """Bring Alice a message of 20 MiB; return its size."""
    text = HEADER + lines(7, size)
    bring(home, ALICE, text, "7")
    return len(text)


@pytest.mark.parametrize("tls", [False, True])
def test_a_lock_in_the_middle_of_a_large_message_ends_it_within_a_second_and_without_its_end(
    home: Home, service: Service, *, tls: bool
) -> None:
    size = enormous(home)
    wire = over_tls(service, ALICE) if tls else pop3(service, ALICE, buffer=4096)
    with wire:
        wire.send(b"RETR 1\r\n")
        text = b""
        while len(text) < 300_000:  # slowly
            text += wire.octets(30_000)
            time.sleep(0.002)
        lock(service, ALICE)
        began = time.monotonic()
        eventually(lambda: holder_of(service, wire) is None, within=1)
        took = time.monotonic() - began
        unlock(service, ALICE)
        with contextlib.suppress(ssl.SSLError):
            text += wire.rest()
    assert took < max(1.0, os.getloadavg()[0] / 2)
    assert len(text) < size
    assert not text.endswith(b"\r\n.\r\n")
    assert b"-ERR" not in text
    assert logs_on(service)


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_client_that_goes_in_the_middle_frees_the_maildrop_and_is_no_fault_of_the_message(
    home: Home, service: Service, how: str
) -> None:
    enormous(home)
    held = sum(map(descriptors, service.workers()))
    for number in range(12):
        wire = pop3(service, ALICE, buffer=4096)
        wire.send(b"RETR 1\r\n")
        wire.octets(20_000 * (number % 3 + 1))
        if how == "reset":
            wire.vanish()
        else:
            wire.close()
        eventually(lambda: not refusal(service), within=3)
    eventually(lambda: sum(map(descriptors, service.workers())) <= held + 4)
    log = service.log.read_text()
    assert "unreadable" not in log, log


def test_quit_behind_a_blob_is_answered_and_frees_the_maildrop(home: Home, service: Service) -> None:
    bring(home, ALICE, HEADER + lines(1, 4 * SMALL), "1")
    for _ in range(3):
        with pop3(service, ALICE) as wire:
            wire.send(b"RETR 1\r\nQUIT\r\n")
            assert wire.line().startswith(b"+OK")
            assert wire.multiline() == PREFIX + b"1\r\n" + HEADER + lines(1, 4 * SMALL)
            assert wire.line().startswith(b"+OK")
            assert wire.rest() == b""
    with pop3(service, ALICE) as wire:
        wire.send(b"RETR 1\r\nDELE 1\r\nQUIT\r\n")
        assert wire.rest().count(b"\r\n.\r\n+OK") == 1
    with pop3(service, ALICE) as wire:
        assert wire.ask(b"STAT") == b"+OK 0 0"


def blob(home: Home) -> Path:
    return next(path for path in home.mail.glob("[0-9a-f][0-9a-f]/*") if path.is_file())


@pytest.mark.parametrize("again", ["0", "3600"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_blob_that_is_damaged_between_two_fetches_is_refused_when_it_is_compared_again(
    home: Home, again: str, *, tls: bool
) -> None:
    settle(home, checkagain=again)
    bring(home, ALICE, HEADER + lines(1, 4 * SMALL), "1")
    with Service(home.path, "--workers", "1") as running, no_defect(running):
        with over_tls(running, ALICE) if tls else pop3(running, ALICE) as wire:
            assert wire.ask(b"RETR 1").startswith(b"+OK")
            assert wire.multiline() == PREFIX + b"1\r\n" + HEADER + lines(1, 4 * SMALL)
            with blob(home).open("r+b") as file:
                file.seek(SMALL)
                file.write(b"x")
            reply = wire.ask(b"RETR 1")
            if again == "0":
                assert reply.startswith(PERM)
                assert wire.ask(b"RETR 1").startswith(PERM)
            else:  # the setting's text: it is fetched without comparing it again
                assert reply.startswith(b"+OK")
                assert len(wire.multiline()) == len(PREFIX + b"1\r\n" + HEADER + lines(1, 4 * SMALL))
            assert wire.ask(b"NOOP").startswith(b"+OK")
            assert wire.ask(b"QUIT").startswith(b"+OK")
        if again == "0":
            eventually(lambda: "critical unreadable" in running.log.read_text())
        assert ("critical unreadable" in running.log.read_text()) == (again == "0")
    with Service(home.path, "--workers", "1") as running, pop3(running, ALICE) as wire:
        assert wire.ask(b"RETR 1").startswith(PERM)  # nobody has compared it here


def test_a_blob_that_is_cut_is_refused_at_once_whenever_it_was_compared(home: Home, service: Service) -> None:
    bring(home, ALICE, HEADER + lines(1, 4 * SMALL), "1")
    with pop3(service, ALICE) as wire:
        assert wire.ask(b"RETR 1").startswith(b"+OK")
        wire.multiline()
        os.truncate(blob(home), SMALL)
        assert wire.ask(b"RETR 1").startswith(PERM)
        assert wire.ask(b"NOOP").startswith(b"+OK")


NO_MORE = """
import os
from winpop.services import passing

class Os:
    def __getattr__(self, name):
        return getattr(os, name)

    def dup(self, descriptor):
        raise OSError(24, "Too many open files")

passing.os = Os()
"""


def test_where_no_descriptor_is_left_for_a_large_message_its_session_does_not_hang(home: Home, tmp_path: Path) -> None:
    bring(home, ALICE, HEADER + lines(1, 4 * SMALL), "1")
    path = on_path(tmp_path, NO_MORE)
    with Service(home.path, "--workers", "1", PYTHONPATH=path) as running, pop3(running, ALICE) as wire:
        wire.socket.settimeout(5)
        wire.send(b"RETR 1\r\nQUIT\r\n")
        text = wire.rest()  # either all of it, or an end without one
        complete = stuffed(PREFIX + b"1\r\n" + HEADER + lines(1, 4 * SMALL))
        assert complete in text or not text.endswith(b".\r\n")
        assert logs_on(running)


def test_what_is_pipelined_behind_a_listing_is_answered(home: Home, service: Service) -> None:
    bring(home, ALICE, body(1), "1")
    for begin in (pop3, over_tls):
        with begin(service, ALICE) as wire:
            wire.socket.settimeout(5)
            for listing in (b"LIST", b"UIDL"):
                wire.send(listing + b"\r\nNOOP\r\n" + listing + b"\r\nNOOP\r\n")
                for _ in range(2):
                    assert wire.line().startswith(b"+OK")
                    assert wire.multiline().startswith(b"1 ")
                    assert wire.line() == b"+OK"


# --- TLS ---


def test_commands_that_are_pipelined_behind_stls_are_answered_over_tls_in_order(home: Home, service: Service) -> None:
    for number in range(5):
        bring(home, ALICE, body(number), str(number))
    with over_tls(service) as wire:
        wire.send(b"USER alice@example.com\r\nPASS secret\r\nSTAT\r\nLIST\r\nRETR 1\r\nUIDL\r\nNOOP\r\nQUIT\r\n")
        assert wire.line().startswith(b"+OK")
        assert wire.line().startswith(b"+OK")
        assert wire.line().startswith(b"+OK 5 ")
        assert wire.line().startswith(b"+OK")
        assert len(wire.multiline().splitlines()) == 5
        assert wire.line().startswith(b"+OK")
        assert wire.multiline() == whole(0)
        assert wire.line().startswith(b"+OK")
        assert len(wire.multiline().splitlines()) == 5
        assert wire.line().startswith(b"+OK")
        assert wire.line().startswith(b"+OK")
        assert wire.rest() == b""


class Bio:
    """A client over TLS that decides itself when which octets go out."""

    def __init__(self, port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._in, self._out)

    def handshake(self, behind: bytes = b"") -> None:
        """Make the handshake; `behind` goes in one write with its last record."""
        while True:
            try:
                self.object.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._in.write(self.socket.recv(65536))
            else:
                break
        if behind:
            self.object.write(behind)
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self._out.read())

    def close_notify(self) -> None:
        """Say over TLS that no more will come."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.object.unwrap()
        self.flush()

    def rest(self) -> tuple[bytes, bool]:
        """Return everything until the server ends, and whether it said so over TLS."""
        text = b""
        while True:
            try:
                piece = self.object.read(65536)
                if not piece:
                    return text, True
                text += piece
            except ssl.SSLWantReadError:
                records = self.socket.recv(65536)
                if not records:
                    return text, False
                self._in.write(records)
            except ssl.SSLZeroReturnError:
                return text, True


COMMANDS = b"USER alice@example.com\r\nPASS secret\r\nSTAT\r\nRETR 1\r\nRETR 2\r\nNOOP\r\n"


@pytest.mark.parametrize("how", ["close_notify", "shutdown"])
@pytest.mark.parametrize("together", [False, True])
def test_what_was_asked_before_the_client_closed_its_half_is_answered(
    home: Home, service: Service, how: str, *, together: bool
) -> None:
    for number in (0, 1):
        bring(home, ALICE, body(number), str(number))
    client = Bio(service.ports["pop3s"])
    with client.socket:
        if together:
            client.handshake(behind=COMMANDS)
        else:
            client.handshake()
            client.object.write(COMMANDS)
            client.flush()
        if how == "shutdown":
            client.socket.shutdown(socket.SHUT_WR)
        else:
            client.close_notify()
        text, _ = client.rest()
    assert text.count(b"+OK") >= 7
    assert stuffed(whole(0)) in text
    assert stuffed(whole(1)) in text
    assert text.endswith(b"\r\n.\r\n+OK\r\n"), text[-80:]
    assert logs_on(service)


@pytest.mark.parametrize("after", [0, 3, 60])
def test_a_client_that_breaks_off_in_the_handshake_frees_its_place_at_once(home: Home, after: int) -> None:
    settle(home, socketmax="3", socketmin="3", socketthreshold="0", socketbacklog="1")
    with Service(home.path, "--workers", "1") as running, no_defect(running):
        (worker,) = running.workers()
        eventually(lambda: logs_on(running))
        held = descriptors(worker)
        for number in range(12):  # four times as many as there is room for
            client = Bio(running.ports["pop3s"])
            with contextlib.suppress(ssl.SSLWantReadError):
                client.object.do_handshake()
            client.socket.sendall(client._out.read()[: after or None])
            if number % 2:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.socket.close()
            eventually(lambda: descriptors(worker) <= held, within=2)
        with over_tls(running, ALICE, port="pop3s") as wire:
            assert wire.ask(b"QUIT").startswith(b"+OK")
