"""One password, checked by PAM: authenticated, and the account is one that may be used; or the latter alone.

By way of `pamela`, which gives libpam's functions (python-pam can neither pass flags nor read the user back).
Invariants: yes to a password is said only where a module has asked for it and both phases were passed, yes to an
account where the account phase was, and either only where PAM still speaks of the same user; a blank password never
counts; nothing that a module says is passed on. It blocks, and a module may do anything to the process it runs in: call
it in a process of its own.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

SERVICE_FILE = """\
# Who may come in at winpop with the password of a local account. No nullok: a blank password is none.
auth     required  pam_unix.so
account  required  pam_unix.so
"""
"""What /etc/pam.d/winpop should hold."""

UNKNOWN_HOST = "0.0.0.0"  # noqa: S104 - nothing is bound to it
"""What modules are told where the client's address is not known: no host, and not this computer either."""

OTHER_USER = "PAM answers for another user"

_DIRECTORIES = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/local/etc/pam.d")
_TTY, _RHOST, _FAIL_DELAY = 3, 4, 10
_FLAGS = 0x8000 | 0x1  # PAM_SILENT, PAM_DISALLOW_NULL_AUTHTOK
_SUCCESS, _PERM_DENIED, _AUTH_ERR, _CONVERSATION_FAILED = 0, 6, 7, 19
_NO = {
    _PERM_DENIED: DISABLED,
    _AUTH_ERR: PASSWORD,
    10: NO_ACCOUNT,  # PAM_USER_UNKNOWN
    11: LOCKED_OUT,  # PAM_MAXTRIES
    12: MUST_CHANGE,  # PAM_NEW_AUTHTOK_REQD
    13: EXPIRED,  # PAM_ACCT_EXPIRED
    27: PASSWORD_EXPIRED,  # PAM_AUTHTOK_EXPIRED
}
_DelayFunction = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)


def verify(service: str, user: str, password: bytes, host: str) -> Answer:
    """Ask the PAM service whether this user has this password; `host` is the client's address. Never raises."""
    if not password or b"\0" in password or "\0" in user + host:
        return Wrong(PASSWORD)  # a blank password is nobody's, and modules would see only what is before a NUL
    return _told(service, user, password, host)


def usable(service: str, user: str, host: str) -> Answer:
    """Ask the account phase of the PAM service alone whether this user may come in now. Never raises."""
    if "\0" in user + host:
        return Wrong(NO_ACCOUNT)
    return _told(service, user, None, host)


def load() -> Any:  # noqa: ANN401 - it has no types
    """Return the module pamela. Raises `ImportError`, `OSError` or `AttributeError` where there is no PAM."""
    import pamela  # type: ignore[import-untyped]  # here: it searches for the library, and a service may never need it

    return pamela


def _told(service: str, user: str, password: bytes | None, host: str) -> Answer:
    """Ask PAM; without a password, its account phase alone."""
    if "/" in service or not any(Path(directory, service).is_file() for directory in _DIRECTORIES):
        return CannotSay(
            f"There is no PAM service {readable(service)}: make the file {_DIRECTORIES[0]}/{readable(service)} as the "
            "manual says, or name another one with 'winpop set pamservice NAME'."
        )
    try:
        pamela = load()
    except (ImportError, OSError, AttributeError):
        return CannotSay("This computer has no PAM library that Python can load; install libpam and pamela.")
    try:
        return _asked(pamela, service, user, password, host)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer; it could quote what was said
        return CannotSay(f"The PAM service {service} failed ({type(error).__name__}).")


def _asked(pamela: Any, service: str, user: str, password: bytes | None, host: str) -> Answer:  # noqa: ANN401 - see `load`
    asked: list[int] = []
    conversation = pamela.CONV_FUNC(_conversation(pamela, password, asked))  # has to live as long as the handle
    no_delay = _DelayFunction(lambda *_: None)
    handle = pamela.pam_start(service, user, conversation)
    code = _SUCCESS
    try:
        handle.set_item(_RHOST, host)
        handle.set_item(_TTY, "winpop")
        # Modules ask for seconds after a failure, in which this would hold a place; how long a failure takes we decide.
        pamela.PAM_SET_ITEM(handle, _FAIL_DELAY, ctypes.cast(no_delay, ctypes.c_char_p))
        if password is not None:
            code = pamela.PAM_AUTHENTICATE(handle, _FLAGS)
        if code == _SUCCESS:
            code = pamela.PAM_ACCT_MGMT(handle, _FLAGS)
            if code == _AUTH_ERR:  # so pam_nologin says no; it is not about the password
                code = _PERM_DENIED
        if code == _SUCCESS and handle.get_item(pamela.PAM_USER) != user:
            return Wrong(OTHER_USER)
        return _meaning(service, code, asked=bool(asked) or password is None)
    finally:
        pamela.PAM_END(handle, code)


def _conversation(pamela: Any, password: bytes | None, asked: list[int]) -> Callable[..., int]:  # noqa: ANN401 - see `load`
    """Return what answers a module's questions: each that is not echoed with the password, any other not at all."""

    def converse(count: int, messages: Any, responses: Any, _: object) -> int:  # noqa: ANN401 - C pointers
        styles = [messages[index].contents.msg_style for index in range(count)]
        if pamela.PAM_PROMPT_ECHO_ON in styles or (password is None and pamela.PAM_PROMPT_ECHO_OFF in styles):
            return _CONVERSATION_FAILED
        # PAM frees these, so they are C's.
        memory = pamela.CALLOC(count, ctypes.sizeof(pamela.PamResponse))
        responses[0] = ctypes.cast(memory, ctypes.POINTER(pamela.PamResponse))
        for index, style in enumerate(styles):
            if style == pamela.PAM_PROMPT_ECHO_OFF:
                asked.append(index)
                responses[0][index].resp = pamela.STRDUP(password)
        return _SUCCESS

    return converse


def _meaning(service: str, code: int, *, asked: bool) -> Answer:
    if code == _SUCCESS:
        if asked:
            return Right()
        return CannotSay(
            f"The PAM service {service} lets users in without their password, as one with pam_rootok or pam_permit "
            "does; name another one with 'winpop set pamservice NAME'."
        )
    if code in _NO:
        return Wrong(_NO[code])
    if code == _CONVERSATION_FAILED:
        return CannotSay(f"The PAM service {service} asks for more than a password; take its other modules out.")
    return CannotSay(f"The PAM service {service} cannot tell (PAM error {code}); the system's log may say why.")
