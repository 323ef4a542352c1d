"""What an installation has besides its mail: the file of the database, settings, the home, names and passwords.

Invariant: nothing is changed and no file is opened. Where damage ends one part, that is said and the others go on.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from winpop.auth import passwords
from winpop.db.contract import Database, Value
from winpop.db.home import Home
from winpop.directory import settings
from winpop.store.inspection import Flaw, Found, access, bear
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal, readable

_ROWS = 500
_HOME_FORBIDDEN, _FORBIDDEN = 0o027, 0o077
_BACKUP = "bring the installation back from a backup if there is no other way"
_ADDRESS = "CAST(mailbox.name || '@' || domain.name AS BLOB)"
_OF_MAILBOX = "FROM mailbox JOIN domain ON domain.id = mailbox.domain_id"


def as_far_as_it_goes(database: Database, part: Callable[[], None], found: Found) -> None:
    """Do a part; where damage of the database ends it, say so and let the others go on."""
    try:
        part()
    except Refusal as refusal:
        bear(database, refusal)
        found(Flaw("engine", "winpop.db", f"Not everything can be read: {readable(refusal.sentence)}"))


def look_at_engine(database: Database, found: Found) -> None:
    """Let the engine look at its own file, and at what rows refer to."""

    def integrity() -> None:
        rows = database.all("PRAGMA integrity_check(100)")
        for line in [line for row in rows for line in str(row[0]).splitlines()]:
            if line != "ok" and not line.startswith("***"):
                found(Flaw("engine", "winpop.db", f"The database is damaged ({readable(line)}); {_BACKUP}."))

    def references() -> None:
        rows = database.all('SELECT "table", rowid, parent FROM pragma_foreign_key_check LIMIT 200')
        for table, row, parent in rows:
            if parent != "body":  # that is told as a message without a body
                said = f"Its row refers to a {readable(str(parent))} that is missing; {_BACKUP}."
                found(Flaw("foreign-key", f"{readable(str(table))} row {row!s}", said))

    as_far_as_it_goes(database, integrity, found)
    as_far_as_it_goes(database, references, found)


def look_at_settings(database: Database, home: Home, found: Found) -> Path:
    """Look at the settings; return the mail root that they name."""
    root = ""
    for name, value in database.all("SELECT CAST(name AS BLOB), CAST(value AS BLOB) FROM setting"):
        setting, text = _text(name), _text(value)
        if setting == "mailroot":
            root = text if "\0" not in text else readable(text)
        if setting in settings.SETTINGS and text != settings.SETTINGS[setting].default:
            try:
                settings.read_stored(setting, text)
            except Refusal as refusal:
                found(Flaw("setting", f"setting {setting}", refusal.sentence))
    return home.mail_root(root)


def look_at_home(home: Home, owner: int, found: Found) -> None:
    """Look at who may use the home and the files in it. None of them is opened: see `db.sqlite`."""
    for flaw in access(home.path, owner, 0o700, _HOME_FORBIDDEN):
        found(flaw)
    database = str(home.database)
    companions = [Path(f"{database}{ending}") for ending in ("", "-wal", "-shm", "-journal")]
    for path in (*companions, home.leases, home.reserve, *home.path.glob("winpop-schema-*.db")):
        if os.path.lexists(path):
            try:
                flaws = access(path, owner, 0o600, _FORBIDDEN)
            except OSError:  # gone in this moment
                continue
            for flaw in flaws:
                found(flaw)


def look_at_mailboxes(database: Database, found: Found) -> None:
    """Look at names and password hashes."""
    for address, password_hash in _accounts(database):
        try:
            legal = str(Address.parse(address)) == address
        except Refusal:
            legal = False
        if not legal:
            found(Flaw("name", readable(address), "This cannot be the address of a mailbox, so nobody can use it."))
        try:
            passwords.check_hash(password_hash)
        except Refusal:
            said = "cannot be verified" if password_hash else "is missing"
            advice = f"nobody can log on until 'winpop changepwd {readable(address)}' sets a new one."
            found(Flaw("password", readable(address), f"Its password {said}; {advice}"))


def _accounts(database: Database) -> Iterator[tuple[str, str]]:
    """Yield addresses and password hashes, as they are."""
    last = 0
    sql = (
        f"SELECT mailbox.id, {_ADDRESS}, CAST(password.hash AS BLOB) {_OF_MAILBOX} "
        "LEFT JOIN password ON password.mailbox_id = mailbox.id "
        "LEFT JOIN account ON account.mailbox_id = mailbox.id "
        f"WHERE mailbox.id > ? AND account.mailbox_id IS NULL ORDER BY mailbox.id LIMIT {_ROWS}"
    )
    while rows := database.all(sql, last):
        for mailbox_id, address, password_hash in rows:
            assert isinstance(mailbox_id, int)
            last = mailbox_id
            yield _text(address), _text(password_hash)


def address_of(database: Database, mailbox_id: int) -> str:
    """Return what people call a mailbox; nothing where it is missing."""
    row = database.one(f"SELECT {_ADDRESS} {_OF_MAILBOX} WHERE mailbox.id = ?", mailbox_id)
    return readable(_text(row[0])) if row else ""


def _text(value: Value) -> str:
    """Return a text as the database has it, even where it is no UTF-8."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else ""
