"""The opponents' programs: what has to be installed for the benchmark, and its installation.

Invariant: an installation starts no service: the packages' programs are run from a temporary directory with
configurations of our own. As root they are installed; others are told what to install.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmark import generator
from benchmark.generator import RunError

PROGRAMS = {
    "gcc": ("gcc", "libc6-dev"),
    "dovecot": ("dovecot-core", "dovecot-pop3d", "dovecot-lmtpd"),
    "postfix": ("postfix",),
}
"""The programs that are needed, and the packages of Debian that bring them."""
HEADERS = "libssl-dev"
_POLICY = Path("/usr/sbin/policy-rc.d")
_PLACES = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where programs of administrators are, which the search path of others lacks."""


def find(program: str) -> str | None:
    """Return the path of a program."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_PLACES}")


def missing() -> list[str]:
    """Return the packages that are missing."""
    packages = [package for program, brings in PROGRAMS.items() if not find(program) for package in brings]
    lmtp = Path("/usr/lib/dovecot/lmtp")
    if find("dovecot") and not lmtp.exists():
        packages += ["dovecot-pop3d", "dovecot-lmtpd"]
    return packages + ([HEADERS] if "gcc" in packages or generator.missing() else [])


def install() -> None:
    """Install what is missing, as root; otherwise raise `RunError`, which says what to install."""
    packages = missing()
    if not packages:
        return
    wanted = " ".join(packages)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RunError(f"The benchmark needs packages; run: sudo apt install --no-install-recommends {wanted}")
    print(f"Installing {wanted}; their services are not started.", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _without_services():
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
            result = subprocess.run(
                ["apt-get", *words], env=environment, capture_output=True, text=True, timeout=900, check=False
            )
            if result.returncode:
                raise RunError(f"apt-get {words[0]} failed: {result.stderr.strip()[-500:]}")
    if left := missing():
        raise RunError(f"After the installation these are still missing: {' '.join(left)}.")


@contextlib.contextmanager
def _without_services() -> Iterator[None]:
    """Forbid the installation to start services, where the administrator has no policy for that."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def version(*command: str) -> str:
    """Return the first word of what a program says about its version."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    words = result.stdout.split()
    return words[0] if words else "unknown"
