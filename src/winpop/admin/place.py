"""The installation that operations work on.

Invariant: a home is only made for an operation that may make one; any other is told that there is none.
"""

import os

from winpop.db.contract import Database
from winpop.db.home import Home, not_permitted
from winpop.db.sqlite import Sqlite
from winpop.terms.refusals import out_of_reach, readable


class Place:
    """A home, and its database from the first time that it is needed. It belongs to one thread."""

    def __init__(self, home: Home, database: Database | None = None) -> None:
        """Use `home`; with `database`, an open connection to it."""
        self.home = home
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
            self._database = Sqlite(self.home)
        return self._database

    def close(self) -> None:
        """Give the connection back."""
        if self._database is not None:
            self._database.close()
            self._database = None


def _check_access(home: Home) -> None:
    """Refuse what the operating system does not permit: the engine would only say that it cannot open a file."""
    for path in (home.path, home.database):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise not_permitted(home.path)
