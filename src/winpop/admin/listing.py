"""The operation `list`: the domains, or the mailboxes of one, all of them or by pages.

Invariant: a page is what comes next by name after a name, be that one still there or not. So pages asked for one after
the other show no mailbox twice, and leave out none that is there all the while, whatever is made and deleted meanwhile.
A page costs what is in it, wherever it begins: an index leads there, and mail is counted for its mailboxes alone.
"""

import re

from winpop.admin.contract import Look
from winpop.admin.outcomes import Outcome, Table
from winpop.directory import domains, mailboxes
from winpop.directory.mailboxes import Mailbox
from winpop.store import maildrops
from winpop.terms.names import DomainName
from winpop.terms.refusals import not_understood, readable

_MOST = 10_000
_PAGE = 1000
"""Mailboxes that are read at a time where all are wanted: what they need in memory until they are shown is bounded."""


def read_limit(text: str) -> int:
    """Return how many mailboxes a page has at most. Raises `Refusal` (`bad-number`)."""
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= _MOST:
        raise not_understood("bad-number", f"'{readable(text)}' is not a number of mailboxes; take 1 to {_MOST}.")
    return int(text)


def read_after(text: str) -> bytes:
    """Return the octets of the name of a mailbox, also of one that damage has made, or of its address.

    Raises `Refusal` (`bad-mailbox-name`).
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as JSON can bring it
        raise not_understood("bad-mailbox-name", f"'{readable(text)}' is not the name of a mailbox.") from None


def show(look: Look, domain: DomainName | None, after: bytes | None, limit: int | None) -> Outcome:
    """Show all domains, or the mailboxes of one: at most `limit` of them, those whose names come `after` one.

    Raises `Refusal`: `missing-argument` for a page without a domain, `no-such-domain`.
    """
    if domain is not None:
        return _show_mailboxes(look, domain, after, limit)
    if after is not None or limit is not None:
        raise not_understood("missing-argument", "/after and /limit show a page of one domain; name the domain.")
    return _show_domains(look)


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


def _show_mailboxes(look: Look, name: DomainName, after: bytes | None, limit: int | None) -> Outcome:
    domain = domains.find(look.reader, name)
    if after is not None:
        after = after.removesuffix(b"@" + name.text.encode("ascii"))
        if not mailboxes.has(look.reader, domain, after):
            after = after.lower()  # names are lower-case, but for one that damage has made
    page, last = mailboxes.page(look.reader, domain, after, limit or _PAGE)
    entries = _entries(look, page)
    while last is not None and limit is None:
        page, last = mailboxes.page(look.reader, domain, last, _PAGE)
        entries += _entries(look, page)
    state = "locked" if domain.locked else "unlocked"
    none = f"The domain {name} is {state} and has no mailboxes " + (
        f"after {_shown(after)}." if after is not None else "yet."
    )
    notes = () if last is None else (f"There are more: winpop list {name} /after {_shown(last)} /limit {limit}",)
    return Outcome(
        "" if entries else none,
        {
            "domain": str(name),
            "locked": domain.locked,
            "mailboxes": entries,
            "next_after": None if last is None else _text(last),
        },
        table=Table(
            ("MAILBOX", "STATUS", "MESSAGES", "OCTETS"),
            tuple((str(e["address"]), str(e["status"]), e["messages"], e["octets"]) for e in entries),
        ),
        notes=notes,
    )


def _entries(look: Look, page: list[Mailbox]) -> list[dict[str, str | int | bool]]:
    mail = maildrops.totals_by_mailbox(look.reader, [mailbox.id for mailbox in page])
    return [
        {
            "address": str(mailbox.address),
            "locked": mailbox.locked is not None,
            "status": _status(mailbox),
            "messages": messages,
            "octets": octets,
        }
        for mailbox in page
        for messages, octets in (mail.get(mailbox.id, (0, 0)),)
    ]


def _status(mailbox: Mailbox) -> str:
    if mailbox.domain_locked:
        return "locked, and by domain" if mailbox.own_lock else "locked by domain"
    return "locked" if mailbox.own_lock else "unlocked"


def _text(octets: bytes) -> str:
    """Return the name in the form that `read_after` reads."""
    return octets.decode("utf-8", "surrogateescape")


def _shown(octets: bytes) -> str:
    return readable(_text(octets))
