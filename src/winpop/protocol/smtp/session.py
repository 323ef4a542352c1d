"""One SMTP or LMTP session as a value: bytes in, bytes out, and at most one need in between.

Keeps the receiving side of RFC 5321 with SIZE (RFC 1870), PIPELINING (RFC 2920), 8BITMIME (RFC 6152) and
ENHANCEDSTATUSCODES (RFC 2034), and of RFC 2033, LMTP. Invariants: replies come in the order of the commands;
a message is acknowledged only when it is durable; a body's place that was opened is committed or abandoned,
unless the session is ended from outside, which leaves it to whoever ended it; bytes from the client are
never sent back; what is said depends on the bytes that came and not on how the network cut them, but for
one thing: a refused DATA closes the session when something came with it (RFC 2920 §3.1 has DATA last in its
group), since that would be a message, and its lines must not be taken for commands.

It is long because every command is a method here. What needs more than a reply is elsewhere: `paths`, `body`.
"""

import re
from collections.abc import Callable

from winpop.protocol.lines import Flaw, Lines, looks_like_http
from winpop.protocol.smtp import paths, replies
from winpop.protocol.smtp.body import Body
from winpop.protocol.smtp.data import Outcome
from winpop.protocol.smtp.needs import (
    Abandon,
    Accepted,
    Answer,
    Commit,
    Committed,
    Done,
    Ending,
    Foreign,
    Need,
    Open,
    Unavailable,
    Unknown,
    Verify,
    Write,
)
from winpop.protocol.smtp.state import Limits, State, Transaction
from winpop.terms.mail import Envelope

_ENOUGH = 64 * 1024
"""Octets of replies after which nothing further is read until they are taken."""

_MOST_COMMANDS = 500
"""Commands that are read at once."""
_CLIENT_NAME = re.compile(rb"[!-~]{1,255}")
_HEADER_FIELD = re.compile(rb"[!-9;-~]+:")  # no command has a colon in its first word
_TRANSFERS = (b"7BIT", b"8BITMIME")
_TRANSACTION = (State.SENDER, State.RECIPIENTS, State.BODY)


