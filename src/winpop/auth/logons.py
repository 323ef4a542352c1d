"""Who may come in: whatever a client shows, held against the method of the mailbox that it names.

Invariants: a verdict has three values, and an error of a method is the third, never a yes or a no; whatever the reason
to refuse, the answer comes by the clock (the pace of failures), so that the time tells nothing; an empty password, and
one that no password can be, reaches no method; what is remembered of a password that was right is worthless without
that password, and forgotten with it.

One file although it is long: each way in is a few lines, and all of them share these lookups and this order.
"""

import asyncio
import functools
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from winpop.auth import contexts, passwords
from winpop.auth.contract import DIRECTORY, FILE, NO_ACCOUNT, PASSWORD, Answer, Method, Right, Wrong
from winpop.auth.contract import CannotSay as MethodCannotSay
from winpop.auth.logindelay import LoginDelay
from winpop.auth.remembered import Remembered
from winpop.auth.sealing import Sealing, secret_context
from winpop.auth.throttle import LOOK, Pace, Throttle
from winpop.auth.tokens import Tokens, Whose
from winpop.db.contract import Reader, Transaction
from winpop.directory import mailboxes
from winpop.directory.mailboxes import Kept, Mailbox
from winpop.directory.settings import Settings
from winpop.protocol.sasl import scram_keys
from winpop.protocol.sasl.mechanisms import MECHANISMS
from winpop.telemetry.log import Log
from winpop.terms.credentials import (
    Apop,
    ClientCertificate,
    CramMd5,
    Credentials,
    Established,
    Failed,
    Password,
    Scram,
    ScramKeys,
    Token,
)
from winpop.terms.endpoints import IPAddress
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal

_LONGEST_PASSWORD = 248
_WRONG_HOLDS = 900.0
"""Seconds for which a password that a directory has refused is not shown to it again."""
_SCRAM_LOOK = 5.0
"""Seconds between two looks whether all mailboxes have their SCRAM keys."""


@dataclass(frozen=True, slots=True)
class Known:
    """The user is who they say, and this is their mailbox (locked or not)."""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class Stranger:
    """No such user, or not their password, or their account may not be used; `why` is for the log."""

    why: str = PASSWORD


@dataclass(frozen=True, slots=True)
class CannotSay:
    """It cannot be said now; `why` is for the log."""

    why: str = ""


Verdict = Known | Stranger | CannotSay


@dataclass(frozen=True, slots=True)
class Attempt:
    """A logon from `peer`; `exempt`: the limits per address do not apply to it.

    `certificates` are the addresses in the certificate that the client has shown; `gone` tells whether the client has
    hung up, so that nobody has to wait for it.
    """

    credentials: Credentials
    peer: IPAddress
    exempt: bool = False
    certificates: tuple[str, ...] = ()
    gone: Callable[[], bool] = lambda: False


class Hands(Protocol):
    """What logons need of the worker around them."""

    settings: Settings
    log: Log

    @property
    def reader(self) -> Reader:
        """What is read in the event loop's own thread."""
        ...

    async def in_hashing_thread(self, work: Callable[[], bool], host: str = "") -> bool:
        """Do slow work on passwords, for a client at `host` or some time. Raises `TimeoutError` when too much waits."""
        ...

    def submit(self, work: Callable[[Transaction], None]) -> None:
        """Make a small change some time, and be silent when it fails."""
        ...


@dataclass(frozen=True, slots=True)
class Memory:
    """What all workers remember together."""

    throttle: Throttle
    remembered: Remembered
    logindelay: LoginDelay


