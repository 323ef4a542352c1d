"""Statistics: what there is, and whether the service runs."""

from winpop.admin.contract import Look
from winpop.admin.outcomes import Outcome, Table
from winpop.admin.running import service_runs
from winpop.directory import domains, mailboxes
from winpop.store import maildrops
from winpop.terms.names import DomainName


def stat(look: Look, domain: DomainName | None) -> Outcome:
    """Count domains, mailboxes and mail, of the whole server or of one domain.

    `locked` counts the mailboxes that a lock holds, their own or their domain's.
    """
    if domain is None:
        messages, octets = maildrops.totals(look.reader)
        data: dict[str, object] = {
            "domains": look.reader.number("SELECT count(*) FROM domain"),
            "domains_locked": look.reader.number("SELECT count(*) FROM domain_lock"),
        }
        boxes, locked = mailboxes.count(look.reader)
    else:
        found = domains.find(look.reader, domain)
        messages, octets = maildrops.totals_of_domain(look.reader, found.id)
        data = {"domain": str(domain), "domain_locked": found.locked}
        boxes, locked = mailboxes.count(look.reader, found)
    data |= {"mailboxes": boxes, "mailboxes_locked": locked, "messages": messages, "octets": octets}
    running = service_runs(look.home)
    rows = tuple((name.replace("_", " "), _said(value)) for name, value in data.items())
    return Outcome(
        data=data | {"service_running": running},
        table=Table(("WHAT", "HOW MUCH"), (*rows, ("service", "running" if running else "stopped"))),
    )


def _said(value: object) -> str | int:
    return "yes" if value is True else "no" if value is False else value if isinstance(value, int) else str(value)