class Session:
    """The server's side of one connection. See `winpop.protocol` for its doors."""

    def __init__(self, limits: Limits, *, hostname: str, lmtp: bool = False) -> None:
        """Begin with the greeting (RFC 5321 §4.3.1)."""
        self.limits = limits
        self.hostname = hostname.encode("ascii")
        self.lmtp = lmtp
        self.state = State.CONNECTED
        self.helo = ""
        """What the client calls itself: one printable ASCII word, not to be believed."""
        self.esmtp = False
        """It said EHLO or LHLO."""
        self.commands = 0
        """How many commands came in."""
        self.closed = False
        """No further reply will come; close the connection when everything is sent."""
        self.more = True
        """There may be more to be sent as soon as what is to be sent is taken."""
        self.said_quit = False
        """The client itself ended the dialogue."""
        self._errors = 0
        self._idle = 0
        self._hellos = LMTP_HELLOS if lmtp else SMTP_HELLOS
        self._lines = Lines(limits.line)
        self._need: Need | None = None
        self._out: list[bytes] = []
        self.unsent = 0
        """Octets for the client that nobody has taken yet."""
        self._stopped = False
        """All that came in was looked at: without more, or an answer, nothing goes on."""
        self._ended = False
        self._transaction = Transaction()
        self._body: Body | None = None
        self._put(b"220 %b %b" % (self.hostname, b"LMTP" if lmtp else b"ESMTP"))

    # --- the doors ---

    @property
    def backlog(self) -> int:
        """Octets that came in and were not used yet; above some bound the connection should not be read."""
        return len(self._lines)

    @property
    def in_transaction(self) -> bool:
        """Tell whether a MAIL was accepted whose message is not finished."""
        return self.state in _TRANSACTION

    @property
    def receiving(self) -> bool:
        """Tell whether what comes in is a message's body."""
        return self.state is State.BODY

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if not self.closed:
            self._lines.append(data)
            self._stopped = False

    def needs(self) -> Need | None:
        """Tell what has to be supplied before the session can go on."""
        return self._need

    def supply(self, answer: Answer) -> None:
        """Answer the open need. After the session has been ended an answer comes too late and is ignored."""
        need = self._need
        if need is None:
            return
        self._need = None
        self._stopped = False
        match need, answer:
            case Verify(), Accepted() | Unknown() | Foreign() | Unavailable():
                self._verified(answer)
            case Open(), Done():
                self._begin_body()
            case Open(), Unavailable(full):
                self._refuse_data(replies.UNAVAILABLE[full])
            case Write() | Abandon(), Done():
                pass
            case Write(), Unavailable(full) if self._body is not None:
                self._body.fail(replies.UNAVAILABLE[full])
            case Commit(envelope), Committed() | Unavailable():
                self._committed(envelope, answer)
            case _:
                raise TypeError(f"{type(answer).__name__} does not answer {type(need).__name__}")

    def to_send(self) -> bytes:
        """Go on, and return the next bytes for the client, some 64 KiB at the most; none when the session waits."""
        self.go_on()
        return self.take()

    def take(self) -> bytes:
        """Return what is to be sent, and do not go on."""
        if not self._out:
            return b""
        self._out.append(b"")  # so that the last has its line end too
        data = b"\r\n".join(self._out)
        self._out.clear()
        self.unsent = 0
        return data

    def go_on(self) -> None:
        """Use what came in, and keep what is to be sent."""
        until = self.commands + _MOST_COMMANDS
        while not self._stopped and self._need is None and not self.closed and self.unsent < _ENOUGH:
            if self.commands >= until:
                break
            self._stopped = not self._step()
        self.more = self.unsent >= _ENOUGH or self.commands >= until

    def end(self, reason: Ending) -> None:
        """End the session from outside: an unfinished message is not taken. A running commit decides."""
        if self.closed:
            return
        if isinstance(self._need, Commit):
            self._ended = True
        else:
            self._need = None
            self._close(replies.ENDINGS[reason])

    def _step(self) -> bool:
        """Use the next of what came in; tell whether there was any."""
        if self._body is not None:
            return self._body_step(self._body)
        line = self._lines.next()
        if line is None:
            return False
        if isinstance(line, Flaw):
            self._close(replies.FLAWS[line])
        else:
            self._command(line)
        return True

    # --- commands ---

    def _command(self, line: bytes) -> None:
        self.commands += 1
        # RFC 5321 §4.1.1: white space before the line end is tolerated.
        word, _, argument = line.rstrip(b" \t").partition(b" ")
        word = word.upper()
        command = COMMANDS[self.state].get(word) or self._hellos.get(word)
        self._idle += word not in _PROGRESS
        if self.commands == 1 and looks_like_http(line):
            self._close(replies.HTTP)
        elif command is None and _HEADER_FIELD.match(line):  # the word of a command has no colon
            self._close(replies.HEADER)
        elif self._errors >= self.limits.errors or self._idle > self.limits.idle_commands:
            self._close(replies.TOO_MUCH_AMISS)
        elif command is not None:
            command(self, argument)
        elif word in _PROGRESS:
            self._error(_OUT_OF_SEQUENCE[self.state])
        else:
            self._error(replies.UNKNOWN_COMMAND)

    def helo_command(self, argument: bytes) -> None:
        """HELO name (RFC 5321 §4.1.1.1)."""
        if self._introduced(argument, esmtp=False):
            self._put(b"250 " + self.hostname)

    def ehlo_command(self, argument: bytes) -> None:
        """EHLO name (RFC 5321 §4.1.1.1), and LHLO name (RFC 2033 §4.1)."""
        if self._introduced(argument, esmtp=True):
            size = b"SIZE %d" % self.limits.message
            lines = [self.hostname, size, b"8BITMIME", b"PIPELINING"]
            self._put(b"".join(b"250-%b\r\n" % line for line in lines) + b"250 ENHANCEDSTATUSCODES")

    def mail_command(self, argument: bytes) -> None:
        """MAIL FROM:<path> [SIZE=n] [BODY=type] (RFC 5321 §4.1.1.2, RFC 1870 §6, RFC 6152 §2)."""
        read = paths.reverse_path(argument)
        if read is None:
            self._error(replies.BAD_SENDER)
            return
        path, rest = read
        given = paths.parameters(rest)
        if given is None:
            self._error(replies.BAD_PARAMETER)
            return
        if given and not self.esmtp:  # RFC 5321 §4.1.1.11: they belong to the extensions, which EHLO asks for
            self._error(replies.UNKNOWN_PARAMETER)
            return
        size, transfer = given.pop(b"SIZE", b"0"), given.pop(b"BODY", _TRANSFERS[0])
        if given:
            self._error(replies.UNKNOWN_PARAMETER)
        elif not (size.isdigit() and len(size) <= 20) or transfer.upper() not in _TRANSFERS:  # noqa: PLR2004 - RFC 1870 §6
            self._error(replies.BAD_PARAMETER)
        elif int(size) > self.limits.message:
            self._error(replies.TOO_LARGE)
        else:
            self._transaction.sender = path.text
            self.state = State.SENDER
            self._put(replies.SENDER_OK)

    def rcpt_command(self, argument: bytes) -> None:
        """RCPT TO:<path> (RFC 5321 §4.1.1.3)."""
        self._transaction.asked = True
        read = paths.forward_path(argument)
        if read is None:
            self._error(replies.BAD_RECIPIENT)
            return
        path, rest = read
        given = paths.parameters(rest)
        if given is None:
            self._error(replies.BAD_PARAMETER)
        elif given:
            self._error(replies.UNKNOWN_PARAMETER)
        elif len(self._transaction.recipients) >= self.limits.recipients:
            self._one_too_many()
        else:
            self._need = Verify(path.mailbox, path.domain)

    def data_command(self, argument: bytes) -> None:
        """Open the body: DATA (RFC 5321 §4.1.1.4)."""
        if argument:
            self._refuse_data(replies.NO_ARGUMENT)
        else:
            self._need = Open()

    def early_data_command(self, _argument: bytes) -> None:
        """Refuse DATA without a recipient (RFC 5321 §3.3, RFC 2033 §4.2)."""
        refused = self._transaction.asked and not self.lmtp
        self._refuse_data(replies.NO_RECIPIENTS if refused else _OUT_OF_SEQUENCE[self.state])

    def rset_command(self, argument: bytes) -> None:
        """RSET (RFC 5321 §4.1.1.5)."""
        if self._takes_nothing(argument):
            self._end_transaction()
            self._put(replies.OK)

    def vrfy_command(self, argument: bytes) -> None:
        """VRFY string (RFC 5321 §3.5.3, §7.3): the same for every name, so that it tells nothing."""
        if argument:
            self._put(replies.CANNOT_VERIFY)
        else:
            self._error(replies.ARGUMENT_MISSING)

    def help_command(self, _argument: bytes) -> None:
        """HELP (RFC 5321 §4.1.1.8)."""
        self._put(replies.HELP)

    def noop_command(self, _argument: bytes) -> None:
        """NOOP [string] (RFC 5321 §4.1.1.9)."""
        self._put(replies.OK)

    def quit_command(self, argument: bytes) -> None:
        """QUIT (RFC 5321 §4.1.1.10)."""
        if self._takes_nothing(argument):
            self.said_quit = True
            self._close(replies.BYE)

    def not_offered(self, _argument: bytes) -> None:
        """Refuse EXPN, AUTH or STARTTLS: known, not offered (RFC 5321 §4.2.4)."""
        self._error(replies.NOT_OFFERED)

    def bdat_command(self, _argument: bytes) -> None:
        """Refuse BDAT (RFC 3030): like a refused DATA, for a chunk of a message may follow at once."""
        self._refuse_data(replies.NOT_OFFERED)

    # --- recipients ---

    def _verified(self, verdict: Accepted | Unknown | Foreign | Unavailable) -> None:
        match verdict:
            case Accepted(address):
                self._transaction.recipients.append(address)
                self.state = State.RECIPIENTS
                self._put(replies.RECIPIENT_OK)
            case Unknown():
                self._error(replies.UNKNOWN_RECIPIENT)
            case Foreign():
                self._error(replies.FOREIGN_RECIPIENT)
            case Unavailable(full):
                self._error(replies.UNAVAILABLE[full])

    def _one_too_many(self) -> None:
        """Refuse a recipient for now (RFC 5321 §4.5.3.1.10).

        The client is to send what it has and then the others, so it is no error, unless it goes on and on.
        """
        self._transaction.surplus += 1
        if self._transaction.surplus > self.limits.recipients:
            self._error(replies.TOO_MANY_RECIPIENTS)
        else:
            self._put(replies.TOO_MANY_RECIPIENTS)

    # --- a message ---

    def _begin_body(self) -> None:
        self._body = Body(self.limits.message, self.limits.hops)
        self.state = State.BODY
        self._put(replies.START_INPUT)

    def _body_step(self, body: Body) -> bool:
        self._need = body.read(self._lines)
        if self._need is not None:
            return True
        if body.outcome is None:
            return False
        if body.flaw is None:
            recipients = self._transaction.recipients
            each = tuple(dict.fromkeys(recipients) if len(recipients) > 1 else recipients)
            self._need = Commit(Envelope(self._transaction.sender, each), body.plain)
        else:
            self._refuse_message(body.flaw)
            if body.outcome is not Outcome.DOT:
                self._leave()
        return True

    def _committed(self, envelope: Envelope, answer: Committed | Unavailable) -> None:
        if isinstance(answer, Unavailable):
            self._refuse_message(replies.UNAVAILABLE[answer.full])
        elif not any(answer.delivered):
            self._refuse_message(replies.UNKNOWN_RECIPIENT)
        else:
            self._errors = self._idle = 0
            if self.lmtp:
                delivered = dict(zip(envelope.recipients, answer.delivered, strict=True))
                for address in self._transaction.recipients:
                    self._put(replies.DELIVERED if delivered[address] else replies.UNKNOWN_RECIPIENT)
            else:
                self._put(replies.DELIVERED)
            self._end_transaction()
        if self._ended:
            self._leave()

    def _refuse_message(self, reply: bytes) -> None:
        """Reply to a body that was not taken; LMTP does so for each recipient (RFC 2033 §4.2)."""
        self._errors += 1
        for _ in self._transaction.recipients if self.lmtp else (None,):
            self._put(reply)
        self._end_transaction()

    def _refuse_data(self, reply: bytes) -> None:
        """Refuse DATA: what came with it is a message, whose lines are no commands (RFC 2920 §3.1)."""
        if self.backlog:
            self._close(reply)
        else:
            self._error(reply)

    # --- small things ---

    def _introduced(self, argument: bytes, *, esmtp: bool) -> bool:
        if not _CLIENT_NAME.fullmatch(argument):
            self._error(replies.BAD_NAME)
            return False
        self.helo = argument.decode("ascii")
        self.esmtp = esmtp
        self._end_transaction()  # RFC 5321 §4.1.4
        self.state = State.READY
        return True

    def _end_transaction(self) -> None:
        self._transaction = Transaction()
        self._body = None
        if self.in_transaction:
            self.state = State.READY

    def _takes_nothing(self, argument: bytes) -> bool:
        if argument:
            self._error(replies.NO_ARGUMENT)
        return not argument

    def _error(self, reply: bytes) -> None:
        """Reply to what was not done, and count it: a client that brings nothing else is let go."""
        self._errors += 1
        self._put(reply)

    def _close(self, reply: bytes) -> None:
        self._put(reply)
        self._leave()

    def _leave(self) -> None:
        self.closed = True
        self._lines.clear()

    def _put(self, reply: bytes) -> None:
        self._out.append(reply)
        self.unsent += len(reply) + 2


