"""Active Directory integrated, the whole way through: the tool, the service, and a real domain controller (Samba)."""

import base64
import json
import os
import poplib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from running import Service, asked, done, winpop
from services.wire import Wire, eventually, no_defect, place, pop3
from winpop.db.home import Home

if TYPE_CHECKING:
    from real.directory import Domain  # pytest imports it as a plugin

pytest_plugins = ["real.directory"]

MAIL = "example.com"
"""A mail domain that the directory knows as a suffix of user principal names."""


@pytest.fixture
def installation(domain: "Domain", tmp_path: Path) -> Path:
    """An installation whose new mailboxes have their accounts in the directory, with the mail domain in it."""
    home = tmp_path / "installation"
    done(home, "add", MAIL)
    connect(home, domain)
    done(home, "set", "auth", "2")
    done(home, "set", "failuredelay", "0")
    return home


def connect(home: Path, domain: "Domain") -> None:
    done(home, "set", "ldapservers", domain.uri)
    done(home, "set", "ldapca", str(domain.ca))
    done(home, "set", "ldapuser", f"svc-admin@{domain.realm.lower()}", "/password", given="Passw0rd!svc-admin\n")


@pytest.fixture
def service(installation: Path) -> Iterator[Service]:
    with Service(installation) as running, no_defect(running):
        yield running


def made(domain: "Domain") -> tuple[str, str, str]:
    """Make an account whose user principal name is a mailbox address; return name, address and password."""
    name = domain.make_user()
    address = f"{name}@{MAIL}"
    domain.modify(domain.dn(name), userPrincipalName=address)
    return name, address, f"Passw0rd!{name}"


def refused(service: Service, user: str, password: str) -> str:
    with pytest.raises(poplib.error_proto) as caught:
        service.log_on(user, password)
    return str(caught.value)


def test_an_account_that_exists_gets_a_mailbox_and_logs_on_by_all_its_names(domain: "Domain", service: Service) -> None:
    name, address, password = made(domain)
    done(service.home, "add", address)
    for user in (address, name, f"{domain.name}\\{name}", f"{name}@{domain.realm.lower()}", address.upper()):
        service.log_on(user, password).quit()
    assert "[AUTH] The name or the password is wrong" in refused(service, address, "wrong")
    assert "-ERR PASS needs a password" in refused(service, address, "")


def test_winpop_makes_accounts_and_sets_their_passwords(service: Service) -> None:
    name = f"new{os.getpid()}{os.urandom(2).hex()}"
    address = f"{name}@{MAIL}"
    weak = winpop(service.home, "add", address, "/createuser", given="a\n")
    assert (weak.returncode, weak.stderr.count("\n")) == (1, 1), weak.stderr
    done(service.home, "add", address, "/createuser", given="First-Passw0rd\n")
    service.log_on(address, "First-Passw0rd").quit()
    done(service.home, "changepwd", address, given="Second-Passw0rd\n")
    refused(service, address, "First-Passw0rd")  # though it was remembered
    service.log_on(address, "Second-Passw0rd").quit()
    done(service.home, "delete", address, "/deleteuser", "--yes")
    absent = winpop(service.home, "add", address)
    assert "no-such-account" in absent.stderr


def test_why_an_account_may_not_log_on_is_told_to_the_log_alone(domain: "Domain", service: Service) -> None:
    words = set()
    for what, values, why in (
        ("disabled", {"userAccountControl": "514"}, "disabled"),
        ("must change", {"pwdLastSet": "0"}, "must change password"),
    ):
        name, address, password = made(domain)
        done(service.home, "add", address)
        domain.modify(domain.dn(name), **values)
        words.add(refused(service, address, password))
        eventually(lambda why=why: why in service.log.read_text())  # type: ignore[misc]
        assert what not in words
    assert words == {"b'-ERR [AUTH] The name or the password is wrong'"}


def test_an_administrator_sees_why_an_account_may_not_log_on_and_who_administers(
    domain: "Domain", installation: Path
) -> None:
    """The group ldapadmins is in a group that the account is not in itself."""

    def facts(address: str) -> dict[str, str]:
        return {fact["name"]: fact["value"] for fact in asked(installation, "account", address)["account"]}

    name, address, _ = made(domain)
    done(installation, "add", address)
    assert facts(address)["state"] == "may log on"
    domain.modify(domain.dn(name), userAccountControl="514")
    assert facts(address)["state"] == "disabled"
    assert facts(address)["pre-Windows 2000 name"] == name
    done(installation, "set", "ldapadmins", "org-everyone")  # of which mail-staff is a member, of which pop-users is
    assert facts(address)["administrator"] == "no"
    domain.script("tool", "group", "addmembers", "pop-users", name)
    assert facts(address)["administrator"] == "yes"


