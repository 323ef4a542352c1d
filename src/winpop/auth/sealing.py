"""Secrets that this server must be able to read again, sealed under a key of the installation.

    HOME/key      32 random octets, its owner's alone; made when it is first needed

A copy of the database without the key, which no backup holds, gives no secret away. AES-256-GCM; a sealed value is a
version octet, a nonce of 12 octets, and the ciphertext with its tag of 16. What the value belongs to (`mailbox 17`) is
sealed with it, so that it opens nowhere else. The file's octets are never a key themselves: each purpose has its own,
derived from them (HKDF-Expand with SHA-256, RFC 5869 §2.3).

Invariants: a key is made once, and is on disk before anything is sealed under it; while there are values that were
sealed under a key that is gone, no other is made; no key and no secret stands in a sentence.
"""

import base64
import contextlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from winpop.db.home import Home, synchronise
from winpop.db.sqlite import Sqlite
from winpop.directory.settings import SETTINGS
from winpop.terms.refusals import Refusal, out_of_reach, readable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LDAP_PASSWORD = "setting ldappassword"  # noqa: S105 - what it is bound to, not the password
"""The context of the password of the account that Active Directory is looked up with."""
KEY_OCTETS = 32
_SEALING = "sealing"
_VERSION = b"\x01"
_NONCE_OCTETS, _TAG_OCTETS = 12, 16
_LEAST = len(_VERSION) + _NONCE_OCTETS + _TAG_OCTETS


