"""Delivery: a finished body becomes one message for each recipient, in the caller's transaction.

Invariant: all recipients whose mailboxes exist get the message, or (the transaction failing) none. A lock does not
stop delivery: mail for a locked mailbox or domain is there after the unlock. The time of a message is that of the
server's clock at the delivery; its age counts from there.

Deliveries that share a transaction share statements too, of many rows each (`deliver_together`): between two statements
the writer's thread has to ask for the interpreter, which the event loop has. Mailboxes are then named by the identifier
that was seen before; one that is gone since makes the transaction fail (a foreign key), and the deliveries are made one
by one, by address.
"""

import base64
import functools
import os
import time
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from winpop.db.contract import Reader, Transaction, Value
from winpop.store import downgrades
from winpop.store.blobs import Content
from winpop.store.maildrops import PLAIN
from winpop.terms.names import Address

_BODY = "INSERT INTO body (id, size, plain, blob, content, checksum) VALUES "
_MESSAGE = "INSERT INTO message (mailbox_id, body_id, unique_id, size, prefix, received) VALUES "
_ROW = "(?, ?, ?, ?, ?, ?)"
_ROWS_AT_ONCE = (64, 32, 16, 8, 4, 2, 1)
"""Few lengths: each is a prepared statement, which keeps what it was given last."""
_SMALL = 16 * 1024
"""Octets of a body up to which it shares statements; above, the octets cost more than the statement."""


class Delivery(NamedTuple):
    """A finished body and whose it becomes. `mailboxes` are the identifiers of the recipients' mailboxes."""

    recipients: tuple[Address, ...]
    mailboxes: tuple[int, ...]
    content: Content
    prefix: bytes
    checksum: bytes | None
    """Of the body and the prefix."""
    plain: bool
    """No line of the body begins with a dot."""


def may_be_together(content: Content) -> bool:
    """Tell whether a body can be delivered with others by `deliver_together`."""
    return content.octets is not None and content.size <= _SMALL and content.downgraded is None


def find_mailbox(reader: Reader, address: Address) -> int | None:
    """Return the identifier of a mailbox, locked or not, or None where there is none."""
    row = reader.one(
        "SELECT mailbox.id FROM domain JOIN mailbox ON mailbox.domain_id = domain.id "
        "WHERE domain.name = ? AND mailbox.name = ?",
        address.domain.text,
        address.mailbox,
    )
    return row[0] if row is not None and isinstance(row[0], int) else None


def deliver(
    transaction: Transaction, recipients: Sequence[Address], content: Content, prefix: bytes, *, plain: bool
) -> tuple[bool, ...]:
    """Deliver; return for each recipient whether its mailbox (still) exists.

    `plain` promises that no line of the body begins with a dot. A mailbox named twice gets one message.
    """
    found = {}
    for address in recipients:
        mailbox = find_mailbox(transaction, address)
        if mailbox is not None:
            found[address] = mailbox
    if found:
        body = transaction.insert(
            "INSERT INTO body (size, plain, blob, content, checksum) VALUES (?, ?, ?, ?, ?)",
            content.size,
            PLAIN if plain else 0,
            content.blob,
            content.octets,
            content.checksum(prefix),
        )
        downgrades.insert(transaction, body, content)
        size, received = len(prefix) + content.size, int(time.time())
        names = iter(_unique_ids(len(found)))
        _insert(transaction, _MESSAGE, [(each, body, next(names), size, prefix, received) for each in found.values()])
    elif content.blob is not None:
        transaction.run("INSERT INTO discarded_blob (name) VALUES (?)", content.blob)
    return tuple(address in found for address in recipients)


def deliver_together(transaction: Transaction, deliveries: Sequence[Delivery]) -> list[tuple[bool, ...]]:
    """Deliver bodies that `may_be_together`; return as `deliver` does.

    Of several deliveries it makes all, or fails: then they have to be made one by one.
    """
    if len(deliveries) == 1:
        one = deliveries[0]
        return [deliver(transaction, one.recipients, one.content, one.prefix, plain=one.plain)]
    # Transactions are alone in their time, and AUTOINCREMENT gives no identifier twice: the next ones are free.
    first = transaction.number("SELECT seq FROM sqlite_sequence WHERE name = 'body'") + 1
    bodies: list[Sequence[Value]] = []
    messages: list[Sequence[Value]] = []
    received = int(time.time())
    names = iter(_unique_ids(sum(len(each.mailboxes) for each in deliveries)))
    for body, each in enumerate(deliveries, first):
        content, prefix = each.content, each.prefix
        bodies.append((body, content.size, PLAIN if each.plain else 0, None, content.octets, each.checksum))
        size = len(prefix) + content.size
        messages.extend((mailbox, body, next(names), size, prefix, received) for mailbox in each.mailboxes)
    _insert(transaction, _BODY, bodies)
    _insert(transaction, _MESSAGE, messages)
    return [(True,) * len(each.recipients) for each in deliveries]


def _insert(transaction: Transaction, start: str, rows: Sequence[Sequence[Value]]) -> None:
    """Insert rows of six values, by as few statements as may be."""
    done = 0
    for length in _ROWS_AT_ONCE:
        while done + length <= len(rows):
            some = rows[done : done + length]
            transaction.run(_statement(start, length), *chain.from_iterable(some))
            done += length


@functools.cache
def _statement(start: str, rows: int) -> str:
    return start + ", ".join([_ROW] * rows)


def _unique_ids(count: int) -> list[str]:
    """Return new unique-ids (RFC 1939 §7): 22 characters each, of which every one is six random bits."""
    text = base64.urlsafe_b64encode(os.urandom(count * 33 // 2 + 1)).decode("ascii")
    return [text[start : start + 22] for start in range(0, 22 * count, 22)]
