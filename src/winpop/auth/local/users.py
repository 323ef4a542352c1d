"""Which users of this computer can have a mailbox: members of one group, and no system accounts.

Documented rules kept: members of "POP3 Users", names of at most 20 characters, unique on the server. A group on Linux
has no space in its name, so the group is `pop3users`. Invariant: a user is known by exactly the name that was asked
for; root, and who has a number below UID_MIN of login.defs, never counts, whatever groups say.
"""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from winpop.terms.names import parse_mailbox_name
from winpop.terms.refusals import Refusal

if sys.platform != "win32":
    import grp
    import pwd

GROUP = "pop3users"
LONGEST = 20
"""Characters of a name."""
_HASHES = (Path("/etc/shadow"), Path("/etc/passwd"))
_DEFINITIONS = (Path("/etc/login.defs"), Path("/usr/etc/login.defs"))
_UID_MIN = 1000


@dataclass(frozen=True, slots=True)
class User:
    """A user of this computer."""

    name: str
    system: bool
    """It is root, or an account of the system's own."""
    member: bool
    """It belongs to the group, as its first one or another."""
    made_here: bool
    """The group is its first one: so winpop makes users, and nobody else does."""


def look_up(name: str) -> User | None:
    """Return the user with exactly this name. Blocks: the system may ask a directory."""
    if sys.platform == "win32" or not name.isascii() or not name.isprintable():
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    if entry.pw_name != name:  # a directory that knows names in any case
        return None
    group = _group()
    return User(
        name,
        system=entry.pw_uid < _least(),
        member=group is not None and group in os.getgrouplist(name, entry.pw_gid),
        made_here=group is not None and group == entry.pw_gid,
    )


def meant_by(name: str) -> str | None:
    """Return the name of the member that a logon name means, in any case, or None. Blocks."""
    try:
        name = parse_mailbox_name(name)
    except Refusal:
        return None
    user = look_up(name) if len(name) <= LONGEST else None
    return name if user and user.member and not user.system else None


def is_locked(name: str) -> bool:
    """Tell whether a user's password is locked, as `usermod -L` does it: its hash begins with `!`.

    For root alone; looks at this computer's own files. Raises `OSError` where they cannot be read.
    """
    locked = name.encode("ascii") + b":!"
    return any(line.startswith(locked) for path in _HASHES if path.exists() for line in path.read_bytes().splitlines())


def _group() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def _least() -> int:
    """Return the first number of users that are not the system's own; at least 1, so root is never one of them."""
    for path in _DEFINITIONS:
        with suppress(OSError):
            for line in path.read_text("utf-8", "replace").splitlines():
                match line.split():
                    case ["UID_MIN", number, *_] if number.isascii() and number.isdigit():
                        return max(int(number), 1)
    return _UID_MIN
