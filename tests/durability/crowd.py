"""Many at once: clients, senders, administrators and crashes on the real service, held against a model.

Hypothesis draws what happens; a step that meets nothing to work on does something near it, so that no draw depends on
what the kernel did (which worker has which connection). Invariant: each rule leaves the model and the home agreeing;
what they share, and who looks after them, is in `model`.
"""

import contextlib
import itertools
import os
import random
import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from durability.model import Model, Open, step
from durability.report import Extent, Result
from durability.service import patience, runs
from durability.traffic import DOMAINS, LOCKED_REPLY, SIZES, GoneError, prepared
from services.wire import change, eventually, holder_of, paused

_NO_MORE = b"-ERR [SYS/PERM] This mailbox is no more"
_WRONG_PASSWORD = b"-ERR [AUTH] The name or the password is wrong"
_WHICH = st.integers(0, 11)

DEFECTS = {
    "a deletion too many": """
from winpop.store import maildrops
right = maildrops.expunge
def expunge(transaction, mailbox_id, messages):
    rows = transaction.all("SELECT id FROM message WHERE mailbox_id = ? ORDER BY id DESC LIMIT 1", mailbox_id)
    return right(transaction, mailbox_id, [*messages, *(row[0] for row in rows)])
maildrops.expunge = expunge
""",
    "a maildrop for two": """
from winpop.db import leases
leases._lock = lambda descriptor, number: True
""",
}
"""What can be broken in the service on purpose: Python runs it in every process as `sitecustomize`."""


