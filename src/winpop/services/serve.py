"""The word `winpop serve`: one service of one home, in the foreground.

Invariants: a home has one service at a time (a lease); what needs root is done first, and then root is given up for
the owner of the home, so that no process that parses bytes from the network has it.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from winpop.admin import certificates
from winpop.auth.contract import LOCAL
from winpop.auth.local.helper import Helper, start_helper
from winpop.auth.shared import Shared
from winpop.db.contract import Database
from winpop.db.home import Home, become_owner, check_owner
from winpop.db.leases import SERVICE, Leases
from winpop.db.upgrade import open_upgraded
from winpop.directory import settings as settings_table
from winpop.directory.settings import Settings
from winpop.services import listeners as listening
from winpop.services.census import Census
from winpop.services.master import Master, Service
from winpop.services.worker import run_loop, serve
from winpop.services.world import LogonParts, mail_root, mail_root_missing
from winpop.telemetry.log import Log, LogThread
from winpop.terms.refusals import Refusal, readable

if sys.platform != "win32":
    import resource

_TRIES, _PAUSE = 5, 0.05
_OWN_DESCRIPTORS = 200
"""Descriptors of a worker that are no connection's: listeners, database, log, threads."""


def run(home: Home, overrides: dict[str, str], workers: int | None, *, as_json: bool = False) -> int:
    """Serve until SIGTERM; return the exit status. Raises `Refusal` when it cannot begin.

    `overrides` are settings of listeners for this run; `workers` 0 serves from this process itself, None takes
    the setting.
    """
    signal.signal(signal.SIGTERM, _leave)
    check_owner(home.path)  # before anything is made, or is root's
    home.make()
    opened, copy = open_upgraded(home)
    # Open from here to the end: on a full disk the log that there is must not go with a connection.
    with contextlib.closing(opened) as database:
        thread = LogThread()
        log = Log(settings_table.load(database, overrides).logging, thread.write)
        if copy is not None:
            log.info("upgraded", before=copy)
        try:
            return _run(home, overrides, workers, database, log, as_json=as_json)
        finally:
            thread.close()


def _run(  # noqa: PLR0913 - what `run` has, and what it has found
    home: Home, overrides: dict[str, str], workers: int | None, database: Database, log: Log, *, as_json: bool
) -> int:
    settings = settings_table.load(database, overrides)
    endpoints = listening.wanted(settings)
    if not endpoints:
        raise Refusal("nothing-to-serve", "Every listener is off; give one an address, such as --pop3 127.0.0.1:1110.")
    for name in listening.NOT_BUILT:
        if getattr(settings, name) is not None:
            log.warning("not built", listener=name, detail="this version does not have it; the others serve")
    try:
        listeners = listening.bind(endpoints, settings.socketbacklog)
    except Refusal:
        become_owner(home.path)
        _only_service(home).close()  # if it is ours that listens there, say so instead
        raise
    helper = None
    try:
        helper = _local_accounts(home, database, settings)
        become_owner(home.path)
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            log.warning("root", detail="the home belongs to root, so the service runs as root; chown it to a user")
        _have_descriptors(settings.socketmax, log)
        leases = _only_service(home)
        try:
            _make_mail_root(home, database)  # only now: it cannot be moved any more
            certificates.ensure(database, settings.hostname)
            parts = LogonParts(Shared.make(), helper.descriptor if helper else None)
            service = Service(home, overrides, listeners, endpoints, Census.make(), workers, parts)
            return _serve(service, log, as_json=as_json)
        finally:
            leases.close()
    finally:
        if helper is not None:
            helper.close()
        for listener in listeners.values():
            listener.close()


def _have_descriptors(sessions: int, log: Log) -> None:
    """Have as many descriptors as so many sessions need (a large message takes two more), as far as the system lets us.

    Many systems begin with 1024 and allow a multiple to whoever asks.
    """
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * sessions + _OWN_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with contextlib.suppress(OSError, ValueError):  # what there is must do
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
    if soft != resource.RLIM_INFINITY and soft < sessions + _OWN_DESCRIPTORS:
        log.warning(
            "descriptors",
            allowed=soft,
            detail=f"too few for socketmax {sessions}; raise the limit (LimitNOFILE, ulimit -Hn), or lower socketmax",
        )


def _local_accounts(home: Home, database: Database, settings: Settings) -> Helper | None:
    """Start the helper for local accounts, where there are any: it keeps what this process is about to give up."""
    used = database.number("SELECT EXISTS (SELECT 1 FROM account WHERE method = ?)", LOCAL)
    return start_helper(home.path.stat().st_uid) if used or settings.auth == LOCAL else None


def _serve(service: Service, log: Log, *, as_json: bool) -> int:
    def ready(workers: int) -> None:
        _say_ready(service.home, service.listeners, workers, as_json=as_json)

    if service.workers == 0 or sys.platform == "win32":
        if service.workers != 0:
            log.info("one process", detail="this system cannot hand sockets to workers, so this process serves alone")
        return run_loop(
            serve(
                service.home,
                overrides=service.overrides,
                census=Census(service.census, 0),
                parts=service.parts,
                listeners=service.listeners,
                ready=lambda: ready(0),
            )
        )
    return run_loop(_keep(service, log, ready))


async def _keep(service: Service, log: Log, ready: Callable[[int], None]) -> int:
    return await Master(service, log).run(ready)


def _leave(*_: object) -> NoReturn:
    """End before anything serves; from then on masters and workers have their own way to end."""
    sys.exit(0)


def _make_mail_root(home: Home, database: Database) -> None:
    """Make the mail root of a new installation; one that was made and is away is refused, not made anew beside it."""
    settings = settings_table.load(database)
    blobs = mail_root(home, settings)
    used = settings.mailroot or database.number("SELECT EXISTS (SELECT 1 FROM body WHERE blob IS NOT NULL)")
    if used and not blobs.is_there():
        raise mail_root_missing(blobs)
    blobs.make()


def _only_service(home: Home) -> Leases:
    leases = Leases(home.leases)
    for _ in range(_TRIES):  # who only looks whether a service runs has the lease for a moment
        if leases.take(SERVICE):
            return leases
        time.sleep(_PAUSE)
    leases.close()
    raise Refusal(
        "service-running",
        f"A service runs on {readable(str(home.path))} already; stop that one, or take another home.",
    )


def _say_ready(home: Home, listeners: dict[str, socket.socket], workers: int, *, as_json: bool) -> None:
    names = {name: listening.name_of(listener) for name, listener in listeners.items()}
    if as_json:
        line = json.dumps({"ready": names, "workers": workers, "home": str(home.path)})
    else:
        shown = ", ".join(f"{name} {place}" for name, place in names.items())
        count = "one process" if workers == 0 else f"{workers} worker{'s' if workers > 1 else ''}"
        line = f"winpop is ready: {shown}; {count}; home {readable(str(home.path))}"
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError:
        pass  # nobody reads it; serving goes on
