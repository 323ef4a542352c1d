"""Local accounts, the whole way through: the tool, the service, and real users of this computer."""

import contextlib
import poplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from auth import local_parts as parts
from running import Service, done, winpop
from services.wire import eventually, no_defect


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    parts.need_root()
    with parts.the_group():
        yield


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "installation"
    done(home, "add", "a.example")
    done(home, "add", "b.example")
    done(home, "set", "auth", "1")
    done(home, "set", "failuredelay", "0")
    with parts.service() as name:
        done(home, "set", "pamservice", name)
        yield home


def refused(service: Service, user: str, password: str) -> str:
    with pytest.raises(poplib.error_proto) as caught:
        service.log_on(user, password)
    return str(caught.value)


@contextlib.contextmanager
def made(home: Path, domain: str = "a.example") -> Iterator[str]:
    """A mailbox whose user winpop makes; returns the user's name."""
    name = parts.unique()
    try:
        done(home, "add", f"{name}@{domain}", "/createuser", given="First-Passw0rd\n")
        yield name
    finally:
        parts.run("userdel", name, check=False)


def test_a_user_that_winpop_makes_fetches_mail_and_can_do_nothing_else(installation: Path) -> None:
    with made(installation) as name, Service(installation) as service, no_defect(service):
        for user in (name, f"{name}@a.example", name.upper()):
            service.log_on(user, "First-Passw0rd").quit()
        assert "[AUTH] The name or the password is wrong" in refused(service, name, "wrong")
        assert "[AUTH] The name or the password is wrong" in refused(service, "root", "wrong")
        assert "[AUTH] The name or the password is wrong" in refused(service, f"{name}@b.example", "First-Passw0rd")
        done(installation, "changepwd", f"{name}@a.example", given="Second-Passw0rd\n")
        refused(service, name, "First-Passw0rd")  # though it was remembered
        service.log_on(name, "Second-Passw0rd").quit()
        done(installation, "lock", f"{name}@a.example")
        assert "locked this mailbox" in refused(service, name, "Second-Passw0rd")
        done(installation, "unlock", f"{name}@a.example")
        service.log_on(name, "Second-Passw0rd").quit()
        done(installation, "delete", f"{name}@a.example", "/deleteuser", "--yes")
        assert parts.run("getent", "passwd", name, check=False).returncode
        eventually(lambda: "[AUTH]" in refused(service, name, "Second-Passw0rd"))
        done(installation, "add", f"{name}@a.example", "/createuser", given="Third-Passw0rd\n")  # somebody else's now
        refused(service, name, "Second-Passw0rd")
        service.log_on(name, "Third-Passw0rd").quit()


def test_a_user_that_winpop_has_not_made_stays_when_the_mailbox_goes(installation: Path) -> None:
    with parts.user() as name:
        done(installation, "add", f"{name}@a.example")
        said = done(installation, "delete", f"{name}@a.example", "/deleteuser", "--yes")
        assert "has not made the account" in said
        assert not parts.run("getent", "passwd", name, check=False).returncode


def test_a_user_name_is_one_mailbox_on_the_server(installation: Path) -> None:
    with made(installation) as name:
        again = winpop(installation, "add", f"{name}@b.example")
        assert (again.returncode, again.stderr.count("\n")) == (1, 1), again.stderr
        assert "account-taken" in again.stderr
    long = winpop(installation, "add", "a-name-of-more-than-20@a.example", "/createuser", given="secret\n")
    assert "20 characters" in long.stderr
    nobody = winpop(installation, "add", f"{parts.unique()}@a.example")
    assert "no-such-account" in nobody.stderr


def test_what_pam_says_is_told_to_the_log_alone(installation: Path) -> None:
    with made(installation) as name, Service(installation) as service, no_defect(service):
        subprocess.run(["chage", "-E", "2000-01-01", name], check=True)
        assert "[AUTH] The name or the password is wrong" in refused(service, name, "First-Passw0rd")
        eventually(lambda: "why=expired" in service.log.read_text())
        done(installation, "set", "pamservice", "no-such-service")
        eventually(lambda: "[SYS/TEMP]" in refused(service, name, "First-Passw0rd"))
        eventually(lambda: "/etc/pam.d/no-such-service" in service.log.read_text())


def test_no_password_is_in_an_argument_of_any_process(installation: Path) -> None:
    with made(installation) as name, Service(installation) as service:
        service.log_on(name, "First-Passw0rd").quit()
        lines = []
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                lines.append(process.read_bytes())
        assert any(b"winpop.auth.local.helper" in line for line in lines)
        assert not [line for line in lines if b"First-Passw0rd" in line]
