"""The rows of certificates: those that the server shows, with their keys, and those that clients' are signed by.

Invariants: a row is never changed but for being the default, so whoever knows its identifier knows what is in it; of
those that the server shows exactly one is the default, as soon as there is one. What damage has made of a row is given
out as it is, for whoever reads it to judge.
"""

from dataclasses import dataclass, field

from winpop.db.contract import Reader, Row, Transaction, Value

SERVER, CLIENTS = "server", "clients"


@dataclass(frozen=True, slots=True)
class Stored:
    """A row. `chain` is PEM, the server's own certificate first; `private_key` is PEM, empty where use is CLIENTS."""

    id: int
    use: str
    chain: str
    is_default: bool
    private_key: str = field(repr=False)


def state(reader: Reader) -> tuple[Row, ...]:
    """Return what differs as soon as any row differs, without reading certificates."""
    return tuple(reader.all("SELECT id, CAST(use AS BLOB), is_default FROM certificate ORDER BY id"))


def every(reader: Reader, use: str) -> list[Stored]:
    """Return the rows of one use, the oldest first."""
    rows = reader.all(
        "SELECT id, CAST(chain AS BLOB), is_default, CAST(private_key AS BLOB) FROM certificate WHERE use = ? "
        "ORDER BY id",
        use,
    )
    return [
        Stored(int(str(number)), use, _text(chain), bool(is_default), _text(private_key))
        for number, chain, is_default, private_key in rows
    ]


def add(transaction: Transaction, chain: str, private_key: str, *, default: bool) -> None:
    """Keep a pair of the server's; `default`: instead of the one that was it."""
    if default:
        transaction.run("UPDATE certificate SET is_default = 0 WHERE is_default <> 0")
    _insert(transaction, SERVER, chain, private_key, default=default)


def make_default(transaction: Transaction, number: int) -> None:
    """Make the row with this identifier the default."""
    transaction.run("UPDATE certificate SET is_default = (id = ?) WHERE use = ?", number, SERVER)


def remove(transaction: Transaction, number: int) -> None:
    """Remove the row with this identifier."""
    transaction.run("DELETE FROM certificate WHERE id = ?", number)


def set_clients(transaction: Transaction, chain: str) -> None:
    """Keep the certificates that clients' must be signed by instead of those before; the empty text: none."""
    transaction.run("DELETE FROM certificate WHERE use = ?", CLIENTS)
    if chain:
        _insert(transaction, CLIENTS, chain, "", default=False)


def _insert(transaction: Transaction, use: str, chain: str, private_key: str, *, default: bool) -> None:
    transaction.insert(
        "INSERT INTO certificate (use, chain, private_key, is_default) VALUES (?, ?, ?, ?)",
        use,
        chain,
        private_key,
        int(default),
    )


def _text(value: Value) -> str:
    """Return a text that was cast to a BLOB, since the engine fails at one that is not UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
