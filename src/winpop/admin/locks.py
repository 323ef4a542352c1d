"""Lock and unlock: the documented rules, and those we decided where the documentation is silent.

Invariant: a domain's lock and a mailbox's own lock are two rows that do not touch one another. While a domain is
locked none of its mailboxes can be unlocked; unlocking the domain gives back the state from before it was locked.
"""

from winpop.admin.contract import Work
from winpop.admin.outcomes import Outcome
from winpop.directory import domains, mailboxes
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Refusal


def lock(work: Work, target: DomainName | Address) -> Outcome:
    """Lock a domain or a mailbox. What is locked already stays as it is."""
    if isinstance(target, DomainName):
        domain = domains.find(work.transaction, target)
        if domain.locked:
            return _domain(target, locked=True, changed=False)
        domains.lock(work.transaction, domain)
        return _domain(target, locked=True, changed=True)
    mailbox = mailboxes.find(work.transaction, target)
    if not mailbox.own_lock:
        mailboxes.lock(work.transaction, mailbox)
    return _mailbox(target, locked=True, changed=not mailbox.own_lock, domain_locked=mailbox.domain_locked)


def unlock(work: Work, target: DomainName | Address) -> Outcome:
    """Unlock a domain, or a mailbox whose domain is not locked. Raises `Refusal` (`domain-locked`)."""
    if isinstance(target, DomainName):
        domain = domains.find(work.transaction, target)
        if not domain.locked:
            return _domain(target, locked=False, changed=False)
        domains.unlock(work.transaction, domain)
        return _domain(target, locked=False, changed=True)
    mailbox = mailboxes.find(work.transaction, target)
    if mailbox.domain_locked:
        raise Refusal(
            "domain-locked",
            f"The domain {target.domain} is locked, so {target} cannot be unlocked alone; unlock the whole domain: "
            f"winpop unlock {target.domain}.",
        )
    if mailbox.own_lock:
        mailboxes.unlock(work.transaction, mailbox)
    return _mailbox(target, locked=False, changed=mailbox.own_lock, domain_locked=False)


def _domain(name: DomainName, *, locked: bool, changed: bool) -> Outcome:
    return Outcome(
        _sentence(f"The domain {name}", locked=locked, changed=changed),
        {"domain": str(name), "locked": locked},
        changed,
    )


def _mailbox(address: Address, *, locked: bool, changed: bool, domain_locked: bool) -> Outcome:
    note = f"The domain {address.domain} is locked too; the mailbox's own lock shows once the domain is unlocked."
    return Outcome(
        _sentence(f"The mailbox {address}", locked=locked, changed=changed),
        {"address": str(address), "locked": locked, "domain_locked": domain_locked},
        changed,
        notes=(note,) if domain_locked else (),
    )


def _sentence(subject: str, *, locked: bool, changed: bool) -> str:
    state = "locked" if locked else "unlocked"
    return f"{subject} is {state}." if changed else f"{subject} is {state} already; nothing was changed."
