"""The installation that operations work on.

Invariant: a home is only made for an operation that may make one; any other is told that there is none.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from winpop.auth.contract import DIRECTORY, LOCAL, Accounts
from winpop.db.contract import Database, Reader
from winpop.db.home import Home, not_permitted
from winpop.db.upgrade import open_upgraded
from winpop.terms.refusals import out_of_reach, readable

if TYPE_CHECKING:
    from winpop.auth.local.hands import Hands


class Place:
    """A home, and its database from the first time that it is needed. It belongs to one thread."""

    def __init__(
        self,
        home: Home,
        database: Database | None = None,
        tell: Callable[[str], None] = lambda _: None,
        hands: "Hands | None" = None,
    ) -> None:
        """Use `home`; with `database`, an open connection to it. `tell` is given the progress of an upgrade.

        `hands` are those of root, which local accounts are administered with.
        """
        self.home = home
        self._hands = hands
        self.copy = ""
        """The path of the copy that was made of the database before it was upgraded, if it was."""
        self._tell = tell
        self._database = database

    def database(self, *, make: bool = False) -> Database:
        """Return the database; with `make`, begin an installation where there is none.

        Raises `Refusal` (`no-installation`, and those of the engine).
        """
        if self._database is None:
            if make:
                self.home.make()
            elif not self.home.exists():
                raise out_of_reach(
                    "no-installation",
                    f"There is no installation in {readable(str(self.home.path))}; 'winpop add example.com' begins "
                    "one there, and --home or WINPOP_HOME name another place.",
                )
            _check_access(self.home)
            self._database, copy = open_upgraded(self.home, self._tell)
            self.copy = str(copy or "")
        return self._database

    def accounts(self, method: int, reader: Reader) -> Accounts:
        """Return what administers the accounts of an authentication method. Raises `Refusal`."""
        if method == LOCAL:
            from winpop.auth.local.accounts import LocalAccounts  # here: most commands need no account

            return LocalAccounts(self._hands)
        if method == DIRECTORY:
            from winpop.auth.active_directory.accounts import DirectoryAccounts  # here: it brings TLS and LDAP
            from winpop.auth.sealing import LDAP_PASSWORD, Sealing
            from winpop.directory import settings as settings_table

            settings = settings_table.load(reader)
            password = (
                Sealing(self.home).open_text(settings.ldappassword, LDAP_PASSWORD) if settings.ldappassword else ""
            )
            return DirectoryAccounts(settings, password)
        raise ValueError(method)  # the password file has no accounts but those of mailboxes

    def close(self) -> None:
        """Give the connection back."""
        if self._database is not None:
            self._database.close()
            self._database = None


def _check_access(home: Home) -> None:
    """Refuse what the operating system does not permit: the engine would only say that it cannot open a file."""
    if os.name == "posix" and home.path.exists() and os.statvfs(home.path).f_flag & os.ST_RDONLY:
        place = readable(str(home.path))
        raise out_of_reach("read-only", f"The disk that holds {place} is mounted read-only; mount it for writing.")
    for path in (home.path, home.database):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise not_permitted(home.path)
