"""A real Active Directory domain controller (Samba), started once for all the tests of a run: the fixture `domain`.

Use it by `pytest_plugins = ["real.directory"]`. The first worker that needs it starts it, the last one that is done
stops it; what it holds stays for the next run, which so starts in two seconds instead of ten. WINPOP_AD_KEEP=1 leaves
it running, and `tests/real/samba_ad.sh wipe` removes it. Invariant: whoever is within `running` finds it up.
"""

import base64
import fcntl
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

SCRIPT = Path(__file__).with_name("samba_ad.sh")
NEEDS = (
    "samba",
    "samba-tool",
    "winbindd",
    "kinit",
    "ldapmodify",
    "openssl",
    "ip",
    "/usr/share/samba/setup/provision.ldif",
)
"""Programs and a file that are needed."""
PACKAGES = (
    "samba samba-ad-dc samba-ad-provision samba-dsdb-modules samba-vfs-modules winbind krb5-user ldap-utils "
    "openssl iproute2"
)
"""Where they are in Debian."""
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Domain:
    """The domain and how to reach it. The accounts that are always there are those of samba_seed.py."""

    environment: dict[str, str]
    """What the script was given beside this process's own variables; empty for the one that all share."""
    found: dict[str, str]
    """What the script says of itself, WINPOP_AD_… and KRB5_CONFIG."""

    @property
    def ip(self) -> str:
        """Its address, which stands in its certificate, as `hostname` does."""
        return self.found["WINPOP_AD_IP"]

    @property
    def uri(self) -> str:
        return f"ldaps://{self.ip}"

    @property
    def realm(self) -> str:
        """Its Kerberos realm; in lower case its DNS name."""
        return self.found["WINPOP_AD_REALM"]

    @property
    def name(self) -> str:
        r"""Its NetBIOS name, the one in `NAME\alice`."""
        return self.found["WINPOP_AD_DOMAIN"]

    @property
    def base(self) -> str:
        return self.found["WINPOP_AD_BASE"]

    @property
    def ou(self) -> str:
        """The unit in which the tests' accounts are."""
        return f"OU=Mail Users,{self.base}"

    @property
    def ca(self) -> Path:
        return Path(self.found["WINPOP_AD_CA"])

    @property
    def ca_key(self) -> Path:
        return Path(self.found["WINPOP_AD_CAKEY"])

    @property
    def conf(self) -> Path:
        """Its smb.conf."""
        return Path(self.found["WINPOP_AD_CONF"])

    @property
    def krb5_conf(self) -> Path:
        return Path(self.found["KRB5_CONFIG"])

    def script(self, *words: str) -> str:
        """Run samba_ad.sh for this domain and return what it says."""
        return _script(self.environment, *words)

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs a program within the domain's network, beside its winbind."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return ["env", *variables, str(SCRIPT), "exec", *command]

    def make_user(self, name: str = "", password: str = "", **values: str) -> str:
        """Make an account of its own for a test; return its pre-Windows 2000 name.

        Password: `Passw0rd!` and the name, if none is given. `values` are further attributes. For what a test does
        with wrong passwords: three lock an account out.
        """
        name = name or f"u{os.getpid()}-{next(_numbers)}-{os.urandom(2).hex()}"
        attributes = {
            "objectClass": "user",
            "sAMAccountName": name,
            "userPrincipalName": f"{name}@{self.realm.lower()}",
            "userAccountControl": "512",
        } | values
        octets = {key: value.encode() for key, value in attributes.items()}
        octets["unicodePwd"] = f'"{password or f"Passw0rd!{name}"}"'.encode("utf-16-le")
        self._change(f"CN={name},{self.ou}", "add", _lines(octets))
        return name

    def modify(self, dn: str, **values: str) -> None:
        """Replace attributes of an entry; an empty value takes the attribute away."""
        parts = [
            f"replace: {key}\n{_lines({key: value.encode()}) if value else ''}-\n" for key, value in values.items()
        ]
        self._change(dn, "modify", "".join(parts))

    def delete(self, dn: str) -> None:
        self._change(dn, "delete", "")

    def dn(self, name: str) -> str:
        """Return the DN of an account that `make_user` made."""
        return f"CN={name},{self.ou}"

    def _change(self, dn: str, change: str, lines: str) -> None:
        record = f"dn:: {base64.b64encode(dn.encode()).decode()}\nchangetype: {change}\n{lines}"
        administrator = f"{self.found['WINPOP_AD_ADMIN']}@{self.realm}"
        command = ["ldapmodify", "-x", "-H", self.uri, "-D", administrator, "-w", self.found["WINPOP_AD_ADMINPW"]]
        variables = os.environ | {"LDAPTLS_CACERT": str(self.ca)}
        _run([*command, "-o", "ldif-wrap=no"], variables, record)


def _lines(octets: dict[str, bytes]) -> str:
    return "".join(f"{key}:: {base64.b64encode(value).decode()}\n" for key, value in octets.items())


def _run(command: list[str], variables: dict[str, str], given: str = "") -> str:
    done = subprocess.run(command, env=variables, input=given, capture_output=True, text=True, timeout=110, check=False)
    if done.returncode:
        pytest.fail(f"{command[0]} said: {done.stdout[-500:]}{done.stderr[-2000:]}")
    return done.stdout


def _script(environment: dict[str, str], *words: str) -> str:
    return _run([str(SCRIPT), *words], os.environ | environment)


def _variables(environment: dict[str, str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in _script(environment, "env").splitlines())


def require_samba() -> None:
    """Skip the test where the machine has no Samba; where CI is set, fail."""
    missing = [need for need in NEEDS if not (shutil.which(need) or Path(need).is_file())]
    reason = f"{missing[0]} is missing; run: sudo apt install --no-install-recommends {PACKAGES}" if missing else ""
    if not reason and os.geteuid():
        reason = "a domain controller of the tests needs root, for a network namespace; run the tests as root"
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@contextmanager
def running(environment: dict[str, str]) -> Iterator[Domain]:
    """Start the domain of these variables, or use the one that runs; the last one to leave stops it."""
    found = _variables(environment)
    state = found["WINPOP_AD_DIR"]
    with Path(f"{state}.door").open("w") as door, Path(f"{state}.inside").open("w") as inside:
        # Who goes in or out holds the door; who is inside holds a share.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(inside, fcntl.LOCK_SH)
        _script(environment, "up")
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield Domain(environment, found)
        finally:
            fcntl.flock(door, fcntl.LOCK_EX)
            if _is_last(inside) and not os.environ.get("WINPOP_AD_KEEP"):
                _script(environment, "down")


@contextmanager
def alone(name: str) -> Iterator[dict[str, str]]:
    """Give the variables of a second domain, which only one test process at a time may use."""
    state = _variables({})["WINPOP_AD_DIR"]
    environment = {
        "WINPOP_AD_DIR": f"{state}-{name}",
        "WINPOP_AD_NS": f"winpopad{name}",
        "WINPOP_AD_VETH": "wpadalone",
        "WINPOP_AD_HOST_IP": "198.18.53.9",
        "WINPOP_AD_IP": "198.18.53.10",
    }
    with Path(f"{state}-{name}.alone").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield environment


def _is_last(inside: IO[str]) -> bool:
    try:
        fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="session")
def domain() -> Iterator[Domain]:
    """The domain that all tests share: make accounts in it, leave those that are there as they are."""
    require_samba()
    with running({}) as found:
        yield found
