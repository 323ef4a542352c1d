"""Delivery: a finished body becomes one message for each recipient, in the caller's transaction.

Invariant: all recipients whose mailboxes exist get the message, or (the transaction failing) none. A lock does not
stop delivery: mail for a locked mailbox or domain is there after the unlock. The time of a message is that of the
server's clock at the delivery; its age counts from there.
"""

import secrets
import time
from collections.abc import Sequence

from winpop.db.contract import Transaction
from winpop.directory import mailboxes
from winpop.store import downgrades
from winpop.store.blobs import Content
from winpop.terms.names import Address


def deliver(
    transaction: Transaction, recipients: Sequence[Address], content: Content, prefix: bytes, *, plain: bool
) -> tuple[bool, ...]:
    """Deliver; return for each recipient whether its mailbox (still) exists.

    `plain` promises that no line of the body begins with a dot. A mailbox named twice gets one message.
    """
    found = {}
    for address in dict.fromkeys(recipients):
        mailbox = mailboxes.look_up(transaction, address)
        if mailbox is not None:
            found[address] = mailbox.id
    if found:
        body = transaction.insert(
            "INSERT INTO body (size, plain, blob, content, checksum) VALUES (?, ?, ?, ?, ?)",
            content.size,
            int(plain),
            content.blob,
            content.octets,
            content.checksum(prefix),
        )
        downgrades.insert(transaction, body, content)
        received = int(time.time())
        for mailbox_id in found.values():
            transaction.insert(
                "INSERT INTO message (mailbox_id, body_id, unique_id, size, prefix, received) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                mailbox_id,
                body,
                secrets.token_urlsafe(16),
                len(prefix) + content.size,
                prefix,
                received,
            )
    elif content.blob is not None:
        transaction.run("INSERT INTO discarded_blob (name) VALUES (?)", content.blob)
    return tuple(address in found for address in recipients)
