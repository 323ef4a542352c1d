"""Domains and mailboxes: made and deleted.

Invariant: what is deleted goes in one transaction with all its mail; files of large messages are unlinked after it.
"""

from functools import partial

from winpop.admin import accounts
from winpop.admin.accounts import NewPassword
from winpop.admin.contract import Later, Look, Work
from winpop.admin.outcomes import Outcome
from winpop.auth.contract import FILE
from winpop.db.contract import Database
from winpop.directory import domains, mailboxes, settings
from winpop.directory.mailboxes import Mailbox
from winpop.store import maildrops, sweep
from winpop.store.blobs import Blobs
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Refusal, not_understood


def add(work: Work, target: DomainName | Address, createuser: NewPassword | None) -> Outcome:
    """Make a domain, or a mailbox; `createuser` is the password of the account that is made with it."""
    if isinstance(target, DomainName):
        if createuser is not None:
            raise not_understood(
                "createuser-needs-mailbox", f"/createuser makes the account of a mailbox, and {target} is a domain."
            )
        domains.add(work.transaction, target)
        note = (  # SMTP wants every domain to take mail for its postmaster
            f"Mail for postmaster@{target} is refused until there is that mailbox, or 'winpop set postmaster ADDRESS' "
            "names another."
        )
        nobody = settings.stored(work.transaction).get("postmaster", "none").lower() == "none"
        return Outcome(
            f"The domain {target} is made.",
            {"domain": str(target)},
            changed=True,
            notes=(note,) if nobody else (),
        )
    domain = domains.find(work.transaction, target.domain)
    accounts.make(work, target, createuser, domain.id)
    note = f"The domain {domain.name} is locked, and so is this mailbox until the domain is unlocked."
    return Outcome(
        f"The mailbox {target} is made.",
        {"address": str(target), "domain_locked": domain.locked},
        changed=True,
        notes=(note,) if domain.locked else (),
    )


def delete(work: Work, target: DomainName | Address, deleteuser: bool) -> Outcome:  # noqa: FBT001 - a switch, by name
    """Delete a domain with its mailboxes, or a mailbox, and all mail in them, locked or not."""
    root = work.home.mail_root(settings.stored(work.transaction).get("mailroot", ""))
    gone: list[Mailbox] = []
    if isinstance(target, DomainName):
        domain = domains.find(work.transaction, target)
        boxes = domains.mailbox_counts(work.transaction).get(domain.id, 0)
        messages, _ = maildrops.totals_of_domain(work.transaction, domain.id)
        gone = mailboxes.of_domain(work.transaction, domain) if deleteuser else []
        blobs = maildrops.empty_domain(work.transaction, domain.id)
        domains.delete(work.transaction, domain)
        sentence = f"The domain {target} is deleted, with {_amount(boxes, messages)}."
        data: dict[str, object] = {"domain": str(target), "mailboxes": boxes, "messages": messages}
    else:
        mailbox = mailboxes.find(work.transaction, target)
        messages, _ = maildrops.totals(work.transaction, "WHERE mailbox_id = ?", mailbox.id)
        gone = [mailbox] if deleteuser else []
        blobs = maildrops.empty(work.transaction, mailbox)
        mailboxes.delete(work.transaction, mailbox)
        sentence = f"The mailbox {target} is deleted, with {_count(messages, 'message', 'messages')}."
        data = {"address": str(target), "messages": messages}
    work.later.append(partial(sweep.discard, blobs=Blobs(root), names=blobs))
    elsewhere = [mailbox for mailbox in gone if mailbox.method != FILE]
    ours = [mailbox for mailbox in elsewhere if mailbox.made]
    if ours:
        work.later.append(_accounts_deleted(work, ours))
    notes = [
        f"winpop has not made the account of {mailbox.address}, so it stays."
        for mailbox in elsewhere[:3]
        if not mailbox.made
    ]
    if deleteuser and not elsewhere:
        notes.append("With the encrypted password file the account always goes; /deleteuser changes nothing.")
    return Outcome(sentence, data, changed=True, notes=tuple(notes))


def _accounts_deleted(work: Work, gone: list[Mailbox]) -> Later:
    """Delete the accounts of mailboxes that are gone; what hinders is a note: the mailboxes are gone all the same."""
    administered = {method: work.accounts(method, work.transaction) for method in {mailbox.method for mailbox in gone}}

    def delete_accounts(_: Database) -> str | None:
        left = []
        for mailbox in gone:
            assert mailbox.account is not None
            try:
                administered[mailbox.method].delete(mailbox.account)
            except Refusal as refusal:
                left.append(f"The account of {mailbox.address} is still there: {refusal.sentence}")
        return " ".join(left[:3]) + (f" And {len(left) - 3} more." if len(left) > 3 else "") or None  # noqa: PLR2004 - so many are read

    return delete_accounts


def deletion_question(look: Look, target: DomainName | Address, **_switches: object) -> str:
    """Say what a deletion takes away."""
    if isinstance(target, DomainName):
        domain = domains.find(look.reader, target)
        boxes = domains.mailbox_counts(look.reader).get(domain.id, 0)
        messages, _ = maildrops.totals_of_domain(look.reader, domain.id)
        return f"Delete the domain {target} with {_amount(boxes, messages)}?"
    mailbox = mailboxes.find(look.reader, target)
    messages, _ = maildrops.totals(look.reader, "WHERE mailbox_id = ?", mailbox.id)
    return f"Delete the mailbox {target} with {_count(messages, 'message', 'messages')}?"


def _amount(boxes: int, messages: int) -> str:
    return f"{_count(boxes, 'mailbox', 'mailboxes')} and {_count(messages, 'message', 'messages')}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
