"""The tool starts at once: what a word does not need is not imported for it."""

import json
import os
import subprocess
import sys

import pytest

from winpop.db.home import Home

SLOW = {
    "argon2",
    "asyncio",
    "cryptography",
    "email",
    "gssapi",
    "hashlib",
    "http",
    "idna",
    "importlib.resources",
    "json",
    "jwt",
    "logging",
    "platformdirs",
    "random",
    "secrets",
    "shutil",
    "socket",
    "ssl",
    "subprocess",
    "uvloop",
    "winpop.admin.accounts",
    "winpop.admin.certificates",
    "winpop.auth.local.accounts",
    "winpop.auth.sealing",
    "winpop.cli.help",
    "winpop.directory.settings",
    "winpop.protocol",
    "winpop.services",
    "winpop.store",
}
"""What takes milliseconds to import and has nothing to do with a lock."""
PROGRAM = """
import sys
from winpop.cli.main import main
status = main(sys.argv[1:])
imported = sorted(sys.modules)
import json
json.dump([status, imported], sys.stderr)
"""


def imported(home: Home, *typed: str) -> set[str]:
    """Run the tool, which must succeed; return the modules that it has imported."""
    without = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--home", str(home.path), *typed],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=without,
    )
    status, modules = json.loads(result.stderr)
    assert status == 0
    return set(modules)


@pytest.mark.parametrize("typed", ["lock example.com", "unlock example.com", "unlock alice@example.com"])
def test_locking_and_unlocking_import_no_more_than_they_need(home: Home, typed: str) -> None:
    modules = imported(home, *typed.split())
    assert "winpop.admin.locks" in modules
    assert modules & SLOW == set()


def test_what_is_slow_to_import_is_found_by_this_test(home: Home) -> None:
    assert {"json", "winpop.store"} <= imported(home, "list", "example.com", "--json")
    assert "winpop.cli.help" in imported(home, "help")
