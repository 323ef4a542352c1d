"""Another authentication method for a server that has mailboxes already.

The documented tool could change it only while there was no domain. Invariant: either every mailbox has an account in
the new method, or nothing is changed and what stands in the way is listed.
"""

from winpop.admin.accounts import NAMES
from winpop.admin.contract import Look, Work
from winpop.admin.outcomes import Outcome, Table
from winpop.auth.contract import FILE, LOCAL, Accounts
from winpop.directory import mailboxes, settings
from winpop.directory.mailboxes import Mailbox
from winpop.terms.refusals import Kind, Refusal

Mapped = dict[int, str | Refusal | None]
"""The account of each mailbox, by its identifier; None for one in the password file, a refusal where it has none."""


def prepare(look: Look, text: str) -> Mapped:
    """Find the account of each mailbox in the method that `text` names. Raises `Refusal` where it is out of reach."""
    method: int = settings.SETTINGS["auth"].read(text)
    every = mailboxes.every(look.reader)
    accounts = None if method == FILE or not every else look.accounts(method, look.reader)
    return {mailbox.id: _mapped(accounts, mailbox, method) for mailbox in every}


def change(work: Work, text: str) -> Outcome:
    """Change the setting `auth` as it was prepared."""
    method: int = settings.SETTINGS["auth"].read(text)
    data = {"settings": [{"name": "auth", "value": str(method)}]}
    every = mailboxes.every(work.transaction)
    if settings.load(work.transaction).auth == method and all(mailbox.method == method for mailbox in every):
        return Outcome(f"That is how it is already: auth {method}; nothing was changed.", data)
    found, hindered = _sorted(work.prepared, every)
    if hindered:
        return Outcome(
            f"Nothing was changed: {len(hindered)} of {len(every)} mailboxes cannot be mapped to {NAMES[method]}.",
            {"hindered": [{"address": address, "code": code, "sentence": why} for address, code, why in hindered]},
            table=Table(("MAILBOX", "CODE", "WHAT STANDS IN THE WAY"), tuple(hindered)),
            complete=False,
        )
    for mailbox, account in found:
        if account is None:
            mailboxes.forget_account(work.transaction, mailbox.id)
        elif (mailbox.method, mailbox.account) != (method, account):
            mailboxes.set_account(work.transaction, mailbox.id, method, account)
    settings.store(work.transaction, {"auth": str(method)})
    what = f"; its {len(found)} mailboxes log on with {NAMES[method]} from now on" if found else ""
    return Outcome(f"Set: auth {method}{what}.", data | {"mapped": len(found)}, changed=True, notes=_notes(method))


def _sorted(
    mapped: Mapped, every: list[Mailbox]
) -> tuple[list[tuple[Mailbox, str | None]], list[tuple[str, str, str]]]:
    """Return each mailbox with its account, and what stands in the way of others."""
    late = Refusal("made-meanwhile", "It was made while the accounts were looked up; set auth once more.")
    found: list[tuple[Mailbox, str | None]] = []
    hindered: list[tuple[str, str, str]] = []
    taken: dict[str, Mailbox] = {}
    for mailbox in every:
        account = mapped.get(mailbox.id, late)
        if isinstance(account, str) and taken.setdefault(account, mailbox) is not mailbox:
            account = Refusal("account-taken", f"{taken[account].address} has the same account.")
        if isinstance(account, Refusal):
            hindered.append((str(mailbox.address), account.code, account.sentence))
        else:
            found.append((mailbox, account))
    return found, hindered


def _mapped(accounts: Accounts | None, mailbox: Mailbox, method: int) -> str | Refusal | None:
    try:
        return _account(accounts, mailbox, method)
    except Refusal as refusal:
        if refusal.kind is Kind.OUT_OF_REACH:
            raise
        return refusal


def _account(accounts: Accounts | None, mailbox: Mailbox, method: int) -> str | None:
    """Return the account of a mailbox in the new method. Raises `Refusal` where it has none."""
    if accounts is None:
        if mailbox.password_hash is None:
            raise Refusal("no-password-known", "No password of it is kept here.")
        return None
    if mailbox.method == method:
        return mailbox.account
    account = accounts.find(mailbox.address)
    if account is None:
        raise Refusal("no-such-account", f"It has no account in {NAMES[method]}.")
    return account


def _notes(method: int) -> tuple[str, ...]:
    if method == LOCAL:
        return ("Passwords of local accounts are checked as root: start the service again, as root.",)
    if method != FILE:
        return ()
    return ("Passwords are again those from before the accounts were elsewhere.",)
