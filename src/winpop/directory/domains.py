"""E-mail domains."""

from dataclasses import dataclass

from winpop.db.contract import Reader, Row, Transaction, Value
from winpop.terms.names import DomainName
from winpop.terms.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain as it was when it was looked up."""

    id: int
    name: DomainName
    locked: bool


_SELECT = """
    SELECT domain.id, CAST(domain.name AS BLOB), domain_lock.domain_id IS NOT NULL
    FROM domain LEFT JOIN domain_lock ON domain_lock.domain_id = domain.id
"""


def find(reader: Reader, name: DomainName) -> Domain:
    """Return the domain. Raises `Refusal` (`no-such-domain`)."""
    row = reader.one(f"{_SELECT} WHERE domain.name = ?", name.text)
    if row is None:
        raise Refusal("no-such-domain", f"There is no domain {name} here; 'winpop list' shows those there are.")
    return _domain(row)


def exists(reader: Reader, name: DomainName) -> bool:
    """Tell whether the domain is one of ours."""
    return reader.number("SELECT count(*) FROM domain WHERE name = ?", name.text) > 0


def every(reader: Reader) -> list[Domain]:
    """Return all domains by name."""
    return [_domain(row) for row in reader.all(f"{_SELECT} ORDER BY domain.name")]


def mailbox_counts(reader: Reader) -> dict[int, int]:
    """Return how many mailboxes each domain has, by the domain's identifier; a domain without any is absent."""
    rows = reader.all("SELECT domain_id, count(*) FROM mailbox GROUP BY domain_id")
    return {domain: count for domain, count in rows if isinstance(domain, int) and isinstance(count, int)}


def add(transaction: Transaction, name: DomainName) -> None:
    """Make a domain. Raises `Refusal` (`domain-exists`)."""
    if exists(transaction, name):
        raise Refusal("domain-exists", f"The domain {name} is here already.")
    transaction.insert("INSERT INTO domain (name) VALUES (?)", name.text)


def delete(transaction: Transaction, domain: Domain) -> None:
    """Remove a domain with its mailboxes and locks; their messages must be gone already."""
    transaction.run("DELETE FROM domain WHERE id = ?", domain.id)


def lock(transaction: Transaction, domain: Domain) -> None:
    """Lock a domain: one row, however many mailboxes."""
    transaction.run("INSERT INTO domain_lock (domain_id) VALUES (?)", domain.id)


def unlock(transaction: Transaction, domain: Domain) -> None:
    """Unlock a domain; its mailboxes' own locks stay as they were."""
    transaction.run("DELETE FROM domain_lock WHERE domain_id = ?", domain.id)


def as_name(value: Value) -> str:
    """Return a name that was cast to a BLOB, since the engine fails at a text that is not UTF-8; it may be damaged."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _domain(row: Row) -> Domain:
    identifier, name, locked = row
    assert isinstance(identifier, int)
    return Domain(identifier, DomainName(as_name(name)), bool(locked))
