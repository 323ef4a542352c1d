"""Domains and mailboxes: made, deleted, shown.

Invariant: what is deleted goes in one transaction with all its mail; files of large messages are unlinked after it.
"""

from functools import partial

from winpop.admin import accounts
from winpop.admin.accounts import NewPassword
from winpop.admin.contract import Later, Look, Work
from winpop.admin.outcomes import Outcome, Table
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


def show(look: Look, domain: DomainName | None) -> Outcome:
    """Show all domains, or the mailboxes of one."""
    return _show_domains(look) if domain is None else _show_mailboxes(look, domain)


def _show_domains(look: Look) -> Outcome:
    counts = domains.mailbox_counts(look.reader)
    found = [(str(domain.name), domain.locked, counts.get(domain.id, 0)) for domain in domains.every(look.reader)]
    return Outcome(
        "" if found else "There are no domains yet; 'winpop add example.com' makes one.",
        {"domains": [{"domain": name, "locked": locked, "mailboxes": count} for name, locked, count in found]},
        table=Table(
            ("DOMAIN", "STATUS", "MAILBOXES"),
            tuple((name, "locked" if locked else "unlocked", count) for name, locked, count in found),
        ),
    )


def _show_mailboxes(look: Look, name: DomainName) -> Outcome:
    domain = domains.find(look.reader, name)
    mail = maildrops.totals_by_mailbox(look.reader, domain.id)
    rows = []
    entries = []
    for mailbox in mailboxes.of_domain(look.reader, domain):
        messages, octets = mail.get(mailbox.id, (0, 0))
        rows.append((str(mailbox.address), _status(mailbox), messages, octets))
        entries.append(
            {
                "address": str(mailbox.address),
                "locked": mailbox.locked is not None,
                "status": _status(mailbox),
                "messages": messages,
                "octets": octets,
            }
        )
    state = "locked" if domain.locked else "unlocked"
    return Outcome(
        "" if rows else f"The domain {name} is {state} and has no mailboxes yet.",
        {"domain": str(name), "locked": domain.locked, "mailboxes": entries},
        table=Table(("MAILBOX", "STATUS", "MESSAGES", "OCTETS"), tuple(rows)),
    )


def _status(mailbox: Mailbox) -> str:
    if mailbox.domain_locked:
        return "locked, and by domain" if mailbox.own_lock else "locked by domain"
    return "locked" if mailbox.own_lock else "unlocked"


def _amount(boxes: int, messages: int) -> str:
    return f"{_count(boxes, 'mailbox', 'mailboxes')} and {_count(messages, 'message', 'messages')}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
