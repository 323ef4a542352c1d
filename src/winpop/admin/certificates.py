"""The word `certificate`: which certificates the server shows, and whose signature makes clients' ones good.

Invariants: a pair is checked, and loaded once, before its transaction begins, so that what is refused leaves the old
one in place; once the service has run there is always a certificate; a private key is in no outcome and no audit row.
"""

import time
from dataclasses import dataclass
from typing import Any

from winpop.admin import audit
from winpop.admin.contract import Batches, Work
from winpop.admin.outcomes import Outcome, Table
from winpop.auth.certificates import Facts, Pair, facts, make_self_signed, read_authorities, read_pair
from winpop.db.contract import Database, Reader, Transaction
from winpop.directory import certificates
from winpop.directory import settings as settings_table
from winpop.directory.certificates import CLIENTS, SERVER, Stored
from winpop.terms.files import File
from winpop.terms.refusals import Refusal, not_understood, readable

DAMAGED = "damaged"
"""What a row is called whose names cannot be read."""
_SHOWN_NAMES = 5


@dataclass(frozen=True, slots=True)
class _Held:
    """A row and what is in it, None where it is damaged."""

    stored: Stored
    facts: Facts | None

    @property
    def names(self) -> tuple[str, ...]:
        return self.facts.names if self.facts else (DAMAGED,)


def certificate(  # noqa: PLR0913 - the words and switches of the operation
    batches: Batches,
    chainfile: File | None,
    keyfile: File | None,
    *,
    default: bool,
    remove: str | None,
    clients: File | str | None,
) -> Outcome:
    """Show the certificates, or do the one thing that is asked for.

    Raises `Refusal`; one about a pair names the file and says what is wrong with it.
    """
    if sum(what is not None for what in (chainfile, remove, clients)) > 1:
        raise not_understood(
            "too-many-arguments", "'certificate' takes CHAINFILE and KEYFILE, or /remove, or /clients, one at a time."
        )
    if (chainfile is None) != (keyfile is None) or (default and chainfile is None):
        raise not_understood(
            "missing-argument", "'certificate' needs CHAINFILE and KEYFILE; 'winpop help certificate' shows how."
        )
    if chainfile is not None and keyfile is not None:
        pair = _checked(read_pair(chainfile, keyfile, time.time()), chainfile)
        [about, *_] = facts(pair.chain)
        return batches.commit(lambda work: _take(work, pair, about, default=default), ", ".join(about.names))
    if remove is not None:
        return batches.commit(lambda work: _remove(work, remove), f"remove {remove}")
    if isinstance(clients, File):
        chain = read_authorities(clients, time.time())
        return batches.commit(lambda work: _take_authorities(work, chain), f"clients {clients}")
    if clients is not None:
        return batches.commit(_remove_authorities, "clients none")
    with batches.database.snapshot() as reader:
        return _show(reader)


def ensure(database: Database, hostname: str) -> bool:
    """Make a self-signed certificate for this host where the server has none; tell whether one was made.

    Raises `Refusal` (those of the engine).
    """
    if certificates.every(database, SERVER):
        return False
    with database.write() as transaction:
        if certificates.every(transaction, SERVER):
            return False  # somebody else was quicker
        _stand_in(transaction, hostname)
        audit.write(transaction, "winpop", "certificate", f"self-signed for {hostname}", "done")
    return True


def _show(reader: Reader) -> Outcome:
    now = time.time()
    every = _every(reader)
    rows = []
    for held in every:
        about = held.facts
        until, days = (_day(about.not_after), about.days_left(now)) if about else ("", 0)
        shown = (_few(held.names), about.issuer if about else "", until, days)
        rows.append((*shown, _yes(held.stored.is_default), _yes(about is not None and about.self_signed)))
    authorities = [about for stored in certificates.every(reader, CLIENTS) for about in _facts(stored) or ()]
    notes = [f"Clients may log on with certificates that '{_signer(about, now)}' has signed." for about in authorities]
    return Outcome(
        "" if every else "There is no certificate yet; 'winpop serve' makes one that signs itself.",
        {
            "certificates": [_document(held, now) for held in every],
            "clients": [
                {"name": about.subject, "not_after": _moment(about.not_after), "days_left": about.days_left(now)}
                for about in authorities
            ],
        },
        table=Table(("NAMES", "ISSUER", "UNTIL", "DAYS LEFT", "DEFAULT", "SELF-SIGNED"), tuple(rows)),
        notes=tuple(notes),
    )


def _take(work: Work, pair: Pair, about: Facts, *, default: bool) -> Outcome:
    """Keep a pair in place of the one with the same names, and of the one that was made for want of another."""
    transaction, now = work.transaction, time.time()
    every = _every(transaction)
    before = next((held for held in every if held.stored.is_default), None)
    same = [held for held in every if held.facts and set(held.facts.names) == set(about.names)]
    gone = same + [held for held in every if held.facts and held.facts.stand_in and held not in same]
    becomes_default = (
        default
        or before is None
        or before.facts is None
        or before in gone
        or (before.facts.self_signed and not about.self_signed)
    )
    notes = tuple(_notes(transaction, about, [held for held in every if held not in gone], now))
    data = _data(about, now, default=becomes_default)
    there = [Pair(held.stored.chain, held.stored.private_key) for held in gone]
    if there == [pair] and becomes_default == (before in same):
        sentence = f"The certificate for {_few(about.names)} is there already; nothing was changed."
        return Outcome(sentence, data | {"replaced": False}, notes=notes)
    for held in gone:
        certificates.remove(transaction, held.stored.id)
    certificates.add(transaction, pair.chain, pair.private_key, default=becomes_default)
    place = " in place of the one before" if same else ""
    role = ", as the default" if becomes_default else ""
    return Outcome(
        f"The certificate for {_few(about.names)} is taken{place}{role}; it is valid until {_day(about.not_after)}.",
        data | {"replaced": bool(same)},
        changed=True,
        notes=notes,
    )


