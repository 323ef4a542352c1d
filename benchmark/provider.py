"""A provider's evening: the mail of an Internet provider's users in their busiest hour, by SMTP and POP3 at once.

Many look whether there is something and few fetch it; mail of all sizes comes in meanwhile. The load is what so many
users make, whether the server keeps up or not, and is doubled until an answer comes too late: 95 of 100 have to come
within their service level. The idea of such a yardstick is old; the profile, its numbers and its levels are our own.

Invariant: arrivals are at random moments, and a session's time runs from when it was due, so that a server that falls
behind cannot hide it by answering fewer.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import bench, generator, population
from benchmark.bench import Bench, Extent, Row
from benchmark.generator import Answer, RunError, Times, Traffic
from benchmark.population import PROVIDER
from benchmark.server import Server

SESSIONS, MESSAGES = 2, 1
"""POP3 sessions and messages that come in, of each user in the busiest hour."""
OVER_TLS = 0.5
FETCHING = 30
"""Per cent of the sessions that fetch and delete all that is there."""
SIZES = "512 262144"
"""Octets of a message; each doubling is as likely as the next, so half of them are below 12 KiB."""
SMALLEST, MOST_STEPS = 50_000, 10
LEVELS: dict[str, float] = {
    "greeting": 200,
    "logon": 200,
    "list": 200,
    "fetch": 300,
    "quit": 300,
    "recipient": 200,
    "stored": 300,
    "session": 2000,
}
"""Service levels: milliseconds within which 95 of 100 answers come."""
WHAT = {
    "greeting": "the greeting, after the TLS handshake where there is one",
    "logon": "the answer to USER and PASS",
    "list": "the answers to STAT and UIDL",
    "fetch": "a message fetched, and its deletion marked",
    "quit": "the answer to QUIT, the deletion durable",
    "recipient": "the answers to MAIL, RCPT and DATA",
    "stored": "the answer to a message that comes in",
    "session": "a whole session, from when it was due",
}
_DELIVERED_WITHIN = 5.0
"""Seconds after the last arrival within which all mail is in the mailboxes."""

_READER = f"""\
clock greeting
reply
stop
clock logon
send USER %u
reply
send PASS %p
reply
stop
clock list
send STAT
count
send UIDL
multi
stop
chance {FETCHING}
repeat 1 count
clock fetch
send RETR %n
message
send DELE %n
reply
stop
end
end
clock quit
send QUIT
reply
stop
"""
_SENDER = f"""\
clock greeting
reply
send EHLO generator.benchmark.invalid
reply
stop
clock recipient
send MAIL FROM:<sender@elsewhere.example>
send RCPT TO:<%u>
send DATA
reply
reply
reply
stop
body {SIZES}
stored
send QUIT
reply
"""


@dataclass(slots=True)
class _Climb:
    """The loads that a server is given: doubled while it keeps the levels, then once half-way back."""

    smtp: Server
    pop3: Server
    steps: list[Row] = field(default_factory=list)
    next: int | None = SMALLEST

    def took(self, step: Row) -> None:
        """Take a step's outcome; it decides about the next."""
        self.steps.append(step)
        kept = [done["users"] for done in self.steps if done["kept"]]
        failed = [done["users"] for done in self.steps if not done["kept"]]
        if not failed:
            self.next = step["users"] * 2
        elif kept and min(failed) == max(kept) * 2:
            self.next = max(kept) * 3 // 2
        else:
            self.next = None


def measure(place: Bench, extent: Extent) -> Row:
    """Raise the load on both servers in turn until a level is not kept. What fails is in the result (`failed`)."""
    seconds = 1.0 if extent.quick else max(4.0, 2 * extent.seconds)
    half = PROVIDER.mailboxes // 2
    users = place.users(PROVIDER)
    readers = [
        population.write_users(place.root / f"users-provider-{part}", PROVIDER.addresses()[start : start + half])
        for part, start in (("plain", 0), ("tls", half))
    ]
    found: Row = {"failed": None, "servers": []}
    try:
        climbs = [_Climb(place.winpop(), place.winpop()), _Climb(place.postfix(), place.dovecot())]
        for climb in climbs:
            for file in readers:
                bench.acquaint(climb.pop3, file, half)
        for _ in range(2 if extent.quick else MOST_STEPS):
            for climb in climbs:
                if climb.next is not None:
                    climb.took(_tried(climb, seconds, users, readers))
        found["servers"] = [{"name": climb.smtp.name, "steps": climb.steps} for climb in climbs]
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts are to be measured
        found["failed"] = bench.failure(error)
    return found


def _tried(climb: _Climb, seconds: float, users: Path, readers: list[Path]) -> Row:
    assert climb.next is not None
    try:
        return _step(climb, climb.next, seconds, _traffics(climb, seconds, users, readers))
    except RunError as error:
        return {"users": climb.next, "kept": False, "why": str(error)}


def _traffics(climb: _Climb, seconds: float, users: Path, readers: list[Path]) -> list[Traffic]:
    """Return what the generators do: readers without and with TLS, and senders."""

    def rate(each: float) -> tuple[str, str]:
        return ("--rate", f"{(climb.next or 0) * each / 3600:.3f}")

    plain, tls = readers
    pop3, smtp = climb.pop3, climb.smtp
    return [
        Traffic(pop3.ports["pop3"], _READER, 200, plain, seconds=seconds, flags=rate(SESSIONS * (1 - OVER_TLS))),
        Traffic(pop3.ports["pop3s"], _READER, 200, tls, seconds=seconds, flags=(*rate(SESSIONS * OVER_TLS), "--tls")),
        Traffic(
            smtp.ports["smtp"],
            _SENDER,
            200,
            users,
            seconds=seconds,
            flags=(*rate(MESSAGES), "--random", "--share"),
        ),
    ]


def _step(climb: _Climb, people: int, seconds: float, traffics: list[Traffic]) -> Row:
    before = climb.smtp.cpu()  # Dovecot's are among Postfix's
    running = [generator.begin(traffic) for traffic in traffics]
    answers: list[Answer] = []
    try:
        for process in running:
            answers.append(generator.finish(process, seconds + 60))  # noqa: PERF401 - kept as far as it goes
        waited = time.monotonic()
        climb.smtp.deliver_all()
        waited = time.monotonic() - waited
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()
    cpu = climb.smtp.cpu() - before
    elapsed = max(answer.elapsed for answer in answers)
    p95 = _p95(answers)
    why = ", ".join(f"{name} {late:.0f} ms" for name, late in p95.items() if late > LEVELS[name])
    if waited > _DELIVERED_WITHIN:
        why = f"{why + ', ' if why else ''}mail delivered {waited:.0f} s late"
    return {
        "users": people,
        "kept": not why,
        "why": why,
        "p95": p95,
        "cores": round(cpu / elapsed, 4),
        "sessions": sum(answer.sessions for answer in answers[:2]),
        "messages": answers[2].messages,
        "generator": round(sum(answer.cpu for answer in answers) / (os.cpu_count() or 1) / elapsed, 4),
    }


def _p95(answers: list[Answer]) -> dict[str, float]:
    """Return the time within which 95 of 100 came, of each operation; with and without TLS the worse of both."""
    found: dict[str, float] = {}

    def take(name: str, times: Times) -> None:
        if times.count:
            found[name] = max(found.get(name, 0.0), times.p95)

    for answer in answers:
        for name, times in answer.named.items():
            take(name, times)
        take("session", answer.session)
    take("stored", answers[2].message)
    return {name: found[name] for name in LEVELS if name in found}
