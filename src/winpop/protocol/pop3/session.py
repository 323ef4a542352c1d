"""One POP3 session as a value: bytes in, bytes out, and at most one need in between.

Keeps RFC 1939 (all of it but APOP), RFC 2449 (CAPA, pipelining, RFC 2449 §8.1.2: `[IN-USE]`), RFC 3206 §4
(`[SYS/TEMP]`, `[SYS/PERM]`) and RFC 3206 §5 (`[AUTH]`). Invariants: replies come in the order of the
commands; a command is read only when its predecessor is answered; a message is removed only by QUIT in the
TRANSACTION state (RFC 1939 §6); bytes from the client are never sent back.

One file although it is long: each command is a few lines, and all of them share this one value.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from winpop.protocol.lines import Flaw, Lines, looks_like_http
from winpop.protocol.pop3 import needs
from winpop.protocol.pop3.multiline import Stuffing, Top

# By name, for annotations: within the class, `needs` is a door.
from winpop.protocol.pop3.needs import Answer, Ending, Need, Piece, Unreadable
from winpop.terms.mail import Listing

_ENOUGH = 64 * 1024
"""Octets of replies after which no further command is read until they are taken."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do. A line counts its CRLF (RFC 2449 §4: 255 octets)."""

    line: int = 255
    failures: int = 3
    errors: int = 20


class State(Enum):
    """RFC 1939 §3. UPDATE is entered with the need `Update` and left by closing."""

    AUTHORIZATION = auto()
    TRANSACTION = auto()
    UPDATE = auto()


