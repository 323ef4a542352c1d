"""What the command line takes from around it: which home, and who is typing.

The home is `--home`, else WINPOP_HOME, else the platform's place for data: for root on POSIX /var/lib/winpop, for
anybody else what `platformdirs` says (on Linux ~/.local/share/winpop).
"""

import os
import sys
from pathlib import Path

from winpop.admin.authority import Actor
from winpop.db.home import Home
from winpop.terms.refusals import not_understood, readable

_ROOTS_HOME = "/var/lib/winpop"


def home(named: str | None) -> Home:
    """Return the home that is meant. Raises `Refusal` (`bad-home`)."""
    text = named if named is not None else os.environ.get("WINPOP_HOME") or _default()
    if not text or "\0" in text:
        raise not_understood("bad-home", f"'{readable(text)}' cannot be a home; name a directory.")
    try:
        return Home(Path(text).absolute())
    except OSError:
        raise not_understood(
            "bad-home", f"'{readable(text)}' is relative to a directory that is gone; name it from the root on."
        ) from None


def actor() -> Actor:
    """Return who is typing, by the operating system, and through whom. To be asked before becoming another user."""
    if sys.platform == "win32":
        from getpass import getuser  # here: it is the only way there

        return Actor(getuser(), of_the_system=True)
    import pwd  # here: there is none on Windows

    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = f"uid {user}"
    by = os.environ.get("SUDO_USER") if user == 0 else None  # only root's word is taken for it
    return Actor(f"{name} (sudo by {by})" if by else name, of_the_system=True)


def _default() -> str:
    if sys.platform != "win32" and os.geteuid() == 0:
        return _ROOTS_HOME
    from platformdirs import user_data_dir  # here: most installations name their home

    return user_data_dir("winpop", appauthor=False)
