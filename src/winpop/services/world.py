"""The parts that a worker works with, built by hand.

Invariant: everything here belongs to one worker process and one event loop; between workers there are only the
database, the files of the home, the leases and the census.
"""

import asyncio
import contextlib
import secrets
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from winpop.auth.active_directory.service import ActiveDirectory
from winpop.auth.contract import DIRECTORY, FILE, LOCAL, Method
from winpop.auth.local.method import LocalMethod
from winpop.auth.logindelay import LoginDelay
from winpop.auth.logons import Logons, Memory
from winpop.auth.password_file import PasswordFile
from winpop.auth.remembered import Remembered
from winpop.auth.sealing import LDAP_PASSWORD, Sealing
from winpop.auth.shared import Shared
from winpop.auth.throttle import Throttle
from winpop.db.contract import Transaction
from winpop.db.home import Home
from winpop.db.leases import Leases
from winpop.db.sqlite import Sqlite
from winpop.db.turns import Turns
from winpop.db.writer import Writer
from winpop.directory import settings as settings_table
from winpop.protocol.pop3 import Limits, Offer
from winpop.services.census import Census
from winpop.services.hashing import Hashing
from winpop.services.recipients import Recipients
from winpop.services.tls import Tls
from winpop.store.blobs import Blobs
from winpop.store.compared import Compared
from winpop.store.maildrops import Opened
from winpop.telemetry.log import Log, LogThread
from winpop.terms.endpoints import IPAddress, parse_peer, within
from winpop.terms.refusals import Refusal, out_of_reach, readable

T = TypeVar("T")
_MOST_PEERS = 1000
_ROOM_HOLDS = 1.0
"""Seconds between two looks at the free disk."""


