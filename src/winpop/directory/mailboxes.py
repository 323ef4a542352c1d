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

FILE = 3


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a password: its hash, SCRAM keys in the form of RFC 5803 §3, and itself, sealed, where asked."""

    password_hash: str
    scram_sha_1: str | None = None
    scram_sha_256: str | None = None
    secret: bytes | None = None


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox as it was when it was looked up, with the two locks that can hold it."""

    id: int
    address: Address
    domain_locked: bool
    own_lock: bool
    password_hash: str | None
    method: int = FILE
    """The authentication method by its documented number: 1 local accounts, 2 Active Directory, 3 password file."""
    account: str | None = None
    """The identifier of the account where the method is not the password file."""
    generation: int = 0
    """Another number after each change of the account or its password."""
    made: bool = False
    """The account was made by winpop."""

    @property
    def locked(self) -> str | None:
        """What an administrator has locked: "domain", "mailbox" or nothing. The domain's lock comes first."""
        return "domain" if self.domain_locked else "mailbox" if self.own_lock else None


_SELECT = """
    SELECT mailbox.id, CAST(mailbox.name AS BLOB), CAST(domain.name AS BLOB), domain_lock.domain_id IS NOT NULL,
           mailbox_lock.mailbox_id IS NOT NULL, CAST(password.hash AS BLOB), account.method,
           CAST(account.identifier AS BLOB), account.generation, account.made
    FROM domain JOIN mailbox ON mailbox.domain_id = domain.id
    LEFT JOIN domain_lock ON domain_lock.domain_id = domain.id
    LEFT JOIN mailbox_lock ON mailbox_lock.mailbox_id = mailbox.id
    LEFT JOIN password ON password.mailbox_id = mailbox.id
    LEFT JOIN account ON account.mailbox_id = mailbox.id
"""
_ASKED_AT_ONCE = 500
_DAMAGED_HASH = "damaged"


def look_up(reader: Reader, address: Address) -> Mailbox | None:
    """Return the mailbox, or None where there is none."""
    sql = f"{_SELECT} WHERE domain.name = ? AND mailbox.name = ?"
    row = reader.one(sql, address.domain.text, address.mailbox)
    return None if row is None else _mailbox(row, address)


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


def page(reader: Reader, domain: Domain, after: bytes | None, limit: int) -> tuple[list[Mailbox], bytes | None]:
    """Return at most `limit` mailboxes of a domain by name, and the name after which there are more, else None.

    They are those that come after a name (None: from the first on), which need not be there. Names are octets here, as
    the database has them, so that it goes on after one that damage has made; and whatever damage there is, to an end.
    """
    begins, parameters = ("", ()) if after is None else ("AND mailbox.name > CAST(? AS TEXT)", (after,))
    sql = f"{_SELECT} WHERE domain.id = ? {begins} ORDER BY mailbox.name LIMIT ?"
    rows = reader.all(sql, domain.id, *parameters, limit + 1)
    found = [_mailbox(row) for row in rows[:limit]]
    last = rows[limit - 1][1] if len(rows) > limit else None
    return found, last if isinstance(last, bytes) and (after is None or last > after) else None


def has(reader: Reader, domain: Domain, name: bytes) -> bool:
    """Tell whether a domain has a mailbox with just this name."""
    sql = "SELECT count(*) FROM mailbox WHERE domain_id = ? AND name = CAST(? AS TEXT)"
    return reader.number(sql, domain.id, name) > 0


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


def by_account(reader: Reader, method: int, account: str) -> Mailbox | None:
    """Return the mailbox of an account that is not in the password file, or None."""
    row = reader.one(f"{_SELECT} WHERE account.method = ? AND account.identifier = ?", method, account)
    return None if row is None else _mailbox(row)


def make(transaction: Transaction, domain_id: int, address: Address) -> int:
    """Make a mailbox without an account; return its identifier. Raises `Refusal` (`mailbox-exists`)."""
    if look_up(transaction, address) is not None:
        raise Refusal("mailbox-exists", f"The mailbox {address} is here already.")
    sql = "INSERT INTO mailbox (domain_id, name) VALUES (?, ?)"
    return transaction.insert(sql, domain_id, address.mailbox)


def add(transaction: Transaction, domain: Domain, address: Address, kept: Kept | str) -> None:
    """Make a mailbox with a password in the password file. Raises `Refusal` (`mailbox-exists`)."""
    set_password(transaction, make(transaction, domain.id, address), kept)


def delete(transaction: Transaction, mailbox: Mailbox) -> None:
    """Remove a mailbox with its lock and its password; its messages must be gone already."""
    transaction.run("DELETE FROM mailbox WHERE id = ?", mailbox.id)


def lock(transaction: Transaction, mailbox: Mailbox) -> None:
    """Give a mailbox its own lock."""
    transaction.run("INSERT INTO mailbox_lock (mailbox_id) VALUES (?)", mailbox.id)


def unlock(transaction: Transaction, mailbox: Mailbox) -> None:
    """Take a mailbox's own lock away."""
    transaction.run("DELETE FROM mailbox_lock WHERE mailbox_id = ?", mailbox.id)