class Logons:
    """All ways in, for one worker. `methods` has those that this service can ask, by number."""

    def __init__(self, hands: Hands, methods: dict[int, Method], memory: Memory, sealing: Sealing) -> None:
        self._hands = hands
        self.methods = methods
        self._memory = memory
        self._sealing = sealing
        self._contexts = contexts.Contexts()
        self._tokens: Tokens | None = None
        self._configured: tuple[str, ...] = ()
        self._offered: dict[tuple[bool, tuple[str, ...], bool, bool], tuple[str, ...]] = {}
        self._offered_with: Settings | None = None
        """The mechanisms that peers were offered, and the settings that held then."""
        self._all_scram = False
        self._scram_look = 0.0
        self._learning: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what is offered ---

    def mechanisms(self, *, passwords: bool, bindings: dict[str, bytes], certificates: list[str]) -> tuple[str, ...]:
        """Return the SASL mechanisms that a peer is offered, the most wanted first."""
        settings = self._hands.settings
        scram = settings.scram > 0 and (settings.scram > 1 or self._all_have_scram_keys())
        if settings is not self._offered_with:
            self._offered, self._offered_with = {}, settings
        key = (passwords, tuple(bindings), bool(certificates), scram)
        if key not in self._offered:
            self._offered[key] = self._mechanisms(set(bindings), passwords=passwords, certificates=key[2], scram=scram)
        return self._offered[key]

    def _mechanisms(self, bindings: set[str], *, passwords: bool, certificates: bool, scram: bool) -> tuple[str, ...]:
        settings = self._hands.settings
        there = {"PLAIN", "LOGIN"} | contexts.supported(settings)
        if scram:
            there |= {name for name in MECHANISMS if name.startswith("SCRAM")}
        if settings.scramplus < (2 if "tls-exporter" not in bindings else 1):
            there -= {name for name in there if MECHANISMS[name].binds}
        if settings.crammd5 and self.has_secrets():
            there.add("CRAM-MD5")
        if settings.oauthissuer and settings.oauthaudience:
            there |= {"OAUTHBEARER", "XOAUTH2"}
        if certificates:
            there.add("EXTERNAL")
        return tuple(
            name
            for name, record in MECHANISMS.items()
            if name in there and (passwords or not record.in_clear) and (bindings or not record.binds)
        )

    def has_secrets(self) -> bool:
        """Tell whether APOP and CRAM-MD5 can be held against anything: the passwords are in the password file."""
        return self._hands.settings.auth == FILE

    def _all_have_scram_keys(self) -> bool:
        now = time.monotonic()
        if now >= self._scram_look:
            self._scram_look = now + _SCRAM_LOOK
            self._all_scram = mailboxes.all_have_scram_keys(self._hands.reader)
        return self._all_scram

    # --- verdicts ---

    def at_once(self, attempt: Attempt) -> Known | None:
        """Say who this is where nothing has to be waited for; None: `check` has to be asked, which says everything.

        That is where the password was right a short while ago, and nobody owes anything for guesses or is being looked
        at: then a turn in the throttle would begin now and be given back now. Most logons are such.
        """
        credentials, settings = attempt.credentials, self._hands.settings
        if not isinstance(credentials, Password) or not settings.logoncache:
            return None
        address = _address(credentials.name)
        if address is None or self._memory.throttle.owed(str(address), attempt.peer, exempt=attempt.exempt):
            return None
        mailbox = mailboxes.look_up(self._hands.reader, address)
        if mailbox is None or mailbox.method not in self.methods or _account_of(mailbox) is None:
            return None
        parts = self._parts(mailbox.method, mailbox, credentials.password)
        return Known(mailbox) if self._memory.remembered.holds(*parts) else None

    async def check(self, attempt: Attempt) -> Verdict:
        """Say who this is, at the pace that failures allow. Raises `Refusal` where the database cannot be read."""
        settings, throttle = self._hands.settings, self._memory.throttle
        pace = Pace(settings.failuredelay, settings.failuredelaymax, settings.failurerate)
        turn = throttle.before(_name_of(attempt), attempt.peer, pace, exempt=attempt.exempt)
        if turn is None:
            await asyncio.sleep(settings.failuredelay)  # else asking again and again would cost nothing
            return CannotSay("Too many logons of one name, or from one network, wait.")
        verdict: Verdict = CannotSay()
        try:
            while (left := turn.left()) > 0:
                await asyncio.sleep(min(left, LOOK))
                if attempt.gone():
                    return verdict
            verdict = await self._verdict(attempt)
        finally:
            if isinstance(verdict, Known):
                turn.succeeded()
            elif isinstance(verdict, CannotSay):
                turn.released()
        if isinstance(verdict, Stranger):
            # By the clock, not so long on top: how long a check took would tell who has a mailbox.
            await asyncio.sleep(turn.failed(_password_of(attempt)))
        return verdict

    async def _verdict(self, attempt: Attempt) -> Verdict:
        match attempt.credentials:
            case Password():
                return await self._by_password(attempt.credentials, str(attempt.peer))
            case Scram(name, hash_name, stored_key):
                return self._by_scram(name, hash_name, stored_key)
            case Apop(name, timestamp, digest):
                return self._by_secret(name, lambda secret: _md5(timestamp + secret), digest)
            case CramMd5(name, challenge, digest):
                return self._by_secret(name, lambda secret: hmac.digest(secret, challenge, "md5"), digest)
            case Token(name, token):
                return await self._usable(await self._by_token(name, token), attempt)
            case ClientCertificate(name):
                return await self._usable(self._by_certificate(name, attempt.certificates), attempt)
            case Established(_, principal, name):
                return await self._usable(await self._by_context(principal, name), attempt)
            case Failed():
                return Stranger()

    async def _by_password(self, credentials: Password, host: str) -> Verdict:
        password = credentials.password
        mailbox = await self._mailbox_of(credentials.name)
        if isinstance(mailbox, MethodCannotSay):
            return CannotSay(mailbox.why)
        number = mailbox.method if mailbox is not None else self._hands.settings.auth
        method = self.methods.get(number)
        if method is None:
            return CannotSay(f"The authentication method {number} is not there; 'winpop get' shows how it is set up.")
        if not password or b"\0" in password or len(password) > _LONGEST_PASSWORD:
            return Stranger("no password can be like that")
        answer, fresh = await self._remembering(method, number, mailbox, credentials, host)
        match answer:
            case MethodCannotSay(why):
                return CannotSay(why)
            case Wrong(why):
                return Stranger(why)
        assert mailbox is not None
        verdict = self.again(mailbox)
        if isinstance(verdict, Known) and number == FILE and fresh:
            self._learn(verdict.mailbox, password)
        return verdict

    def again(self, mailbox: Mailbox) -> "Known | Stranger":
        """Look once more at who was known a moment ago: meanwhile the mailbox may have been locked, or be another's."""
        now = mailboxes.by_id(self._hands.reader, [mailbox.id]).get(mailbox.id)
        if now is None or replace(now, domain_locked=False, own_lock=False) != replace(
            mailbox, domain_locked=False, own_lock=False
        ):
            return Stranger(NO_ACCOUNT)
        return Known(now)

    async def _remembering(
        self, method: Method, number: int, mailbox: Mailbox | None, credentials: Password, host: str
    ) -> tuple[Answer, bool]:
        """Ask the method, unless it has said yes to the same a short while ago; tell whether it was asked."""
        name, password = credentials.name, credentials.password
        remembered, seconds = self._memory.remembered, self._hands.settings.logoncache
        account = _account_of(mailbox)
        parts = self._parts(number, mailbox, password)
        if account is not None and seconds and remembered.holds(*parts):
            return Right(), False
        # A directory counts wrong passwords and shuts the owner out: the same one is not shown to it again and again.
        counted = number == DIRECTORY and account is not None
        if counted and remembered.holds(b"wrong", *parts):
            return Wrong(), False
        answer = await method.check(account, name, password, host)
        if isinstance(answer, Right) and account is None:
            return Wrong(NO_ACCOUNT), True  # whatever a method may say: nobody has no password
        if isinstance(answer, Right) and seconds:
            remembered.remember(*parts, seconds=seconds)
        if counted and answer == Wrong():
            remembered.remember(b"wrong", *parts, seconds=_WRONG_HOLDS)
        return answer, True

    def _parts(self, number: int, mailbox: Mailbox | None, password: bytes) -> tuple[bytes, bytes, bytes]:
        """Return all that makes a password right.

        What is to be kept of passwords is a part of it: when that becomes more, each has to be seen once more.
        """
        identifier, generation = (mailbox.id, mailbox.generation) if mailbox is not None else (0, 0)
        account = _account_of(mailbox) or ""
        scram, secret = self._keeps()
        return (
            b"%d %d %d %d%d" % (number, identifier, generation, scram, secret),
            account.encode("utf-8", "replace"),
            password,
        )

    async def _usable(self, verdict: Verdict, attempt: Attempt) -> Verdict:
        """Ask the method whether an account that no password has vouched for may be used at all."""
        if not isinstance(verdict, Known):
            return verdict
        mailbox = verdict.mailbox
        method, account = self.methods.get(mailbox.method), _account_of(mailbox)
        if mailbox.method == FILE:
            return verdict
        if method is None or account is None:
            return CannotSay(f"The authentication method {mailbox.method} is not there.")
        match await method.usable(account, str(attempt.peer)):
            case MethodCannotSay(why):
                return CannotSay(why)
            case Wrong(why):
                return Stranger(why)
        return self.again(mailbox)

    async def _mailbox_of(self, name: str) -> Mailbox | MethodCannotSay | None:
        """Return the mailbox that a logon name means: its address, or a name of its account elsewhere."""
        reader = self._hands.reader
        try:
            found = mailboxes.look_up(reader, Address.parse(name))
        except Refusal as refusal:
            if refusal.code not in {"bad-address", "bad-domain", "bad-mailbox-name"}:
                raise
            found = None
        if found is not None:
            return found
        for number, method in self.methods.items():
            account = await method.find(name) if number != FILE else None
            if isinstance(account, MethodCannotSay):
                return account
            if account is not None:
                return mailboxes.by_account(reader, number, account)
        return None

    def _keeps(self) -> tuple[bool, bool]:
        """Tell whether SCRAM keys, and whether passwords that can be read, are to be kept."""
        settings = self._hands.settings
        return bool(settings.scram), bool(settings.apop or settings.crammd5)

    def _learn(self, mailbox: Mailbox, password: bytes) -> None:
        """Keep the SCRAM keys, and where asked the secret, of a password that came in before they were kept."""
        hands = self._hands
        kept = mailboxes.kept(hands.reader, mailbox.id)
        wants_scram, wants_secret = self._keeps()
        if kept is None or mailbox.id in self._learning:
            return
        scram = wants_scram and (kept.scram_sha_1 is None or kept.scram_sha_256 is None)
        if not scram and not (wants_secret and kept.secret is None):
            return
        self._learning.add(mailbox.id)

        def derive() -> bool:
            sha_1, sha_256 = passwords.scram_texts(password) if scram else (None, None)
            secret = self._sealing.seal(password, secret_context(mailbox.id)) if wants_secret else None
            hands.submit(lambda tx: mailboxes.learn(tx, mailbox.id, Kept(kept.password_hash, sha_1, sha_256, secret)))
            return True

        async def learn() -> None:
            try:
                await hands.in_hashing_thread(derive)
            except (TimeoutError, Refusal, OSError):
                pass  # the next logon brings it again
            finally:
                self._learning.discard(mailbox.id)

        task = asyncio.get_running_loop().create_task(learn())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- SCRAM ---

    async def keys(self, name: str, hash_name: str) -> ScramKeys | None:
        """Return the SCRAM keys of a name, or something like them where nobody has it; None: it cannot be said."""
        try:
            mailbox = self._file_mailbox(name)
            found = self._scram_of(mailbox, hash_name)
            if found is not None:
                return found
            secret = self._sealing.derived("scram")
        except Refusal as refusal:
            self._hands.log.critical("scram", error=refusal)
            return None
        return scram_keys.unknown(_spelled(name), hash_name, secret, passwords.ITERATIONS)

    def _by_scram(self, name: str, hash_name: str, stored_key: bytes) -> Verdict:
        mailbox = self._file_mailbox(name)
        keys = self._scram_of(mailbox, hash_name)
        if mailbox is None or keys is None or not hmac.compare_digest(keys.stored_key, stored_key):
            return Stranger()
        return Known(mailbox)

    def _file_mailbox(self, name: str) -> Mailbox | None:
        try:
            mailbox = mailboxes.look_up(self._hands.reader, Address.parse(name))
        except Refusal as refusal:
            if refusal.code not in {"bad-address", "bad-domain", "bad-mailbox-name"}:
                raise
            return None
        return mailbox if mailbox is not None and mailbox.method == FILE else None

    def _scram_of(self, mailbox: Mailbox | None, hash_name: str) -> ScramKeys | None:
        kept = mailboxes.kept(self._hands.reader, mailbox.id) if mailbox is not None else None
        text = None if kept is None else kept.scram_sha_1 if hash_name == "SHA-1" else kept.scram_sha_256
        if text is None:
            return None
        try:
            return scram_keys.from_text(text)[1]
        except ValueError:
            return None

    # --- APOP and CRAM-MD5 ---

    def _by_secret(self, name: str, digest: Callable[[bytes], bytes], shown: bytes) -> Verdict:
        mailbox = self._file_mailbox(name)
        kept = mailboxes.kept(self._hands.reader, mailbox.id) if mailbox is not None else None
        try:
            secret = (
                self._sealing.open(kept.secret, secret_context(mailbox.id))
                if kept is not None and kept.secret is not None and mailbox is not None
                else None
            )
        except Refusal as refusal:
            return CannotSay(refusal.sentence)
        right = hmac.compare_digest(digest(secret or b"nobody"), shown)
        if mailbox is None or secret is None:
            return Stranger(NO_ACCOUNT if mailbox is None else "no secret is kept of its password")
        return Known(mailbox) if right else Stranger()

    # --- tokens, certificates, contexts ---

    async def _by_token(self, name: str, token: str) -> Verdict:
        hands, settings = self._hands, self._hands.settings
        configured = (settings.oauthissuer, settings.oauthaudience, settings.oauthkeys, settings.oauthclaim)
        if self._tokens is None or configured != self._configured:
            if self._tokens is not None:
                await self._tokens.close()
            self._tokens, self._configured = Tokens(*configured, log=hands.log), configured
        answer = await self._tokens.check(token, time.time())
        match answer:
            case Whose(address):
                return self._of_names(name, (address,))
            case Wrong(why):
                return Stranger(why)
            case MethodCannotSay(why):
                return CannotSay(why)

    def _by_certificate(self, name: str, certificates: tuple[str, ...]) -> Verdict:
        return self._of_names(name, certificates)

    def _of_names(self, wanted: str, names: tuple[str, ...]) -> Verdict:
        """Return the one mailbox that `names` mean, which has to be `wanted` where that is not empty."""
        found = {}
        for name in names:
            try:
                mailbox = mailboxes.look_up(self._hands.reader, Address.parse(name))
                meant = not wanted or Address.parse(wanted) == Address.parse(name)
            except Refusal as refusal:
                if refusal.code not in {"bad-address", "bad-domain", "bad-mailbox-name"}:
                    raise
                continue
            if mailbox is not None and meant:
                found[mailbox.id] = mailbox
        if len(found) != 1:
            return Stranger(NO_ACCOUNT if not found else "several mailboxes are meant")
        return Known(*found.values())

    def begin(self, mechanism: str) -> contexts.Context:
        """Begin a security context for GSSAPI or NTLM."""
        return self._contexts.begin(mechanism, self._hands.settings)

    async def _by_context(self, principal: str, name: str) -> Verdict:
        method = self.methods.get(DIRECTORY)
        account = await method.find(principal) if method is not None else None
        if isinstance(account, MethodCannotSay):
            return CannotSay(account.why)
        mailbox = mailboxes.by_account(self._hands.reader, DIRECTORY, account) if account is not None else None
        if mailbox is None:
            return Stranger(NO_ACCOUNT)
        if name:
            wanted = await self._mailbox_of(name)
            if isinstance(wanted, MethodCannotSay):
                return CannotSay(wanted.why)
            if wanted is None or wanted.id != mailbox.id:
                return Stranger("the client wants to be somebody else")
        return Known(mailbox)

    async def close(self) -> None:
        """Give back what the methods hold."""
        await self._contexts.close()
        for method in self.methods.values():
            await method.close()
        if self._tokens is not None:
            await self._tokens.close()


@functools.lru_cache(4096)
def _address(name: str) -> Address | None:
    try:
        return Address.parse(name)
    except Refusal:
        return None


def _spelled(name: str) -> str:
    """Return a name as it would be kept, so that all spellings of a name that nobody has are one, as of others."""
    address = _address(name)
    return name if address is None else str(address)


def _account_of(mailbox: Mailbox | None) -> str | None:
    if mailbox is None:
        return None
    return mailbox.password_hash if mailbox.method == FILE else mailbox.account


def _name_of(attempt: Attempt) -> str:
    """Return the name by which failures are counted."""
    credentials = attempt.credentials
    return _spelled(credentials.name or (credentials.principal if isinstance(credentials, Established) else ""))


def _password_of(attempt: Attempt) -> bytes | None:
    """Return what tells whether the same mistake is made again."""
    return attempt.credentials.password if isinstance(attempt.credentials, Password) else None


def _md5(data: bytes) -> bytes:
    import hashlib  # here: few ask for APOP

    return hashlib.md5(data, usedforsecurity=False).digest()
