"""The main job, told as it happens: the real program, real sockets, every rule of the lock.

Each test is one page of the story; the rules are those of the documented POP3 Service.
"""

import json
import poplib
import time

import pytest

from running import Service, asked, done, messages, winpop
from winpop.db.home import Home

LOCKED = "locked this"


def refused(service: Service, user: str, password: str = "secret") -> str:
    with pytest.raises(poplib.error_proto) as caught:
        service.log_on(user, password)
    return str(caught.value)


def ends_within_a_second(client: poplib.POP3) -> bytes:
    began = time.monotonic()
    line: bytes = client.file.readline()
    assert client.file.read() == b""
    assert time.monotonic() - began < 1.0
    return line


def unique_ids(service: Service, user: str) -> list[bytes]:
    client = service.log_on(user)
    listed = client.uidl()[1]
    client.quit()
    return listed


def test_mail_comes_in_is_locked_away_and_is_there_again(service: Service) -> None:
    home = service.home
    service.send("alice@example.com", "Subject: before\r\n\r\nfirst\r\n")
    before = unique_ids(service, "alice@example.com")

    done(home, "lock", "example.com")
    assert LOCKED in refused(service, "alice@example.com")
    assert LOCKED in refused(service, "bob@example.com")
    service.send("alice@example.com", "Subject: during\r\n\r\nsecond\r\n")
    service.send("alice@example.com", "Subject: during\r\n\r\nthird\r\n")
    service.log_on("carol@other.example").quit()  # another domain is not concerned

    done(home, "unlock", "example.com")
    client = service.log_on("alice@example.com")
    assert [message.rpartition(b"\r\n")[2] for message in messages(client)] == [b"first", b"second", b"third"]
    assert client.uidl()[1][:1] == before
    client.quit()


def test_a_lock_ends_open_sessions_in_every_worker_and_deletes_nothing(service: Service) -> None:
    for user in ("alice@example.com", "bob@example.com"):
        service.send(user, "Subject: kept\r\n\r\nkept\r\n")
    sessions = [service.log_on(user) for user in ("alice@example.com", "bob@example.com", "carol@other.example")]
    for client in sessions[:2]:
        client.dele(1)
    done(service.home, "lock", "EXAMPLE.com")
    for client in sessions[:2]:
        line = ends_within_a_second(client)
        assert line.startswith(b"-ERR [AUTH]")
        assert LOCKED.encode() in line
    sessions[2].noop()
    sessions[2].quit()
    done(service.home, "unlock", "example.com")
    for user in ("alice@example.com", "bob@example.com"):
        client = service.log_on(user)  # at once: no restart, no wait
        assert client.stat()[0] == 1
        client.quit()


def test_a_mailbox_lock_concerns_that_mailbox_alone(service: Service) -> None:
    alice, bob = service.log_on("alice@example.com"), service.log_on("bob@example.com")
    done(service.home, "lock", "alice@example.com")
    assert LOCKED.encode() in ends_within_a_second(alice)
    bob.noop()
    bob.quit()
    assert "mailbox" in refused(service, "alice@example.com")
    service.send("alice@example.com", "Subject: x\r\n\r\nstill delivered\r\n")
    done(service.home, "unlock", "alice@example.com")
    assert len(messages(service.log_on("alice@example.com"))) == 1


def test_a_wrong_password_on_a_locked_mailbox_reads_like_any_wrong_password(service: Service) -> None:
    open_one = refused(service, "alice@example.com", "wrong")
    nobody = refused(service, "nobody@example.com", "wrong")
    done(service.home, "lock", "example.com")
    assert refused(service, "alice@example.com", "wrong") == open_one == nobody
    assert LOCKED not in open_one


def test_no_mailbox_of_a_locked_domain_can_be_unlocked_alone(service: Service) -> None:
    done(service.home, "lock", "example.com")
    result = winpop(service.home, "--json", "unlock", "alice@example.com")
    assert result.returncode == 1
    assert json.loads(result.stdout)["error"]["code"] == "domain-locked"
    assert "example.com" in result.stderr
    assert result.stderr.count("\n") == 1
    assert LOCKED in refused(service, "alice@example.com")


def test_a_mailboxs_own_lock_outlives_its_domains(service: Service) -> None:
    home = service.home
    done(home, "lock", "example.com")
    done(home, "lock", "alice@example.com")
    done(home, "unlock", "example.com")
    assert "mailbox" in refused(service, "alice@example.com")
    service.log_on("bob@example.com").quit()
    done(home, "unlock", "alice@example.com")
    service.log_on("alice@example.com").quit()


def test_a_mailbox_made_inside_a_locked_domain_is_locked_by_it(service: Service) -> None:
    done(service.home, "lock", "example.com")
    done(service.home, "add", "dave@example.com", "/createuser", given="secret\n")
    assert "domain" in refused(service, "dave@example.com")
    done(service.home, "unlock", "example.com")
    service.log_on("dave@example.com").quit()


def test_locking_twice_and_unlocking_twice_change_nothing_and_are_no_errors(service: Service) -> None:
    for word in ("lock", "lock", "unlock", "unlock"):
        for target in ("example.com", "carol@other.example"):
            done(service.home, word, target)
    changed = [asked(service.home, word, "example.com")["changed"] for word in ("lock", "lock", "unlock", "unlock")]
    assert changed == [True, False, True, False]


def test_locks_survive_restarts_and_kills(home: Home) -> None:
    done(home.path, "lock", "example.com")  # with the service stopped
    done(home.path, "lock", "carol@other.example")
    with Service(home.path) as service:
        service.send("alice@example.com", "Subject: x\r\n\r\nkept\r\n")
        assert LOCKED in refused(service, "alice@example.com")
        service.kill()
    with Service(home.path) as service:
        assert LOCKED in refused(service, "alice@example.com")
        assert LOCKED in refused(service, "carol@other.example")
        assert service.stop() == 0
    done(home.path, "unlock", "example.com")
    with Service(home.path) as service:
        assert len(messages(service.log_on("alice@example.com"))) == 1


def test_deletions_of_a_session_that_quits_are_kept_and_those_of_others_are_not(service: Service) -> None:
    for n in range(3):
        service.send("alice@example.com", f"Subject: {n}\r\n\r\n{n}\r\n")
    left = service.log_on("alice@example.com")
    left.dele(1)
    left.close()  # no QUIT
    time.sleep(0.1)
    client = service.log_on("alice@example.com")
    assert client.stat()[0] == 3
    client.dele(2)
    client.quit()
    assert [m.rpartition(b"\r\n")[2] for m in messages(service.log_on("alice@example.com"))] == [b"0", b"2"]
