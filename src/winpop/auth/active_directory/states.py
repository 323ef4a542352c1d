"""Why Active Directory does not take a password, and in which states an account can be.

Invariant: the reasons are for the log and for administrators; the client is told none of them.
"""

from winpop.auth.active_directory import messages
from winpop.auth.active_directory.messages import Entry, Result
from winpop.auth.contract import (
    DISABLED,
    EXPIRED,
    LOCKED_OUT,
    MUST_CHANGE,
    NO_ACCOUNT,
    PASSWORD,
    PASSWORD_EXPIRED,
    Answer,
    CannotSay,
    Right,
    Wrong,
)
from winpop.terms.refusals import readable

_REASONS = {
    "525": NO_ACCOUNT,
    "52e": PASSWORD,
    "530": "not at this hour",
    "531": "not from this computer",
    "532": PASSWORD_EXPIRED,
    "533": DISABLED,
    "701": EXPIRED,
    "773": MUST_CHANGE,
    "775": LOCKED_OUT,
}
"""The error numbers of Windows, as they stand in the text of a bind that was refused."""

STATE = ("userAccountControl", "msDS-User-Account-Control-Computed", "accountExpires", "pwdLastSet")
"""The attributes that `states` reads."""
_DISABLED, _LOCKED, _NEVER_AGES, _AGED = 0x2, 0x10, 0x10000, 0x800000
_NEVER = (0, 2**63 - 1)
_SECOND, _SINCE_1601 = 10**7, 11_644_473_600


def answer(result: Result) -> Answer:
    """Return what the answer to a user's bind means."""
    if result.code == messages.SUCCESS:
        return Right()
    if result.code == messages.INVALID_CREDENTIALS:
        return Wrong(_REASONS.get(result.data, PASSWORD))
    return CannotSay(f"The domain controller did not check a password: {result.code} {readable(result.text)}.")


def states(entry: Entry, now: float) -> tuple[str, ...]:
    """Return the states that keep an account from logging on, in the words of the contract; `now`: since 1970."""
    control, computed = entry.number("userAccountControl"), entry.number("msDS-User-Account-Control-Computed")
    expires, last_set = entry.number("accountExpires"), entry.number("pwdLastSet")
    must_change = last_set == 0 and not control & _NEVER_AGES
    found = {
        DISABLED: control & _DISABLED,
        EXPIRED: expires not in _NEVER and expires / _SECOND - _SINCE_1601 <= now,
        LOCKED_OUT: computed & _LOCKED,
        MUST_CHANGE: must_change,
        PASSWORD_EXPIRED: computed & _AGED and not must_change,
    }
    return tuple(state for state, holds in found.items() if holds)