class Sealing:
    """Seals and opens under the key of one home. The key is read each time: nothing is kept in memory.

    `context` says what a value belongs to, in words that a sentence can quote: `mailbox 17`, `setting ldappassword`.
    All raise `Refusal` (`key-missing`, `key-unusable`); opening also `sealed-damaged`; what makes the key also what the
    database raises. They touch the disk, and with a key that is there only to read 32 octets.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._path = home.path / "key"
        self._on_disk = False

    def seal(self, data: bytes, context: str) -> bytes:
        """Return `data` sealed; 29 octets longer, and other each time."""
        key = self.derived(_SEALING)
        nonce = secrets.token_bytes(_NONCE_OCTETS)
        return _VERSION + nonce + _cipher(key).encrypt(nonce, data, _bound_to(context))

    def open(self, sealed: bytes, context: str) -> bytes:
        """Return what was sealed for this context."""
        from cryptography.exceptions import InvalidTag  # see `_cipher`

        master = self._read()
        if master is None:
            raise self._missing()
        if len(sealed) >= _LEAST and sealed.startswith(_VERSION):
            key, begins = _derive(master, _SEALING), len(_VERSION) + _NONCE_OCTETS
            with contextlib.suppress(InvalidTag):
                return _cipher(key).decrypt(sealed[len(_VERSION) : begins], sealed[begins:], _bound_to(context))
        raise self._damaged(context)

    def seal_text(self, text: str, context: str) -> str:
        """Return a text sealed, in base64: the form for the table of settings."""
        return base64.b64encode(self.seal(text.encode("utf-8", "surrogatepass"), context)).decode("ascii")

    def open_text(self, sealed: str, context: str) -> str:
        """Return the text that was sealed for this context."""
        try:
            octets = base64.b64decode(sealed, validate=True)
        except ValueError:
            raise self._damaged(context) from None
        return self.open(octets, context).decode("utf-8", "surrogatepass")

    def derived(self, purpose: str) -> bytes:
        """Return 32 octets that only this installation has, always the same for one purpose (a word for programs)."""
        master = self._read() or self._make()
        self._see_on_disk()
        return _derive(master, purpose)

    # --- the key ---

    def _read(self) -> bytes | None:
        """Return the key, or None where there is no file. Raises `Refusal` (`key-unusable`)."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self._path, flags | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(f"cannot be opened ({error.strerror})") from None
        try:
            status = os.fstat(descriptor)
            key = os.read(descriptor, KEY_OCTETS + 1) if stat.S_ISREG(status.st_mode) else b""
        except OSError as error:
            raise self._unusable(f"cannot be read ({error.strerror})") from None
        finally:
            os.close(descriptor)
        self._check(status, key)
        return key

    def _check(self, status: os.stat_result, key: bytes) -> None:
        """Refuse a key that is none, or that others know or chose."""
        if not stat.S_ISREG(status.st_mode):
            raise self._unusable("is no file")
        if os.name == "posix" and status.st_uid != os.geteuid():
            raise self._unusable("belongs to another user")
        if os.name == "posix" and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise self._unusable("can be read or written by others")
        if len(key) != KEY_OCTETS:
            raise self._unusable(f"does not have {KEY_OCTETS} octets")

    def _make(self) -> bytes:
        """Make the key, and return it or the one that another process made first."""
        self._on_disk = False
        if not anything_is_sealed(self._home):
            draft = self._path.with_name(f"key-{secrets.token_hex(8)}")
            try:
                try:
                    _write(draft, secrets.token_bytes(KEY_OCTETS))
                    with contextlib.suppress(FileExistsError):
                        os.link(draft, self._path)  # it never overwrites, as a rename would
                finally:
                    draft.unlink(missing_ok=True)
            except OSError as error:
                raise self._unusable(f"cannot be made ({error.strerror})") from None
        key = self._read()
        if key is None:
            raise self._missing()
        return key

    def _see_on_disk(self) -> None:
        """Make the key's name durable, also where another process made it: that one may not have come so far."""
        if self._on_disk:
            return
        try:
            synchronise(self._home.path)
        except OSError as error:
            raise self._unusable(f"cannot be made durable ({error.strerror})") from None
        self._on_disk = True

    # --- what is said ---

    def _missing(self) -> Refusal:
        return out_of_reach(
            "key-missing",
            f"Secrets were sealed under the key {self._shown}, which is gone; bring it back from where it is kept, or "
            "switch apop and crammd5 off and set ldappassword to default, which forgets these secrets.",
        )

    def _unusable(self, why: str) -> Refusal:
        return out_of_reach(
            "key-unusable",
            f"The key of this installation, {self._shown}, {why}; it has to be a file of {KEY_OCTETS} octets that "
            "belongs to the owner of the home and that nobody else may read: bring it back with chown and chmod 600.",
        )

    def _damaged(self, context: str) -> Refusal:
        return out_of_reach(
            "sealed-damaged",
            f"The sealed secret of {readable(context)} cannot be opened: it is damaged, or sealed under another key "
            f"than {self._shown}; bring the right key back, or set that password again.",
        )

    @property
    def _shown(self) -> str:
        return readable(str(self._path))


def secret_context(mailbox_id: int) -> str:
    """Return what the sealed password of a mailbox is bound to: it opens for no other."""
    return f"password of mailbox {mailbox_id}"


def anything_is_sealed(home: Home) -> bool:
    """Tell whether the database of a home holds a sealed value. Raises `Refusal`, the database's own."""
    if not home.database.exists():
        return False
    database = Sqlite(home)
    try:
        names = [setting.name for setting in SETTINGS.values() if setting.secret]
        marks = ", ".join("?" * len(names))
        return bool(
            database.number("SELECT EXISTS (SELECT 1 FROM password WHERE secret IS NOT NULL)")
            or database.number(
                f"SELECT EXISTS (SELECT 1 FROM setting WHERE name IN ({marks}) AND value <> '')",  # noqa: S608 - marks
                *names,
            )
        )
    finally:
        database.close()


def _derive(master: bytes, purpose: str) -> bytes:
    return hmac.digest(master, purpose.encode("ascii") + b"\x01", "sha256")


def _cipher(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # here: most commands of the tool seal nothing

    return AESGCM(key)


def _bound_to(context: str) -> bytes:
    """Return what is authenticated and not encrypted."""
    return _VERSION + context.encode("utf-8", "surrogatepass")


def _write(path: Path, data: bytes) -> None:
    """Write a new file, its owner's alone, and see it on disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
