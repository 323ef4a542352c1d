"""One request to the helper: a line of JSON, and a line of JSON back.

    {"do": "check", "account": NAME or null, "password": LATIN-1, "service": PAM SERVICE, "host": ADDRESS}
    {"do": "usable", "account": NAME, "service": PAM SERVICE, "host": ADDRESS}
    {"do": "find", "name": NAME}

and back `{"right": true}`, `{"wrong": WHY}`, `{"cannot": SENTENCE}` or `{"found": NAME or null}`. Invariant: for
who is no member of the group PAM is asked about nobody, so that no module ever hears that name: nobody can lock root
out or try its passwords here. That takes less time than a wrong password (pam_unix: 24 ms, not 150): who asks evens it
out. Where something else than a password has vouched for the user, a locked password counts as a disabled account:
pam_unix shows it only to who tries the password.
"""

import json
import os
import sys
from typing import Any

from winpop.auth.contract import DISABLED, NO_ACCOUNT, PASSWORD, Answer, CannotSay, Right, Wrong
from winpop.auth.local import pam, users

NOBODY = "nobody:"
"""No user has this name: /etc/passwd is divided by colons."""

NOT_ROOT = (
    "Local accounts' passwords can be checked only by a service that was started as root: start 'winpop serve' as root "
    "(the home's owner stays who serves), or take another method with 'winpop set auth 3'."
)


def line_of(**fields: object) -> bytes:
    """Return a request or an answer as its line."""
    return json.dumps(fields).encode("ascii") + b"\n"


def answer_to(line: bytes) -> bytes:
    """Do what a request asks; return the answer's line. Blocks. Raises what comes of a line that is no request."""
    asked: dict[str, Any] = json.loads(line)
    if asked["do"] == "find":
        return line_of(found=users.meant_by(asked["name"]))
    account, service, host = asked["account"], asked["service"], asked["host"]
    if asked["do"] == "usable":
        answer = _usable(account, service, host)
    else:
        answer = _check(account, asked["password"].encode("latin-1"), service, host)
    match answer:
        case Right():
            return line_of(right=True)
        case Wrong(why):
            return line_of(wrong=why)
        case CannotSay(why):
            return line_of(cannot=why)


def _check(account: str | None, password: bytes, service: str, host: str) -> Answer:
    if not password:
        return Wrong(PASSWORD)
    if sys.platform == "win32" or os.geteuid() != 0:
        return CannotSay(NOT_ROOT)
    why_not = _why_not(account)
    answer = pam.verify(service, NOBODY if why_not or account is None else account, password, host)
    if isinstance(answer, CannotSay):
        return answer
    return Wrong(why_not) if why_not else answer


def _usable(account: str, service: str, host: str) -> Answer:
    if sys.platform == "win32" or os.geteuid() != 0:
        return CannotSay(NOT_ROOT)
    why_not = _why_not(account)
    if why_not:
        return Wrong(why_not)
    answer = pam.usable(service, account, host)
    try:
        return Wrong(DISABLED) if answer == Right() and users.is_locked(account) else answer
    except OSError as error:
        return CannotSay(f"Whether the user {account} is locked cannot be read from /etc/shadow ({error.strerror}).")


def _why_not(account: str | None) -> str | None:
    user = users.look_up(account) if account is not None else None
    if user is None:
        return NO_ACCOUNT
    if user.system:
        return "system account"
    return None if user.member else f"not in the group {users.GROUP}"
