"""What a POP3 session must answer, by the standards and without a look into it (RFC 1939, RFC 5034 §4, RFC 6856 §3).

Invariant: the model takes nothing from the session but what it says and what it asks.
"""

import re

from fuzz.chosen import law
from fuzz.pop3_world import CANARY, LIMITS, Held
from winpop.protocol import pop3
from winpop.terms.credentials import Password

STATUS = re.compile(rb"\+OK(?: [ -~\x80-\xff]+)?|-ERR [ -~\x80-\xff]+|\+ [A-Za-z0-9+/]*={0,2}")
_NUMBER = re.compile(rb"[0-9]{1,10}")
_UNKNOWN = {
    "en": b"-ERR Unknown command",
    "de": b"-ERR Unbekannter Befehl",
    "fr": b"-ERR Commande inconnue",
}
_LATER = b"STAT LIST RETR DELE NOOP RSET TOP UIDL".split()
_BEFORE = b"APOP AUTH PASS STLS USER UTF8".split()
_ALWAYS = b"CAPA LANG QUIT".split()


class Model:
    """A session as the standards have it: what each command must be answered."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.open = False
        self.deleted: set[int] = set()
        self.user: str | None = None
        self.utf8 = False
        self.language = "en"
        self.within = False
        """The server waits for a response (RFC 5034 §4)."""
        self.tls = False
        self.logons = 0

    @property
    def messages(self) -> tuple[bytes, ...]:
        return self.held.world.opened or ()

    @property
    def offer(self) -> pop3.Offer:
        return self.held.world.offer

    def left(self) -> list[int]:
        return [index for index in range(len(self.messages)) if index not in self.deleted]

    def totals(self) -> tuple[int, int]:
        return len(self.left()), sum(len(self.messages[index]) for index in self.left())

    def limit(self, line: bytes) -> int:
        """Return how long this line may be."""
        long = self.within or (not self.open and self.offer.logons and line[:5].upper() == b"AUTH ")
        return LIMITS.response if long else LIMITS.line

    def check(self, line: bytes, reply: bytes) -> None:
        """Check the reply to one line, and follow what it did."""
        status, crlf, rest = reply.partition(b"\r\n")
        law(crlf, "a reply has no line end", line, reply)
        law(STATUS.fullmatch(status), "this is no status line", line, status)
        law(len(status) <= 510 or self.within, "a status line is too long", status)
        law(CANARY not in status, "the client's bytes come back", line, status)
        keyword, space, argument = line.partition(b" ")
        keyword, given = keyword.upper(), argument if space else None
        law(self.language != "en" or status.isascii() or keyword == b"LANG", "this is not English", line, status)
        ok = status.startswith(b"+OK")
        logons = len(self.held.world.logons)
        if not ok:
            law(rest == b"", "more than an error is said", line, reply)
        if self.within:
            law(not ok or line != b"*", "what was cancelled succeeds", reply)
            self._over(status, ok=ok)
        elif self.open:
            self._transaction(keyword, given, reply, ok=ok)
            law(len(self.held.session.deleted) == len(self.deleted), "another number is marked", line)
            self._anywhere(keyword, given, status)
        else:
            self._authorization(keyword, given, reply, ok=ok)
            self._anywhere(keyword, given, status)
        if logons > self.logons:  # a name is for one logon
            self.user, self.logons = None, logons
        enough = self.held.world.refusals >= LIMITS.failures and not self.within
        law(not enough or self.held.session.closed, "failures do not close", line, reply)

    def _anywhere(self, keyword: bytes, argument: bytes | None, status: bytes) -> None:
        """Check what is the same in both states."""
        ok = status.startswith(b"+OK")
        if keyword == b"LANG" and ok and argument is not None:
            self.language = status.split(b" ")[1].decode("ascii")
            law(self.language in _UNKNOWN, "an unknown language is spoken", status)
        elif keyword not in (*_BEFORE, *_LATER, *_ALWAYS) and not self.held.session.closed:
            law(status == _UNKNOWN[self.language], "an unknown command is known", keyword, status)
        elif keyword == b"LANG" and argument is None:
            law(ok, "the languages are not listed", status)

    def _over(self, status: bytes, *, ok: bool) -> None:
        """Follow what a logon came to."""
        self.within = status.startswith(b"+ ")
        if ok:
            law(self.held.world.logons[-1].utf8 == self.utf8, "UTF8 is forgotten, or not", self.held.world.logons[-1])
            self.open = True

    def _authorization(self, keyword: bytes, argument: bytes | None, reply: bytes, *, ok: bool) -> None:
        status, _, rest = reply.partition(b"\r\n")
        listed = keyword == b"CAPA" or (keyword in (b"LANG", b"AUTH") and argument is None)
        listed = listed or (keyword == b"STLS" and self.held.world.early)
        law(not ok or keyword in (*_BEFORE, *_ALWAYS), "this is not for strangers", keyword, reply)
        law(listed or rest == b"", "more than a line is said", keyword, reply)
        law(not status.startswith(b"+ ") or keyword == b"AUTH", "a challenge to what asks for none", keyword, reply)
        if not self.offer.logons and keyword in (b"USER", b"PASS", b"AUTH"):
            why = status.startswith(b"-ERR [AUTH]") or self.held.session.closed
            law(why, "a stranger is told no reason", keyword, reply)
        match keyword:
            case b"USER":
                self.user = (argument or b"").decode("utf-8") if ok else None
                law(not ok or self.offer.passwords, "USER is taken in clear", reply)
            case b"PASS":
                self._passed(argument, ok=ok)
            case b"APOP":
                law(not ok or self.offer.timestamp is not None, "APOP is not offered", reply)
                self._over(status, ok=ok)
            case b"AUTH" if argument is not None:
                mechanism = argument.partition(b" ")[0].upper().decode("ascii", "replace")
                law(mechanism in self.offer.mechanisms or status.startswith(b"-ERR"), "this is not offered", argument)
                self._over(status, ok=ok)
            case b"AUTH":
                names = b"".join(name.encode() + b"\r\n" for name in self.offer.mechanisms)
                law(not ok or rest == names + b".\r\n", "AUTH lists something else", reply)
            case b"UTF8":
                law(ok == (argument is None) or self.held.session.closed, "UTF8 is wrong", reply)
                self.utf8 = self.utf8 or ok
            case b"STLS":
                self._secured(argument, reply, ok=ok)
            case b"CAPA" if ok:
                self._capable(reply)

    def _passed(self, argument: bytes | None, *, ok: bool) -> None:
        if ok:
            law(self.offer.passwords and self.user is not None, "PASS is taken without USER", argument)
            shown = self.held.world.logons[-1].credentials
            law(shown == Password(self.user or "", argument or b""), "another password is shown", shown)
        self._over(b"", ok=ok)

    def _secured(self, argument: bytes | None, reply: bytes, *, ok: bool) -> None:
        """RFC 2595 §4: nothing holds that was said in clear."""
        if ok:
            law(argument is None and not self.tls and self.held.world.tls, "TLS begins where it cannot", reply)
            refused = reply.endswith(b"\r\n-ERR Nothing may follow STLS before TLS has begun\r\n")
            law(refused == self.held.session.closed == self.held.world.early, "what came in clear counts", reply)
            self.tls = True
            self.user, self.utf8, self.language = None, False, "en"
        law(self.tls == self.held.world.tls, "TLS begins and nothing is said", reply)

    def _capable(self, reply: bytes) -> None:
        offered, rest = self.offer, reply.partition(b"\r\n")[2]
        law(rest.endswith(b"\r\n.\r\n") and rest.count(b"\r\n.") == 1, "CAPA has no end", rest)
        sasl = b"SASL " + " ".join(offered.mechanisms).encode() if offered.logons else b""
        for line, true in (
            (b"USER", offered.passwords),
            (sasl or b"SASL", offered.logons),
            (b"STLS", offered.stls and not self.open),
            (b"LOGIN-DELAY %d" % offered.login_delay, offered.login_delay),
            (b"EXPIRE NEVER", offered.expire is None),
            (b"EXPIRE 30", offered.expire == 30),
        ):
            law((b"\r\n" + line + b"\r\n" in reply) == bool(true), "CAPA promises what is not so", line, reply)

    def _transaction(self, keyword: bytes, argument: bytes | None, reply: bytes, *, ok: bool) -> None:
        law(keyword not in _BEFORE or not ok, "this comes before the logon", keyword, reply)
        match keyword:
            case b"STAT" | b"NOOP" | b"RSET" | b"QUIT" | b"CAPA" if argument is not None:
                law(not ok, "an argument is taken where there is none", keyword, argument)
            case b"STAT":
                law(reply == b"+OK %d %d\r\n" % self.totals(), "STAT counts wrong", reply, self.totals())
            case b"LIST" | b"UIDL":
                self._listed(keyword, argument, reply)
            case b"DELE" if self._index(argument) is not None:
                law(ok, "DELE of a message that is there fails", reply)
                self.deleted.add(self._index(argument) or 0)
            case b"RETR" if self._index(argument) is not None:
                self._given(reply, self._index(argument) or 0, None)
            case b"TOP":
                self._topped((argument or b""), reply)
            case b"RSET":
                self.deleted.clear()
                law(ok, "RSET fails", reply)
            case _:
                self._others(keyword, reply, ok=ok)

    def _others(self, keyword: bytes, reply: bytes, *, ok: bool) -> None:
        match keyword:
            case b"QUIT":
                law(self.held.world.updates == [tuple(sorted(self.deleted))], "QUIT removes what is not marked")
                law(self.held.session.closed, "QUIT does not close")
            case b"NOOP":
                law(reply == b"+OK\r\n", "NOOP fails", reply)
            case b"CAPA":
                law(ok, "CAPA fails", reply)
                self._capable(reply)
            case b"LANG":
                pass  # see `_anywhere`
            case _:
                law(not ok, "something unknown is done", keyword, reply)

    def _index(self, argument: bytes | None) -> int | None:
        number = int(argument) - 1 if _NUMBER.fullmatch(argument or b"") and argument else -1
        return number if 0 <= number < len(self.messages) and number not in self.deleted else None

    def _listed(self, keyword: bytes, argument: bytes | None, reply: bytes) -> None:
        def shown(index: int) -> bytes:
            what = b"%d" % len(self.messages[index]) if keyword == b"LIST" else b"u%d" % (index + 1)
            return b"%d %b\r\n" % (index + 1, what)

        index = self._index(argument)
        if argument is None:
            lines = reply.partition(b"\r\n")[2]
            law(lines == b"".join(map(shown, self.left())) + b".\r\n", "a listing is wrong", keyword, reply)
        elif index is not None:
            law(reply == b"+OK " + shown(index), "a line of a listing is wrong", reply)
        else:
            law(reply.startswith(b"-ERR"), "what is not there is listed", argument, reply)

    def _topped(self, argument: bytes, reply: bytes) -> None:
        number, _, lines = argument.partition(b" ")
        index = self._index(number)
        if index is not None and _NUMBER.fullmatch(lines):
            self._given(reply, index, int(lines))
        else:
            law(reply.startswith(b"-ERR"), "TOP of nothing is given", argument, reply)

    def _given(self, reply: bytes, index: int, lines: int | None) -> None:
        """Check a message on its way out: as a whole, or so many lines of its body."""
        asked, readable = self.held.world.fetched[-1]
        law(asked == index, "another message is asked for", index, asked)
        text = self.messages[index] if lines is None else _top(self.messages[index], lines)
        body = reply.partition(b"\r\n")[2]
        whole = _stuffed(text)
        if readable:
            law(body == whole, "a message goes out changed", index, lines, reply)
        elif body != whole:  # TOP may have had enough before it broke off
            law(not body.endswith(b"\r\n.\r\n"), "half a message looks like a whole one", reply)
            law(reply.startswith(b"-ERR") or self.held.session.closed, "half a message goes on", reply)


def _top(message: bytes, lines: int) -> bytes:
    header, blank, body = (b"\r\n" + message).partition(b"\r\n\r\n")
    kept = body.split(b"\r\n")
    more = kept[lines:] != []
    return (header + blank)[2:] + b"\r\n".join(kept[:lines]) + (b"\r\n" if more and lines else b"")


def _stuffed(message: bytes) -> bytes:
    lines = message.removesuffix(b"\r\n").split(b"\r\n") if message else []
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"
