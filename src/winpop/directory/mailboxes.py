"""Mailboxes, their locks and their passwords.

Invariant: what damage has made of the password or the name of a mailbox hinders nothing that does not need it, and
nobody else: a name is shown as far as it goes, and a damaged hash lets nobody in.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from winpop.db.contract import Reader, Row, Transaction, Value
from winpop.directory.domains import Domain, as_name
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox as it was when it was looked up, with the two locks that can hold it."""

    id: int
    address: Address
    domain_locked: bool
    own_lock: bool
    password_hash: str | None

    @property
    def locked(self) -> str | None:
        """What an administrator has locked: "domain", "mailbox" or nothing. The domain's lock comes first."""
        return "domain" if self.domain_locked else "mailbox" if self.own_lock else None


_SELECT = """
    SELECT mailbox.id, CAST(mailbox.name AS BLOB), CAST(domain.name AS BLOB), domain_lock.domain_id IS NOT NULL,
           mailbox_lock.mailbox_id IS NOT NULL, CAST(password.hash AS BLOB)
    FROM domain JOIN mailbox ON mailbox.domain_id = domain.id
    LEFT JOIN domain_lock ON domain_lock.domain_id = domain.id
    LEFT JOIN mailbox_lock ON mailbox_lock.mailbox_id = mailbox.id
    LEFT JOIN password ON password.mailbox_id = mailbox.id
"""
_ASKED_AT_ONCE = 500
_DAMAGED_HASH = "damaged"


def look_up(reader: Reader, address: Address) -> Mailbox | None:
    """Return the mailbox, or None where there is none."""
    sql = f"{_SELECT} WHERE domain.name = ? AND mailbox.name = ?"
    row = reader.one(sql, address.domain.text, address.mailbox)
    return None if row is None else _mailbox(row)


def find(reader: Reader, address: Address) -> Mailbox:
    """Return the mailbox. Raises `Refusal` (`no-such-mailbox`)."""
    mailbox = look_up(reader, address)
    if mailbox is None:
        raise Refusal(
            "no-such-mailbox",
            f"There is no mailbox {address} here; 'winpop list {address.domain}' shows those there are.",
        )
    return mailbox


def by_id(reader: Reader, identifiers: Iterable[int]) -> dict[int, Mailbox]:
    """Return the mailboxes with these identifiers that still exist."""
    wanted = list(identifiers)
    found = {}
    for start in range(0, len(wanted), _ASKED_AT_ONCE):
        some = wanted[start : start + _ASKED_AT_ONCE]
        marks = ", ".join("?" * len(some))
        for row in reader.all(f"{_SELECT} WHERE mailbox.id IN ({marks})", *some):
            mailbox = _mailbox(row)
            found[mailbox.id] = mailbox
    return found


def of_domain(reader: Reader, domain: Domain) -> list[Mailbox]:
    """Return the mailboxes of a domain by name."""
    return [_mailbox(row) for row in reader.all(f"{_SELECT} WHERE domain.id = ? ORDER BY mailbox.name", domain.id)]


def count(reader: Reader, domain: Domain | None = None) -> tuple[int, int]:
    """Return how many mailboxes there are, on the server or in a domain, and how many of them a lock holds."""
    where, parameters = ("", ()) if domain is None else ("WHERE mailbox.domain_id = ?", (domain.id,))
    row = reader.one(
        "SELECT count(*), count(coalesce(domain_lock.domain_id, mailbox_lock.mailbox_id)) FROM mailbox "
        "LEFT JOIN domain_lock ON domain_lock.domain_id = mailbox.domain_id "
        f"LEFT JOIN mailbox_lock ON mailbox_lock.mailbox_id = mailbox.id {where}",
        *parameters,
    )
    assert row is not None
    every, locked = row
    assert isinstance(every, int)
    assert isinstance(locked, int)
    return every, locked


def add(transaction: Transaction, domain: Domain, address: Address, password_hash: str) -> None:
    """Make a mailbox with its account. Raises `Refusal` (`mailbox-exists`)."""
    if look_up(transaction, address) is not None:
        raise Refusal("mailbox-exists", f"The mailbox {address} is here already.")
    sql = "INSERT INTO mailbox (domain_id, name) VALUES (?, ?)"
    identifier = transaction.insert(sql, domain.id, address.mailbox)
    set_password(transaction, identifier, password_hash)


def delete(transaction: Transaction, mailbox: Mailbox) -> None:
    """Remove a mailbox with its lock and its password; its messages must be gone already."""
    transaction.run("DELETE FROM mailbox WHERE id = ?", mailbox.id)


def lock(transaction: Transaction, mailbox: Mailbox) -> None:
    """Give a mailbox its own lock."""
    transaction.run("INSERT INTO mailbox_lock (mailbox_id) VALUES (?)", mailbox.id)


def unlock(transaction: Transaction, mailbox: Mailbox) -> None:
    """Take a mailbox's own lock away."""
    transaction.run("DELETE FROM mailbox_lock WHERE mailbox_id = ?", mailbox.id)


def set_password(transaction: Transaction, mailbox_id: int, password_hash: str) -> None:
    """Keep the hash of a password, in place of the one before."""
    transaction.run(
        "INSERT INTO password (mailbox_id, hash) VALUES (?, ?) "
        "ON CONFLICT (mailbox_id) DO UPDATE SET hash = excluded.hash",
        mailbox_id,
        password_hash,
    )


def _mailbox(row: Row) -> Mailbox:
    identifier, name, domain, domain_locked, own_lock, password_hash = row
    assert isinstance(identifier, int)
    address = Address(DomainName(as_name(domain)), as_name(name))
    return Mailbox(identifier, address, bool(domain_locked), bool(own_lock), _hash(password_hash))


def _hash(value: Value) -> str | None:
    """Return the hash; for a damaged one a text that cannot be verified, so that the verdict is neither yes nor no."""
    if not isinstance(value, bytes):
        return None
    return value.decode("ascii") if value and value.isascii() else _DAMAGED_HASH