Command = Callable[[Session, bytes], None]

_ALWAYS: dict[bytes, Command] = {
    b"AUTH": Session.not_offered,
    b"BDAT": Session.bdat_command,
    b"DATA": Session.early_data_command,
    b"EXPN": Session.not_offered,
    b"HELP": Session.help_command,
    b"NOOP": Session.noop_command,
    b"QUIT": Session.quit_command,
    b"RSET": Session.rset_command,
    b"STARTTLS": Session.not_offered,
    b"VRFY": Session.vrfy_command,
}

COMMANDS: dict[State, dict[bytes, Command]] = {
    State.CONNECTED: _ALWAYS,
    State.READY: _ALWAYS | {b"MAIL": Session.mail_command},
    State.SENDER: _ALWAYS | {b"RCPT": Session.rcpt_command},
    State.RECIPIENTS: _ALWAYS | {b"RCPT": Session.rcpt_command, b"DATA": Session.data_command},
    State.BODY: {},
}
"""The commands of each state; what is not in its table is not accepted in that state."""

SMTP_HELLOS: dict[bytes, Command] = {b"EHLO": Session.ehlo_command, b"HELO": Session.helo_command}
LMTP_HELLOS: dict[bytes, Command] = {b"LHLO": Session.ehlo_command}
"""How a client says who it is, in every state but BODY (RFC 2033 §4.1: HELO and EHLO are not LMTP's)."""

_PROGRESS = frozenset({b"MAIL", b"RCPT", b"DATA", b"QUIT"})
"""The commands that bring a message nearer, and the one that frees the connection."""

_OUT_OF_SEQUENCE = {
    State.CONNECTED: replies.HELLO_FIRST,
    State.READY: replies.MAIL_FIRST,
    State.SENDER: replies.RECIPIENT_FIRST,
    State.RECIPIENTS: replies.MAIL_ALREADY,
}
