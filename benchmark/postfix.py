"""Postfix, which hands what it takes by SMTP to Dovecot by LMTP: the opponent of mail coming in.

Invariant: an instance of its own with its own configuration, queue and ports; the system's is neither read nor touched.
It needs root, as Postfix always does. What it has accepted is delivered only when its queue is empty.
"""

import grp
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

from benchmark import opponents
from benchmark.dovecot import STORES, Dovecot, domain
from benchmark.generator import RunError
from benchmark.machine import Box
from benchmark.population import DOMAIN
from benchmark.server import free_ports, settled, wait_for_ports

_MAIN = """\
compatibility_level = 3.6
myhostname = mail.benchmark.invalid
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
virtual_mailbox_domains = {domains}
virtual_mailbox_maps = static:any
virtual_transport = lmtp:inet:127.0.0.1:{lmtp}
smtpd_relay_restrictions = reject_unauth_destination
# as many at once as there are clients, without delays
default_process_limit = 256
smtpd_client_connection_count_limit = 0
default_destination_concurrency_limit = 64
initial_destination_concurrency = 64
in_flow_delay = 0s
biff = no
"""
_MASTER = """\
127.0.0.1:{smtp} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
_QUEUES = ("incoming", "active", "deferred", "bounce", "defer", "flush", "saved", "trace", "corrupt", "hold", "private")
_UNDELIVERED = ("maildrop", "incoming", "active", "deferred")


class Postfix:
    """It runs from the construction on, in front of a Dovecot that runs. Raises `RunError`."""

    def __init__(self, root: Path, dovecot: Dovecot) -> None:
        """Start it below `root`. What is measured is both; closing it leaves the Dovecot running."""
        program = opponents.find("postfix")
        if program is None:
            raise RunError("Postfix is not installed (package postfix)")
        if os.geteuid() != 0:
            raise RunError("Postfix runs only as root")
        self.name = f"Postfix {_version()} with {dovecot.name}"
        self._dovecot = dovecot
        self._queue = root / "postfix" / "queue"
        directory = _make_directories(root / "postfix")
        [smtp] = free_ports(1)
        self.ports = {"smtp": smtp}
        domains = " ".join([DOMAIN, *map(domain, STORES)])
        main = _MAIN.format(directory=directory, domains=domains, lmtp=dovecot.ports["lmtp"])
        master = _MASTER.format(smtp=smtp)
        (directory / "main.cf").write_text(main)
        (directory / "master.cf").write_text(master)
        self.configuration = f"{main}\n# master.cf\n{master}"
        self._box = Box("postfix")
        try:
            with (directory / "output").open("wb") as output:
                command = [str(_programs() / "master"), "-c", str(directory), "-s"]
                environment = {"MAIL_CONFIG": str(directory)}
                self._box.start(command, stdout=output, stderr=output, environment=environment)
            wait_for_ports("Postfix", [smtp], directory / "log")
        except BaseException:
            self._box.close()
            raise

    def cpu(self) -> float:
        """Return the processor seconds of all processes of both so far."""
        return settled(self._box) + self._dovecot.cpu()

    def memory(self) -> int:
        """Return the octets of memory that are theirs alone."""
        return self._box.memory() + self._dovecot.memory()

    def deliver_all(self) -> None:
        """Return when the queue is empty. Raises `RunError` when that takes more than a minute or mail is put off."""
        until = time.monotonic() + 60
        while any(_has_files(self._queue / queue) for queue in _UNDELIVERED):
            if _has_files(self._queue / "deferred"):
                raise RunError("Postfix could not deliver a message and put it off; its log says why")
            if time.monotonic() > until:
                raise RunError("Postfix did not deliver everything within a minute")
            time.sleep(0.01)

    def close(self) -> None:
        """End it."""
        self._box.close()


def _make_directories(directory: Path) -> Path:
    """Make what Postfix has to find in its place, with the owners and modes that it insists on."""
    owner, drop = pwd.getpwnam("postfix").pw_uid, grp.getgrnam("postdrop").gr_gid
    queue = directory / "queue"
    for path in (directory, queue, queue / "pid"):
        path.mkdir(mode=0o755)
    for name in _QUEUES:
        (queue / name).mkdir(mode=0o700)
        os.chown(queue / name, owner, 0)
    for name, mode in (("public", 0o710), ("maildrop", 0o730)):
        (queue / name).mkdir()
        os.chown(queue / name, owner, drop)
        (queue / name).chmod(mode)
    (directory / "data").mkdir(mode=0o700)
    os.chown(directory / "data", owner, 0)
    return directory


def _has_files(directory: Path) -> bool:
    """Tell whether there is a file in a queue; subdirectories are its hash levels."""
    return any(files for _, _, files in os.walk(directory))


def _programs() -> Path:
    """Return the directory of Postfix's daemons."""
    return Path(_default("daemon_directory"))


def _version() -> str:
    return _default("mail_version")


def _default(name: str) -> str:
    program = opponents.find("postconf") or shutil.which("postconf") or "postconf"
    command = [program, "-d", "-h", name]  # -d: the programs' own defaults, not the system's configuration
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return result.stdout.strip()
