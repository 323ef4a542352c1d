"""`winpop check` while the service runs: it disturbs nothing and takes nothing for damage; and how much it can read."""

import contextlib
import os
import poplib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from admin.doing import ADMINISTRATOR, do
from admin.test_check import (
    ALICE,
    BOB,
    CAROL,
    LARGE_BODY,
    OLD,
    SMALL_BODY,
    blob_of,
    brought,
    flip,
    found,
)
from running import COMMAND, Service
from winpop.admin import check_report
from winpop.admin.invoke import invoke
from winpop.admin.operations import OPERATIONS
from winpop.admin.place import Place
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.store.blobs import Blobs, Content
from winpop.store.delivery import deliver
from winpop.terms.names import Address

_SECONDS = 8.0


@pytest.fixture(autouse=True)
def private() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def again_and_again(work: Callable[[], None], until: threading.Event, failures: list[BaseException]) -> None:
    try:
        while not until.is_set():
            work()
    except BaseException as error:  # noqa: BLE001 - the test tells it
        failures.append(error)


def test_what_comes_and_goes_meanwhile_is_no_damage(home: Home, private: None) -> None:  # noqa: ARG001 - comes first
    for _ in range(20):
        brought(home, [ALICE, BOB, CAROL], LARGE_BODY)
        brought(home, [ALICE], SMALL_BODY)
    for path in home.mail.glob("??/*"):  # what is deleted is older than any delivery
        os.utime(path, (OLD, OLD))
    counted = {"sent": 0, "fetched": 0, "deleted": 0}
    looks = 0
    with Service(home.path) as service, busy(home, service, counted):
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            outcome = do(home, "check", **({"repair": ""} if looks % 2 else {}))
            assert outcome.data["findings"] == []
            assert outcome.complete
            assert not outcome.changed
            looks += 1
    assert min(counted.values()) > 0
    print(f"{looks} looks while {counted}")  # noqa: T201 - a figure for whoever reads the output
    assert found(home) == []


@contextlib.contextmanager
def busy(home: Home, service: Service, counted: dict[str, int]) -> Iterator[None]:
    """Deliver, fetch and delete all the while."""

    def send(recipients: list[str], octets: bytes) -> None:
        for one in recipients:
            service.send(one, octets)
            counted["sent"] += 1

    def fetch(user: str) -> None:
        with contextlib.closing(poplib.POP3("127.0.0.1", service.ports["pop3"], timeout=20)) as client:
            client.user(user)
            client.pass_("secret")
            for n in range(1, min(client.stat()[0], 8) + 1):
                client.retr(n)
                client.dele(n)
                counted["fetched"] += 1
            client.quit()

    def add_and_delete() -> None:
        do(home, "add", target="new@example.com", createuser=lambda: "secret")
        service.send("new@example.com", LARGE_BODY)
        do(home, "delete", target="new@example.com")
        counted["deleted"] += 1

    work: list[Callable[[], None]] = [
        lambda: send([ALICE, BOB], SMALL_BODY),
        lambda: send([CAROL, ALICE], LARGE_BODY),
        lambda: fetch(ALICE),
        lambda: fetch(BOB),
        lambda: fetch(CAROL),
        add_and_delete,
    ]
    stop, failures = threading.Event(), list[BaseException]()
    threads = [threading.Thread(target=again_and_again, args=(one, stop, failures)) for one in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_damaged_message_is_refused_and_the_others_go_on(home: Home, private: None) -> None:  # noqa: ARG001 - see above
    for octets in (SMALL_BODY, LARGE_BODY, SMALL_BODY.replace(b"small", b"third"), LARGE_BODY + b"whole\r\n"):
        brought(home, [ALICE], octets)
    flip(blob_of(home, 2), 77_777)
    flip(home.database, home.database.read_bytes().index(b"third message"))
    with Service(home.path) as service:
        assert found(home) == [("damaged", f"{ALICE} 2"), ("damaged", f"{ALICE} 3")]
        client = service.log_on(ALICE)
        for number in (2, 3):
            with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/PERM\]"):
                client.retr(number)
        assert b"\r\n".join(client.retr(1)[1]).endswith(SMALL_BODY.removesuffix(b"\r\n"))
        assert client.retr(4)[1][-1] == b"whole"
        client.quit()
        assert do(home, "check", repair="").complete is False
        assert service.log_on(ALICE).stat()[0] == 4


def peak(home: Home) -> tuple[int, float]:
    """Check with the tool; return its greatest resident memory in KiB, and the seconds that it took."""
    began = time.monotonic()
    process = os.posix_spawn(
        sys.executable,
        [*COMMAND, "--home", str(home.path), "check"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(process, 0)
    assert status == 0
    return usage.ru_maxrss, time.monotonic() - began


def fill_up(home: Home, count: int) -> None:
    names = [Address.parse(name) for name in (ALICE, BOB, CAROL)]
    database = Sqlite(home)
    for start in range(0, count, 500):
        with database.write() as transaction:
            for n in range(start, start + 500):
                body = b"Subject: %d\r\n\r\n" % n + SMALL_BODY
                deliver(transaction, [names[n % 3]], Content(len(body), body, None), b"X: y\r\n", plain=True)
    database.close()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted otherwise elsewhere")
def test_twenty_thousand_messages_need_no_more_memory_than_a_few(home: Home, private: None) -> None:  # noqa: ARG001
    Blobs(home.mail).make()
    fill_up(home, 500)
    few, _ = peak(home)
    fill_up(home, 20_000)
    many, seconds = peak(home)
    print(f"20 500 messages in {seconds:.1f} s, {many} KiB resident at most, {few} KiB with 500")  # noqa: T201 - figures
    assert many - few < 8192


def test_a_check_reads_in_short_snapshots(home: Home, private: None) -> None:  # noqa: ARG001 - see above
    """In the middle of it the log can be written back whole, which a reader with an old snapshot would prevent."""
    fill_up(home, 2000)
    writer, busy = Sqlite(home), list[int]()

    def told(_: str) -> None:
        with writer.write() as transaction:
            transaction.run("UPDATE message SET size = size WHERE id = 1")
        row = writer.one("PRAGMA wal_checkpoint(TRUNCATE)")
        assert row is not None
        assert isinstance(row[0], int)
        busy.append(row[0])

    place = Place(home)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(check_report, "_LOOKS", 0.02)
        assert invoke(place, ADMINISTRATOR, OPERATIONS["check"], {}, told).complete
    place.close()
    writer.close()
    assert len(busy) > 3
    assert not any(busy)