class Crowd(Model):
    """What they can do."""

    # --- clients ---

    @rule(which=_WHICH)
    @step
    def log_on(self, *, which: int) -> None:
        """Log on to a mailbox, open or not, locked or not."""
        mailboxes = list(self.there)
        mailbox = mailboxes[which % len(mailboxes)]
        if self.is_locked(mailbox):
            self.refused(mailbox, self.there[mailbox], LOCKED_REPLY)
        elif self.held(mailbox):
            self.refused(mailbox, self.there[mailbox], b"-ERR [IN-USE]")
        else:
            self.enter(mailbox)

    @rule(which=_WHICH, number=_WHICH)
    @step
    def fetch(self, *, which: int, number: int) -> None:
        """Fetch a message of the snapshot, octet for octet."""
        session = self.some_open(which)
        if session and session.seen:
            index = number % len(session.seen)
            if index in session.marked:
                assert session.client.ask(b"RETR %d" % (index + 1)).startswith(b"-ERR")
                return
            octets = session.client.fetched(b"RETR %d" % (index + 1))
            assert len(octets) == session.sizes[index]
            wrong = self.book.wrong_octets(session.mailbox, session.seen[index][0], octets)
            assert not wrong, wrong

    @rule(which=_WHICH)
    @step
    def see_the_same(self, *, which: int) -> None:
        """See the snapshot as it was at the logon, but for what was marked."""
        session = self.some_open(which)
        if session:
            left = [index for index in range(len(session.seen)) if index not in session.marked]
            shown = [line.split() for line in session.client.fetched(b"UIDL").splitlines()]
            assert shown == [[b"%d" % (index + 1), session.seen[index][1].encode()] for index in left]
            octets = sum(session.sizes[index] for index in left)
            assert session.client.ask(b"STAT") == b"+OK %d %d" % (len(left), octets)

    @rule(which=_WHICH, numbers=st.sets(_WHICH, max_size=4))
    @step
    def mark(self, *, which: int, numbers: set[int]) -> None:
        """Mark messages as deleted; with no number, take all marks back."""
        session = self.some_open(which)
        if session and not numbers:
            assert session.client.ask(b"RSET").startswith(b"+OK")
            session.marked.clear()
        elif session:
            self._mark(session, numbers)

    @rule(which=_WHICH, numbers=st.sets(_WHICH, max_size=3))
    @step
    def quit(self, *, which: int, numbers: set[int]) -> None:
        """End a session: what it has marked is deleted, and nothing else."""
        session = self.some_open(which)
        if session:
            self._mark(session, numbers)
            self.open.remove(session)
            with contextlib.closing(session.client):
                self.book.deleting(session.mailbox, session.tokens())
                reply = session.client.ask(b"QUIT")
                assert reply.startswith(b"+OK"), reply
                self.book.deleted(session.mailbox, session.tokens())

    @rule(which=_WHICH)
    @step
    def vanish(self, *, which: int) -> None:
        """Reset a session's connection: nothing is deleted."""
        session = self.some_open(which)
        if session:
            self.open.remove(session)
            session.client.vanish()

    # --- senders ---

    @rule(lmtp=st.booleans(), to=st.sets(_WHICH, min_size=1, max_size=3), size=st.sampled_from(SIZES))
    @step
    def begin(self, *, lmtp: bool, to: set[int], size: int) -> None:
        """Begin to hand in a message."""
        mailboxes = list(self.there)
        recipients = sorted({mailboxes[n % len(mailboxes)] for n in to})
        self._begin("lmtp" if lmtp else "smtp", recipients, size)

    @rule(which=_WHICH, pieces=st.integers(1, 3), everything=st.booleans())
    @step
    def advance(self, *, which: int, pieces: int, everything: bool) -> None:
        """Go on with a message, or with all that are under way: recipients, a half of it, the rest with its dot."""
        if not self.coming:
            self._begin("smtp", list(self.there)[:2], SIZES[which % len(SIZES)])
        for coming in list(self.coming) if everything else [self.coming[which % len(self.coming)]]:
            for _ in range(pieces):
                if coming in self.coming:
                    self._advance(coming)

    @rule(which=_WHICH, dot=st.booleans())
    @step
    def break_off(self, *, which: int, dot: bool) -> None:
        """Vanish while a message is handed in, perhaps right after its dot: then it may be there, or come."""
        if self.coming:
            coming = self.coming[which % len(self.coming)]
            if dot and coming.phase == 2:
                self._dot(coming)
            self.coming.remove(coming)
            coming.client.vanish()

    # --- administrators ---

    @rule(which=_WHICH, domain=st.booleans(), locked=st.booleans())
    @step
    def turn(self, *, which: int, domain: bool, locked: bool) -> None:
        """Lock or unlock a domain or a mailbox."""
        targets = DOMAINS if domain else list(self.there)
        self._turn(targets[which % len(targets)], locked=locked)

    @rule(which=_WHICH, domain=st.booleans())
    @step
    def quit_after_the_lock(self, *, which: int, domain: bool) -> None:
        """Let a worker find a lock and a QUIT that came after it at the same time: nothing is deleted."""
        session = self.some_open(which)
        if not session:
            return
        if not session.marked:
            self._mark(session, {0})
        target = session.mailbox.partition("@")[2] if domain else session.mailbox
        victim = holder_of(self.service, session.client)
        assert victim is not None, "nobody has the other end of an open session"
        self.book.deleting(session.mailbox, session.tokens())
        with paused(victim, self.home):
            self.traffic.turn(target, locked=True)
            self.locked.add(target)
            session.client.send(b"QUIT\r\n")
        if not session.marked:  # a QUIT with nothing to delete needs no commit, and hears of no lock
            self.open.remove(session)
            session.client.close()
        self.ended([each for each in self.open if each.mailbox in self._of(target)], LOCKED_REPLY)
        self.book.kept(session.mailbox, session.tokens())

    @rule(which=st.integers(0, 3))
    @step
    def add_or_delete(self, *, which: int) -> None:
        """Make a mailbox that is not there, delete one that is: its session ends, its mail is gone."""
        address = f"new{which}@{DOMAINS[which % 2]}"
        self.book.mailbox(address, None)
        if address not in self.there:
            change(self.home, "add", target=address, createuser="secret")
            self.book.mailbox(address, True)
            self.there[address] = "secret"
            if address in self.free():
                self.enter(address)
            return
        change(self.home, "delete", target=address)
        self.book.mailbox(address, False)
        if address in self.locked:
            self.locked.discard(address)
            self.book.lock(address, False)
        password = self.there.pop(address)
        self.ended([each for each in self.open if each.mailbox == address], _NO_MORE)
        self.refused(address, password, _WRONG_PASSWORD)

    @rule(which=_WHICH)
    @step
    def change_password(self, *, which: int) -> None:
        """Change a password: the old one stops, the new one works, an open session goes on."""
        mailbox = list(self.there)[which % len(self.there)]
        before, self.there[mailbox] = self.there[mailbox], f"password-{next(self.tokens)}"
        change(self.home, "changepwd", address=mailbox, newpassword=self.there[mailbox])
        self.refused(mailbox, before, _WRONG_PASSWORD)
        if session := self.held(mailbox):
            assert session.client.ask(b"NOOP").startswith(b"+OK")
        elif not self.is_locked(mailbox):
            self.enter(mailbox)

    # --- crashes ---

    @rule(which=_WHICH, busy=st.booleans())
    @step
    def kill_a_worker(self, *, which: int, busy: bool) -> None:
        """Kill a worker: its connections end, the others do not, and there are two again."""
        service, workers = self.service, self.service.workers()
        victim = workers[which % len(workers)]
        flight = self._in_flight(want=busy)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: not runs(victim), patience(15))
        self._landed(flight)
        eventually(lambda: victim not in service.workers() and len(service.workers()) == len(workers), patience(15))
        self.all_is_there()

    @rule(busy=st.booleans())
    @step
    def kill_the_service(self, *, busy: bool) -> None:
        """Kill all processes and start again: nobody else's hand is needed."""
        workers = self.service.workers()
        flight = self._in_flight(want=busy)
        self.service.kill()
        eventually(lambda: not any(runs(worker) for worker in workers), patience(15))
        self._landed(flight)
        assert not self.open, "a session outlived its service"
        self.leave()
        self.all_is_there()
        self.start()
        for mailbox in self.free():
            self.enter(mailbox)
            self.open.pop().client.close()

    @rule(which=_WHICH, whom=_WHICH, domain=st.booleans())
    @step
    def pause_a_worker(self, *, which: int, whom: int, domain: bool) -> None:
        """Stop a worker for a moment: the other serves; a lock that was set meanwhile holds when it goes on."""
        service, workers = self.service, self.service.workers()
        victim = workers[which % len(workers)]
        asleep = [each for each in self.open if holder_of(service, each.client) == victim]
        targets = DOMAINS if domain else list(self.there)
        what = targets[whom % len(targets)]
        with paused(victim, self.home):
            self.traffic.send(f"c-{next(self.tokens)}", SIZES[which % len(SIZES)], *list(self.there)[:2])
            concerned = [each for each in self.open if each.mailbox in self._of(what)]
            if what.partition("@")[2] not in self.locked:
                self.traffic.turn(what, locked=True)
                self.locked.add(what)
            self.ended(
                [each for each in concerned if each not in asleep and self.is_locked(each.mailbox)], LOCKED_REPLY
            )
            for each in [each for each in asleep if each not in concerned][:1]:
                self.refused(each.mailbox, self.there[each.mailbox], b"-ERR [IN-USE]")
        self.ended([each for each in concerned if each in asleep and self.is_locked(each.mailbox)], LOCKED_REPLY)

    # --- all at once ---

    @rule(number=st.integers(0, 2**32))
    @step
    def burst(self, *, number: int) -> None:
        """Let four senders, two fetchers and an administrator work at the same time."""
        chosen = random.Random(number)
        domain = chosen.choice(DOMAINS)
        was = domain in self.locked
        secret = [mailbox for mailbox in self.free() if self.there[mailbox] == "secret"]
        mailboxes = list(self.there)
        draws = [random.Random(chosen.random()) for _ in range(6)]

        def sends(draw: random.Random) -> None:
            for _ in range(3):
                recipients = draw.sample(mailboxes, draw.randint(1, min(3, len(mailboxes))))
                kind = draw.choice(["smtp", "lmtp"])
                self.traffic.send(f"c-{next(self.tokens)}", draw.choice(SIZES), *recipients, kind=kind)

        def fetches(draw: random.Random) -> None:
            for _ in range(3 if secret else 0):
                self.traffic.fetch(draw.choice(secret), delete=draw.randint(0, 2), quit=draw.random() < 0.8)

        def turns() -> None:
            for locked in (not was, was) * 2:
                time.sleep(chosen.choice([0, 0.02, 0.2]))
                self.traffic.turn(domain, locked=locked)

        with ThreadPoolExecutor(7) as pool:
            works = [pool.submit(sends, draw) for draw in draws[:4]]
            works += [pool.submit(fetches, draw) for draw in draws[4:]]
            works.append(pool.submit(turns))
        for work in works:
            work.result()
        if not was:
            # Locked for less than the fifth of a second between two looks, a session may have been spared.
            self._spared([each for each in self.open if each.mailbox in self._of(domain)])

    def _spared(self, sessions: list[Open]) -> None:
        time.sleep(0.3)
        for each in sessions:
            try:
                reply = each.client.ask(b"NOOP")
            except GoneError:
                raise AssertionError(f"{each.mailbox}: the session ended without a word") from None
            if not reply.startswith(b"+OK"):
                assert reply.startswith(LOCKED_REPLY), reply
                self.open.remove(each)
                each.client.close()


# --- the kind ---


def run(extent: Extent) -> Result:
    """Let hypothesis draw what they do, until the time is over or something is wrong."""
    return _run(extent, Result("many at once, and crashes among them"), {})


def control(which: str, extent: Extent) -> Result:
    """Do the same with a service that has a defect."""
    result = Result("many at once")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "sitecustomize.py").write_text(DEFECTS[which])
        return _run(extent, result, {"PYTHONPATH": directory})


def _run(extent: Extent, result: Result, environment: dict[str, str]) -> Result:
    began = time.monotonic()
    how = settings(
        max_examples=9,  # with more, many are small, or others once more with small changes
        stateful_step_count=25,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with prepared() as place:
        steps: Counter[str] = Counter()
        parts = {"extent": extent, "result": result, "place": place, "environment": environment, "steps": steps}
        while not extent.over() and not result.violations:
            drawn = type("Drawn", (Crowd,), parts | {"examples": itertools.count()})
            run_state_machine_as_test(seed(extent.random.getrandbits(32))(drawn), settings=how)
    result.of = result.points
    result.notes.append(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(steps.items())))
    result.seconds = time.monotonic() - began
    return result
