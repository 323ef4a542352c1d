"""SQLite as the database: embedded, one file, write-ahead log, every commit synchronised.

Invariant: `synchronous=FULL` in WAL mode means that a commit returns after its frames are on disk. After an
error in a commit the connection is thrown away, never tried again: a second fsync may succeed without having
written anything. And what was refused stays undone: the frames of a commit that failed may lie whole in the log, so
they are written over before anybody is told.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from winpop.db import migrations, room
from winpop.db.contract import ENGINE_CODES, Reader, Row, Transaction, Value
from winpop.db.home import Home, not_permitted
from winpop.terms.refusals import Refusal, out_of_reach, readable

_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA temp_store = MEMORY",
    # KiB, taken as they are needed. With the 2 MiB that SQLite begins with, 20 KiB are read in 21 µs, with 16 MiB in
    # 11; and with these, RETR of 800 messages of 20 KiB, again and again, took 8 % less processor than with those.
    "PRAGMA cache_size = -32768",
    # Octets of what is removed are overwritten where that costs no more writing (Debian's engine does it everywhere).
    "PRAGMA secure_delete = FAST",
)
_BUSY_SECONDS = 10.0
_STATEMENTS = 256
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOST = ("no such table", "no such column")
"""What the engine says of a damaged schema, under the code that it has for any mistake in a statement."""


class Sqlite:
    """One connection to the database of a home; implements `Database` and, inside `write`, `Transaction`."""

    _read_only: ClassVar[int] = 0
    """Goes up when the engine could not open a file for writing and has opened it for reading instead. All connections
    of a process share the index of the log, so all have to be opened anew."""

    def __init__(self, home: Home, *, any_schema: bool = False) -> None:
        """Open it, and make the schema of a new one; `any_schema` takes it as it is.

        Raises `Refusal`: `schema-older` (`upgrade` has not been asked), `schema-newer`, and the engine's own.
        """
        self._home = home
        self._open: sqlite3.Connection | None = None
        self._opened_for = 0
        try:
            self._check_file()
            if not any_schema:
                self._check_schema()
        except BaseException:
            self.close()
            raise

    @property
    def _connection(self) -> sqlite3.Connection:
        """The connection; a new one after the engine has failed in the last."""
        if self._open is not None and self._opened_for != Sqlite._read_only and not self._open.in_transaction:
            self.close()
        if self._open is None:
            self._opened_for = Sqlite._read_only
            self._open = self._connect()
        return self._open

    def _connect(self) -> sqlite3.Connection:
        room.make_sure(self._home)
        while True:
            try:
                with self._opening():
                    return self._connected()
            except Refusal as refusal:
                if refusal.code != "disk-full" or not room.set_free(self._home):
                    raise

    def _connected(self) -> sqlite3.Connection:
        with self._translated():
            connection = sqlite3.connect(
                self._home.database,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                cached_statements=_STATEMENTS,
            )
            try:
                _switch_to_wal(connection)
                for pragma in _PRAGMAS:
                    connection.execute(pragma)
            except BaseException:
                connection.close()
                raise
            return connection

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        """Say that the disk is full where the engine only says that it cannot open its files."""
        try:
            yield
        except Refusal as refusal:
            if refusal.code == "database-unreachable" and room.is_used_up(self._home):
                raise _full(self._home) from refusal
            raise

    # --- reading ---

    def all(self, sql: str, *parameters: Value) -> list[Row]:
        """Return all rows."""
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except (sqlite3.DatabaseError, Refusal):
            with self._translated():  # only now: it is entered for each command of each client
                raise

    def one(self, sql: str, *parameters: Value) -> Row | None:
        """Return the first row, or None."""
        try:
            cursor = self._connection.execute(sql, parameters)
            row: Row | None = cursor.fetchone()
            cursor.close()  # an unfinished query would hold its snapshot
        except (sqlite3.DatabaseError, Refusal):
            with self._translated():
                raise
        return row

    def number(self, sql: str, *parameters: Value) -> int:
        """Return the first column of the first row as an integer, 0 where there is none."""
        row = self.one(sql, *parameters)
        value = row[0] if row else None
        assert value is None or isinstance(value, int)
        return value or 0

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Reader]:
        """Several queries that see the same state."""
        with self._translated():
            self._connection.execute("BEGIN")
        try:
            yield self
        finally:
            self._roll_back()

    def version(self) -> int:
        """Return a number that changes whenever another connection has committed."""
        return self.number("PRAGMA data_version")

    # --- writing ---

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """One durable transaction."""
        room.make_sure(self._home)
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self
            self._commit()
        except BaseException:
            self._roll_back()
            raise

    def _commit(self) -> None:
        try:
            with self._translated():
                self._transaction.execute("COMMIT")
        except Refusal as refusal:
            if refusal.code == "database-unreachable" and not self._written_over():
                raise out_of_reach(
                    "outcome-unknown",
                    f"{refusal.sentence} Whether the change was made shows when the disk works again.",
                ) from refusal
            raise

    def _written_over(self) -> bool:
        """Commit a change that is none in the place of the one that failed; tell whether the disk let us."""
        try:
            with self._translated():
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    self._connection.execute(f"PRAGMA user_version = {self.schema():d}")  # it writes the first page
                    self._connection.execute("COMMIT")
                finally:
                    self._roll_back()
        except Refusal:
            return False
        return True

    @property
    def _transaction(self) -> sqlite3.Connection:
        """The connection with its transaction; never a new one, on which a change would stand alone."""
        if self._open is None or not self._open.in_transaction:
            raise out_of_reach("database-unreachable", "The transaction was lost; nothing was changed.")
        return self._open

    def _roll_back(self) -> None:
        if self._open is not None and self._open.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._open.execute("ROLLBACK")

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Enclose a part of a transaction that fails alone."""
        with self._translated():
            self._transaction.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            # After a failure of the engine the whole transaction is gone; then there is no part to undo.
            if self._open is not None and self._open.in_transaction:
                self._open.execute("ROLLBACK TO part")
                self._open.execute("RELEASE part")
            raise
        with self._translated():
            self._transaction.execute("RELEASE part")

    def run(self, sql: str, *parameters: Value) -> int:
        """Change rows; return how many."""
        with self._translated():
            return self._transaction.execute(sql, parameters).rowcount

    def insert(self, sql: str, *parameters: Value) -> int:
        """Insert one row; return its identifier."""
        with self._translated():
            identifier = self._transaction.execute(sql, parameters).lastrowid
        assert identifier is not None
        return identifier

    def many(self, sql: str, rows: Iterable[Sequence[Value]]) -> None:
        """Run one statement for many rows of parameters."""
        with self._translated():
            self._transaction.executemany(sql, rows)

    def close(self) -> None:
        """Close the connection; what is asked next opens another."""
        if self._open is not None:
            with contextlib.suppress(sqlite3.Error):
                self._open.close()
            self._open = None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the engine's errors into refusals, and let go of a connection in which the engine failed."""
        try:
            with translated(self._home):
                yield
        except Refusal as refusal:
            if refusal.code in ENGINE_CODES:
                self.close()
                if _is_read_only(refusal):
                    Sqlite._read_only += 1
            if refusal.code == "disk-full":
                room.give_up(self._home)  # for who tries again
            raise

    # --- schema ---

    def schema(self) -> int:
        """Return the number of the last step that was applied; 0 for a new database."""
        return self.number("PRAGMA user_version")

    def _check_file(self) -> None:
        if self._home.has_lost_its_database():
            raise _lost(self._home)

    def _check_schema(self) -> None:
        schema = self.schema()
        if schema == 0:
            with self.write() as transaction:
                schema = self.schema()  # again: another process may have been quicker
                if schema == 0:
                    if self._home.has_traces():
                        raise _lost(self._home)
                    migrations.apply(transaction, schema)
                    return
        place = readable(str(self._home.path))
        if schema > migrations.LATEST:
            raise Refusal("schema-newer", f"The database in {place} was made by a newer winpop; use that one.")
        if schema < migrations.LATEST:
            raise Refusal("schema-older", f"The database in {place} was made by an older winpop; upgrade it first.")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Use the write-ahead log. Who finds a new database being switched by another gets no wait from SQLite."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


