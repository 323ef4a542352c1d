"""Mail that expires: what came in more than so many days ago is removed, fetched or not (RFC 2449 §6.7).

Invariant: nothing goes earlier than was announced. Nothing goes of a mailbox that is locked, itself or by its domain,
since its user cannot fetch it; after an unlock the days count anew. Nothing goes of a mailbox that somebody is logged
on to: its maildrop lock is held while mail is removed, and where another has it, the next round comes to it. Lock,
unlock and removal are looked at in the transaction that removes. A message without a time, or with one that is still
to come, stays. What the clock did is the matter of `clock`; here it is a number of seconds that do not count.
"""

from dataclasses import dataclass

from winpop.db.contract import Database, Value
from winpop.db.leases import Leases, mailbox_number
from winpop.directory import mailboxes
from winpop.store import maildrops, sweep
from winpop.store.blobs import Blobs
from winpop.store.clock import DAY
from winpop.store.inspection.flaws import bear
from winpop.terms.refusals import Refusal

_BATCH = 500
"""Messages that are removed in one transaction."""
_LOOKED_AT = 20_000
"""Identifiers of messages that one query looks at."""
_OLD = "typeof(received) = 'integer' AND received > 0 AND received < ?"
_UNLOCKS = "FROM audit WHERE operation = 'unlock' AND outcome = 'done'"


@dataclass(frozen=True, slots=True)
class Expired:
    """What a round did.

    `in_use` are mailboxes with mail to go that somebody was logged on to. `damaged` are places of the database that
    could not be read; what is there stays.
    """

    messages: int = 0
    mailboxes: int = 0
    in_use: int = 0
    damaged: int = 0


def expire(  # noqa: PLR0913, PLR0917 - where, and by which clock
    database: Database, blobs: Blobs, leases: Leases, days: int, now: float, uncounted: int = 0
) -> Expired:
    """Remove what is older than `days`; `uncounted` seconds are no part of an age. Raises `Refusal`.

    `now` is in seconds since 1970. The leases must be other than those of the sessions: the same would be had twice.
    """
    before = int(now) - days * DAY - uncounted
    # Earlier unlocks are looked up once, for all; those since then in each transaction.
    last = database.number("SELECT max(id) FROM audit")
    rows = database.all(f"SELECT DISTINCT target {_UNLOCKS} AND id <= ? AND time >= ?", last, before)
    unlocked = {target for (target,) in rows}
    found, damaged = _mailboxes(database, before)
    messages = emptied = in_use = 0
    for mailbox_id in found:
        removed, some = 0, _BATCH
        while some == _BATCH:
            if not leases.take(mailbox_number(mailbox_id)):
                in_use += 1
                break
            try:
                names, some = _remove(database, mailbox_id, before, unlocked, last)
            except Refusal as refusal:
                bear(database, refusal)
                damaged += 1
                break
            finally:
                leases.free(mailbox_number(mailbox_id))
            removed += some
            sweep.discard(database, blobs, names)
        messages += removed
        emptied += removed > 0
    return Expired(messages, emptied, in_use, damaged)


def _mailboxes(database: Database, before: int) -> tuple[list[int], int]:
    """Return the mailboxes that have mail from before, by short queries, and how many of those failed for damage."""
    found: set[int] = set()
    damaged = 0
    sql = f"SELECT DISTINCT mailbox_id FROM message WHERE id > ? AND id <= ? AND {_OLD}"
    for start in range(0, database.number("SELECT max(id) FROM message"), _LOOKED_AT):
        try:
            rows = database.all(sql, start, start + _LOOKED_AT, before)
        except Refusal as refusal:
            bear(database, refusal)
            damaged += 1
        else:
            found |= {row[0] for row in rows if isinstance(row[0], int)}
    return sorted(found), damaged


def _remove(
    database: Database, mailbox_id: int, before: int, unlocked: set[Value], last: int
) -> tuple[tuple[str, ...], int]:
    """Remove some mail of a mailbox; return the discarded blobs, and how many messages went."""
    with database.write() as transaction:
        mailbox = mailboxes.by_id(transaction, [mailbox_id]).get(mailbox_id)
        if mailbox is None or mailbox.locked:
            return (), 0
        names = {str(mailbox.address), str(mailbox.address.domain)}
        sql = f"SELECT count(*) {_UNLOCKS} AND id > ? AND time >= ? AND target IN (?, ?)"
        if not unlocked.isdisjoint(names) or transaction.number(sql, last, before, *names):
            return (), 0
        sql = f"SELECT id FROM message WHERE mailbox_id = ? AND {_OLD} ORDER BY id LIMIT {_BATCH}"
        messages = [row[0] for row in transaction.all(sql, mailbox_id, before) if isinstance(row[0], int)]
        return maildrops.expunge(transaction, mailbox_id, messages).blobs, len(messages)
