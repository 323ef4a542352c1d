"""Domains and mailboxes: made, deleted, shown.

Invariant: what is deleted goes in one transaction with all its mail; files of large messages are unlinked after it.
"""

from functools import partial

from winpop.admin.contract import Look, Work
from winpop.admin.outcomes import Outcome, Table
from winpop.directory import domains, mailboxes, settings
from winpop.directory.mailboxes import Mailbox
from winpop.store import maildrops, sweep
from winpop.store.blobs import Blobs
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Refusal, not_understood


def add(work: Work, target: DomainName | Address, createuser: str | None) -> Outcome:
    """Make a domain, or a mailbox with its account; `createuser` is the hash of its password."""
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
    if createuser is None:
        raise Refusal(
            "createuser-required",
            f"A mailbox needs an account, and with the encrypted password file only winpop makes one: "
            f"winpop add {target} /createuser.",
        )
    mailboxes.add(work.transaction, domain, target, createuser)
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
    note = "With the encrypted password file the account always goes with its mailbox; /deleteuser changes nothing."
    notes = (note,) if deleteuser else ()
    if isinstance(target, DomainName):
        domain = domains.find(work.transaction, target)
        boxes = domains.mailbox_counts(work.transaction).get(domain.id, 0)
        messages, _ = maildrops.totals_of_domain(work.transaction, domain.id)
        blobs = maildrops.empty_domain(work.transaction, domain.id)
        domains.delete(work.transaction, domain)
        sentence = f"The domain {target} is deleted, with {_amount(boxes, messages)}."
        data: dict[str, object] = {"domain": str(target), "mailboxes": boxes, "messages": messages}
    else:
        mailbox = mailboxes.find(work.transaction, target)
        messages, _ = maildrops.totals(work.transaction, "WHERE mailbox_id = ?", mailbox.id)
        blobs = maildrops.empty(work.transaction, mailbox)
        mailboxes.delete(work.transaction, mailbox)
        sentence = f"The mailbox {target} is deleted, with {_count(messages, 'message', 'messages')}."
        data = {"address": str(target), "messages": messages}
    work.later.append(partial(sweep.discard, blobs=Blobs(root), names=blobs))
    return Outcome(sentence, data, changed=True, notes=notes)


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
