"""One POP3 session as a value: bytes in, bytes out, and at most one need in between.

Keeps RFC 1939, RFC 2449 (CAPA, pipelining, RFC 2449 §8.1.1 `[LOGIN-DELAY]`, RFC 2449 §8.1.2 `[IN-USE]`), RFC 2595 §4
(STLS), RFC 3206 §4 (`[SYS/TEMP]`, `[SYS/PERM]`), RFC 3206 §5 (`[AUTH]`), RFC 5034 §4 (AUTH) and RFC 6856 (UTF8, LANG).
Invariants: replies come in the order of the commands; a command is read only when its predecessor is answered; a
message is removed only by QUIT in the TRANSACTION state (RFC 1939 §6); bytes from the client are never sent back;
nothing that was said before TLS holds after it, but the counts of what went wrong.

It is long because every command is a method here, but for those by which a client logs on: see `authorization`.
"""

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet

from winpop.protocol.lines import Flaw, Lines, looks_like_http
from winpop.protocol.pop3 import authorization, needs, replies
from winpop.protocol.pop3.authorization import Authorization
from winpop.protocol.pop3.languages import ENGLISH, LANGUAGES, language_for
from winpop.protocol.pop3.multiline import Stuffing, Top

# By name, for annotations: within the class, `needs` is a door.
from winpop.protocol.pop3.needs import Answer, Ending, Need, Offer, Piece, Unreadable
from winpop.protocol.pop3.output import Output
from winpop.protocol.pop3.state import Limits, State
from winpop.protocol.sasl import moves
from winpop.terms.credentials import ScramKeys
from winpop.terms.mail import EMPTY, Listing

_MOST_COMMANDS = 500
"""Commands that are read at once."""
_NONE: frozenset[int] = frozenset()
_MOST_BEFORE = 100
"""Commands before a logon, which takes ten at the most."""
_ENOUGH, _ENOUGH_BEFORE = 64 * 1024, 2 * 1024
"""Octets of replies after which no further command is read until they are taken, and before the logon."""


