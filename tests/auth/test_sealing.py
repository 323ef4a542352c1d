"""Secrets that are sealed open where they belong, under the key they were sealed with, and nowhere else."""

import base64
import errno
import importlib
import multiprocessing
import multiprocessing.synchronize
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from winpop.auth import sealing
from winpop.auth.sealing import Sealing
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite
from winpop.terms.refusals import Kind, Refusal

SECRET = b"CaNaRy secret"
MAILBOX, SETTING = "mailbox 17", "setting ldappassword"
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")


@pytest.fixture
def bare(tmp_path: Path) -> Home:
    """A home without a database."""
    made = Home(tmp_path / "bare")
    made.make()
    return made


def key(home: Home) -> Path:
    return home.path / "key"


def refused(action: Callable[[], object], code: str, *words: str) -> None:
    """See that it is refused in one sentence, which says where, and gives nothing away."""
    with pytest.raises(Refusal) as caught:
        action()
    sentence = caught.value.sentence
    assert (caught.value.code, caught.value.kind) == (code, Kind.OUT_OF_REACH)
    assert sentence.endswith(".")
    assert ". " not in sentence
    assert "/key" in sentence
    assert all(word in sentence for word in words), sentence
    assert "CaNaRy" not in sentence


def keep(home: Home, sealed: bytes) -> None:
    """Put a sealed value beside alice's password."""
    database = Sqlite(home)
    with database.write() as transaction:
        assert transaction.run("UPDATE password SET secret = ? WHERE mailbox_id = 1", sealed)
    database.close()


def test_what_was_sealed_opens_for_any_process_of_the_home(bare: Home) -> None:
    sealed = Sealing(bare).seal(SECRET, MAILBOX)
    assert Sealing(bare).open(sealed, MAILBOX) == SECRET
    assert len(sealed) == len(SECRET) + 29
    assert sealed[:1] == b"\x01"
    assert SECRET not in sealed


def test_a_value_is_sealed_otherwise_each_time(bare: Home) -> None:
    assert len({Sealing(bare).seal(SECRET, MAILBOX) for _ in range(50)}) == 50


def test_it_is_the_cipher_that_the_documentation_names(bare: Home) -> None:
    """AES-256-GCM, by another way, under a key that HKDF-Expand makes (RFC 5869 §2.3)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    sealed = Sealing(bare).seal(SECRET, MAILBOX)
    secret_key = HKDFExpand(hashes.SHA256(), 32, b"sealing").derive(key(bare).read_bytes())
    nonce, ciphertext, tag = sealed[1:13], sealed[13:-16], sealed[-16:]
    decryptor = Cipher(algorithms.AES256(secret_key), modes.GCM(nonce, tag)).decryptor()
    decryptor.authenticate_additional_data(b"\x01" + MAILBOX.encode())
    assert decryptor.update(ciphertext) + decryptor.finalize() == SECRET


@pytest.mark.parametrize("elsewhere", ["mailbox 18", "mailbox 1", "mailbox 17 ", "MAILBOX 17", SETTING, ""])
def test_a_value_does_not_open_for_another_mailbox(elsewhere: str, bare: Home) -> None:
    sealed = Sealing(bare).seal(SECRET, MAILBOX)
    refused(lambda: Sealing(bare).open(sealed, elsewhere), "sealed-damaged", elsewhere.strip())


def test_a_value_that_changed_or_was_cut_does_not_open(bare: Home) -> None:
    seals = Sealing(bare)
    sealed = seals.seal(b"short", MAILBOX)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 0x10
        refused(lambda changed=changed: seals.open(bytes(changed), MAILBOX), "sealed-damaged", MAILBOX)  # type: ignore[misc]
        refused(lambda place=place: seals.open(sealed[:place], MAILBOX), "sealed-damaged", MAILBOX)  # type: ignore[misc]
    refused(lambda: seals.open(sealed + b"\0", MAILBOX), "sealed-damaged", MAILBOX)


def test_a_value_of_another_installation_does_not_open(bare: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    other.make()
    Sealing(other).seal(SECRET, MAILBOX)
    sealed = Sealing(bare).seal(SECRET, MAILBOX)
    refused(lambda: Sealing(other).open(sealed, MAILBOX), "sealed-damaged", "another key")


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.text(max_size=30), st.text(st.characters(), max_size=50))
def test_everything_opens_as_it_was_sealed(bare: Home, data: bytes, context: str, text: str) -> None:
    seals = Sealing(bare)
    assert seals.open(seals.seal(data, context), context) == data
    assert seals.open_text(seals.seal_text(text, context), context) == text


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100) | st.binary(max_size=100).map(b"\x01".__add__))
def test_garbage_is_refused_and_nothing_else(bare: Home, garbage: bytes) -> None:
    seals = Sealing(bare)
    seals.seal(b"", MAILBOX)
    refused(lambda: seals.open(garbage, MAILBOX), "sealed-damaged")


def test_a_setting_is_sealed_as_text(bare: Home) -> None:
    sealed = Sealing(bare).seal_text("Pässword", SETTING)
    assert base64.b64decode(sealed, validate=True)[:1] == b"\x01"
    assert Sealing(bare).open_text(sealed, SETTING) == "Pässword"
    for text in ("Pässword", sealed[:-1], sealed + "\n", f" {sealed}", "", "not base64!", "\ud800"):
        refused(lambda text=text: Sealing(bare).open_text(text, SETTING), "sealed-damaged", SETTING)  # type: ignore[misc]


def test_each_purpose_has_its_own_key_which_stays(bare: Home, tmp_path: Path) -> None:
    """RFC 5869 §2.3, with another implementation beside it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    other = Home(tmp_path / "other")
    other.make()
    first = Sealing(bare).derived("scram")
    assert first == Sealing(bare).derived("scram")
    assert first == HKDFExpand(hashes.SHA256(), 32, b"scram").derive(key(bare).read_bytes())
    assert len({first, Sealing(bare).derived("sealing"), Sealing(other).derived("scram"), key(bare).read_bytes()}) == 4


