"""Guessing passwords costs time: for each name from each network, and for each network as a whole (threats.md A1, A2).

A network is an IPv4 /24 or an IPv6 /64. A guess is a wrong password that was not among the last eight wrong ones of its
(name, network): a mail client that repeats a mistake guesses nothing.

A penalty is a debt of time: each guess adds `_HALF` seconds to it, and each `_HALF` seconds owed double the delay, from
`first` to `most`. It shrinks by itself as time goes by, and is forgotten within the hour. A (name, network) owes for
each of its guesses, and next to it stands when its next attempt may be looked at. A network owes a quarter for each
guess, for any name; that makes only the answers late. What holds its attempts back is its rate: each takes a ticket,
and `rate` tickets a second are admitted; a right password gives the ticket back, so a crowd that knows its passwords
passes as quickly as they are verified.

Invariants: an attempt counts as a guess from the moment it is let into the queue, until it is known to be none; so
attempts side by side get no further than one after the other, and a worker that dies forgives nothing. (Where nothing
is owed two may be looked at together: two devices of one owner.) Nothing is ever
counted for a name alone: who guesses elsewhere does not delay the owner. All reasons to fail take the same time.
"""

import math
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from winpop.auth.shared import NETWORKS, PAIRS, Entry, Shared
from winpop.terms.endpoints import IPAddress

LOOK = 0.1
"""Seconds: whoever waits looks again so often, since right passwords of others bring its turn forward."""
_LONGEST = 30.0
"""Seconds: nobody is let into a queue that is longer."""
_TICK = 0.001
"""Seconds: nobody waits for less."""
_HALF = 300.0
_CROWD = 4
"""Guesses from a network that weigh as much as one against a name."""
_MARKS, _MARK = 8, 4
"""How many wrong passwords are recognised, and octets of their digests: too few to confirm a password by one."""
_PAIR = struct.Struct(f"=d{_MARKS * _MARK}s")
"""When the next attempt may be looked at; digests of wrong passwords, the newest first, zero where there are none."""
_NETWORK = struct.Struct("=ddd")
"""Tickets handed out; how many are admitted, as of a moment; that moment."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The settings failuredelay, failuredelaymax (both seconds) and failurerate (failures a second from a network).

    A `first` of 0 switches all delays off, a `most` that is less than `first` the growing, a `rate` of 0 the rate.
    """

    first: float = 1
    most: float = 30
    rate: float = 5

    def delay(self, debt: float) -> float:
        """Return the seconds until a failure is answered that brings the debt to so many."""
        return self.first * 2 ** max(0.0, min(debt, self.most_debt) / _HALF - 1)

    @property
    def most_debt(self) -> float:
        """The debt with which the delay is the longest; none gets larger."""
        return _HALF * (1 + math.log2(max(1.0, self.most / self.first))) if self.first else 0.0


