"""What a mailbox is logged on to with, out of a backup: SCRAM keys beside its hash, or an account of another method.

Invariant: what a mailbox has stays. Keys are added to the hash that they were beside, an account to a mailbox that has
neither a password nor an account, and none that another mailbox has. Sealed secrets are in no backup, as the key that
opens them is not: a client that needs one logs on otherwise once, or `changepwd` sets the password anew.
"""

from dataclasses import dataclass, field

from winpop.db.contract import Transaction
from winpop.directory import mailboxes
from winpop.directory.mailboxes import Kept
from winpop.store.backup_format import HELD, Archive

_SINCE = 2
"""The format that has them first."""


@dataclass(frozen=True, slots=True)
class Logon:
    """What a mailbox had at a snapshot. `method` is 0, and `account` empty, where that is no account."""

    kept: Kept = field(repr=False)
    method: int
    account: str

    def bring(self, transaction: Transaction, mailbox_id: int) -> None:
        """Give a mailbox what it lacks."""
        if self.kept.password_hash:
            mailboxes.learn(transaction, mailbox_id, self.kept)
        has = "SELECT EXISTS (SELECT 1 FROM {} WHERE mailbox_id = ?)"
        if (
            self.account
            and not any(transaction.number(has.format(table), mailbox_id) for table in ("password", "account"))
            and mailboxes.by_account(transaction, self.method, self.account) is None
            and transaction.number("SELECT count(*) FROM mailbox WHERE id = ?", mailbox_id)
        ):
            mailboxes.set_account(transaction, mailbox_id, self.method, self.account)


def find(archive: Archive, snapshot: int, source: int) -> Logon | None:
    """Return what the mailbox `source` had beside a hash; None where it had nothing, or the format has no place."""
    if archive.schema() < _SINCE:
        return None
    names = "hash, scram_sha_1, scram_sha_256, method, account"
    row = archive.one(
        f"SELECT {names} FROM mailbox WHERE source = :source AND {HELD}", source=source, snapshot=snapshot
    )
    if row is None or not any(row[1:]):
        return None
    password_hash, sha_1, sha_256, method, account = row
    return Logon(Kept(password_hash, sha_1 or None, sha_256 or None), method, account)
