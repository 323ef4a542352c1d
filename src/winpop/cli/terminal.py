"""The person at the terminal, or the standard input in their place: passwords, confirmations, progress.

Invariant: a password is never echoed. Without a terminal it is one line of standard input, less its line end and
nothing else; and nobody is asked to confirm, because a script cannot answer.
"""

import sys

from winpop.terms.refusals import not_understood

_LONGEST = 4096


def is_there() -> bool:
    """Tell whether a person can answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def password() -> str:
    """Return a new password. Raises `Refusal` (`passwords-differ`, `bad-password`)."""
    if not is_there():
        return _line()
    from getpass import getpass  # here: few commands ask

    try:
        first, again = getpass("New password: "), getpass("Once more: ")
    except EOFError:
        first = again = ""
    except UnicodeDecodeError:
        raise not_understood(
            "bad-password",
            "What was typed is not UTF-8; set the terminal to it, or give the password by standard input.",
        ) from None
    if first != again:
        raise not_understood("passwords-differ", "The two passwords are not the same; nothing was changed.")
    return first


def confirms(question: str) -> bool:
    """Ask, on standard error so that standard output stays what it is, and tell whether the answer was yes."""
    if sys.stderr is None:
        return False  # closed: nobody would see the question
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.buffer.readline(_LONGEST).strip().lower() in {b"y", b"yes"}


class Progress:
    """How far a long operation has come, shown in place on standard error, where somebody looks."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._shown = False

    def tell(self, text: str) -> None:
        """Show `text` instead of what was shown before."""
        if sys.stderr is not None and sys.stderr.isatty():
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()
            self._shown = True

    def end(self) -> None:
        """Take it away."""
        if self._shown:
            self.tell("")


def _line() -> str:
    if sys.stdin is None:
        return ""
    try:
        line = sys.stdin.buffer.readline(_LONGEST)
    except OSError:  # open for writing only, or gone
        return ""
    return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")