class Session:
    """The server's side of one connection. See the package for its doors."""

    def __init__(self, limits: Limits, *, plaintext: bool, implementation: str = "winpop") -> None:
        """Begin with the greeting. `plaintext` tells whether a password in clear may come from this peer."""
        self.limits = limits
        self.plaintext = plaintext
        self.implementation = implementation
        self.state = State.AUTHORIZATION
        self.user: str | None = None
        self.listing = Listing()
        self.deleted: set[int] = set()
        self.commands = 0
        """How many commands came in: what resets the autologout timer (RFC 1939 §3)."""
        self.closed = False
        """No further reply will come; close the connection when everything is sent."""
        self.said_quit = False
        """The client itself ended the dialogue."""
        self.failures = 0
        self._errors = 0
        self._deleted_octets = 0
        self._lines = Lines(limits.line)
        self._need: Need | None = None
        self._out: list[bytes] = []
        self._size = 0
        self._long: Iterator[bytes] | None = None
        self._stuffing: Stuffing | None = None
        self._top: Top | None = None
        self._put(b"+OK POP3 server ready\r\n")

    # --- the doors ---

    @property
    def backlog(self) -> int:
        """Octets that came in and were not used yet; above some bound the connection should not be read."""
        return len(self._lines)

    @property
    def marked(self) -> int:
        """How many messages are marked as deleted."""
        return len(self.deleted)

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if not self.closed:
            self._lines.append(data)

    def needs(self) -> Need | None:
        """Tell what has to be supplied before the session can go on."""
        return self._need

    def supply(self, answer: Answer) -> None:
        """Answer the open need. After the session has been ended an answer comes too late and is ignored."""
        need = self._need
        if need is None:
            return
        match need, answer:
            case needs.Logon(), _:
                self._need = None
                self._logon_answered(answer)
            case needs.Fetch(), needs.Piece():
                self._piece(answer)
            case needs.Fetch(), needs.Unreadable():
                self._need = None
                self._unreadable(answer)
            case needs.Update(), _:
                self._need = None
                self._update_answered(answer)
            case _:
                raise TypeError(f"{type(answer).__name__} does not answer {type(need).__name__}")

    def to_send(self) -> bytes:
        """Return the next bytes for the client, some 64 KiB at the most; none when the session waits."""
        while self._size < _ENOUGH and self._need is None and not self.closed:
            if self._long is not None:
                self._put(next(self._long))
                if self._size:
                    break  # a listing is work enough for one call: other sessions wait meanwhile
                continue
            line = self._lines.next()
            if line is None:
                break
            if isinstance(line, Flaw):
                self._close(_FLAWS[line])
            else:
                self._command(line)
        data = b"".join(self._out)
        self._out.clear()
        self._size = 0
        return data

    def end(self, reason: Ending) -> None:
        """End the session from outside: nothing is deleted. A running update decides for itself."""
        if self.closed or self.state is State.UPDATE:
            return
        # Within a multi-line reply an -ERR would read as part of the message: then closing must say it.
        speechless = isinstance(self._need, needs.Fetch) and self._stuffing is not None
        self._need = None
        if speechless or self._long is not None or reason is needs.Ending.IDLE:
            self._leave()
        else:
            self._close(_ENDINGS[reason])

    # --- commands ---

    def _command(self, line: bytes) -> None:
        self.commands += 1
        if self.commands == 1 and looks_like_http(line):
            self._close(b"-ERR This is a POP3 server")
            return
        keyword, space, argument = line.partition(b" ")
        keyword = keyword.upper()
        command = COMMANDS[self.state].get(keyword)
        if command is None:
            known = any(keyword in table for table in COMMANDS.values())
            self._error(b"-ERR Not in this state" if known else b"-ERR Unknown command")
        elif space and not argument:
            self._error(b"-ERR Argument missing after the space")
        else:
            command(self, argument if space else None)

    def user_command(self, argument: bytes | None) -> None:
        """USER name (RFC 1939 §7): always +OK, so that it tells nothing about who has a mailbox."""
        self.user = None  # whatever this USER is, a name from before it no longer counts
        if not self.plaintext:
            self._error(_NO_PLAINTEXT)
        elif argument is None or not _clean(argument):
            self._error(b"-ERR USER needs a mailbox address")
        else:
            try:
                self.user = argument.decode("utf-8")
            except UnicodeDecodeError:
                self._error(b"-ERR The name is not UTF-8")
            else:
                self._put(b"+OK Now the password\r\n")

    def pass_command(self, argument: bytes | None) -> None:
        """PASS string (RFC 1939 §7): the rest of the line, spaces included, byte for byte."""
        if not self.plaintext:
            self._error(_NO_PLAINTEXT)
        elif self.user is None:
            self._error(b"-ERR USER comes first")
        elif argument is None or b"\0" in argument:
            # An empty password would be an anonymous bind to a directory, and succeed.
            self._error(b"-ERR PASS needs a password")
        else:
            self._need = needs.Logon(self.user, argument)

    def capa_command(self, argument: bytes | None) -> None:
        """CAPA (RFC 2449 §5): only what is accepted from this peer.

        The names are those of RFC 2449 §6.1, §6.2, §6.4, §6.6, §6.8, §6.9 and of RFC 3206 §6.
        """
        if self._takes_nothing(argument):
            lines = [b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING"]
            if self.plaintext:
                lines.insert(0, b"USER")
            lines.append(b"IMPLEMENTATION " + self.implementation.encode("ascii"))
            self._put(b"+OK Capabilities follow\r\n" + b"\r\n".join(lines) + b"\r\n.\r\n")

    def stat_command(self, argument: bytes | None) -> None:
        """STAT (RFC 1939 §5): messages and octets, without those marked as deleted."""
        if self._takes_nothing(argument):
            self._put(b"+OK %d %d\r\n" % self._totals())

    def list_command(self, argument: bytes | None) -> None:
        """LIST [msg] (RFC 1939 §5)."""
        sizes = self.listing.sizes
        self._listing(argument, lambda index: b"%d" % sizes[index])

    def uidl_command(self, argument: bytes | None) -> None:
        """UIDL [msg] (RFC 1939 §7)."""
        unique_ids = self.listing.unique_ids
        self._listing(argument, lambda index: unique_ids[index].encode("ascii"))

    def retr_command(self, argument: bytes | None) -> None:
        """RETR msg (RFC 1939 §5)."""
        index = self._index(argument)
        if index is not None:
            self._need = needs.Fetch(index)

    def top_command(self, argument: bytes | None) -> None:
        """TOP msg n (RFC 1939 §7): the header and n lines; n may be 0."""
        number, space, lines = (argument or b"").partition(b" ")
        if not space or _number(lines) is None:
            self._error(b"-ERR TOP needs a message number and a number of lines")
            return
        index = self._index(number)
        if index is not None:
            self._top = Top(_number(lines) or 0)
            self._need = needs.Fetch(index)

    def dele_command(self, argument: bytes | None) -> None:
        """DELE msg (RFC 1939 §5): marks; QUIT removes."""
        index = self._index(argument)
        if index is not None:
            self.deleted.add(index)
            self._deleted_octets += self.listing.sizes[index]
            self._put(b"+OK Marked as deleted\r\n")

    def noop_command(self, argument: bytes | None) -> None:
        """NOOP (RFC 1939 §5)."""
        if self._takes_nothing(argument):
            self._put(b"+OK\r\n")

    def rset_command(self, argument: bytes | None) -> None:
        """RSET (RFC 1939 §5): unmarks all."""
        if self._takes_nothing(argument):
            self.deleted.clear()
            self._deleted_octets = 0
            self._put(b"+OK %d messages (%d octets)\r\n" % self._totals())

    def quit_command(self, argument: bytes | None) -> None:
        """QUIT (RFC 1939 §4 before the logon, §6 after it: UPDATE)."""
        if not self._takes_nothing(argument):
            return
        self.said_quit = True
        if self.state is State.AUTHORIZATION:
            self._close(_BYE)
        else:
            self.state = State.UPDATE
            self._need = needs.Update(tuple(sorted(self.deleted)))

    # --- answers ---

    def _logon_answered(self, answer: Answer) -> None:
        self.user = None
        match answer:
            case needs.Opened(listing):
                self.listing = listing
                self.state = State.TRANSACTION
                self._put(b"+OK %d messages (%d octets)\r\n" % self._totals())
            case needs.InUse():
                self._put(b"-ERR [IN-USE] Another session has this mailbox open\r\n")
            case needs.Unavailable():
                self._put(b"-ERR [SYS/TEMP] Logons cannot be checked now, try again later\r\n")
            case needs.Locked(what):
                self._failed(_LOCKED[what])
            case needs.Refused():
                self._failed(b"-ERR [AUTH] The name or the password is wrong")
            case _:
                raise TypeError(f"{type(answer).__name__} does not answer a logon")

    def _failed(self, reply: bytes) -> None:
        self.failures += 1
        if self.failures >= self.limits.failures:
            self._close(reply)
        else:
            self._put(reply + b"\r\n")

    def _piece(self, piece: Piece) -> None:
        if self._stuffing is None:
            self._stuffing = Stuffing()
            self._put(b"+OK Message follows\r\n")
        data = piece.data if self._top is None else self._top.feed(piece.data)
        self._put(self._stuffing.feed(data, plain=piece.plain))
        if piece.last or (self._top is not None and self._top.done):
            self._put(self._stuffing.finish())
            self._need = self._stuffing = self._top = None

    def _unreadable(self, answer: Unreadable) -> None:
        self._top = None
        if self._stuffing is not None:
            self._leave()  # half a message has gone out: it must not look like a whole one
        elif answer.permanent:
            self._put(b"-ERR [SYS/PERM] This message is damaged; the administrator has to be told\r\n")
        else:
            self._put(b"-ERR [SYS/TEMP] This message cannot be read now, try again later\r\n")

    def _update_answered(self, answer: Answer) -> None:
        match answer:
            case needs.Updated():
                self._close(_BYE)
            case needs.Locked(what):
                self._close(_LOCKED[what])
            case needs.Refused():
                self._close(_ENDINGS[needs.Ending.MAILBOX_DELETED])
            case _:
                self._close(b"-ERR [SYS/TEMP] Deleted messages were not removed, try again later")

    # --- small things ---

    def _index(self, argument: bytes | None) -> int | None:
        """Return the index of the message that `argument` numbers, or reply why there is none."""
        number = _number(argument or b"")
        if number is None:
            self._error(b"-ERR A message number is needed")
        elif not 1 <= number <= len(self.listing):
            self._put(b"-ERR No such message\r\n")
        elif number - 1 in self.deleted:
            self._put(b"-ERR This message is marked as deleted\r\n")
        else:
            return number - 1
        return None

    def _listing(self, argument: bytes | None, show: Callable[[int], bytes]) -> None:
        if argument is None:
            self._long = self._lines_of(show)
        else:
            index = self._index(argument)
            if index is not None:
                self._put(b"+OK %d %b\r\n" % (index + 1, show(index)))

    def _lines_of(self, show: Callable[[int], bytes]) -> Iterator[bytes]:
        """Yield a listing in pieces, so that a mailbox of any size takes little memory."""
        piece = b"+OK %d messages (%d octets)\r\n" % self._totals()
        for start in range(0, len(self.listing), 1000):
            if start:
                yield piece
                piece = b""
            indexes = range(start, min(start + 1000, len(self.listing)))
            piece += b"".join(b"%d %b\r\n" % (i + 1, show(i)) for i in indexes if i not in self.deleted)
        self._long = None  # what follows is the last piece
        yield piece + b".\r\n"

    def _totals(self) -> tuple[int, int]:
        return len(self.listing) - len(self.deleted), self.listing.octets - self._deleted_octets

    def _takes_nothing(self, argument: bytes | None) -> bool:
        if argument is not None:
            self._error(b"-ERR This command takes no argument")
        return argument is None

    def _error(self, reply: bytes) -> None:
        """Reply to what is no proper command; a client that sends nothing else is let go."""
        self._errors += 1
        if self._errors >= self.limits.errors:
            self._close(b"-ERR Too many errors")
        else:
            self._put(reply + b"\r\n")

    def _close(self, reply: bytes) -> None:
        self._put(reply + b"\r\n")
        self._leave()

    def _leave(self) -> None:
        """Close, and forget what came in and was not used."""
        self.closed = True
        self._lines.clear()

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._size += len(data)


def _number(digits: bytes) -> int | None:
    """Return the number that 1 to 10 ASCII digits write; nothing else is a number."""
    return int(digits) if 1 <= len(digits) <= 10 and digits.isdigit() else None  # noqa: PLR2004 - as stated


def _clean(argument: bytes) -> bool:
    return not any(octet < 0x20 or octet == 0x7F for octet in argument)  # noqa: PLR2004 - ASCII controls


Command = Callable[[Session, bytes | None], None]

COMMANDS: dict[State, dict[bytes, Command]] = {
    State.AUTHORIZATION: {
        b"CAPA": Session.capa_command,
        b"PASS": Session.pass_command,
        b"QUIT": Session.quit_command,
        b"USER": Session.user_command,
    },
    State.TRANSACTION: {
        b"CAPA": Session.capa_command,
        b"DELE": Session.dele_command,
        b"LIST": Session.list_command,
        b"NOOP": Session.noop_command,
        b"QUIT": Session.quit_command,
        b"RETR": Session.retr_command,
        b"RSET": Session.rset_command,
        b"STAT": Session.stat_command,
        b"TOP": Session.top_command,
        b"UIDL": Session.uidl_command,
    },
    State.UPDATE: {},
}
"""The commands of each state; what is not in its table is not accepted in that state."""

_BYE = b"+OK Bye"
_NO_PLAINTEXT = b"-ERR [AUTH] Passwords in clear are not accepted from your network"
_LOCKED = {
    what: b"-ERR [AUTH] An administrator has locked this "
    + what.encode("ascii")
    + b"; its mail is kept, and another password will not help"
    for what in ("domain", "mailbox")
}
_FLAWS = {
    Flaw.BARE_NEWLINE: b"-ERR Lines end with CR LF and hold no other CR or LF",
    Flaw.TOO_LONG: b"-ERR The line is too long",
}
_ENDINGS = {
    needs.Ending.DOMAIN_LOCKED: _LOCKED["domain"],
    needs.Ending.MAILBOX_LOCKED: _LOCKED["mailbox"],
    needs.Ending.MAILBOX_DELETED: b"-ERR [SYS/PERM] This mailbox is no more",
    needs.Ending.SLOW_LOGON: b"-ERR The logon took too long",
    needs.Ending.STOPPING: b"-ERR [SYS/TEMP] The service is stopping, try again later",
    needs.Ending.OVERLOADED: b"-ERR [SYS/TEMP] Too many connections, try again later",
    needs.Ending.UNAVAILABLE: b"-ERR [SYS/TEMP] Something went wrong here, try again later",
}
