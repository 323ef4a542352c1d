"""What mends flaws, each in a transaction of whoever wants that.

Invariant: each looks again, and does nothing where nothing is wrong any more; none takes away or changes an octet of a
body. What needs a guess is not mended.
"""

import os
import secrets
import stat
from pathlib import Path

from winpop.db.contract import Reader, Transaction, Value
from winpop.store.inspection.flaws import Letter, Mend
from winpop.store.inspection.rows import as_integer
from winpop.terms.mail import UNIQUE_ID


def by_statement(sql: str, *values: Value) -> Mend:
    """Make a mend of one statement; it was done if a row was changed."""
    return lambda transaction: transaction.run(sql, *values) > 0


def raise_sequence(transaction: Transaction, table: str) -> bool:
    """Put the counter of a table at its highest identifier, unless it is above."""
    most = as_integer(transaction.one(f"SELECT max(id) FROM {table}"))
    if transaction.run("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", most, table) == 0:
        transaction.run("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", table, most)
    return True


def renew_unique_id(transaction: Transaction, letter: Letter) -> bool:
    """Give a message a new unique-id, if it still has a wrong one."""
    sql = "UPDATE message SET unique_id = ? WHERE id = ?"
    return still_wrong(transaction, letter) and transaction.run(sql, secrets.token_urlsafe(16), letter.id) > 0


def still_wrong(reader: Reader, letter: Letter) -> bool:
    """Tell whether a message still has an unique-id that cannot be one, or that an earlier one has."""
    there = reader.number(
        "SELECT count(*) FROM message WHERE id = ? AND CAST(unique_id AS BLOB) = ?", letter.id, letter.unique_id
    )
    if not there or not UNIQUE_ID.fullmatch(letter.unique_id):
        return there > 0
    sql = "SELECT count(*) FROM message INDEXED BY message_of_mailbox WHERE mailbox_id = ? AND id < ? AND unique_id = ?"
    return reader.number(sql, letter.mailbox_id, letter.id, letter.unique_id.decode("ascii")) > 0


def forget_discarded(transaction: Transaction, name: str, path: Path) -> bool:
    """Forget a file that was to be removed, if it is gone."""
    if os.path.lexists(path):
        return False
    return transaction.run("DELETE FROM discarded_blob WHERE name = ?", name) > 0


def make_directory(_transaction: Transaction, path: Path) -> bool:
    """Make a directory of the mail root."""
    path.mkdir(mode=0o700)
    return True


def give(_transaction: Transaction, path: Path, owner: int) -> bool:
    """Give a file or directory to the owner of the home."""
    os.chown(path, owner, -1, follow_symlinks=False)
    return True


def change_mode(_transaction: Transaction, path: Path, needed: int, forbidden: int) -> bool:
    """Permit what is needed and nothing that is forbidden."""
    # By its path: were the database opened and closed here, the locks of its connections would go.
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~forbidden | needed)
    return True