def test_a_lock_holds_and_its_mail_is_there_afterwards(domain: "Domain", service: Service) -> None:
    name, address, password = made(domain)
    done(service.home, "add", address)
    done(service.home, "lock", MAIL)
    service.send(address, "Subject: kept\r\n\r\n")
    assert "locked this domain" in refused(service, address, password)
    assert "locked" not in refused(service, address, "wrong")
    done(service.home, "unlock", MAIL)
    client = service.log_on(name, password)
    assert client.stat()[0] == 1
    client.quit()


def test_a_directory_that_is_away_is_told_as_such_and_who_is_remembered_goes_on(
    domain: "Domain", installation: Path
) -> None:
    (_, one, right), *others = (made(domain) for _ in range(6))
    for address in (one, *(address for _, address, _ in others)):
        done(installation, "add", address)
    with Service(installation) as service, no_defect(service):
        for _ in range(4):
            service.log_on(one, right).quit()
        refused(service, "nobody-there", "x")
        done(installation, "set", "ldapservers", "ldaps://127.0.0.1:1")

        def told() -> bool:
            """Ask about somebody whom no worker remembers; one of them may not have seen the change yet."""
            time.sleep(0.3)  # a worker looks five times a second
            _, address, password = others.pop()
            try:
                service.log_on(address, password).quit()
            except poplib.error_proto as error:
                return "[SYS/TEMP]" in str(error)
            return False

        eventually(told)
        service.log_on(one, right).quit()
        eventually(lambda: "why=" in service.log.read_text())
        connect(installation, domain)
        _, address, password = others[0]
        eventually(lambda: _logs_on(service, address, password), within=20)


def _logs_on(service: Service, user: str, password: str) -> bool:
    try:
        service.log_on(user, password).quit()
    except poplib.error_proto:
        return False
    return True


def test_a_wrong_certificate_is_one_sentence_that_says_which_and_why(
    domain: "Domain", installation: Path, tmp_path: Path
) -> None:
    _, address, password = made(domain)
    done(installation, "add", address)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=another"),
            *("-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "another.pem")),
        ],
        check=True,
        capture_output=True,
    )
    done(installation, "set", "ldapca", str(tmp_path / "another.pem"))
    answer = winpop(installation, "add", f"somebody@{MAIL}")
    assert (answer.returncode, answer.stderr.count("\n")) == (4, 1), answer.stderr
    assert domain.ip in answer.stderr
    with Service(installation) as service, no_defect(service):
        assert "[SYS/TEMP]" in refused(service, address, password)


def test_a_mailbox_of_the_password_file_moves_with_all_that_is_in_it(
    domain: "Domain", home: Home, tmp_path: Path
) -> None:
    del tmp_path
    address = f"mover{os.getpid()}{os.urandom(2).hex()}@{MAIL}"
    done(home.path, "add", address, "/createuser", given="secret\n")
    place(home, address, b"Subject: before\r\n\r\n")
    connect(home.path, domain)
    with Service(home.path) as service, no_defect(service):
        client = service.log_on(address, "secret")
        before = client.uidl()[1]
        client.quit()
        done(home.path, "lock", address)
        told = winpop(home.path, "migrateToAD", address)
        assert "no-password-known" in told.stderr
        done(home.path, "migrateToAD", address, "/createuser", given="Moved-Passw0rd\n")
        assert asked(home.path, "list", MAIL)["mailboxes"][-1]["locked"]
        assert "locked this mailbox" in refused(service, address, "Moved-Passw0rd")
        done(home.path, "unlock", address)
        refused(service, address, "secret")
        client = service.log_on(address, "Moved-Passw0rd")
        assert client.uidl()[1] == before
        client.quit()
        service.log_on("alice@example.com", "secret").quit()  # the others are where they were
    again = done(home.path, "migrateToAD", address)
    assert "nothing was changed" in again


