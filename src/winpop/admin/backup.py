"""The operation `backup`: what the installation has, into a directory; while the service runs or not.

Invariant: the installation is only read, but for the audit. What is said to be backed up is durably in the directory,
and what was there before a backup that failed is there still.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from winpop.admin.contract import Batches
from winpop.admin.outcomes import Outcome, Table
from winpop.db.contract import Reader
from winpop.directory import settings
from winpop.store import backup_format, backup_opening, backup_taking
from winpop.store.backup_copying import Damaged, Taken
from winpop.store.backup_source import Source
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Refusal, readable

_BETWEEN = 0.2
_SHOWN = 100
_NAMED = 5


def back_up(
    batches: Batches,
    directory: Path,
    target: DomainName | Address | None,
    keep: int | None,
    verify: bool,  # noqa: FBT001 - a switch, by name
) -> Outcome:
    """Back up the server, a domain or a mailbox. The outcome is complete when every message is in the backup."""
    with batches.database.snapshot() as reader:
        source = Source(batches.home, target)
        source.find(reader)
        _check_place(batches, reader, directory)
        origin = (installation(reader), "" if target is None else str(target))
    with backup_opening.opened(directory, make=origin) as archive:
        tell = seldom(batches.tell)
        taken = backup_taking.take(batches.database, archive, source, keep, tell, verify=verify)
    with contextlib.suppress(Refusal):  # mail and password hashes have left the home, which a full disk does not undo
        batches.commit(lambda _: Outcome(changed=True), " ".join(filter(None, (str(directory), origin[1]))))
    return _outcome(directory, origin[1], taken)


def installation(reader: Reader) -> str:
    """Return the name that no other installation has."""
    row = reader.one("SELECT name FROM installation")
    assert row is not None
    return str(row[0])


def seldom(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Return a `tell` that shows no more than five words a second."""
    last = -_BETWEEN

    def tells(text: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _BETWEEN:
            last = now
            tell(text)

    return tells


def count(number: int, one: str, many: str) -> str:
    """Say how many."""
    return f"1 {one}" if number == 1 else f"{number} {many}"


def damage(damaged: list[Damaged]) -> tuple[list[dict[str, Any]], Table]:
    """Return damaged messages for programs and for people."""
    rows = [(each.mailbox, each.unique_id, each.why) for each in damaged]
    entries = [{"mailbox": mailbox, "unique_id": unique_id, "why": why} for mailbox, unique_id, why in rows]
    return entries, Table(("MAILBOX", "UNIQUE-ID", "WHY IT IS MISSING"), tuple(rows[:_SHOWN]))


def _check_place(batches: Batches, reader: Reader, directory: Path) -> None:
    """Refuse a directory in which the installation keeps its own things."""
    real, home = (Path(os.path.realpath(path)) for path in (directory, batches.home.path))
    roots = (batches.home.mail_root(settings.stored(reader).get("mailroot", "")), batches.home.mail)
    if real == home or any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        raise Refusal(
            "backup-inside",
            f"{readable(str(directory))} belongs to the installation itself; take a directory on another disk.",
        )


def _outcome(directory: Path, scope: str, taken: Taken) -> Outcome:
    entries, _ = damage(taken.damaged)
    there, _ = damage(taken.damaged_there)
    _, table = damage([*taken.damaged, *taken.damaged_there])
    notes = []
    if len(entries) + len(there) > _SHOWN:
        notes.append(f"{len(entries) + len(there) - _SHOWN} more are damaged; --json names them all.")
    if taken.lost:
        lost = count(taken.lost, "message", "messages")
        notes.append(
            f"The backup has lost {lost}: missing in it, cut short or changed, and not to be had here any more."
        )
    if taken.without_password:
        named = ", ".join(taken.without_password[:_NAMED])
        more = f" and {len(taken.without_password) - _NAMED} more" if len(taken.without_password) > _NAMED else ""
        notes.append(
            f"The password hash of {named}{more} cannot be read, so the snapshot has none; set a new password with "
            "'winpop changepwd USER@DOMAIN'."
        )
    damaged = f"; {count(len(entries), 'message is', 'messages are')} damaged here and not in it" if entries else ""
    return Outcome(
        f"Backed up {backup_format.scope_words(scope)}: {count(taken.messages, 'message', 'messages')} in "
        f"{count(taken.mailboxes, 'mailbox', 'mailboxes')}, {taken.copied} copied, {taken.kept} there already"
        f"{damaged}.",
        {
            "directory": str(directory),
            "scope": scope or None,
            "snapshot": backup_format.shown(taken.time),
            "domains": taken.domains,
            "mailboxes": taken.mailboxes,
            "messages": taken.messages,
            "octets": taken.octets,
            "copied": taken.copied,
            "copied_octets": taken.copied_octets,
            "kept": taken.kept,
            "gone": taken.gone,
            "removed_snapshots": taken.removed_snapshots,
            "verified": taken.verified,
            "lost": taken.lost,
            "damaged": entries,
            "damaged_in_backup": there,
            "without_password": taken.without_password,
        },
        table=table,
        notes=tuple(notes),
        complete=not (entries or taken.lost or taken.without_password),
    )
