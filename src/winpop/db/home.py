"""Where one installation lies on disk: the home.

    HOME/winpop.db      everything but large message bodies (with its -wal and -shm while in use)
    HOME/leases         byte-range locks: the running service, the open maildrops
    HOME/census         open connections per address, shared by the workers
    HOME/mail/          the mail root: large message bodies under opaque names

Invariant: only the owner of the home may read or write in it.
"""

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from winpop.terms.refusals import Kind, Refusal, out_of_reach, readable


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one installation."""

    path: Path

    @property
    def database(self) -> Path:
        """The database file."""
        return self.path / "winpop.db"

    @property
    def leases(self) -> Path:
        """The file whose bytes are locked."""
        return self.path / "leases"

    @property
    def census(self) -> Path:
        """The file that workers share to count connections."""
        return self.path / "census"

    @property
    def mail(self) -> Path:
        """The mail root, unless the setting `mailroot` names another."""
        return self.path / "mail"

    def mail_root(self, setting: str) -> Path:
        """Return the mail root, given the value of the setting `mailroot`."""
        return Path(setting) if setting else self.mail

    def exists(self) -> bool:
        """Tell whether there is an installation here. Raises `Refusal` (`not-permitted`)."""
        try:
            self.database.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except PermissionError:
            raise not_permitted(self.path) from None
        except OSError as error:
            raise out_of_reach("bad-home", f"{readable(str(self.path))} cannot be a home: {error.strerror}.") from None
        return True

    def make(self) -> None:
        """Make the directory when it is missing, and refuse one that others may write in."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
        except PermissionError:
            raise not_permitted(self.path) from None
        except OSError as error:
            raise out_of_reach(
                "bad-home", f"{readable(str(self.path))} cannot be made a home: {error.strerror}."
            ) from None
        if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Refusal(
                "unsafe-home",
                f"Others may write in {readable(str(self.path))}, so it cannot hold mail; "
                "take another directory, or run chmod go-w on this one.",
            )


def become_owner(path: Path) -> None:
    """Give up root for good, for the owner of `path`, so that nothing in a home ever belongs to root by accident.

    Does nothing for others than root, for a home that is missing or root's own, and where there are no such users
    (Windows). Raises `Refusal` (`not-permitted`).
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    try:
        owner = path.stat()
        if owner.st_uid != 0:
            os.setgroups([])
            os.setgid(owner.st_gid)
            os.setuid(owner.st_uid)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        raise not_permitted(path) from None


def not_permitted(path: Path) -> Refusal:
    """Make the refusal for somebody who may not use this home."""
    return Refusal(
        "not-permitted",
        f"You may not use {readable(str(path))}; act as its owner or as root.",
        Kind.NOT_PERMITTED,
    )