@contextlib.contextmanager
def translated(home: Home) -> Iterator[None]:
    """Turn the engine's errors into refusals. Errors in our own SQL stay what they are."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary result code
        place = readable(str(home.path))
        match code:
            case sqlite3.SQLITE_FULL:
                raise _full(home) from error
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise out_of_reach("database-busy", f"The database in {place} is busy; try again.") from error
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN if not _may_use(home):
                raise not_permitted(home.path) from error
            case sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
                raise not_permitted(home.path) from error
            case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
                raise out_of_reach(
                    "database-unreachable", f"The database in {place} cannot be used: {error}."
                ) from error
            case _ if code in _DAMAGED or (code == sqlite3.SQLITE_ERROR and str(error).startswith(_LOST)):
                raise out_of_reach(
                    "database-unreachable",
                    f"The database in {place} is damaged ({error}); stop the service and bring back a backup.",
                ) from error
            case 0 if str(error).startswith("Could not decode to UTF-8"):  # it quotes what may be a secret
                raise out_of_reach(
                    "database-unreachable",
                    f"The database in {place} is damaged (a text in it is not UTF-8); winpop check tells where.",
                ) from None
        raise


def _is_read_only(refusal: Refusal) -> bool:
    cause = refusal.__cause__
    return isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY


def _lost(home: Home) -> Refusal:
    return out_of_reach(
        "database-missing",
        f"There was an installation in {readable(str(home.path))}, and its database winpop.db is missing or empty; "
        "bring it back from a backup, or take another directory.",
    )


def _full(home: Home) -> Refusal:
    return out_of_reach("disk-full", f"The disk that holds {readable(str(home.path))} is full; nothing was changed.")


def _may_use(home: Home) -> bool:
    """Tell whether the system lets us. Nothing is opened: closing it would free the locks of other connections."""
    try:
        thing = home.database if home.database.exists() else home.path
        thing.stat()
        if os.name == "posix" and os.statvfs(thing).f_flag & os.ST_RDONLY:
            return True  # a file system on which nobody may write now
    except PermissionError:
        return False
    except OSError:
        return True  # something else is the matter
    return os.access(thing, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids)
