"""The users of this computer as the accounts of mailboxes, for the tool.

Documented rules kept: the user of a mailbox has its name, which is unique on the server and has 1 to 20 characters; who
has an account already keeps it; one that is made joins "POP3 Users" (`users.GROUP`) and cannot log on at the computer
(what that covers, `hands` says). Invariant: an account that exists for a mailbox is a member of the group, so that only
these users' passwords can ever be tried from the network.
"""

from winpop.auth.contract import NO_ACCOUNT
from winpop.auth.local import users
from winpop.auth.local.hands import Hands, OwnHands, refused_stranger, refused_system
from winpop.terms.names import Address
from winpop.terms.refusals import not_understood


class LocalAccounts:
    """Administers the users of this computer."""

    def __init__(self, hands: Hands | None = None) -> None:
        """Change users with `hands`, which `root_hands` gives; without, in this process, which has to be root then."""
        self._hands = hands or OwnHands()

    def find(self, address: Address) -> str | None:
        """Return the name of the user whom a mailbox belongs to, None where there is no user of that name.

        Raises `Refusal`: `bad-mailbox-name` (too long), `system-account`, `not-a-member`.
        """
        name = _name(address)
        user = users.look_up(name)
        if user is None:
            return None
        if user.system:
            raise refused_system(name)
        if not user.member:
            raise refused_stranger(name)
        return name

    def create(self, address: Address, password: bytes) -> str:
        """Make the user of a mailbox and return its name. Raises `Refusal`, as `find` and `OwnHands.make` do."""
        name = _name(address)
        self._hands.make(name, f"mailbox {address}", password)
        return name

    def set_password(self, account: str, password: bytes) -> None:
        """Give a user another password. Raises `Refusal`, as `OwnHands.set_password` does."""
        self._hands.set_password(account, password)

    def facts(self, account: str) -> list[tuple[str, str]]:
        """Return its name, and what keeps it from logging on; passwords and their dates are for root alone to see."""
        user = users.look_up(account)
        if user is None:
            return [("user", account), ("state", NO_ACCOUNT)]
        state = "a system account" if user.system else "may log on" if user.member else f"not in {users.GROUP}"
        return [("user", account), ("state", state)]

    def delete(self, account: str) -> None:
        """Delete a user that was made for a mailbox. Raises `Refusal` (`not-made-here` and others)."""
        self._hands.delete(account)


def _name(address: Address) -> str:
    if len(address.mailbox) > users.LONGEST:
        raise not_understood(
            "bad-mailbox-name",
            f"'{address.mailbox}' is too long for local accounts, whose names have at most {users.LONGEST} characters; "
            "take a shorter name.",
        )
    return address.mailbox
