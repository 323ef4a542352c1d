"""Where one installation lies on disk: the home.

    HOME/winpop.db      everything but large message bodies (with its -wal and -shm while in use)
    HOME/leases         byte-range locks: the running service, the open maildrops
    HOME/reserve        room on the disk for when it is full (see `room`)
    HOME/mail/          the mail root: large message bodies under opaque names

Invariant: only the owner of the home may read or write in it.
"""

import contextlib
import importlib.util
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
    def log(self) -> Path:
        """The database's write-ahead log, there while somebody has the database open."""
        return self.path / "winpop.db-wal"

    @property
    def reserve(self) -> Path:
        """The file that is given up when the disk is full."""
        return self.path / "reserve"

    @property
    def leases(self) -> Path:
        """The file whose bytes are locked."""
        return self.path / "leases"

    @property
    def mail(self) -> Path:
        """The mail root, unless the setting `mailroot` names another."""
        return self.path / "mail"

    def mail_root(self, setting: str) -> Path:
        """Return the mail root, given the value of the setting `mailroot`."""
        return Path(setting) if setting else self.mail

    def has_lost_its_database(self) -> bool:
        """Tell whether there was an installation here whose database is missing or empty."""
        try:
            if self.database.stat().st_size:
                return False
        except FileNotFoundError:
            pass
        except OSError:
            return False  # something else is the matter; the engine will say what
        return self.has_traces()

    def has_traces(self) -> bool:
        """Tell whether an installation has left anything here beside its database."""
        return any(path.exists() for path in (self.leases, self.reserve)) or any(
            next(self.path.glob(pattern), None) for pattern in ("winpop-schema-*.db", "mail/*/*")
        )

    def exists(self) -> bool:
        """Tell whether there is an installation here.

        Raises `Refusal`: `not-permitted`, `unsafe-home`, `bad-home` for what is no directory.
        """
        try:
            self.database.stat()
            status = self.path.stat()
        except FileNotFoundError:
            return False
        except PermissionError:
            raise not_permitted(self.path) from None
        except OSError as error:
            raise out_of_reach("bad-home", f"{readable(str(self.path))} cannot be a home: {error.strerror}.") from None
        self._check(status)
        return True

    def make(self) -> None:
        """Make the directory when it is missing, and refuse one that others may write in."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.database.exists():
                synchronise_above(self.path)  # else a power cut takes the home away with all that is in it
            status = self.path.stat()
        except PermissionError:
            raise not_permitted(self.path) from None
        except OSError as error:
            raise out_of_reach(
                "bad-home", f"{readable(str(self.path))} cannot be made a home: {error.strerror}."
            ) from None
        self._check(status)

    def _check(self, status: os.stat_result) -> None:
        """Refuse a directory that others may write in."""
        if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Refusal(
                "unsafe-home",
                f"Others may write in {readable(str(self.path))}, so it cannot hold mail; "
                "take another directory, or run chmod go-w on this one.",
            )


def become_owner(path: Path) -> None:
    """Give up root for good, for the owner of `path`, so that nothing in a home ever belongs to root by accident.

    Does nothing for others than root, for a home that is missing or root's own, and where there are no such users
    (Windows). Raises `Refusal` (`not-permitted`) as `check_owner` does.
    """
    owner = check_owner(path)
    if sys.platform == "win32" or owner is None:
        return
    try:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    except OSError:
        raise not_permitted(path) from None


def check_owner(path: Path) -> os.stat_result | None:
    """Return whom `become_owner` would become, or None; nothing is changed.

    Raises `Refusal` (`not-permitted`), also where that user cannot read this Python or this program: what is imported
    later, and the workers of the service, would fail in the middle of things.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    try:
        owner = path.stat()
        if owner.st_uid == 0:
            return None
        lost = _unreadable(owner)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        raise not_permitted(path) from None
    if lost:
        raise Refusal(
            "not-permitted",
            f"The owner of {readable(str(path))} cannot read {readable(lost[0])}, so root cannot act as that user; "
            "install Python and winpop where every user can read them.",
            Kind.NOT_PERMITTED,
        )
    return owner


def _unreadable(owner: os.stat_result) -> list[str]:
    """Return what this program needs and `owner` cannot read, asked as that user."""
    assert sys.platform != "win32"
    needed, groups, group = _needed(), os.getgroups(), os.getegid()
    effective = os.access in os.supports_effective_ids
    try:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
        return [file for file in needed if not os.access(file, os.R_OK, effective_ids=effective)]
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _needed() -> list[str]:
    """Return a file of each place from which modules come: the interpreter, its library, this package, the others."""
    argon2 = importlib.util.find_spec("argon2")
    return [file for file in (sys.executable, os.__file__, __file__, argon2 and argon2.origin) if file]


def synchronise(directory: Path) -> None:
    """Make a directory's entries durable, where the system can (Windows makes them so by itself). Raises `OSError`."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def synchronise_above(path: Path) -> None:
    """Make the name of a directory durable, and of all above it: somebody who was killed may have made some of them."""
    for parent in path.parents:
        with contextlib.suppress(PermissionError):  # one that may be passed through and not be read
            synchronise(parent)


def not_permitted(path: Path) -> Refusal:
    """Make the refusal for somebody who may not use this home."""
    return Refusal(
        "not-permitted",
        f"You may not use {readable(str(path))}; act as its owner or as root.",
        Kind.NOT_PERMITTED,
    )
