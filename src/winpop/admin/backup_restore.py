"""The operation `restore`: what a snapshot of a backup has and the installation lacks, brought back.

Invariant: nothing is removed, and what exists keeps its own lock, password, setting and mail. A domain or a mailbox is
made together with its lock, so that there is no moment in which it could be fetched unlocked. It can be run again.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from winpop.admin.backup_bringing import Restoring
from winpop.admin.contract import Batches
from winpop.admin.outcomes import Outcome, Table
from winpop.db.contract import Database
from winpop.db.home import Home
from winpop.db.leases import RESTORE, Leases
from winpop.directory import domains, mailboxes
from winpop.store import backup_opening
from winpop.store.backup_format import HELD, Archive, Snapshot, shown
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Refusal, out_of_reach, readable

_BATCH = 500
_NAMED = 5


def restore(  # noqa: PLR0913, PLR0917 - its arguments and switches, by name
    batches: Batches,
    directory: Path,
    target: DomainName | Address | None,
    at: int | None,
    list: bool,  # noqa: A002, FBT001 - a switch, by name
    mend: bool,  # noqa: FBT001 - a switch, by name
) -> Outcome:
    """Bring back what is missing, or show the snapshots. It is complete when every message could be restored.

    With `mend`, only messages that are here and damaged get their bodies back.
    """
    with backup_opening.opened(directory) as archive:
        if list:
            return _shown(archive)
        snapshot = _choose(archive, at)
        _check_target(archive, snapshot, target)
        if mend:
            _check_there(batches.home, target, batches.open)
        batches.open()  # only now a new installation is begun
        with _alone(batches.home):
            return Restoring(batches, archive, snapshot, target, mend=mend).all()


def _shown(archive: Archive) -> Outcome:
    _, scope = archive.origin()
    snapshots = archive.snapshots()
    rows = [
        (shown(each.time), scope or "server", each.domains, each.mailboxes, each.messages, each.octets)
        for each in snapshots
    ]
    headers = ("TIME", "SCOPE", "DOMAINS", "MAILBOXES", "MESSAGES", "OCTETS")
    return Outcome(
        "" if rows else "This backup has no complete snapshot yet.",
        {"snapshots": [dict(zip(map(str.lower, headers), row, strict=True)) for row in rows]},
        table=Table(headers, tuple(rows)),
    )


def _choose(archive: Archive, at: int | None) -> Snapshot:
    snapshots = archive.snapshots()
    fitting = [each for each in snapshots if at is None or each.time <= at]
    if fitting:
        # The last one, or the latest by its time: the clock may have been set back between two.
        return fitting[-1] if at is None else max(fitting, key=lambda each: each.time)
    place = readable(str(archive.directory))
    if not snapshots:
        raise Refusal("no-snapshot", f"The backup in {place} has no complete snapshot yet.")
    raise Refusal("no-snapshot", f"The oldest snapshot in {place} is of {shown(snapshots[0].time)}; give a later time.")


def _check_target(archive: Archive, snapshot: Snapshot, target: DomainName | Address | None) -> None:
    """Refuse what the snapshot does not have, and say what it has (`not-in-backup`)."""
    if target is None:
        return
    if isinstance(target, Address):
        kind, within = "mailbox", f" in {target.domain}"
        sql = f"SELECT name || '@' || domain FROM mailbox WHERE {HELD} AND domain = :domain ORDER BY name"
        rows = archive.rows(sql, snapshot=snapshot.id, domain=target.domain.text)
    else:
        kind, within = "domain", ""
        rows = archive.rows(f"SELECT name FROM domain WHERE {HELD} ORDER BY name", snapshot=snapshot.id)
    there = [str(name) for (name,) in rows]
    if str(target) not in there:
        named = ", ".join(there[:_NAMED]) + (f" and {len(there) - _NAMED} more" if len(there) > _NAMED else "")
        has = f"it has {named}" if there else f"it has no {kind}{within}"
        raise Refusal(
            "not-in-backup", f"The snapshot of {shown(snapshot.time)} does not have the {kind} {target}; {has}."
        )


def _check_there(home: Home, target: DomainName | Address | None, database: Callable[[], Database]) -> None:
    """Refuse to mend what is not here (`no-installation`, `no-such-domain`, `no-such-mailbox`)."""
    if not home.exists():
        raise out_of_reach("no-installation", f"There is no installation in {readable(str(home.path))} to mend.")
    if isinstance(target, Address):
        mailboxes.find(database(), target)
    elif target is not None:
        domains.find(database(), target)


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Let nobody else restore into this home: two would add the same messages."""
    with contextlib.closing(Leases(home.leases)) as leases:
        if not leases.take(RESTORE):
            raise Refusal("restore-running", "Another winpop restores into this installation; wait for it.")
        yield
