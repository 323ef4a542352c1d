"""What a check has found, the names that people know for it, and what of it was mended.

Invariant: what is shown is bounded, what is counted is not. Nothing is mended once the engine has said that its own
file is damaged, and what was not committed does not count as mended.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from winpop.admin.check_installation import address_of
from winpop.admin.contract import Batches, Work
from winpop.admin.outcomes import Outcome, Table
from winpop.store.inspection import Flaw, Read
from winpop.terms.refusals import Refusal, readable

SHOWN = 1000
"""Findings that are shown; the others are only counted."""
_TOGETHER = 200
"""Mends in one transaction."""
_LOOKS = 0.2
"""Seconds between two words about the progress."""


@dataclass(slots=True)
class _Finding:
    """A flaw with the names that people know, and whether it was mended."""

    flaw: Flaw
    mailbox: str = ""
    number: int = 0
    repaired: bool = False

    @property
    def message(self) -> str:
        letter = self.flaw.letter
        return readable(letter.unique_id.decode("ascii", "backslashreplace")) if letter else ""

    @property
    def where(self) -> str:
        if not self.mailbox:
            return self.flaw.where
        message = f"message {self.number}" if self.number else "a message" if self.message else ""
        return " ".join(part for part in (self.mailbox, message, self.message) if part)

    def data(self) -> dict[str, object]:
        return {
            "kind": self.flaw.kind,
            "where": self.where,
            "mailbox": self.mailbox or None,
            "message": self.message or None,
            "number": self.number or None,
            "finding": self.flaw.finding,
            "repaired": self.repaired,
        }

    def row(self) -> tuple[str, str, str]:
        return self.flaw.kind, self.where, f"{'Repaired: ' if self.repaired else ''}{self.flaw.finding}"


class Report:
    """What was found and mended so far."""

    def __init__(self, batches: Batches, *, repair: bool) -> None:
        """Begin with nothing; with `repair`, what is found is mended."""
        self._batches = batches
        self._repair = repair
        self._pending: list[_Finding] = []
        self._addresses: dict[int, str] = {}
        self._shown: list[_Finding] = []
        self._held = False
        """Nothing is mended, since the database is damaged."""
        self._found: Counter[str] = Counter()
        self._mended: Counter[str] = Counter()

    def add(self, flaw: Flaw) -> None:
        """Take a flaw; mend some together when there are enough."""
        self._found[flaw.kind] += 1
        finding = _Finding(flaw)
        if flaw.kind != "no-checksum" and len(self._shown) < SHOWN:
            self._name(finding)
            self._shown.append(finding)
        if flaw.kind == "engine":
            self._held = self._repair
        if self._repair and not self._held and flaw.mend is not None:
            self._pending.append(finding)
            if flaw.urgent or len(self._pending) >= _TOGETHER:
                self.mend()

    def mend(self) -> None:
        """Mend what can be and was not yet, each kind in a transaction."""
        pending, self._pending = self._pending, []
        for kind in dict.fromkeys(finding.flaw.kind for finding in pending):
            some = [finding for finding in pending if finding.flaw.kind == kind]
            what = some[0].where if len(some) == 1 else f"{len(some)} places, first {some[0].where}"
            try:
                self._batches.commit(partial(_mend, findings=some), f"{kind}: {what}")
            except Refusal as refusal:
                if refusal.code != "database-unreachable":
                    raise
                for finding in some:  # the transaction was undone
                    finding.repaired = False
            self._mended[kind] += sum(finding.repaired for finding in some)

    def _name(self, finding: _Finding) -> None:
        """Find out what people call it; damage may have left nothing to find."""
        letter, database = finding.flaw.letter, self._batches.database
        if letter is None:
            return
        try:
            finding.mailbox = self._addresses.get(letter.mailbox_id) or address_of(database, letter.mailbox_id)
            sql = "SELECT count(*) FROM message INDEXED BY message_of_mailbox WHERE mailbox_id = ? AND id <= ?"
            finding.number = database.number(sql, letter.mailbox_id, letter.id) if letter.id else 0
        except Refusal:
            return
        self._addresses = {letter.mailbox_id: finding.mailbox}

    def outcome(self, read: Read) -> Outcome:
        """Say what came of it all."""
        without, taken = self._found.pop("no-checksum", 0), self._mended.pop("no-checksum", 0)
        findings, mended = self._found.total(), self._mended.total()
        if not findings:
            result = "everything is in order"
        elif not self._repair:
            result = _count(findings, "finding")
        else:
            result = f"{_count(findings, 'finding')}, {_spaced(mended)} repaired"
        more = findings - len(self._shown)
        return Outcome(
            f"{_count(read.messages, 'message')} and {_count(read.octets, 'octet')} read: {result}.",
            {
                "read": {name: getattr(read, name) for name in ("messages", "bodies", "blobs", "octets")},
                "counts": dict(self._found),
                "repaired": dict(+self._mended),
                "findings": [finding.data() for finding in self._shown],
                "more": more,
                "under_way": read.under_way,
                "without_checksum": without - taken,
                "checksums_taken": taken,
            },
            changed=mended + taken > 0,
            table=Table(("WHAT", "WHERE", "FINDING"), tuple(finding.row() for finding in self._shown)),
            notes=tuple(self._notes(more, read.under_way, without - taken, taken)),
            complete=findings == mended,
        )

    def _notes(self, more: int, under_way: int, without: int, taken: int) -> Iterator[str]:
        if self._held:
            yield "Since the database is damaged, nothing was repaired; stop the service and bring back a backup."
        if more:
            yield f"{_count(more, 'further finding')} not shown."
        if under_way:
            yield f"{_count(under_way, 'file')} under way: a delivery may still be about them."
        if taken:
            yield (
                f"{_count(taken, 'body', 'bodies')} came in before there were checksums; they were taken as they are, "
                "and damage from before cannot be told."
            )
        if without:
            bodies = _count(without, "body", "bodies")
            yield f"{bodies} without a checksum; /repair takes those as they are that it can."


def _mend(work: Work, findings: list[_Finding]) -> Outcome:
    for finding in findings:
        assert finding.flaw.mend is not None
        try:
            finding.repaired = finding.flaw.mend(work.transaction)
        except OSError:  # not ours to change; it stays as it was found
            finding.repaired = False
    return Outcome(changed=any(finding.repaired for finding in findings))


class Progress:
    """How far the reading has come, now and then."""

    def __init__(self, batches: Batches) -> None:
        """Begin, knowing how much there is."""
        self._tell = batches.tell
        self._next = 0.0
        self._messages = _spaced(batches.database.number("SELECT count(*) FROM message"))

    def tell(self, read: Read) -> None:
        """Say it, unless it was said a moment ago."""
        now = time.monotonic()
        if read.messages and now >= self._next:
            self._next = now + _LOOKS
            self._tell(f"Reading messages: {_spaced(read.messages)} of {self._messages}")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{_spaced(number)} {one if number == 1 else many or one + 's'}"


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")