def set_password(transaction: Transaction, mailbox_id: int, kept: Kept | str) -> None:
    """Keep a password, or the hash of one, in place of all that was kept of the one before."""
    kept = Kept(kept) if isinstance(kept, str) else kept
    transaction.run(
        "INSERT INTO password (mailbox_id, hash, scram_sha_1, scram_sha_256, secret) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (mailbox_id) DO UPDATE SET hash = excluded.hash, scram_sha_1 = excluded.scram_sha_1, "
        "scram_sha_256 = excluded.scram_sha_256, secret = excluded.secret",
        mailbox_id,
        kept.password_hash,
        kept.scram_sha_1,
        kept.scram_sha_256,
        kept.secret,
    )


def learn(transaction: Transaction, mailbox_id: int, kept: Kept) -> None:
    """Keep more of a password whose hash is there already; what is kept of another password stays as it is."""
    transaction.run(
        "UPDATE password SET scram_sha_1 = coalesce(scram_sha_1, ?), scram_sha_256 = coalesce(scram_sha_256, ?), "
        "secret = coalesce(secret, ?) WHERE mailbox_id = ? AND hash = ?",
        kept.scram_sha_1,
        kept.scram_sha_256,
        kept.secret,
        mailbox_id,
        kept.password_hash,
    )


def kept(reader: Reader, mailbox_id: int) -> Kept | None:
    """Return what is kept of the password of a mailbox, or None where it has none that can be read."""
    row = reader.one(
        "SELECT CAST(hash AS BLOB), CAST(scram_sha_1 AS BLOB), CAST(scram_sha_256 AS BLOB), secret FROM password "
        "WHERE mailbox_id = ?",
        mailbox_id,
    )
    if row is None:
        return None
    password_hash = _hash(row[0])
    one, two = (value.decode("ascii", "replace") if isinstance(value, bytes) else None for value in row[1:3])
    secret = row[3] if isinstance(row[3], bytes) else None
    return None if password_hash is None else Kept(password_hash, one, two, secret)


def all_have_scram_keys(reader: Reader) -> bool:
    """Tell whether every mailbox can be logged on to by SCRAM: the condition is that of an index, word for word."""
    sql = (
        "SELECT EXISTS (SELECT 1 FROM account) OR "
        "EXISTS (SELECT 1 FROM password WHERE scram_sha_1 IS NULL OR scram_sha_256 IS NULL)"
    )
    return not reader.number(sql)


def set_account(transaction: Transaction, mailbox_id: int, method: int, account: str, *, made: bool = False) -> None:
    """Give a mailbox an account of another method; what is kept of its password in the password file, sleeps.

    `made` tells whether winpop has made the account.

    Raises `Refusal` (`account-taken`).
    """
    other = by_account(transaction, method, account)
    if other is not None and other.id != mailbox_id:
        raise Refusal("account-taken", f"That account is the account of {other.address} already.")
    transaction.run(
        "INSERT INTO account (mailbox_id, method, identifier, generation, made) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (mailbox_id) DO UPDATE SET method = excluded.method, identifier = excluded.identifier, "
        "generation = excluded.generation, made = excluded.made",
        mailbox_id,
        method,
        account,
        _another_generation(),
        int(made),
    )


def forget_account(transaction: Transaction, mailbox_id: int) -> None:
    """Let the password file hold for a mailbox again."""
    transaction.run("DELETE FROM account WHERE mailbox_id = ?", mailbox_id)


def forget_password(transaction: Transaction, mailbox_id: int) -> None:
    """Forget what is kept of the password of a mailbox whose account is elsewhere."""
    transaction.run("DELETE FROM password WHERE mailbox_id = ?", mailbox_id)


def forget_secrets(transaction: Transaction) -> None:
    """Forget all passwords that this server could read; their hashes and SCRAM keys stay."""
    transaction.run("UPDATE password SET secret = NULL WHERE secret IS NOT NULL")


def renew_account(transaction: Transaction, mailbox_id: int) -> None:
    """Note that the password of a mailbox's account was changed: what was remembered of the old one holds no more."""
    transaction.run("UPDATE account SET generation = ? WHERE mailbox_id = ?", _another_generation(), mailbox_id)


def every(reader: Reader) -> list[Mailbox]:
    """Return all mailboxes by domain and name."""
    return [_mailbox(row) for row in reader.all(f"{_SELECT} ORDER BY domain.name, mailbox.name")]


def _another_generation() -> int:
    import secrets  # here: it brings OpenSSL, and the tool shall start at once

    return secrets.randbits(62)


def _mailbox(row: Row, known: Address | None = None) -> Mailbox:
    """Return the mailbox of a row; where its address is known already, that need not be read again."""
    identifier, name, domain, domain_locked, own_lock, password_hash, method, account, generation, made = row
    assert isinstance(identifier, int)
    address = known or Address(DomainName(as_name(domain)), as_name(name))
    return Mailbox(
        identifier,
        address,
        bool(domain_locked),
        bool(own_lock),
        _hash(password_hash),
        method if isinstance(method, int) else FILE,
        None if account is None else as_name(account),
        generation if isinstance(generation, int) else 0,
        bool(made),
    )


def _hash(value: Value) -> str | None:
    """Return the hash; for a damaged one a text that cannot be verified, so that the verdict is neither yes nor no."""
    if not isinstance(value, bytes):
        return None
    return value.decode("ascii") if value and value.isascii() else _DAMAGED_HASH