def test_the_method_changes_when_every_mailbox_can_be_mapped_and_else_says_what_hinders(
    domain: "Domain", tmp_path: Path
) -> None:
    home = tmp_path / "changing"
    done(home, "add", MAIL)
    name, address, password = made(domain)
    lacking = f"lacking{os.getpid()}{os.urandom(2).hex()}@{MAIL}"
    for each in (address, lacking):
        done(home, "add", each, "/createuser", given="secret\n")
    connect(home, domain)
    hindered = winpop(home, "--json", "set", "auth", "2")
    assert hindered.returncode == 1
    assert [(entry["address"], entry["code"]) for entry in json.loads(hindered.stdout)["hindered"]] == [
        (lacking, "no-such-account")
    ]
    assert lacking in winpop(home, "set", "auth", "2").stdout
    assert asked(home, "get", "auth")["settings"][0]["value"] == "3"
    domain.make_user(mail=lacking)
    assert "2 mailboxes" in done(home, "set", "auth", "2")
    with Service(home) as service, no_defect(service):
        service.log_on(name, password).quit()
        assert "[AUTH]" in refused(service, address, "secret")
    done(home, "set", "auth", "3")
    with Service(home) as service:
        service.log_on(address, "secret").quit()


def test_a_mailbox_does_not_go_to_somebody_who_only_has_the_same_name(domain: "Domain", installation: Path) -> None:
    name = domain.make_user()
    domain.modify(domain.dn(name), mail=f"{name}@mail.test")
    answer = winpop(installation, "add", f"{name}@{MAIL}")
    assert (answer.returncode, answer.stderr.count("\n")) == (1, 1), answer.stderr
    assert f"{name}@mail.test" in answer.stderr


def ticket(domain: "Domain", name: str, password: str, directory: Path) -> str:
    """Return the place of a Kerberos ticket."""
    cache = f"FILE:{directory}/{name}"
    subprocess.run(
        ["kinit", "-c", cache, f"{name}@{domain.realm}"],
        input=password + "\n",
        text=True,
        env=os.environ | {"KRB5_CONFIG": str(domain.krb5_conf)},
        check=True,
        capture_output=True,
    )
    return cache


def exchange(wire: Wire, mechanism: str, step: object) -> bytes:
    """Hold a SASL exchange with a client's context; return the last reply."""
    assert callable(step)
    reply = wire.ask(f"AUTH {mechanism}".encode())
    while reply.startswith(b"+ ") or reply == b"+":
        reply = wire.ask(base64.b64encode(step(base64.b64decode(reply[2:]))))
    return reply


def test_a_kerberos_ticket_is_enough(domain: "Domain", installation: Path, tmp_path: Path) -> None:
    gssapi = pytest.importorskip("gssapi") if not os.environ.get("CI") else __import__("gssapi")
    name, address, password = made(domain)
    done(installation, "add", address)
    keytab = tmp_path / "pop.keytab"
    domain.script("tool", "domain", "exportkeytab", str(keytab), "--principal=pop/mail.winpop.test")
    keytab.chmod(0o600)
    done(installation, "set", "keytab", str(keytab))
    os.environ["KRB5_CONFIG"] = str(domain.krb5_conf)
    cache = ticket(domain, name, password, tmp_path)
    context = gssapi.SecurityContext(
        name=gssapi.Name("pop@mail.winpop.test", gssapi.NameType.hostbased_service),
        creds=gssapi.Credentials(usage="initiate", store={"ccache": cache}),
        usage="initiate",
        flags=gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity,
    )

    def step(token: bytes) -> bytes:
        if not context.complete:
            return context.step(token or None) or b""
        assert context.unwrap(token).message[0] & 1
        return bytes(context.wrap(b"\x01\0\0\0", False).message)

    with (
        Service(installation, KRB5_CONFIG=str(domain.krb5_conf)) as service,
        no_defect(service),
        pop3(service) as wire,
    ):
        assert b"GSSAPI" in wire.ask(b"AUTH") + wire.multiline()
        assert exchange(wire, "GSSAPI", step).startswith(b"+OK")
        assert wire.ask(b"STAT") == b"+OK 0 0"


def test_ntlm_is_there_for_old_clients_that_need_it(domain: "Domain", installation: Path) -> None:
    spnego = pytest.importorskip("spnego") if not os.environ.get("CI") else __import__("spnego")
    name, address, password = made(domain)
    done(installation, "add", address)
    assert "price" in done(installation, "set", "ntlm", "1")
    helper = domain.inside("ntlm_auth", f"--configfile={domain.conf}", "--helper-protocol=squid-2.5-ntlmssp")
    done(installation, "set", "ntlmhelper", " ".join(helper))

    def client(said: str) -> object:
        context = spnego.client(
            username=f"{domain.name}\\{name}",
            password=said,
            protocol="ntlm",
            options=spnego.NegotiateOptions.use_ntlm,
        )
        return lambda token: context.step(token or None) or b""

    with Service(installation) as service, no_defect(service), pop3(service) as wire:
        assert exchange(wire, "NTLM", client("wrong")).startswith(b"-ERR [AUTH]")
        assert exchange(wire, "NTLM", client(password)).startswith(b"+OK")