class Session:
    """The server's side of one connection. See the package for its doors."""

    __slots__ = (
        "_authorization",
        "_authorizing",
        "_deleted_octets",
        "_lines",
        "_long",
        "_number",
        "_output",
        "_stuffing",
        "_table",
        "_top",
        "commands",
        "deleted",
        "implementation",
        "limits",
        "listing",
        "more",
        "offer",
        "said_quit",
        "state",
    )

    def __init__(self, limits: Limits, offer: Offer, *, implementation: str = "winpop", number: int = 0) -> None:
        """Begin with the greeting; no two sessions with the same offer have the same number."""
        self.limits = limits
        self.offer = offer
        self.implementation = implementation
        self.listing = EMPTY
        self.deleted: AbstractSet[int] = _NONE
        """The indexes that are marked. A set of its own only once there is one: ten thousand sessions have none."""
        self.commands = 0
        """How many commands came in: what resets the autologout timer (RFC 1939 §3)."""
        self.more = True
        """There may be more to be sent as soon as what is to be sent is taken."""
        self.said_quit = False
        """The client itself ended the dialogue."""
        self._deleted_octets = 0
        self._lines = Lines(limits.line)
        self._enter(State.AUTHORIZATION)
        self._output = Output(limits)
        self._number = number
        self._authorization = Authorization(self._output, offer, number)
        self._long: Iterator[bytes] | None = None
        self._stuffing: Stuffing | None = None
        self._top: Top | None = None
        self._output.put(replies.READY if offer.timestamp is None else replies.READY + b" " + offer.timestamp)

    # --- the doors ---

    @property
    def closed(self) -> bool:
        """Tell whether no further reply will come: close the connection when everything is sent."""
        return self._output.closed

    @property
    def backlog(self) -> int:
        """Octets that came in and were not used yet; above some bound the connection should not be read."""
        return len(self._lines)

    @property
    def wants_all(self) -> bool:
        """Tell whether the message that is being fetched goes out whole (RETR), not its beginning (TOP)."""
        return self._top is None

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if not self.closed:
            self._lines.append(data)

    def needs(self) -> Need | None:
        """Tell what has to be supplied before the session can go on."""
        return self._output.need

    def supply(self, answer: Answer) -> None:
        """Answer the open need. After the session has been ended an answer comes too late and is ignored."""
        need = self._output.need
        if need is None:
            return
        if type(answer) is Piece and type(need) is needs.Fetch:  # first: most answers are this one
            self._piece(answer)
            return
        self._output.need = None
        match need, answer:
            case needs.Logon(), needs.Opened(listing):
                self._opened(listing)
            case (
                needs.Logon(),
                needs.Refused() | needs.Locked() | needs.InUse() | needs.TooSoon() | needs.Unavailable(),
            ):
                self._authorization.not_opened(answer)
            case (
                moves.Keys() | moves.Step(),
                ScramKeys() | moves.Continue() | moves.Proved() | moves.Malformed() | moves.Unavailable(),
            ):
                self._authorization.supply(answer)
            case needs.StartTls(), needs.Secured(offer):
                self._secured(offer)
            case needs.Fetch(), needs.Passed(tail) if self._stuffing is not None and self._top is None:
                self._output.add(self._stuffing.finish(tail))
                self._stuffing = None
            case needs.Fetch(), Unreadable():
                self._unreadable(answer)
            case needs.Update(), needs.Updated() | needs.Locked() | needs.Refused() | needs.Unavailable():
                self._updated(answer)
            case _:
                raise TypeError(f"{type(answer).__name__} does not answer {type(need).__name__}")

    def to_send(self) -> bytes:
        """Go on, and return the next bytes for the client, some 64 KiB at the most; none when the session waits."""
        self.go_on()
        return self._output.take()

    def take(self) -> bytes:
        """Return what is to be sent, and do not go on."""
        return self._output.take()

    @property
    def unsent(self) -> int:
        """Octets for the client that nobody has taken yet."""
        return self._output.size

    def go_on(self) -> None:
        """Use what came in, and keep what is to be sent."""
        output, lines = self._output, self._lines
        until = self.commands + _MOST_COMMANDS
        enough = _ENOUGH_BEFORE if self._authorizing else _ENOUGH
        listed = False
        while self.commands < until and output.size < enough and output.need is None and not output.closed:
            if self._long is not None:
                output.add(next(self._long))
                if output.size:
                    listed = True
                    break  # a listing is work enough for one call: other sessions wait meanwhile
                continue
            if self._authorizing:
                lines.limit = self._line_limit()
            line = lines.next()
            if line is None:
                break
            if isinstance(line, Flaw):
                output.close(replies.FLAWS[line])
            elif self._authorizing and self._authorization.in_exchange:
                self.commands += 1
                self._authorization.respond(line)
            else:
                self._command(line)
        if output.closed:
            lines.clear()  # what came in and was not used will never be
        self.more = listed or output.size >= enough or self.commands >= until

    def end(self, reason: Ending) -> None:
        """End the session from outside: nothing is deleted. A running update decides for itself."""
        if self.closed or self.state is State.UPDATE:
            return
        need, self._output.need = self._output.need, None
        # Within a message, a listing or a handshake an -ERR would read as part of it: then closing must say it.
        within = self._stuffing is not None or self._long is not None or isinstance(need, needs.StartTls)
        if within or reason is Ending.IDLE:
            self._output.closed = True
        else:
            self._output.close(replies.ENDINGS[reason])
        self._lines.clear()

    # --- commands ---

    def _command(self, line: bytes) -> None:
        self.commands += 1
        if self.commands == 1 and looks_like_http(line):
            self._output.close(replies.HTTP)
            return
        if self._authorizing and self.commands > _MOST_BEFORE:
            self._output.close(replies.TOO_MUCH_AMISS)
            return
        keyword, space, argument = line.partition(b" ")
        keyword = keyword.upper()
        given = argument if space else None  # a space announces an argument, which may be empty
        command = self._table.get(keyword)
        if command is not None:
            command(self, given)
            return
        logs_on = authorization.COMMANDS.get(keyword)
        if logs_on is not None and self._authorizing:
            logs_on(self._authorization, given)
        elif logs_on is not None or any(keyword in table for table in COMMANDS.values()):
            self._output.error(replies.OTHER_STATE)
        else:
            self._output.error(replies.UNKNOWN_COMMAND)

    def _enter(self, state: State) -> None:
        """Be in this state, and know its commands without looking for them."""
        self.state = state
        self._table = COMMANDS[state]
        self._authorizing = state is State.AUTHORIZATION
        self._lines.limit = self.limits.line

    def _line_limit(self) -> int:
        """Return how long a line may be before the logon: what belongs to AUTH may be longer where it is taken."""
        if not self.offer.logons:
            return self.limits.line
        authenticates = self._authorization.in_exchange or self._lines.begin_with(b"AUTH ")
        return self.limits.response if authenticates else self.limits.line

    def stls_command(self, argument: bytes | None) -> None:
        """STLS (RFC 2595 §4). What came in behind it was sent in clear: somebody else may have put it there."""
        if not self._takes_nothing(argument):
            return
        if not self.offer.stls:
            self._output.error(replies.NO_TLS)
        elif len(self._lines):
            self._output.close(replies.BEHIND_STLS)
        else:
            self._output.put(replies.BEGIN_TLS)
            self._output.need = needs.StartTls()

    def capa_command(self, argument: bytes | None) -> None:
        """CAPA (RFC 2449 §5): only what is accepted from this peer.

        The names are those of RFC 2449 §6.1, §6.2, §6.3, §6.4, §6.5, §6.6, §6.7, §6.8, §6.9, of RFC 3206 §6, of
        RFC 2595 §4 and of RFC 6856 §2 and §3.
        """
        if not self._takes_nothing(argument):
            return
        offer = self.offer
        lines = [b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"UTF8 USER", b"LANG"]
        if offer.passwords:
            lines.insert(0, b"USER")
        if offer.mechanisms and offer.logons:
            lines.append(b"SASL " + " ".join(offer.mechanisms).encode("ascii"))
        if offer.stls and self.state is State.AUTHORIZATION:
            lines.append(b"STLS")
        lines.append(b"EXPIRE NEVER" if offer.expire is None else b"EXPIRE %d" % offer.expire)
        if offer.login_delay:
            lines.append(b"LOGIN-DELAY %d" % offer.login_delay)
        lines.append(b"IMPLEMENTATION " + self.implementation.encode("ascii"))
        self._output.put_lines(replies.CAPABILITIES, lines)

    def lang_command(self, argument: bytes | None) -> None:
        """LANG [language] (RFC 6856 §3): the languages of what the server says to people."""
        if argument is None:
            lines = [f"{tag} {name}".encode() for tag, name in LANGUAGES.items()]
            self._output.put_lines(replies.LANGUAGES, lines)
        elif (tag := language_for(argument)) is None:
            self._output.error(replies.NO_LANGUAGE)
        else:
            self._output.language = tag
            self._output.put(f"+OK {tag} {LANGUAGES[tag]}".encode())

    def stat_command(self, argument: bytes | None) -> None:
        """STAT (RFC 1939 §5): messages and octets, without those marked as deleted."""
        if self._takes_nothing(argument):
            self._output.put(b"+OK %d %d" % self._totals())

    def list_command(self, argument: bytes | None) -> None:
        """LIST [msg] (RFC 1939 §5)."""
        self._listing("LIST", argument, self.listing.size_line)

    def uidl_command(self, argument: bytes | None) -> None:
        """UIDL [msg] (RFC 1939 §7)."""
        self._listing("UIDL", argument, self.listing.unique_id_line)

    def retr_command(self, argument: bytes | None) -> None:
        """RETR msg (RFC 1939 §5)."""
        index = self._index(argument)
        if index is not None:
            self._output.need = needs.Fetch(index)

    def top_command(self, argument: bytes | None) -> None:
        """TOP msg n (RFC 1939 §7): the header and n lines; n may be 0."""
        number, space, lines = (argument or b"").partition(b" ")
        if not space or _number(lines) is None:
            self._output.error(replies.BAD_TOP)
            return
        index = self._index(number)
        if index is not None:
            self._top = Top(_number(lines) or 0)
            self._output.need = needs.Fetch(index)

    def dele_command(self, argument: bytes | None) -> None:
        """DELE msg (RFC 1939 §5): marks; QUIT removes."""
        index = self._index(argument)
        if index is not None:
            self.deleted = self.deleted if isinstance(self.deleted, set) else set()
            self.deleted.add(index)
            self._deleted_octets += self.listing.sizes[index]
            self._output.put(replies.MARKED)

    def noop_command(self, argument: bytes | None) -> None:
        """NOOP (RFC 1939 §5)."""
        if self._takes_nothing(argument):
            self._output.put(replies.OK)

    def rset_command(self, argument: bytes | None) -> None:
        """RSET (RFC 1939 §5): unmarks all."""
        if self._takes_nothing(argument):
            self.deleted = _NONE
            self._deleted_octets = 0
            self._output.put(replies.TOTALS % self._totals())

    def quit_command(self, argument: bytes | None) -> None:
        """QUIT (RFC 1939 §4 before the logon, §6 after it: UPDATE)."""
        if not self._takes_nothing(argument):
            return
        self.said_quit = True
        if self.state is State.AUTHORIZATION:
            self._output.close(replies.BYE)
        else:
            self._enter(State.UPDATE)
            self._output.need = needs.Update(tuple(sorted(self.deleted)))

    # --- answers ---

    def _opened(self, listing: Listing) -> None:
        self.listing = listing
        self._enter(State.TRANSACTION)
        self._authorization = Authorization(self._output, self.offer, self._number)
        self._output.put(replies.TOTALS % self._totals())

    def _secured(self, offer: Offer) -> None:
        """Begin anew over TLS (RFC 2595 §4): nothing said in clear holds any longer."""
        self.offer = offer
        self._authorization = Authorization(self._output, offer, self._number)
        self._output.language = ENGLISH
        if len(self._lines):  # it came before the handshake
            self._output.close(replies.BEHIND_STLS)

    def _piece(self, piece: Piece) -> None:
        output = self._output
        if self._stuffing is None:
            output.put(replies.MESSAGE)
            if piece.last and piece.plain and self._top is None:  # a whole message that needs nothing done to it
                output.add_whole(piece.data)
                output.need = None
                return
            self._stuffing = Stuffing()
        data = piece.data if self._top is None else self._top.feed(piece.data)
        self._output.add(self._stuffing.feed(data, plain=piece.plain))
        if piece.last or (self._top is not None and self._top.done):
            self._output.add(self._stuffing.finish())
            self._output.need = self._stuffing = self._top = None

    def _unreadable(self, answer: Unreadable) -> None:
        self._top = None
        if self._stuffing is not None:
            self._output.closed = True  # half a message has gone out: it must not look like a whole one
        else:
            self._output.put(replies.UNREADABLE[answer.permanent])

    def _updated(self, answer: Answer) -> None:
        match answer:
            case needs.Updated():
                self._output.close(replies.BYE)
            case needs.Locked(what):
                self._output.close(replies.LOCKED[what])
            case needs.Refused():
                self._output.close(replies.ENDINGS[Ending.MAILBOX_DELETED])
            case _:
                self._output.close(replies.NOT_REMOVED)

    # --- small things ---

    def _index(self, argument: bytes | None) -> int | None:
        """Return the index of the message that `argument` numbers, or reply why there is none."""
        number = _number(argument or b"")
        if number is None:
            self._output.error(replies.BAD_NUMBER)
        elif not 1 <= number <= len(self.listing):
            self._output.put(replies.NO_MESSAGE)
        elif number - 1 in self.deleted:
            self._output.put(replies.MARKED_ALREADY)
        else:
            return number - 1
        return None

    def _listing(self, name: str, argument: bytes | None, show: Callable[[int], bytes]) -> None:
        if argument is None:
            self._output.put(replies.TOTALS % self._totals())
            lines = self.listing.lines
            ready = lines.get(name) if lines and not self.deleted else None
            self._long = self._lines_of(name, show) if ready is None else self._pieces_of(ready)
        else:
            index = self._index(argument)
            if index is not None:
                self._output.put(b"+OK " + show(index))

    def _lines_of(self, name: str, show: Callable[[int], bytes]) -> Iterator[bytes]:
        """Yield a listing in pieces, so that a mailbox of any size takes little memory; keep what is to be kept."""
        kept: list[bytes] = []
        piece = b""
        lines = self.listing.lines if not self.deleted else None
        for start in range(0, len(self.listing), 1000):
            if start:
                yield piece
            indexes = range(start, min(start + 1000, len(self.listing)))
            piece = b"".join([show(i) + b"\r\n" for i in indexes if i not in self.deleted])
            if lines is not None:
                kept.append(piece)
        if lines is not None:
            lines[name] = b"".join(kept)
        self._long = None  # what follows is the last piece
        yield piece + b".\r\n"

    def _pieces_of(self, lines: bytes) -> Iterator[bytes]:
        last = (len(lines) - 1) // _ENOUGH * _ENOUGH
        for start in range(0, last, _ENOUGH):
            yield lines[start : start + _ENOUGH]
        self._long = None
        yield lines[max(last, 0) :] + b".\r\n"

    def _totals(self) -> tuple[int, int]:
        return len(self.listing) - len(self.deleted), self.listing.octets - self._deleted_octets

    def _takes_nothing(self, argument: bytes | None) -> bool:
        if argument is not None:
            self._output.error(replies.NO_ARGUMENT)
        return argument is None


def _number(digits: bytes) -> int | None:
    """Return the number that 1 to 10 ASCII digits write; nothing else is a number."""
    return int(digits) if 1 <= len(digits) <= 10 and digits.isdigit() else None  # noqa: PLR2004 - as stated


Command = Callable[[Session, bytes | None], None]

COMMANDS: dict[State, dict[bytes, Command]] = {
    State.AUTHORIZATION: {
        b"CAPA": Session.capa_command,
        b"LANG": Session.lang_command,
        b"QUIT": Session.quit_command,
        b"STLS": Session.stls_command,
    },
    State.TRANSACTION: {
        b"CAPA": Session.capa_command,
        b"DELE": Session.dele_command,
        b"LANG": Session.lang_command,
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
