"""The accounts of mailboxes: passwords, and what comes later (quota records, Active Directory).

Invariant: a password is hashed before the transaction begins (it takes 28 ms), and only its hash goes any further.
"""

from winpop.admin.contract import Work
from winpop.admin.outcomes import Outcome
from winpop.auth import passwords
from winpop.directory import mailboxes
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal, not_understood, readable

_LONGEST_USER = 256


def hash_of(password: str) -> str:
    """Return the hash of a new password. Raises `Refusal` (`bad-password`)."""
    return passwords.make_hash(passwords.check(password))


def change_password(work: Work, address: Address, newpassword: str) -> Outcome:
    """Keep the hash `newpassword` as the mailbox's password; it holds from the next logon on."""
    mailbox = mailboxes.find(work.transaction, address)
    mailboxes.set_password(work.transaction, mailbox.id, newpassword)
    return Outcome(f"The password of {address} is changed.", {"address": str(address)}, changed=True)


def create_quota_file(work: Work, address: Address, user: str | None) -> Outcome:
    """Refuse, after the mailbox was found: quotas come later (`not-yet`)."""
    del user
    mailboxes.find(work.transaction, address)
    raise Refusal("not-yet", f"Quotas are not part of this version yet, so {address} gets no quota record.")


def migrate_to_ad(work: Work, address: Address) -> Outcome:
    """Refuse, after the mailbox was found: Active Directory comes later (`not-yet`)."""
    mailboxes.find(work.transaction, address)
    raise Refusal("not-yet", f"Active Directory is not part of this version yet, so {address} keeps its password here.")


def read_user(text: str) -> str:
    """Return the name of an account that is the model of a quota. Raises `Refusal` (`bad-user`)."""
    if not 1 <= len(text) <= _LONGEST_USER or not text.isprintable():
        raise not_understood("bad-user", f"'{readable(text)}' cannot be the name of an account.")
    return text
