"""What the world was told, held against what a home has: the invariants I1 to I5, for every test of faults.

    I1  an acknowledged message is there, octet for octet
    I2  a message that was not acknowledged is there once or not at all, and whole; for all its recipients, or for none
    I3  nothing is there twice, nothing is there that was never sent, and what was acknowledged first comes first
    I4  what an acknowledged QUIT deleted is gone for good; what no QUIT deleted is there; a QUIT whose outcome is open
        has deleted all that it was to delete, or nothing
    I5  a message keeps its unique-id, and no unique-id is used again

and the same for what an administrator was told: locks and mailboxes, and none that nobody asked for. Invariant:
something is entered before it is asked for, and its outcome when the answer has come; so whatever is cut off in between
is held to be open.
"""

import copy
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from winpop.admin.contract import Look
from winpop.admin.place import Place
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.directory import settings as settings_table
from winpop.store import maildrops
from winpop.store.blobs import Blobs
from winpop.store.maildrops import BlobReader

_PREFIX = re.compile(rb"Return-Path: <[^>\r\n]*>\r\nReceived: [^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
"""What the server puts before a message."""
TOKEN = re.compile(rb"^X-Token: ([0-9a-z-]+)\r$", re.MULTILINE)


def message(token: str, size: int) -> bytes:
    """Return the message with this token: every octet of it follows from the two."""
    head = f"Subject: {token}\r\nX-Token: {token}\r\n\r\n".encode()
    name = hashlib.sha256(token.encode()).hexdigest()
    count = max(size - len(head), 0) // (len(name) + 9) + 1
    body = "".join(f"{n:06} {name}\r\n" for n in range(count)).encode()  # no two lines are the same
    return head + b"." + body[1:] if size % 2 else head + body  # some have lines that begin with a dot


def token_of(octets: bytes) -> str:
    """Return the token of a message; nothing where it has none."""
    match = TOKEN.search(octets)
    return match[1].decode() if match else ""


def stuffed(octets: bytes) -> bytes:
    """Return a message as SMTP sends it, without the final dot."""
    return re.sub(rb"^\.", b"..", octets, flags=re.MULTILINE)


class Found(NamedTuple):
    """A message as it was found: its unique-id and its octets, or what kept them from being read."""

    unique_id: str
    octets: bytes
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What a home has: the messages of each mailbox in their order, and what is locked."""

    mail: dict[str, list[Found]]
    locked: frozenset[str]


@dataclass(slots=True)
class _Copy:
    """One message in one mailbox. `there` is True once it was acknowledged, False once its deletion was, None while
    either may be."""

    octets: bytes
    there: bool | None = None
    unique_id: str = ""
    began: int = 0
    ended: int = 0
    """When it was handed in and acknowledged, in the ledger's own time; 0: it was not acknowledged."""

    def whole(self, octets: bytes) -> bool:
        """Tell whether this is what was sent, as the server gives it out."""
        return octets.endswith(self.octets) and _PREFIX.fullmatch(octets.removesuffix(self.octets)) is not None


@dataclass(slots=True)
class Ledger:
    """Who was told what. Safe to be used from many threads."""

    _mail: dict[str, dict[str, _Copy]] = field(default_factory=dict)
    _mailboxes: dict[str, bool | None] = field(default_factory=dict)
    _locked: dict[str, bool | None] = field(default_factory=dict)
    _used: dict[tuple[str, str], str] = field(default_factory=dict)
    """The token that each unique-id of a mailbox belongs to, for ever."""
    _together: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    """What is open and happens for all of these, mailbox and token, or for none."""
    _time: int = 0
    _guard: threading.RLock = field(default_factory=threading.RLock)

    def copy(self) -> "Ledger":
        """Return a ledger that knows the same, and can be asked without changing this one: asking settles things."""
        made = Ledger()
        with self._guard:
            for name in ("_mail", "_mailboxes", "_locked", "_used", "_together", "_time"):
                setattr(made, name, copy.deepcopy(getattr(self, name)))
        return made

    def entered(self, told: str = "") -> None:
        """Do something at each entry, in the same moment; `told` is what somebody was told, if they were."""

    # --- mail ---

    def sending(self, token: str, octets: bytes, *recipients: str, together: bool = True) -> None:
        """Enter a message that is about to be handed in; `together`: one reply is for all recipients."""
        with self._guard:
            self._time += 1
            for recipient in recipients:
                self._mail.setdefault(recipient, {})[token] = _Copy(octets, began=self._time)
            if together and len(recipients) > 1:
                self._together.append(("a delivery", [(recipient, token) for recipient in recipients]))
            self.entered()

    def acknowledged(self, token: str, *recipients: str) -> None:
        """Enter that the server said 250 for these recipients."""
        with self._guard:
            self._time += 1
            for recipient in recipients:
                self._mail[recipient][token].there = True
                self._mail[recipient][token].ended = self._time
            self.entered(f"250 for {token}")

    def deleting(self, mailbox: str, tokens: list[str]) -> None:
        """Enter that a QUIT is about to be sent which deletes these."""
        with self._guard:
            for token in tokens:
                self._mail[mailbox][token].there = None
            if len(tokens) > 1:
                self._together.append(("a QUIT", [(mailbox, token) for token in tokens]))
            self.entered()

    def deleted(self, mailbox: str, tokens: list[str]) -> None:
        """Enter that the QUIT was answered with +OK."""
        with self._guard:
            for token in tokens:
                self._mail[mailbox][token].there = False
            self.entered(f"+OK for a QUIT of {mailbox}")

    def kept(self, mailbox: str, tokens: list[str]) -> None:
        """Enter that the QUIT was refused, and so must have deleted nothing."""
        with self._guard:
            for token in tokens:
                self._mail[mailbox][token].there = True
            self.entered()

    def expected(self, mailbox: str) -> set[str]:
        """Return the tokens that have to be there now."""
        with self._guard:
            return {token for token, copy in self._mail.get(mailbox, {}).items() if copy.there}

    def seen(self, mailbox: str, token: str, unique_id: str) -> list[str]:
        """Enter a unique-id that a client was shown; return what is wrong with it (I5)."""
        with self._guard:
            wrong = []
            known = self._mail.get(mailbox, {}).get(token)
            if known is not None:
                if known.unique_id not in ("", unique_id):
                    wrong.append(f"{mailbox}: {token} changed its unique-id")
                known.unique_id = unique_id
            if self._used.setdefault((mailbox, unique_id), token) != token:
                wrong.append(f"{mailbox}: {token} has the unique-id of {self._used[mailbox, unique_id]}")
            return wrong

    # --- administration ---

    def mailbox(self, address: str, there: bool | None) -> None:  # noqa: FBT001 - the state, as in the table
        """Enter that a mailbox is there, is not, or (None) that a command about it is under way."""
        with self._guard:
            self._mailboxes[address] = there
            if there is False:
                for copy in self._mail.get(address, {}).values():
                    copy.there = False
            self.entered("" if there is None else f"{address} is {'there' if there else 'gone'}")

    def lock(self, target: str, locked: bool | None) -> None:  # noqa: FBT001 - the state, as in the table
        """Enter that a domain or mailbox is locked, is not, or (None) that a command about it is under way."""
        with self._guard:
            self._locked[target] = locked
            self.entered("" if locked is None else f"{target} is {'locked' if locked else 'unlocked'}")

    def is_there(self, address: str) -> bool | None:
        """Return what is known of a mailbox."""
        return self._mailboxes.get(address, False)

    def is_locked(self, target: str) -> bool | None:
        """Return what is known of a lock."""
        return self._locked.get(target, False)

    # --- the judgement ---

    def violations(self, state: State) -> list[str]:
        """Return what is wrong with a state; what was open and is found in it is settled by it."""
        with self._guard:
            return [
                *self._halves(state.mail),
                *self._wrong_mailboxes(state),
                *self._wrong_locks(state),
                *(wrong for mailbox, found in state.mail.items() for wrong in self.wrong_mail(mailbox, found)),
            ]

    def _wrong_mailboxes(self, state: State) -> Iterator[str]:
        for address, there in self._mailboxes.items():
            if there is None:
                self._mailboxes[address] = address in state.mail
                if address not in state.mail:
                    self._mail.pop(address, None)
            elif there and address not in state.mail:
                yield f"the mailbox {address} is gone"
            elif not there and address in state.mail:
                yield f"the mailbox {address} is there again"
        for address in state.mail.keys() - self._mailboxes.keys() if self._mailboxes else ():
            yield f"the mailbox {address} was never made"
        for address, copies in self._mail.items():
            if address not in state.mail and any(copy.there for copy in copies.values()):
                yield f"the mail of {address} is gone with its mailbox"

    def _wrong_locks(self, state: State) -> Iterator[str]:
        for target, locked in self._locked.items():
            now = target in state.locked
            if locked is None:
                self._locked[target] = now
            elif locked != now:
                yield f"the lock of {target} is {'lost' if locked else 'there again'}"
        for target in state.locked - self._locked.keys():
            yield f"nobody locked {target}"

    def wrong_mail(self, mailbox: str, found: list[Found]) -> list[str]:
        """Return what is wrong with the messages that were found in a mailbox."""
        with self._guard:
            return [*self._halves({mailbox: found}), *self._judged(mailbox, found)]

    def wrong_octets(self, mailbox: str, token: str, octets: bytes) -> list[str]:
        """Return what is wrong with a message as a client has fetched it."""
        with self._guard:
            copy = self._mail.get(mailbox, {}).get(token)
        return [] if copy and copy.whole(octets) else [f"{mailbox}: {token or octets[:60]!r} is not what was sent"]

    def _halves(self, mail: dict[str, list[Found]]) -> Iterator[str]:
        """Yield what has happened by half; forget what is settled."""
        kept = []
        for what, places in self._together:
            copies = [self._mail.get(mailbox, {}).get(token) for mailbox, token in places]
            if any(copy is None or copy.there is not None for copy in copies):
                continue  # its outcome is known, or its mailbox gone
            if not {mailbox for mailbox, _ in places} <= mail.keys():
                kept.append((what, places))
                continue
            there = [token in {token_of(octets) for _, octets, _ in mail[mailbox]} for mailbox, token in places]
            if any(there) and not all(there):
                yield f"{what} happened by half: of {places} there are {there}"
        self._together = kept

    def _judged(self, mailbox: str, found: list[Found]) -> Iterator[str]:  # noqa: C901 - a case for each wrong
        copies = self._mail.setdefault(mailbox, {})
        seen: set[str] = set()
        latest = 0
        for unique_id, octets, trouble in found:
            token = token_of(octets)
            copy = copies.get(token)
            if trouble:
                yield f"{mailbox}: {unique_id} cannot be read: {trouble}"
            elif copy is None:
                yield f"{mailbox}: {token or octets[:60]!r} was never sent, or is torn"
            elif token in seen:
                yield f"{mailbox}: {token} is there twice"
            elif not copy.whole(octets):
                yield f"{mailbox}: {token} is not what was sent"
            elif copy.there is False:
                yield f"{mailbox}: {token} was deleted, and is there"
            else:
                yield from self.seen(mailbox, token, unique_id)
                copy.there = True
                if copy.ended and copy.ended < latest:
                    yield f"{mailbox}: {token} stands behind what was handed in after it was acknowledged"
                latest = max(latest, copy.began)
            seen.add(token)
        for token, copy in copies.items():
            if copy.there and token not in seen:
                yield f"{mailbox}: {token} is lost"
            elif copy.there is None and token not in seen:
                copy.there = False


def look_inside(home: Home) -> State:
    """Return what a home has, read without a service."""
    database = Sqlite(home)
    try:
        with database.snapshot() as reader:
            look = Look(home, reader, Place(home).accounts)
            blobs = Blobs(home.mail_root(settings_table.stored(reader).get("mailroot", "")))
            mail, locked = {}, set()
            for domain in domains.every(look.reader):
                if domain.locked:
                    locked.add(str(domain.name))
                for mailbox in mailboxes.of_domain(reader, domain):
                    if mailbox.own_lock:
                        locked.add(str(mailbox.address))
                    drop = maildrops.open_maildrop(reader, mailbox.id)
                    mail[str(mailbox.address)] = [
                        Found(unique_id, *_octets(blobs, maildrops.find(reader, identifier), size))
                        for identifier, unique_id, size in zip(
                            drop.messages, drop.listing.unique_ids, drop.listing.sizes, strict=True
                        )
                    ]
        return State(mail, frozenset(locked))
    finally:
        database.close()


def _octets(blobs: Blobs, stored: maildrops.Stored | None, size: int) -> tuple[bytes, str]:
    assert stored is not None, "a message without a body"
    body = stored.octets
    if body is None:
        assert stored.blob is not None
        try:
            source = BlobReader(blobs, stored)
        except OSError as error:
            return stored.prefix, f"{type(error).__name__}: {error}"
        try:
            pieces, last = [], False
            while not last:
                piece, last = source.read()
                pieces.append(piece)
            body = b"".join(pieces)
        except OSError as error:
            return stored.prefix, str(error)
        finally:
            source.close()
    octets = stored.prefix + body
    if stored.octets is not None and stored.damaged:
        return octets, "the checksum is wrong"
    return octets, "" if len(octets) == size else f"{len(octets)} octets, not {size}"
