"""Mail fetched and handed in by programs that we did not write, as people have them.

A client that is missing is skipped with the name of its package; where CI is set it is a failure.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from running import Service, messages

pytestmark = pytest.mark.clients

MESSAGE = "From: bob@example.com\r\nTo: alice@example.com\r\nSubject: lunch\r\n\r\nAt noon?\r\n.by the gate\r\n..\r\n"
BODY = ["At noon?", ".by the gate", ".."]


def client(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed; run: sudo apt install {name}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def run(*command: str, given: str = "", home: Path) -> str:
    environment = os.environ | {"HOME": str(home)}
    result = subprocess.run(
        command, input=given.encode(), capture_output=True, timeout=30, check=False, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.decode()


def in_the_order(body: list[str], text: str) -> bool:
    lines = iter(text.replace("\r\n", "\n").split("\n"))
    return all(line in lines for line in body)


@pytest.fixture
def alice(service: Service) -> Service:
    """The service with one message for alice."""
    service.send("alice@example.com", MESSAGE)
    return service


def test_curl_lists_fetches_and_deletes(alice: Service, tmp_path: Path) -> None:
    curl = client("curl")
    url = f"pop3://127.0.0.1:{alice.ports['pop3']}/"
    who = ("-sS", "-u", "alice@example.com:secret")
    number, size = run(curl, url, *who, home=tmp_path).split()
    fetched = run(curl, url + "1", *who, home=tmp_path)
    assert number == "1"
    assert int(size) == len(fetched)
    assert fetched.endswith(MESSAGE)
    run(curl, url + "1", *who, "-X", "DELE", "-I", home=tmp_path)
    assert alice.log_on("alice@example.com").stat() == (0, 0)


def test_curl_hands_in(service: Service, tmp_path: Path) -> None:
    url = f"smtp://127.0.0.1:{service.ports['smtp']}"
    path = ("--mail-from", "bob@example.com", "--mail-rcpt", "alice@example.com", "-T", "-")
    run(client("curl"), "-sS", url, *path, given=MESSAGE, home=tmp_path)
    [fetched] = messages(service.log_on("alice@example.com"))
    assert in_the_order(BODY, fetched.decode())


def test_curl_is_told_of_the_lock(alice: Service, tmp_path: Path) -> None:
    from running import done

    done(alice.home, "lock", "example.com")
    command = [client("curl"), "-sSv", f"pop3://127.0.0.1:{alice.ports['pop3']}/1", "-u", "alice@example.com:secret"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert result.returncode == 67  # curl: login denied
    assert "locked this domain" in result.stderr


def test_fetchmail_fetches_and_removes(alice: Service, tmp_path: Path) -> None:
    inbox, rc = tmp_path / "inbox", tmp_path / "fetchmailrc"
    rc.write_text(
        f"poll 127.0.0.1 protocol POP3 port {alice.ports['pop3']} uidl user alice@example.com password secret "
        f"sslproto '' fetchall mda \"cat >>{inbox}\"\n"
    )
    rc.chmod(0o600)
    run(client("fetchmail"), "-f", str(rc), "-N", "--nosyslog", "--pidfile", str(tmp_path / "pid"), home=tmp_path)
    assert in_the_order(BODY, inbox.read_text())
    assert alice.log_on("alice@example.com").stat() == (0, 0)


def test_mpop_fetches_pipelined_and_keeps(alice: Service, tmp_path: Path) -> None:
    inbox, rc = tmp_path / "inbox", tmp_path / "mpoprc"
    rc.write_text(
        f"account default\nhost 127.0.0.1\nport {alice.ports['pop3']}\nuser alice@example.com\npassword secret\n"
        f"auth user\ntls off\npipelining on\nkeep on\ndelivery mbox {inbox}\nuidls_file {tmp_path / 'uidls'}\n"
    )
    rc.chmod(0o600)
    run(client("mpop"), "-C", str(rc), home=tmp_path)
    assert in_the_order(BODY, inbox.read_text())
    alice.send("alice@example.com", "Subject: second\r\n\r\nLater\r\n")
    run(client("mpop"), "-C", str(rc), home=tmp_path)
    assert inbox.read_text().count("Subject: lunch") == 1  # known by its unique-id
    assert inbox.read_text().count("Subject: second") == 1


@pytest.mark.parametrize("protocol", ["SMTP", "ESMTP", "LMTP"])
def test_swaks_hands_in(service: Service, tmp_path: Path, protocol: str) -> None:
    port = service.ports["lmtp" if protocol == "LMTP" else "smtp"]
    run(
        client("swaks"), "--protocol", protocol, "--server", "127.0.0.1", "--port", str(port),
        "--from", "bob@example.com", "--to", "alice@example.com", "--data", "-",
        given=MESSAGE.replace("\r\n", "\n"), home=tmp_path,
    )  # fmt: skip
    [fetched] = messages(service.log_on("alice@example.com"))
    assert in_the_order(BODY, fetched.decode())
    assert f"with {protocol} id".encode() in fetched


def test_swaks_cannot_relay(service: Service, tmp_path: Path) -> None:
    command = [client("swaks"), "--server", "127.0.0.1", "--port", str(service.ports["smtp"])]
    path = ["--from", "alice@example.com", "--to", "somebody@elsewhere.example"]
    result = subprocess.run([*command, *path], capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert result.returncode == 24  # swaks: no recipient was accepted
    assert "550 5.7.1" in result.stdout


def test_poplib_reads_every_way_there_is(alice: Service) -> None:
    session = alice.log_on("alice@example.com")
    _, [listed], _ = session.list()
    _, lines, octets = session.retr(1)
    assert listed == b"1 %d" % octets
    assert [line.decode() for line in lines[-3:]] == BODY
    assert session.top(1, 1)[1] == lines[: -len(BODY) + 1]
    assert session.uidl(1).split()[2] == session.uidl()[1][0].split()[1]
    assert "PIPELINING" in session.capa()
    session.dele(1)
    session.rset()
    assert session.stat() == (1, octets)
    session.quit()
