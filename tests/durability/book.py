"""The ledger while things are under way: who may still be answered, sent away, or shown what came a moment ago.

Invariant: what may have happened is never held to be wrong; it is settled by the first look that shows it, or by
`settle`, when nothing is on its way any more.
"""

import contextlib
from collections.abc import Iterable, Iterator

from durability.ledger import Ledger, State


class Book(Ledger):
    """A ledger that can be asked while messages are on their way: what is not there yet may still come.

    `settle` says that nothing is on its way any more: all the processes that might bring it are gone, or idle.
    """

    def __init__(self, mailboxes: Iterable[str] = ()) -> None:
        super().__init__(_mailboxes=dict.fromkeys(mailboxes, True))
        self._pending: set[tuple[str, str]] = set()
        """The mailboxes and messages that were handed in, and neither answered nor seen yet."""
        self._often: dict[str, int] = {}
        self._forgotten = 0
        self._troubles = 0
        self._in_trouble = 0

    def sending(self, token: str, octets: bytes, *recipients: str, together: bool = True) -> None:
        with self._guard:
            super().sending(token, octets, *recipients, together=together)
            self._pending |= {(recipient, token) for recipient in recipients}

    def acknowledged(self, token: str, *recipients: str) -> None:
        """Enter a 250; whoever was quicker to fetch the message, and even to delete it, knew of it before."""
        with self._guard:
            for recipient in recipients:
                if (recipient, token) in self._pending:
                    self._pending.discard((recipient, token))
                    self._mail[recipient][token].there = True

    def refused(self, token: str, *recipients: str) -> None:
        """Enter that a message was refused for these recipients: it may be there, and will not come later."""
        with self._guard:
            self._pending -= {(recipient, token) for recipient in recipients}

    def lock(self, target: str, locked: bool | None) -> None:  # noqa: FBT001 - the state, as in the table
        with self._guard:
            super().lock(target, locked)
            self._often[target] = self._often.get(target, 0) + (locked is not False)

    def settle(self) -> None:
        """Enter that nothing is on its way any more."""
        with self._guard:
            self._pending.clear()

    def violations(self, state: State) -> list[str]:
        with self._guard:
            wrong = super().violations(state)
            for mailbox, token in self._pending:
                copy = self._mail.get(mailbox, {}).get(token)
                if copy is not None and copy.there is False:
                    copy.there = None
            return wrong

    # --- sessions ---

    def before(self, mailbox: str) -> dict[str, bool | None]:
        """Return what is known of a mailbox's messages before somebody logs on to it."""
        with self._guard:
            return {token: copy.there for token, copy in self._mail.get(mailbox, {}).items()}

    def wrong_listing(self, mailbox: str, before: dict[str, bool | None], seen: list[tuple[str, str]]) -> list[str]:
        """Return what is wrong with the tokens and unique-ids that a session which began after `before` shows.

        The session holds the maildrop: nobody else deletes, so what is missing of a deletion that was open is gone.
        """
        with self._guard:
            copies = self._mail.get(mailbox, {})
            wrong, tokens = [], [token for token, _ in seen]
            for token, unique_id in seen:
                known = copies.get(token)
                if known is None:
                    wrong.append(f"{mailbox}: {token!r} was never sent, or is torn")
                elif tokens.count(token) > 1:
                    wrong.append(f"{mailbox}: {token} is there twice")
                elif before.get(token) is False:
                    wrong.append(f"{mailbox}: {token} was deleted, and is there")
                else:
                    wrong += self.seen(mailbox, token, unique_id)
                    known.there = True
                    self._pending.discard((mailbox, token))
            for token, there in before.items():
                known = copies.get(token)
                if token in tokens or known is None:
                    continue
                if there and known.there:
                    wrong.append(f"{mailbox}: {token} is lost")
                elif known.there is None and there is None and (mailbox, token) not in self._pending:
                    known.there = False
            return wrong

    # --- what may disturb a client ---

    @contextlib.contextmanager
    def trouble(self) -> Iterator[None]:
        """Say that meanwhile connections may end, be refused, or wait, for a reason that clients do not see."""
        with self._guard:
            self._troubles += 1
            self._in_trouble += 1
        try:
            yield
        finally:
            with self._guard:
                self._in_trouble -= 1

    def troubled(self, since: int = -1) -> bool:
        """Tell whether there is trouble, or was since `mark`."""
        with self._guard:
            return self._in_trouble > 0 or since not in (-1, self._troubles)

    def mark(self) -> int:
        """Return a mark for `troubled`; what begins in trouble is troubled to its end."""
        with self._guard:
            return -2 if self._in_trouble else self._troubles

    def calm(self, mailbox: str) -> tuple[int, ...]:
        """Return a mark for `disturbed`."""
        with self._guard:
            return (self.mark(), *(self._often.get(target, 0) for target in (mailbox, mailbox.partition("@")[2])))

    def disturbed(self, mailbox: str, mark: tuple[int, ...]) -> bool:
        """Tell whether a client of this mailbox may have been sent away since: by a lock, or by a crash."""
        with self._guard:
            targets = (mailbox, mailbox.partition("@")[2])
            locked = any(self._locked.get(target, False) is not False for target in targets)
            return locked or self.troubled() or self.calm(mailbox) != mark

    # --- long runs ---

    def forget(self) -> int:
        """Forget what was deleted for good, but for its unique-id; return how many copies were forgotten so far."""
        with self._guard:
            for copies in self._mail.values():
                for token in [token for token, copy in copies.items() if copy.there is False]:
                    del copies[token]
                    self._forgotten += 1
            return self._forgotten