@dataclass(frozen=True, slots=True)
class LogonParts:
    """What a service made for the logons of all its workers: descriptors that they inherit."""

    shared: int
    """Of the memory that they share."""
    accounts: int | None
    """Of the helper for local accounts, None where there is none."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return (self.shared,) if self.accounts is None else (self.shared, self.accounts)


class World:
    """What a worker's connections use. `reader` is for the event loop's own thread, `writer` for changes."""

    def __init__(
        self,
        home: Home,
        overrides: dict[str, str],
        census: Census,
        parts: LogonParts,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Open everything. Raises `Refusal`."""
        self.home = home
        self.loop = loop
        self.seed = secrets.token_bytes(32)
        """What nobody can guess and no other worker has, with the number of each POP3 session since the start."""
        self.sessions = 0
        self._peers: dict[str, tuple[IPAddress, str, bool, bool]] = {}
        self._log_thread = LogThread()
        self.log = Log(write=self._log_thread.write)
        self.reader = _opened(home)
        self._overrides = overrides
        self.settings = settings_table.load(self.reader, overrides)
        self.generation = self.changes()
        self.leases = Leases(home.leases)
        self.blobs = mail_root(home, self.settings)
        if not self.blobs.is_made():
            raise mail_root_missing(self.blobs)
        self.maildrops = Opened(self.settings.listingcache)
        self.compared = Compared(loop.time, self.settings.checkagain)
        self.census = census
        turns = Turns(self.leases) if sys.platform != "win32" else None  # there one process serves
        self.writer = Writer(lambda: _opened(home), loop.call_soon_threadsafe, loop.call_soon, turns)
        self.files = ThreadPoolExecutor(4, "files")
        self._hashing = Hashing(loop, lambda: self.settings.logonqueue)
        self._room = True
        self._look_for_room = 0.0
        self._sealing = Sealing(home)
        self.shared = Shared(parts.shared)
        self.logindelay = LoginDelay(self.shared)
        self.tls = Tls(self.log)
        self._throttle = Throttle(self.shared)
        memory = Memory(self._throttle, Remembered(self.shared), self.logindelay)
        self._has_helper = parts.accounts is not None
        self._local = LocalMethod(parts.accounts, lambda: self.settings.pamservice, waiting=self.settings.logonqueue)
        self._directory_settings: tuple[object, ...] = ()
        self._going: set[asyncio.Task[None]] = set()
        self.recipients = Recipients(self)
        self.logons = Logons(self, {}, memory, self._sealing)
        self.take_changes()

    def changes(self) -> int:
        """Return the number of the last administrative change: the change feed."""
        return self.reader.number("SELECT max(id) FROM audit")

    def take_changes(self) -> None:
        """Take settings and certificates as they are now; they hold for what begins from now on."""
        self.settings = settings_table.load(self.reader, self._overrides)
        if self.settings.listingcache != self.maildrops.most:
            self.maildrops = Opened(self.settings.listingcache)
        if self.settings.checkagain != self.compared.seconds:
            self.compared = Compared(self.loop.time, self.settings.checkagain)
        settings = self.settings
        self.pop3_limits = Limits(
            settings.linelength, failures=settings.failuremax or sys.maxsize, errors=settings.errormax
        )
        self.offers: dict[object, Offer] = {}
        """What POP3 sessions were offered since then."""
        self._peers.clear()
        self.log.level = self.settings.logging
        self.tls.take(self.reader)
        self.logons.methods = self._methods()

    def who(self, peer: str) -> tuple[IPAddress, str, bool, bool]:
        """Return the address of a peer, its text, whether it is a proxy's, and whether it is trusted."""
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= _MOST_PEERS:
                self._peers.clear()
            address, settings = parse_peer(peer), self.settings
            known = address, str(address), within(address, settings.proxies), within(address, settings.trusted)
            self._peers[peer] = known
        return known

    def _methods(self) -> dict[int, Method]:
        """Return the methods that can be asked; one whose settings have changed begins anew."""
        methods: dict[int, Method] = {FILE: PasswordFile(self.in_hashing_thread)}
        if self._has_helper or self.settings.auth == LOCAL:  # without it, it can only say that it is not there
            methods[LOCAL] = self._local
        settings = self.settings
        names = [name for name in settings_table.SETTINGS if name.startswith("ldap")]
        configured = tuple(getattr(settings, name) for name in names)
        before = self.logons.methods.get(DIRECTORY)
        if configured == self._directory_settings:
            return methods | ({DIRECTORY: before} if before is not None else {})
        self._directory_settings = configured
        if before is not None:
            task = self.loop.create_task(before.close())
            self._going.add(task)
            task.add_done_callback(self._going.discard)
        if settings.ldapservers:
            try:
                methods[DIRECTORY] = ActiveDirectory(settings, self._ldap_password())
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one method, the others go on
                self.log.critical("active directory", error=type(error).__name__)
        return methods

    def _ldap_password(self) -> str:
        """Return the password that Active Directory is looked up with; one that cannot be opened is as good as none."""
        try:
            sealed = self.settings.ldappassword
            return self._sealing.open_text(sealed, LDAP_PASSWORD) if sealed else ""
        except Refusal as refusal:
            self.log.critical("ldappassword", error=refusal)
            return ""

    def has_room(self) -> bool:
        """Tell whether mail may come in: there is more free disk than is kept for everything else."""
        now = self.loop.time()
        if now >= self._look_for_room:
            self._look_for_room = now + _ROOM_HOLDS
            try:
                free = min(shutil.disk_usage(path).free for path in (self.home.path, self.blobs.root))
            except OSError as error:
                self.log.critical("disk", error=error)
                free = 0
            if (free >= self.settings.diskreserve) != self._room:
                self._room = not self._room
                self.log.critical("disk", free=free, mail="comes in again" if self._room else "is refused for now")
        return self._room

    def in_thread(self, work: Callable[[], T], then: Callable[[T | BaseException], None]) -> None:
        """Do blocking work on files in a thread, then call `then` in the loop with its result or its error."""

        def done(future: Future[T]) -> None:
            self.loop.call_soon_threadsafe(lambda: then(future.exception() or future.result()))

        self.files.submit(work).add_done_callback(done)

    def submit(self, work: Callable[[Transaction], None]) -> None:
        """Make a small change some time, and be silent when it fails."""
        self.writer.submit(work, lambda _: None)

    async def in_hashing_thread(self, work: Callable[[], bool], host: str = "") -> bool:
        """Do slow work on a password in a thread, for a client at `host` that waits, or some time.

        Raises `TimeoutError` when too much waits already.
        """
        last = not host or self._throttle.suspects(parse_peer(host))
        return await self._hashing.run(work, host, last=last)

    def close(self) -> None:
        """Finish what was begun and give everything back."""
        self.files.shutdown()
        self._hashing.close()
        self.writer.close()
        self.reader.close()
        self.leases.close()
        self.census.close()
        self.shared.close()
        self.log.defer = None
        self.log.flush()
        self._log_thread.close()


def _opened(home: Home) -> Sqlite:
    """Open the database; a file of it that could only be opened for reading shows now, and is opened anew."""
    database = Sqlite(home)
    with contextlib.suppress(Refusal), database.write():
        pass
    return database


def mail_root_missing(blobs: Blobs) -> Refusal:
    """Make the refusal for a mail root that was made and is not there."""
    return out_of_reach(
        "mailroot-missing",
        f"The mail root {readable(str(blobs.root))} is not there, or is empty; mount its disk, or bring it back from a "
        "backup.",
    )


def mail_root(home: Home, settings: settings_table.Settings) -> Blobs:
    """Return the mail root that the settings name."""
    return Blobs(Path(settings.mailroot) if settings.mailroot else home.mail)