class Throttle:
    """The penalties of all workers together."""

    def __init__(self, shared: Shared, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep them in `shared`; `clock` gives seconds, the same for all processes."""
        self.pairs, self.networks, self.clock = shared.table(PAIRS), shared.table(NETWORKS), clock

    def owed(self, name: str, address: IPAddress, *, exempt: bool = False) -> bool:
        """Tell whether an attempt would meet anything at all: a penalty, or another attempt that is under way."""
        now, network = self.clock(), _network(address)
        pair = self.pairs.digest(name.casefold().encode("utf-8", "surrogatepass"), network)
        return self.pairs.get(pair).until > now or (
            not exempt and self.networks.get(self.networks.digest(network)).until > now
        )

    def suspects(self, address: IPAddress) -> bool:
        """Tell whether somebody in this network has guessed a short while ago: then others' logons come first."""
        owes = self.networks.get(self.networks.digest(_network(address))).until - self.clock()
        return owes > _HALF / _CROWD / 2  # its tickets alone make it no more than `_LONGEST`

    def before(self, name: str, address: IPAddress, pace: Pace, *, exempt: bool = False) -> "Turn | None":
        """Reserve a turn for an attempt, before its password is looked at; None: too many wait, refuse for now.

        `name` is the account's own where several names mean it; its case is no matter. For an address that is
        `exempt` (a trusted network: many users behind one server) only the rule for the name holds.
        """
        turn = Turn(self, name, address, pace, exempt=exempt)
        return turn if turn.reserve() else None


class Turn:
    """One attempt. Wait while `left()`, then look at the password, then call one of the other three, once.

    One that is dropped without a word stays a guess.
    """

    def __init__(self, throttle: Throttle, name: str, address: IPAddress, pace: Pace, *, exempt: bool) -> None:
        self._pairs, self._networks, self._clock, self._pace = throttle.pairs, throttle.networks, throttle.clock, pace
        network = _network(address)
        self._pair = self._pairs.digest(name.casefold().encode("utf-8", "surrogatepass"), network)
        self._network = self._networks.digest(network)
        self._exempt = exempt
        self._rated = pace.rate > 0 and not exempt
        self._delayed = pace.first > 0
        self._burst = max(1.0, pace.rate)
        self._began = self._start = self._next = self._clock()
        self._added = self._ticket = 0.0

    def reserve(self) -> bool:
        """Take a place in both queues, or tell that one is too long."""
        if self._delayed and not self._join_pair():
            return False
        if self._rated and not self._take_ticket():
            self._leave_pair()
            return False
        return True

    def left(self) -> float:
        """Return the seconds until the password may be looked at; ask again after `LOOK` of them. 0: now."""
        now, left = self._clock(), 0.0
        if self._start > now:
            next_one, _ = _PAIR.unpack(self._pairs.get(self._pair).value)
            if next_one >= self._next:  # else a right password has cleared the penalty
                left = self._start - now
        if self._rated:
            issued, admitted = self._tickets(self._networks.get(self._network), now)
            if self._ticket < issued:  # else the network was forgotten meanwhile
                left = max(left, (self._ticket + 1 - admitted) / self._pace.rate)
        if left > _TICK:
            return left
        self._began = now
        return 0.0

    def failed(self, password: bytes | None) -> float:
        """Take down a failure, whatever its reason; return the seconds from now until it is to be answered.

        They end at a time after the attempt began (after `left()` was 0) that does not depend on how long it took.
        `password` is the wrong one, None where none was said (a digest, a proof); of it a short keyed digest is kept.
        """
        if not self._delayed:
            return 0.0
        now = self._clock()
        repeated, owed = self._take_down(password, now)
        if not self._exempt:
            with self._networks.edit(self._network) as entry:
                if not repeated:
                    owes = max(0.0, entry.until - now)
                    entry.until = now + max(owes, min(owes + _HALF / _CROWD, self._pace.most_debt))
                owed = max(owed, entry.until - now)
        return max(0.0, self._began + self._pace.delay(owed) - now)

    def succeeded(self) -> None:
        """Take down a right password: its name owes nothing from this network any more, and the network less."""
        if self._delayed:
            with self._pairs.edit(self._pair) as entry:
                entry.until = 0.0
        if not self._exempt:
            self._return_ticket(forgiven=_HALF / _CROWD)

    def released(self) -> None:
        """Give the turn back: the client went while it waited, or nobody can say whether the password was right.

        Not where a password was found to be wrong, whoever has gone meanwhile.
        """
        if self._delayed:
            self._leave_pair()
        if self._rated:
            self._return_ticket(forgiven=0.0)

    # --- the queue of the name and the network ---

    def _join_pair(self) -> bool:
        with self._pairs.edit(self._pair) as entry:
            now = self._clock()
            owed = entry.until - now
            if owed <= 0:
                owed, entry.value = 0.0, bytes(_PAIR.size)
            next_one, marks = _PAIR.unpack(entry.value)
            self._start = max(now, next_one)
            if self._start - now > _LONGEST:
                return False
            self._added = self._more(owed)
            self._next = self._start + (self._pace.delay(owed + self._added) if owed else 0.0)
            entry.value = _PAIR.pack(self._next, marks)
            entry.until = max(now + owed + self._added, self._next)
        return True

    def _leave_pair(self) -> None:
        with self._pairs.edit(self._pair) as entry:
            next_one, marks = _PAIR.unpack(entry.value)
            if next_one < self._next:  # cleared
                return
            if next_one == self._next:  # nobody has come after it
                next_one = self._start
            entry.value = _PAIR.pack(next_one, marks)
            entry.until = max(entry.until - self._added, next_one)

    def _take_down(self, password: bytes | None, now: float) -> tuple[bool, float]:
        """Tell whether this was a repetition, and what is owed then."""
        mark = None if password is None else self._pairs.digest(self._pair, password)[:_MARK]
        with self._pairs.edit(self._pair) as entry:
            next_one, octets = _PAIR.unpack(entry.value)
            marks = [octets[at : at + _MARK] for at in range(0, len(octets), _MARK)]
            repeated = mark in marks
            if next_one < self._next:  # what it owed was cleared while its password was looked at
                owed = max(0.0, entry.until - now)
                entry.until = now + owed + self._more(owed)
            elif repeated:
                if next_one == self._next:  # nobody has come after it
                    next_one = min(next_one, self._start + self._pace.delay(entry.until - self._added - now))
                entry.until = max(entry.until - self._added, next_one)
            if mark is not None and not repeated:
                marks = [mark, *marks[:-1]]
            entry.value = _PAIR.pack(next_one, b"".join(marks))
            return repeated, entry.until - now

    def _more(self, owed: float) -> float:
        """Return what a guess adds to a debt: no more than up to the longest delay, so that this decays at once."""
        return max(0.0, min(_HALF, self._pace.most_debt - owed))

    # --- the queue of the network ---

    def _take_ticket(self) -> bool:
        with self._networks.edit(self._network) as entry:
            now = self._clock()
            self._ticket, admitted = self._tickets(entry, now)
            if (self._ticket + 1 - admitted) / self._pace.rate > _LONGEST:
                return False
            self._keep(entry, self._ticket + 1, admitted, now)
        return True

    def _return_ticket(self, forgiven: float) -> None:
        with self._networks.edit(self._network) as entry:
            now = self._clock()
            entry.until = max(entry.until - forgiven, min(entry.until, now))
            if self._rated:
                issued, admitted = self._tickets(entry, now)
                self._keep(entry, issued, admitted + 1, now)

    def _tickets(self, entry: Entry, now: float) -> tuple[float, float]:
        """Return how many tickets were handed out, and how many are admitted now: never a crowd more than those."""
        issued, admitted, at = _NETWORK.unpack(entry.value)
        return issued, min(admitted + self._pace.rate * max(0.0, now - at), issued + self._burst)

    def _keep(self, entry: Entry, issued: float, admitted: float, now: float) -> None:
        """Keep the tickets, at least until as many are admitted as can be."""
        admitted = min(admitted, issued + self._burst)
        entry.value = _NETWORK.pack(issued, admitted, now)
        entry.until = max(entry.until, now + (issued + self._burst - admitted) / self._pace.rate)


def _network(address: IPAddress) -> bytes:
    return address.packed[: 8 if address.version == 6 else 3]  # noqa: PLR2004 - IPv6