# --- the key ---


def test_the_key_is_made_when_the_first_secret_is_sealed(bare: Home) -> None:
    assert not key(bare).exists()
    Sealing(bare).seal(SECRET, MAILBOX)
    first = key(bare).read_bytes()
    assert len(first) == 32
    Sealing(bare).seal(SECRET, MAILBOX)
    assert key(bare).read_bytes() == first
    assert [path.name for path in bare.path.iterdir()] == ["key"]
    key(bare).unlink()
    Sealing(bare).derived("scram")
    assert len(key(bare).read_bytes()) == 32


@posix
def test_the_key_is_its_owners_alone_whatever_the_mask_is(bare: Home) -> None:
    mask = os.umask(0)
    try:
        Sealing(bare).seal(SECRET, MAILBOX)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(key(bare).stat().st_mode) == 0o600


@posix
def test_the_key_is_on_disk_before_anything_is_sealed(bare: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, link, cipher = os.fsync, os.link, sealing._cipher

    def seen_fsync(descriptor: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def seen_link(source: Path, target: Path) -> None:
        done.append("link")
        link(source, target)

    def seen_cipher(secret_key: bytes) -> object:
        done.append("seal")
        return cipher(secret_key)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "link", seen_link)
    monkeypatch.setattr(sealing, "_cipher", seen_cipher)
    seals = Sealing(bare)
    seals.seal(SECRET, MAILBOX)
    assert done == ["file", "link", "directory", "seal"]
    done.clear()
    seals.seal(SECRET, MAILBOX)
    Sealing(bare).seal(SECRET, MAILBOX)  # another process may have linked it and not come further
    assert done == ["seal", "directory", "seal"]


@posix
@pytest.mark.parametrize("call", ["fsync", "link", "open"])
def test_a_key_that_cannot_be_made_is_refused_and_leaves_nothing(
    call: str, bare: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(os, call)

    def fail(first: object, *rest: object) -> object:
        if call == "open" and not str(first).rpartition("/")[2].startswith("key-"):
            return right(first, *rest)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        refused(lambda: Sealing(bare).seal(SECRET, MAILBOX), "key-unusable", "cannot be made", "No space left")
    assert list(bare.path.iterdir()) == []
    assert Sealing(bare).open(Sealing(bare).seal(SECRET, MAILBOX), MAILBOX) == SECRET


def _seal_in_each(paths: list[str], together: multiprocessing.synchronize.Barrier, kept: str) -> None:
    """What each process of the next test does."""
    importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")  # before, so that they meet in the making
    for path in paths:
        seals = Sealing(Home(Path(path)))
        together.wait(30)
        sealed = seals.seal(SECRET, MAILBOX)
        (Path(path) / kept).write_bytes(sealed)


def test_processes_that_make_the_key_at_the_same_time_have_the_same(tmp_path: Path) -> None:
    homes = [Home(tmp_path / str(n)) for n in range(30)]
    for home in homes:
        home.make()
    spawn, count = multiprocessing.get_context("spawn"), 3
    together = spawn.Barrier(count)
    paths = [str(home.path) for home in homes]
    processes = [spawn.Process(target=_seal_in_each, args=(paths, together, f"sealed{n}")) for n in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count
    for home in homes:
        assert sorted(path.name for path in home.path.iterdir()) == ["key", *(f"sealed{n}" for n in range(count))]
        for n in range(count):
            assert Sealing(home).open((home.path / f"sealed{n}").read_bytes(), MAILBOX) == SECRET


def test_a_key_that_another_process_links_first_is_taken(bare: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    link, theirs = os.link, b"\x17" * 32

    def too_late(source: Path, target: Path) -> None:
        sealing._write(target, theirs)
        link(source, target)

    monkeypatch.setattr(os, "link", too_late)
    sealed = Sealing(bare).seal(SECRET, MAILBOX)
    assert key(bare).read_bytes() == theirs
    assert Sealing(bare).open(sealed, MAILBOX) == SECRET


def test_a_key_that_another_process_used_while_this_one_looked_is_taken(
    bare: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Sealing(bare)

    def meanwhile(home: Home) -> bool:
        if not key(home).exists():
            monkeypatch.setattr(sealing, "anything_is_sealed", lambda _: False)
            other.seal(SECRET, MAILBOX)
        return True

    monkeypatch.setattr(sealing, "anything_is_sealed", meanwhile)
    assert other.open(Sealing(bare).seal(SECRET, MAILBOX), MAILBOX) == SECRET


# --- a key that is gone or cannot be used ---


def test_a_copy_of_the_database_without_the_key_gives_nothing_away(home: Home, tmp_path: Path) -> None:
    sealed = Sealing(home).seal(SECRET, MAILBOX)
    keep(home, sealed)
    copy = Home(tmp_path / "copy")
    copy.make()
    shutil.copy(home.database, copy.database)
    assert SECRET not in copy.database.read_bytes()
    refused(lambda: Sealing(copy).open(sealed, MAILBOX), "key-missing", "bring it back", "crammd5 off")
    # Another key would be one more that is missing later, and the first would never be looked for.
    refused(lambda: Sealing(copy).seal(SECRET, MAILBOX), "key-missing")
    refused(lambda: Sealing(copy).derived("scram"), "key-missing")
    assert not key(copy).exists()
    shutil.copy(key(home), key(copy))
    assert Sealing(copy).open(sealed, MAILBOX) == SECRET


def test_no_other_key_is_made_while_a_setting_is_sealed(home: Home) -> None:
    sealed = Sealing(home).seal_text("secret", SETTING)
    database = Sqlite(home)
    with database.write() as transaction:
        transaction.run("INSERT INTO setting (name, value) VALUES ('ldappassword', ?)", sealed)
    key(home).unlink()
    refused(lambda: Sealing(home).seal(SECRET, MAILBOX), "key-missing", "ldappassword")
    with database.write() as transaction:
        transaction.run("UPDATE setting SET value = '' WHERE name = 'ldappassword'")
    database.close()
    Sealing(home).seal(SECRET, MAILBOX)


def test_another_key_is_made_when_the_sealed_values_were_forgotten(home: Home) -> None:
    seals = Sealing(home)
    sealed = seals.seal(SECRET, MAILBOX)
    keep(home, sealed)
    key(home).unlink()
    refused(lambda: seals.seal(SECRET, MAILBOX), "key-missing")
    database = Sqlite(home)
    with database.write() as transaction:
        transaction.run("UPDATE password SET secret = NULL")
        refused(lambda: seals.seal(SECRET, MAILBOX), "key-missing")  # it may be undone yet
    database.close()
    again = seals.seal(SECRET, MAILBOX)
    assert seals.open(again, MAILBOX) == SECRET
    refused(lambda: seals.open(sealed, MAILBOX), "sealed-damaged")


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 64, b"x" * 32 + b"\n"])
def test_a_key_of_another_length_is_refused_and_not_replaced(content: bytes, bare: Home) -> None:
    sealed = Sealing(bare).seal(SECRET, MAILBOX)
    key(bare).write_bytes(content)
    refused(lambda: Sealing(bare).open(sealed, MAILBOX), "key-unusable", "32 octets")
    refused(lambda: Sealing(bare).seal(SECRET, MAILBOX), "key-unusable", "32 octets")
    assert key(bare).read_bytes() == content


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_a_key_that_others_may_use_is_refused(mode: int, bare: Home) -> None:
    sealed = Sealing(bare).seal(SECRET, MAILBOX)
    key(bare).chmod(mode)
    refused(lambda: Sealing(bare).open(sealed, MAILBOX), "key-unusable", "by others", "chmod 600")
    key(bare).chmod(0o400)
    assert Sealing(bare).open(sealed, MAILBOX) == SECRET


@posix
def test_a_key_of_another_user_is_refused(bare: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = Sealing(bare).seal(SECRET, MAILBOX)
    monkeypatch.setattr(os, "geteuid", lambda: bare.path.stat().st_uid + 1)
    refused(lambda: Sealing(bare).open(sealed, MAILBOX), "key-unusable", "another user", "chown")


@posix
@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "pipe"])
def test_what_is_no_file_is_not_followed_waited_for_or_replaced(kind: str, bare: Home, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    if kind == "link":
        sealing._write(elsewhere, bytes(32))
    match kind:
        case "directory":
            key(bare).mkdir(0o700)
        case "pipe":
            os.mkfifo(key(bare), 0o600)
        case _:
            key(bare).symlink_to(elsewhere)
    refused(lambda: Sealing(bare).seal(SECRET, MAILBOX), "key-unusable")
    refused(lambda: Sealing(bare).open(bytes(40), MAILBOX), "key-unusable")


@posix
@pytest.mark.parametrize("call", ["open", "read"])
def test_a_key_that_the_system_does_not_give_is_refused(call: str, bare: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = Sealing(bare).seal(SECRET, MAILBOX)

    def fail(*_: object) -> object:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        refused(lambda: Sealing(bare).open(sealed, MAILBOX), "key-unusable", "Permission denied")
    assert Sealing(bare).open(sealed, MAILBOX) == SECRET
