"""What the world was told, held against what a home has: the invariants I1 to I5, for every test of faults.

    I1  an acknowledged message is there, octet for octet
    I2  a message that was not acknowledged is there once or not at all, and whole
    I3  nothing is there twice, nothing is there that was never sent
    I4  what an acknowledged QUIT deleted is gone for good; what no QUIT deleted is there
    I5  a message keeps its unique-id, and no unique-id is used again

and the same for what an administrator was told: locks, mailboxes, passwords. Invariant: something is entered before it
is asked for, and its outcome when the answer has come; so whatever is cut off in between is held to be open.
"""

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from winpop.admin.contract import Look
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.directory import domains, mailboxes
from winpop.directory import settings as settings_table
from winpop.store import maildrops
from winpop.store.blobs import Blobs
from winpop.store.maildrops import BlobReader

TOKEN = re.compile(rb"^X-Token: ([0-9a-z-]+)\r$", re.MULTILINE)


def message(token: str, size: int) -> bytes:
    """Return the message with this token: every octet of it follows from the two."""
    head = f"Subject: {token}\r\nX-Token: {token}\r\n\r\n".encode()
    line = hashlib.sha256(token.encode()).hexdigest().encode() + b"\r\n"
    body = line * (max(size - len(head), 0) // len(line) + 1)
    return head + b"." + body[1:] if size % 2 else head + body  # some have lines that begin with a dot


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


@dataclass(slots=True)
class Ledger:
    """Who was told what. Safe to be used from many threads."""

    _mail: dict[str, dict[str, _Copy]] = field(default_factory=dict)
    _mailboxes: dict[str, bool | None] = field(default_factory=dict)
    _locked: dict[str, bool | None] = field(default_factory=dict)
    _used: dict[tuple[str, str], str] = field(default_factory=dict)
    """The token that each unique-id of a mailbox belongs to, for ever."""
    _guard: threading.RLock = field(default_factory=threading.RLock)

    # --- mail ---

    def sending(self, token: str, octets: bytes, *recipients: str) -> None:
        """Enter a message that is about to be handed in."""
        with self._guard:
            for recipient in recipients:
                self._mail.setdefault(recipient, {})[token] = _Copy(octets)

    def acknowledged(self, token: str, *recipients: str) -> None:
        """Enter that the server said 250 for these recipients."""
        with self._guard:
            for recipient in recipients:
                self._mail[recipient][token].there = True

    def deleting(self, mailbox: str, tokens: list[str]) -> None:
        """Enter that a QUIT is about to be sent which deletes these."""
        with self._guard:
            for token in tokens:
                self._mail[mailbox][token].there = None

    def deleted(self, mailbox: str, tokens: list[str]) -> None:
        """Enter that the QUIT was answered with +OK."""
        with self._guard:
            for token in tokens:
                self._mail[mailbox][token].there = False

    def kept(self, mailbox: str, tokens: list[str]) -> None:
        """Enter that the QUIT was refused, and so must have deleted nothing."""
        with self._guard:
            for token in tokens:
                self._mail[mailbox][token].there = True

    def expected(self, mailbox: str) -> set[str]:
        """Return the tokens that have to be there now."""
        with self._guard:
            return {token for token, copy in self._mail.get(mailbox, {}).items() if copy.there}

    def count(self) -> int:
        """Return how many copies were acknowledged and not deleted since."""
        with self._guard:
            return sum(copy.there is True for copies in self._mail.values() for copy in copies.values())

    def seen(self, mailbox: str, token: str, unique_id: str) -> list[str]:
        """Enter a unique-id that a client was shown; return what is wrong with it (I5)."""
        with self._guard:
            wrong = []
            copy = self._mail.get(mailbox, {}).get(token)
            if copy is not None:
                if copy.unique_id not in ("", unique_id):
                    wrong.append(f"{mailbox}: {token} changed its unique-id")
                copy.unique_id = unique_id
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

    def lock(self, target: str, locked: bool | None) -> None:  # noqa: FBT001 - the state, as in the table
        """Enter that a domain or mailbox is locked, is not, or (None) that a command about it is under way."""
        with self._guard:
            self._locked[target] = locked

    # --- the judgement ---

    def violations(self, state: State) -> list[str]:
        """Return what is wrong with a state; what was open and is found in it is settled by it."""
        with self._guard:
            return [
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

    def wrong_mail(self, mailbox: str, found: list[Found]) -> list[str]:
        """Return what is wrong with the messages that were found in a mailbox."""
        with self._guard:
            return list(self._judged(mailbox, found))

    def _judged(self, mailbox: str, found: list[Found]) -> Iterator[str]:
        copies = self._mail.setdefault(mailbox, {})
        seen: set[str] = set()
        for unique_id, octets, trouble in found:
            match = TOKEN.search(octets)
            token = match[1].decode() if match else ""
            copy = copies.get(token)
            if trouble:
                yield f"{mailbox}: {unique_id} cannot be read: {trouble}"
            elif copy is None:
                yield f"{mailbox}: {token or octets[:60]!r} was never sent, or is torn"
            elif token in seen:
                yield f"{mailbox}: {token} is there twice"
            elif not octets.endswith(copy.octets) or not octets.startswith(b"Return-Path: "):
                yield f"{mailbox}: {token} is not what was sent"
            elif copy.there is False:
                yield f"{mailbox}: {token} was deleted, and is there"
            else:
                yield from self.seen(mailbox, token, unique_id)
                copy.there = True
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
            look = Look(home, reader)
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


def look_by_name(home: Path) -> State:
    """Return what the home in this directory has."""
    return look_inside(Home(home))
