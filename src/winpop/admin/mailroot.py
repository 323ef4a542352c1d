"""Moving the mail root: every large message body to another directory, with the service stopped.

Invariant: the setting names the new directory only after every body that a row names is there, synchronised and of
the right size; the old files go after that commit. A crash before it leaves copies that nobody uses, one after it
leaves old files that nobody uses; no message is lost in either. The transaction is open all the while, so that no
other command can delete or discard mail meanwhile.
"""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from winpop.admin.contract import Work
from winpop.admin.directories import bad_path, read_directory
from winpop.admin.outcomes import Outcome
from winpop.admin.running import service_stopped
from winpop.db.contract import Database, Reader
from winpop.db.home import not_permitted, synchronise
from winpop.directory import settings
from winpop.store.blobs import Blobs, unusable
from winpop.terms.refusals import Refusal, out_of_reach, readable

_OTHERS_WRITE = 0o022


def move(work: Work, text: str) -> Outcome:
    """Move the mail root to the directory `text`, or with the empty text back into the home.

    Raises `Refusal`: `bad-path`, `not-permitted`, `mailroot-not-empty`, `mailroot-inside`, `unsafe-mailroot`,
    `service-running`, `mail-damaged`, `mailroot-unusable`, `disk-full`.
    """
    now = settings.stored(work.transaction).get("mailroot", "")
    old, new = Blobs(work.home.mail_root(now)), Blobs(read_directory(text) if text else work.home.mail)
    data = {"settings": [{"name": "mailroot", "value": str(new.root)}]}
    shown = readable(str(new.root))
    if _same(old.root, new.root):
        return Outcome(f"The mail root is {shown} already; nothing was changed.", data)
    existed = _check(old.root, new.root)
    work.held.enter_context(service_stopped(work.home))  # until the old files are gone
    try:
        new.make()
        moved = _copy(work.transaction, old, new)
    except BaseException:
        _clear(new, keep_root=existed)
        raise
    settings.store(work.transaction, {"mailroot": "" if new.root == work.home.mail else str(new.root)})
    work.later.append(partial(_remove, old))
    said = "1 large message" if moved == 1 else f"{moved} large messages"
    return Outcome(f"The mail root is {shown} now, and {said} moved there.", data | {"moved": moved}, changed=True)


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _check(old: Path, new: Path) -> bool:
    """Tell whether the new directory exists; refuse one that is not fit to hold mail."""
    shown = readable(str(new))
    real_old, real_new = Path(os.path.realpath(old)), Path(os.path.realpath(new))
    if real_new.is_relative_to(real_old) or real_old.is_relative_to(real_new):
        raise Refusal(
            "mailroot-inside", f"{shown} and the mail root {readable(str(old))} lie in one another; take another."
        )
    try:
        status = new.stat()
        empty = next(new.iterdir(), None) is None
    except FileNotFoundError:
        above = next(parent for parent in new.parents if parent.exists())
        if not os.access(above, os.W_OK | os.X_OK):
            raise not_permitted(above) from None
        return False
    except PermissionError:
        raise not_permitted(new) from None
    except OSError:  # a file, or below one; a name that is too long
        raise bad_path(str(new)) from None
    if not empty:
        raise Refusal("mailroot-not-empty", f"{shown} is not empty, so it cannot become the mail root; take another.")
    if os.name == "posix" and status.st_mode & _OTHERS_WRITE:
        raise Refusal("unsafe-mailroot", f"Others may write in {shown}, so it cannot hold mail; run chmod go-w on it.")
    return True


def _copy(reader: Reader, old: Blobs, new: Blobs) -> int:
    """Copy every body that a row names; return how many."""
    bodies = reader.all("SELECT blob, size FROM body WHERE blob IS NOT NULL")
    for name, size in bodies:
        assert isinstance(name, str)
        try:
            copied = _copy_one(old.path(name), new.path(name))
        except FileNotFoundError:
            copied = None
        except OSError as error:
            raise unusable(new.root, error) from error
        if copied != size:
            raise out_of_reach(
                "mail-damaged",
                f"The file {readable(str(old.path(name)))} is missing or damaged; nothing was moved, and a backup "
                "should have it.",
            )
    for directory in {new.path(str(name)).parent for name, _ in bodies}:
        synchronise(directory)
    return len(bodies)


def _copy_one(source: Path, target: Path) -> int:
    import shutil  # here: nothing else needs it

    with source.open("rb") as reading, target.open("xb") as writing:
        shutil.copyfileobj(reading, writing, 1024 * 1024)
        writing.flush()
        os.fsync(writing.fileno())
        return writing.tell()


def _remove(old: Blobs, _database: Database) -> str | None:
    """Remove the old mail root, whose bodies were copied; say so when something is left."""
    _clear(old, keep_root=False)
    return f"Something is left in the old mail root {readable(str(old.root))}." if old.root.exists() else None


def _clear(blobs: Blobs, *, keep_root: bool) -> None:
    """Remove the bodies and the directories that `Blobs` makes, and nothing else."""
    directories = [blobs.tmp, *(blobs.root / f"{number:02x}" for number in range(256))]
    for directory in directories:
        with suppress(OSError):
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()
    if not keep_root:
        with suppress(OSError):
            blobs.root.rmdir()
