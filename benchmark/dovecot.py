"""Dovecot as an expert runs it: the main opponent.

Invariant: everything it keeps or opens is below its own directory, and nothing of the system's configuration is read.
As root its processes have the users of the package; as another user it runs without separation, which only helps it.
"""

import grp
import os
import pwd
import subprocess
from pathlib import Path

from benchmark import opponents
from benchmark.generator import RunError
from benchmark.machine import Box
from benchmark.population import DOMAIN, INBOX, KINDS, LOGON, PASSWORD, Certificate, plain_digest
from benchmark.server import free_ports, settled, wait_for_ports

STORES = ("maildir", "sdbox", "mdbox")
"""Where mail can be kept; each is a domain of the mailboxes that take deliveries."""
SCHEMES = ("sha256-crypt", "argon2id")
"""How passwords can be kept; each is a domain of the mailboxes of the rows of logons."""

# What an expert changes of the defaults, and what the benchmark needs to run beside an installation.
_CONFIGURATION = """\
# login processes serve many clients at once and are there beforehand; pop3 processes serve many sessions in turn
protocols = pop3 lmtp
service pop3-login {{
  service_count = 0
  process_min_avail = 2
  client_limit = 18000
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
    ssl = yes
  }}
{no_chroot}}}
service pop3 {{
  service_count = 1000
  process_min_avail = 8
  process_limit = 4096
}}
service lmtp {{
  process_min_avail = 8
  process_limit = 256
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
auth_cache_size = 32M
auth_cache_verify_password_with_worker = {with_worker}
mail_fsync = {fsync}
mail_location = maildir:~/Maildir
default_client_limit = 20000
default_process_limit = 4096
# the certificate is ECDSA, P-256; both servers log
ssl = yes
ssl_cert = <{chain}
ssl_key = <{key}
log_path = {log}
# passwords in clear from loopback, as for winpop; mail for as many connections of a user as come
disable_plaintext_auth = no
mail_max_userip_connections = 0
# its own directories, users and ports
listen = 127.0.0.1
base_dir = {run}
state_dir = {state}
instance_name = winpop-benchmark-{name}
{internal}first_valid_uid = 1
passdb {{
  driver = passwd-file
  args = username_format=%u {users}
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {users}
}}
service anvil {{
  client_limit = 20000
{no_chroot}}}
service auth {{
  client_limit = 40000
}}
service stats {{
  client_limit = 20000
{no_chroot}}}
"""


class Dovecot:
    """It runs from the construction on. Raises `RunError` when it does not come up."""

    def __init__(
        self, root: Path, certificate: Certificate, name: str, *, with_worker: bool = False, durable: bool = True
    ) -> None:
        """Start it below `root`.

        `name` is the instance's; all instances of a root share the mail. `with_worker`: passwords are verified in
        processes of their own, which is better when that is slow. Not `durable`: for filling mailboxes only.
        """
        self.name = f"Dovecot {version()}"
        self._box = Box(f"dovecot-{name}")
        directory = root / f"dovecot-{name}"
        self._log = directory / "log"
        for part in (directory, directory / "run", directory / "state"):
            part.mkdir(mode=0o755)
        pop3, pop3s, lmtp = free_ports(3)
        self.ports = {"pop3": pop3, "pop3s": pop3s, "lmtp": lmtp}
        own = os.geteuid() != 0
        me = pwd.getpwuid(os.geteuid()).pw_name
        group = grp.getgrgid(os.getegid()).gr_name
        self.configuration = _CONFIGURATION.format(
            pop3=pop3,
            pop3s=pop3s,
            lmtp=lmtp,
            no_chroot="  chroot =\n" if own else "",
            internal=f"default_internal_user = {me}\ndefault_login_user = {me}\ndefault_internal_group = {group}\n"
            if own
            else "",
            with_worker="yes" if with_worker else "no",
            fsync="always" if durable else "never",
            chain=certificate.chain,
            key=certificate.key,
            log=self._log,
            run=directory / "run",
            state=directory / "state",
            name=name,
            users=_accounts(root),
        )
        path = directory / "dovecot.conf"
        path.write_text(self.configuration)
        program = opponents.find("dovecot")
        if program is None:
            raise RunError("Dovecot is not installed (packages dovecot-core, dovecot-pop3d, dovecot-lmtpd)")
        try:
            with (directory / "output").open("wb") as output:
                self._box.start([program, "-F", "-c", str(path)], stdout=output, stderr=output)
            wait_for_ports("Dovecot", list(self.ports.values()), directory / "output")
        except BaseException:
            self.close()
            raise

    def cpu(self) -> float:
        """Return the processor seconds of all its processes so far."""
        return settled(self._box)

    def memory(self) -> int:
        """Return the octets of memory that are its alone."""
        return self._box.memory()

    def deliver_all(self) -> None:
        """Do nothing: what it has accepted is delivered."""

    def close(self) -> None:
        """End it."""
        self._box.close()


def version() -> str:
    """Return Dovecot's version."""
    program = opponents.find("dovecot")
    return opponents.version(program, "--version") if program else "unknown"


def _accounts(root: Path) -> Path:
    """Return the file of all accounts, made if it is not there."""
    path = root / "dovecot-accounts"
    if path.exists():
        return path
    owner = f"{os.geteuid()}:{os.getegid()}" if os.geteuid() else "65534:65534"
    mail = root / "dovecot-mail"
    mail.mkdir()
    if os.geteuid() == 0:
        os.chown(mail, 65534, 65534)
    quick = plain_digest()
    lines = [
        f"{address}:{quick}:{owner}::{mail}/{kind.name}/{number}::\n"
        for kind in KINDS
        for number, address in enumerate(kind.addresses())
    ]
    for scheme in SCHEMES:
        digest = _digest(scheme)
        lines += [
            f"{address}:{digest}:{owner}::{mail}/{scheme}/{number}::\n"
            for number, address in enumerate(LOGON.addresses(domain(scheme)))
        ]
    for store in STORES:
        lines += [
            f"{address}:{quick}:{owner}::{mail}/{store}/{number}::userdb_mail={store}:~/{store}\n"
            for number, address in enumerate(INBOX.addresses(domain(store)))
        ]
    path.write_text("".join(lines))
    path.chmod(0o644)
    return path


def domain(way: str) -> str:
    """Return the domain whose mailboxes have this store or this scheme."""
    return f"{way}.{DOMAIN}"


def _digest(scheme: str) -> str:
    if scheme == "argon2id":  # with winpop's parameters, not Dovecot's larger ones
        from benchmark.population import slow_hash

        return "{ARGON2ID}" + slow_hash()
    command = [opponents.find("doveadm") or "doveadm", "-c", os.devnull, "pw", "-s", scheme.upper(), "-p", PASSWORD]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if result.returncode:
        raise RunError(f"doveadm pw failed: {result.stderr.strip()}")
    return result.stdout.strip()
