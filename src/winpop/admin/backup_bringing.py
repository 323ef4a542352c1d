"""One restore: the settings, then the directory, then the mail.

Invariant: what exists keeps its own lock, password, setting and mail. A domain or a mailbox is made together with its
lock, so that there is no moment in which it could be fetched unlocked, and with an audit row in the same transaction.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from winpop.admin.backup import count, damage, installation, seldom
from winpop.admin.contract import Batches, Work
from winpop.admin.outcomes import Outcome
from winpop.directory import domains, mailboxes, settings
from winpop.directory.mailboxes import Mailbox
from winpop.store import backup_logons
from winpop.store.backup_format import HELD, Archive, Snapshot, scope_words, shown
from winpop.store.backup_restoring import Restored, Restorer
from winpop.store.inspection.flaws import bear
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Refusal, readable

_BATCH = 500
"""Domains and mailboxes that are made in one transaction."""
_NAMED = 5


def _narrowed(target: DomainName | Address | None) -> tuple[str, dict[str, str]]:
    """Return what narrows the mailboxes of a snapshot to a target."""
    if isinstance(target, Address):
        return "AND domain = :domain AND name = :name", {"domain": target.domain.text, "name": target.mailbox}
    return ("", {}) if target is None else ("AND domain = :domain", {"domain": target.text})


@dataclass(frozen=True, slots=True)
class _Entry:
    """A domain (its `mailbox` is empty) or a mailbox that is missing."""

    domain: DomainName
    mailbox: str
    locked: bool
    hash: str = field(default="", repr=False)
    source: int = 0
    """Its identifier in the installation that was backed up."""


class Restoring:
    """One restore: the settings, the directory, the mail."""

    def __init__(
        self,
        batches: Batches,
        archive: Archive,
        snapshot: Snapshot,
        target: DomainName | Address | None,
        *,
        mend: bool = False,
    ) -> None:
        self._mend = mend
        self._batches, self._archive, self._snapshot, self._target = batches, archive, snapshot, target
        self._database = batches.database
        self._where, self._values = _narrowed(target)
        self._tell = seldom(batches.tell)
        self._made_domains = self._made_mailboxes = 0
        self._settings: list[str] = []
        self._notes: list[str] = []
        self._without_password: list[str] = []
        self._skipped: list[str] = []

    def all(self) -> Outcome:
        """Do it."""
        if not self._mend:
            if self._target is None:
                self._restore_settings()
            self._make_directory()
        restored = self._restore_mail()
        outcome = self._outcome(restored)
        # The audit's row is the last word; what it tells of is committed.
        return self._batches.commit(lambda _work: outcome, self._audited(restored))

    # --- settings ---

    def _restore_settings(self) -> None:
        wanted = {
            str(name): str(value)
            for name, value in self._archive.rows(
                f"SELECT name, value FROM setting WHERE {HELD} ORDER BY name", snapshot=self._snapshot.id
            )
        }
        there = settings.stored(self._database)
        missing = {name: value for name, value in wanted.items() if name not in there and name != "mailroot"}
        if wanted.get("mailroot") and "mailroot" not in there:
            place = readable(wanted["mailroot"])
            self._notes.append(f"The setting mailroot stays as it is; it was {place}, and 'winpop set mailroot' moves.")
        if missing:
            said = "settings " + ", ".join(missing)
            self._batches.commit(partial(self._store, missing=missing), said)

    def _store(self, work: Work, missing: dict[str, str]) -> Outcome:
        # Together first: some are only allowed with one another.
        for some in [missing, *({name: value} for name, value in missing.items())]:
            if not some.keys() <= settings.SETTINGS.keys() or any(name in self._settings for name in some):
                continue
            with contextlib.suppress(Refusal), work.transaction.part():
                settings.store(work.transaction, some)
                self._settings += some
        refused = ", ".join(name for name in missing if name not in self._settings)
        if refused:
            self._notes.append(f"These settings are not taken here and stay as they are: {refused}.")
        return Outcome(changed=bool(self._settings))

    # --- the directory ---

    def _make_directory(self) -> None:
        missing = self._missing()
        while batch := [*islice(missing, _BATCH)]:
            first = batch[0]
            named = f"{first.mailbox}@{first.domain}" if first.mailbox else str(first.domain)
            more = f" and {len(batch) - 1} more" if len(batch) > 1 else ""
            self._batches.commit(partial(self._make, batch=batch), f"{named}{more}")
            self._tell(f"Making mailboxes: {self._made_mailboxes}")

    def _missing(self) -> Iterator[_Entry]:
        held = self._values | {"snapshot": self._snapshot.id}
        where = "AND name = :domain" if self._target else ""
        for name, locked in self._archive.rows(f"SELECT name, locked FROM domain WHERE {HELD} {where}", **held):
            domain = DomainName.parse(name)
            if not domains.exists(self._database, domain):
                yield _Entry(domain, "", bool(locked))
        for domain, name, locked, password, source in self._archive.rows(
            f"SELECT domain, name, locked, hash, source FROM mailbox WHERE {HELD} {self._where} ORDER BY source", **held
        ):
            address = Address(DomainName(domain), name)
            if self._look_up(address) is None:
                yield _Entry(address.domain, name, bool(locked), password, source)

    def _make(self, work: Work, batch: list[_Entry]) -> Outcome:
        made_domains = made_mailboxes = 0
        for entry in batch:
            if not entry.mailbox:
                if not domains.exists(work.transaction, entry.domain):
                    domains.add(work.transaction, entry.domain)
                    made_domains += 1
                    if entry.locked:
                        domains.lock(work.transaction, domains.find(work.transaction, entry.domain))
                continue
            address = Address(entry.domain, entry.mailbox)
            if mailboxes.look_up(work.transaction, address) is None:
                mailboxes.add(work.transaction, domains.find(work.transaction, entry.domain), address, entry.hash)
                made = mailboxes.find(work.transaction, address)
                made_mailboxes += 1
                if entry.locked:
                    mailboxes.lock(work.transaction, made)
                logon = backup_logons.find(self._archive, self._snapshot.id, entry.source)
                elsewhere = logon is not None and bool(logon.account)
                if logon is not None and elsewhere:
                    self._take_account(work, made, logon)
                if not entry.hash:  # it had none
                    mailboxes.forget_password(work.transaction, made.id)
                    if not elsewhere:
                        self._without_password.append(str(address))
        self._made_domains += made_domains
        self._made_mailboxes += made_mailboxes
        return Outcome(changed=bool(made_domains or made_mailboxes))

    def _take_account(self, work: Work, mailbox: Mailbox, logon: backup_logons.Logon) -> None:
        """Give a mailbox its account in another method back, unless another mailbox has that now."""
        if mailboxes.by_account(work.transaction, logon.method, logon.account) is None:
            mailboxes.set_account(work.transaction, mailbox.id, logon.method, logon.account)

    def _look_up(self, address: Address) -> Mailbox | None:
        """Return a mailbox, without its password where damage hides that."""
        try:
            return mailboxes.look_up(self._database, address)
        except Refusal as refusal:
            bear(self._database, refusal)
        sql = (
            "SELECT mailbox.id FROM domain JOIN mailbox ON mailbox.domain_id = domain.id "
            "WHERE domain.name = ? AND mailbox.name = ?"
        )
        found = self._database.number(sql, address.domain.text, address.mailbox)
        return Mailbox(found, address, domain_locked=False, own_lock=False, password_hash=None) if found else None

    # --- mail ---

    def _is_anothers(self, restorer: Restorer, source: int, password: str, mailbox: Mailbox) -> bool:
        """Tell whether a mailbox was made again since, and not by a restore: perhaps for somebody else."""
        return (
            mailbox.id != source
            and not isinstance(self._target, Address)
            and (mailbox.password_hash or "") != password
            and not restorer.is_of(source, mailbox)
        )

    def _restore_mail(self) -> Restored:
        own = self._archive.origin()[0] == installation(self._database)
        restorer = Restorer(self._database, self._batches.home, self._archive, self._snapshot.id, own=own)
        held = self._values | {"snapshot": self._snapshot.id}
        boxes = f"FROM mailbox WHERE {HELD} {self._where}"
        every = self._archive.number(
            f"SELECT count(*) FROM message WHERE {HELD} AND mailbox IN (SELECT source {boxes})", **held
        )

        def tell() -> None:
            self._tell(f"Restoring messages: {restorer.done:,} of {every:,}".replace(",", " "))

        try:
            sql = f"SELECT source, domain, name, hash {boxes} ORDER BY source"
            for source, domain, name, password in self._archive.rows(sql, **held):
                address = Address(DomainName(domain), name)
                mailbox = self._look_up(address)
                if mailbox is None:
                    restorer.restored.vanished |= set() if self._mend else {str(address)}
                elif own and self._is_anothers(restorer, source, password, mailbox):
                    self._skipped.append(str(address))
                else:
                    restorer.mailbox(source, mailbox, tell, add=not self._mend)
            restorer.finish()
        except Refusal:
            restorer.abandon()
            raise
        return restorer.restored

    # --- what is said ---

    def _audited(self, restored: Restored) -> str:
        what = scope_words(str(self._target or self._archive.origin()[1]))
        added = count(restored.added, "message", "messages")
        return f"{what} as of {shown(self._snapshot.time)}: {added} added, {len(restored.mended)} mended"

    def _outcome(self, restored: Restored) -> Outcome:
        entries, table = damage(restored.damaged)
        mended = [{"mailbox": mailbox, "unique_id": unique_id} for mailbox, unique_id in restored.mended]
        notes = [*self._notes]
        if mended:
            named = _some([f"{mailbox} {unique_id}" for mailbox, unique_id in restored.mended])
            notes.append(f"Damaged here, and whole again: {named}.")
        if restored.vanished:
            notes.append(f"Deleted meanwhile, so not restored: {_some(sorted(restored.vanished))}.")
        if self._skipped:
            notes.append(
                f"Made again since the backup, perhaps for somebody else, so not restored: {_some(self._skipped)}. "
                "Name such a mailbox to put the old mail into it all the same: winpop restore DIR USER@DOMAIN."
            )
        if self._without_password:
            named = _some(self._without_password)
            notes.append(f"The backup has no password of {named}; set one with 'winpop changepwd USER@DOMAIN'.")
        what = scope_words(str(self._target or self._archive.origin()[1]))
        bad = f", {len(entries)} could not be restored" if entries else ""
        made = (self._made_domains, self._made_mailboxes, restored.added, len(mended), len(self._settings))
        return Outcome(
            f"Restored {what} as of {shown(self._snapshot.time)}: "
            f"{count(self._made_domains, 'domain', 'domains')} and "
            f"{count(self._made_mailboxes, 'mailbox', 'mailboxes')} made, "
            f"{count(restored.added, 'message', 'messages')} added, {restored.present} there already, "
            f"{len(mended)} mended{bad}.",
            {
                "directory": str(self._archive.directory),
                "target": str(self._target) if self._target else None,
                "snapshot": shown(self._snapshot.time),
                "domains": self._made_domains,
                "mailboxes": self._made_mailboxes,
                "settings": self._settings,
                "messages": restored.added,
                "octets": restored.octets,
                "kept": restored.present,
                "mended": mended,
                "damaged": entries,
                "vanished": sorted(restored.vanished),
                "skipped": self._skipped,
                "without_password": self._without_password,
            },
            changed=any(made),
            table=table,
            notes=tuple(notes),
            complete=not entries and not restored.vanished,
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
