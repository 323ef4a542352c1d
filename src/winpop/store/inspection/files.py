"""The files of the mail root: whether a row names them, whose they are, and who may use them.

Invariant: no file is opened. One that a delivery may still be about, or that a deletion takes in this moment, is no
flaw.
"""

import contextlib
import os
import stat
import time
from functools import partial
from pathlib import Path

from winpop.store.inspection import mends
from winpop.store.inspection.flaws import Flaw, Inspection
from winpop.store.inspection.rows import BLOB, as_octets
from winpop.store.sweep import left_behind
from winpop.terms.refusals import readable

DISCARDED_WAIT = 5.0
"""Seconds after which the file of a discarded blob should be gone and forgotten."""
_DIRECTORIES = frozenset(["tmp", *(f"{n:02x}" for n in range(256))])
_OTHERS = 0o077
_DIRECTORY, _FILE = 0o700, 0o400
_NEEDED = "SELECT EXISTS (SELECT 1 FROM body WHERE blob = ?1) OR EXISTS (SELECT 1 FROM discarded_blob WHERE name = ?1)"


def inspect_files(inspection: Inspection, owner: int, now: float) -> None:
    """Every file of the mail root: whether a row names it, whose it is, and who may use it."""
    root = inspection.blobs.root
    try:
        if root.is_dir():
            inspection.found_all(access(root, owner, _DIRECTORY, _OTHERS))
        entries = {path.name for path in root.iterdir()}
    except FileNotFoundError:
        if inspection.database.number("SELECT count(*) FROM (SELECT 1 FROM body WHERE blob IS NOT NULL LIMIT 1)"):
            said = "The mail root is missing; bring it back, or mount it."
            inspection.found(Flaw("mail-root", _shown(root), said))
        return
    except OSError as error:
        inspection.found(Flaw("mail-root", _shown(root), f"The mail root cannot be read: {error.strerror}."))
        return
    for name in sorted(entries - _DIRECTORIES):
        _foreign(inspection, root / name)
    for name in sorted(_DIRECTORIES if "tmp" in entries else _DIRECTORIES & entries):
        _directory(inspection, root / name, owner, now)


def _directory(inspection: Inspection, directory: Path, owner: int, now: float) -> None:
    try:
        if directory.is_dir():
            inspection.found_all(access(directory, owner, _DIRECTORY, _OTHERS))
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # gone in this moment
                    _file(inspection, directory, entry, owner, now)
                    inspection.went_on()
    except FileNotFoundError:
        said = "A directory of the mail root is missing, so that some large messages would be refused."
        mend = partial(mends.make_directory, path=directory)
        inspection.found(Flaw("directory-missing", _shown(directory), said, mend=mend))
    except OSError as error:
        inspection.found(Flaw("mail-root", _shown(directory), f"It cannot be read: {error.strerror}."))


def _file(inspection: Inspection, directory: Path, entry: "os.DirEntry[str]", owner: int, now: float) -> None:
    path, status = directory / entry.name, entry.stat(follow_symlinks=False)
    unfinished = directory.name == "tmp"
    own = BLOB.fullmatch(entry.name) and (unfinished or entry.name.startswith(directory.name))
    if not own or not stat.S_ISREG(status.st_mode):
        _foreign(inspection, path)
        return
    inspection.found_all(access(path, owner, _FILE, _OTHERS, status))
    if unfinished:
        kind, said = "unfinished", "An unfinished message was left behind; the service's sweep removes it."
    elif not inspection.database.number(_NEEDED, entry.name):
        kind = "blob-unnamed"
        said = "No row names this file; it is left as it is, and the service's sweep removes it after 30 days."
    else:
        return
    if not left_behind(status.st_mtime, now):
        inspection.read.under_way += 1
    elif os.path.lexists(path):  # a deletion takes the file before it forgets the name
        inspection.found(Flaw(kind, _shown(path), said))


def _foreign(inspection: Inspection, path: Path) -> None:
    if os.path.lexists(path):
        said = "This is none of winpop's files; see whose it is."
        inspection.found(Flaw("foreign-file", _shown(path), said))


def inspect_discarded(inspection: Inspection) -> None:
    """Files whose messages are deleted should be gone, and forgotten, a moment later."""
    database = inspection.database
    last = b""
    sql = "SELECT CAST(name AS BLOB) FROM discarded_blob WHERE name > CAST(? AS TEXT) ORDER BY name LIMIT 10000"
    noted = "SELECT count(*) FROM discarded_blob WHERE name = CAST(? AS TEXT)"
    while names := [as_octets(row[0]) for row in database.all(sql, last)]:
        last, left = names[-1], names
        until = time.monotonic() + DISCARDED_WAIT
        while left and time.monotonic() < until:
            time.sleep(0.1)
            left = [name for name in left if database.number(noted, name)]
        for name in left:
            _discarded(inspection, readable(name.decode("ascii", "backslashreplace")))


def _discarded(inspection: Inspection, name: str) -> None:
    where, path = f"discarded file {name}", inspection.blobs.path(name)
    if not BLOB.fullmatch(name):
        said = "This is noted as a file to be removed, and is no name of one."
        inspection.found(Flaw("discarded-row", where, said))
    elif inspection.database.number("SELECT count(*) FROM body WHERE blob = ?", name):
        said = "This file is noted as one to be removed, and a message needs it; the service's sweep forgets the note."
        inspection.found(Flaw("discarded-row", where, said))
    elif os.path.lexists(path):
        said = "Its message is deleted; it is left as it is, and the service's sweep removes it."
        inspection.found(Flaw("discarded-file", _shown(path), said))
    elif path.parent.is_dir():  # else the mail root may only be away
        said = "This file is noted as one to be removed, and it is gone."
        mend = partial(mends.forget_discarded, name=name, path=path)
        inspection.found(Flaw("discarded-row", where, said, mend=mend))


def access(path: Path, owner: int, needed: int, forbidden: int, status: os.stat_result | None = None) -> list[Flaw]:
    """Tell who else may use a file or directory, and whose it is. Raises `FileNotFoundError`."""
    if os.name != "posix":
        return []
    status = status or path.stat()
    urgent = needed == _DIRECTORY
    flaws = []
    if status.st_uid != owner:
        said = f"It belongs to user {status.st_uid}, and the home to {owner}; as root, run chown on it."
        mend = partial(mends.give, path=path, owner=owner)
        flaws.append(Flaw("owner", _shown(path), said, mend=mend, urgent=urgent))
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden or mode & needed != needed:
        who = "Others may use it" if mode & forbidden else "Its owner may not use it"
        said = f"{who}: its mode is {mode:03o} and should be {mode & ~forbidden | needed:03o}."
        change = partial(mends.change_mode, path=path, needed=needed, forbidden=forbidden)
        flaws.append(Flaw("permissions", _shown(path), said, mend=change, urgent=urgent))
    return flaws


def _shown(path: Path) -> str:
    return readable(str(path))