def _remove(work: Work, text: str) -> Outcome:
    """Remove the certificate that has just these names, or the only one that has this name."""
    wanted = {name.rstrip(".") for name in text.lower().replace(",", " ").split()}
    every = _every(work.transaction)
    found = [held for held in every if set(held.names) == wanted] or [
        held for held in every if wanted and wanted <= set(held.names)
    ]
    if not found:
        raise Refusal(
            "no-such-certificate",
            f"There is no certificate for '{readable(text)}' here; 'winpop certificate' shows those there are.",
        )
    if len(found) > 1 and found[0].facts:
        raise Refusal(
            "several-certificates",
            f"{len(found)} certificates are for {readable(text)}; give all names of the one to remove, with commas.",
        )
    for held in found:
        certificates.remove(work.transaction, held.stored.id)
    left = [held for held in every if held not in found]
    note = ""
    if not left:
        hostname = _hostname(work.transaction)
        _stand_in(work.transaction, hostname)
        note = f"There is no other, so one that signs itself was made for {hostname}."
    elif not any(held.stored.is_default for held in left):
        newest = max(left, key=lambda held: (held.facts is not None, held.stored.id))
        certificates.make_default(work.transaction, newest.stored.id)
        note = f"The default is now the one for {_few(newest.names)}."
    return Outcome(
        f"The certificate for {_few(found[0].names)} is removed.",
        {"names": list(found[0].names)},
        changed=True,
        notes=(note,) if note else (),
    )


def _take_authorities(work: Work, chain: str) -> Outcome:
    now = time.time()
    authorities = facts(chain)
    names = [about.subject for about in authorities]
    data = {"clients": names}
    shown = _few(tuple(f"'{name}'" for name in names))
    if [stored.chain for stored in certificates.every(work.transaction, CLIENTS)] == [chain]:
        return Outcome(f"Clients may log on with certificates signed by {shown} already; nothing was changed.", data)
    certificates.set_clients(work.transaction, chain)
    soon = [about for about in authorities if about.ends_soon(now)]
    notes = [f"'{about.subject}' is valid for {about.days_left(now)} more days only." for about in soon]
    return Outcome(
        f"Clients may log on with certificates that are signed by {shown}.", data, changed=True, notes=tuple(notes)
    )


def _remove_authorities(work: Work) -> Outcome:
    changed = bool(certificates.every(work.transaction, CLIENTS))
    certificates.set_clients(work.transaction, "")
    sentence = "Clients cannot log on with certificates"
    return Outcome(
        f"{sentence}." if changed else f"{sentence} as it is; nothing was changed.", {"clients": []}, changed=changed
    )


def _checked(pair: Pair, file: File) -> Pair:
    """Load a pair as workers will. Raises `Refusal` (`cannot-load`)."""
    from winpop.auth.tls_contexts import make_context  # here: it brings the module ssl, which most commands do without

    try:
        make_context(pair, None)
    except OSError as error:
        why = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise Refusal(
            "cannot-load", f"The certificate in the file {file} cannot be used with this system's OpenSSL: {why}."
        ) from None
    return pair


def _stand_in(transaction: Transaction, hostname: str) -> None:
    pair = make_self_signed(hostname, time.time())
    certificates.add(transaction, pair.chain, pair.private_key, default=True)


def _notes(transaction: Transaction, about: Facts, kept: list[_Held], now: float) -> list[str]:
    """Return what a person may not expect of a pair."""
    hostname = _hostname(transaction)
    others = [held for held in kept if held.facts]
    notes = []
    if not any(known.covers(hostname) for known in (about, *(held.facts for held in others if held.facts))):
        notes.append(f"No certificate here covers {hostname}, which this server calls itself ('winpop get hostname').")
    if about.ends_soon(now):
        notes.append(f"It is valid for {about.days_left(now)} more days only.")
    notes += [
        f"The one for {_few(held.names)} is still there, with some of the same names; the newer one is shown for these."
        for held in others
        if set(held.names) & set(about.names)
    ]
    return notes


def _every(reader: Reader) -> list[_Held]:
    return [_Held(stored, (_facts(stored) or (None,))[0]) for stored in certificates.every(reader, SERVER)]


def _facts(stored: Stored) -> tuple[Facts, ...] | None:
    try:
        return facts(stored.chain)
    except Refusal:
        return None


def _hostname(reader: Reader) -> str:
    """Return the name of this server, also where another setting is damaged."""
    return settings_table.stored(reader).get("hostname", "").lower() or settings_table.own_hostname()


def _document(held: _Held, now: float) -> dict[str, Any]:
    if held.facts is None:
        return {"names": [], "damaged": True, "default": held.stored.is_default}
    return _data(held.facts, now, default=held.stored.is_default) | {"damaged": False}


def _data(about: Facts, now: float, *, default: bool) -> dict[str, Any]:
    return {
        "names": list(about.names),
        "issuer": about.issuer,
        "not_before": _moment(about.not_before),
        "not_after": _moment(about.not_after),
        "days_left": about.days_left(now),
        "default": default,
        "self_signed": about.self_signed,
    }


def _signer(about: Facts, now: float) -> str:
    return about.subject + (" (expired)" if about.not_after < now else "")


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{shown} and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown


def _yes(what: bool) -> str:  # noqa: FBT001 - what is shown of it
    return "yes" if what else "no"


def _day(moment: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def _moment(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
