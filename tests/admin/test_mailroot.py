"""Moving the mail root loses nothing, whatever hinders it."""

import errno
import os
from pathlib import Path

import pytest

from admin.doing import audited, bring, do, refused
from winpop.admin import mailroot
from winpop.db.home import Home
from winpop.db.leases import SERVICE, Leases
from winpop.db.sqlite import Sqlite
from winpop.store.blobs import SMALL, Blobs

BODIES = [bytes([65 + n]) * (SMALL + 1 + n) for n in range(3)]


@pytest.fixture
def filled(home: Home) -> Home:
    for body in BODIES:
        bring(home, "alice@example.com", body)
    bring(home, "alice@example.com", b"small\r\n")
    return home


def bodies(home: Home) -> list[bytes]:
    """Return the large bodies as the rows and the setting find them."""
    root = Path(do(home, "get", name="mailroot").data["settings"][0]["value"])
    database = Sqlite(home)
    names = [str(row[0]) for row in database.all("SELECT blob FROM body WHERE blob IS NOT NULL ORDER BY id")]
    database.close()
    return [Blobs(root).path(name).read_bytes() for name in names]


def test_mail_goes_along_and_comes_back(filled: Home, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "mail"
    outcome = do(filled, "set", name="mailroot", values=str(target))
    assert outcome.changed
    assert outcome.data["moved"] == 3
    assert outcome.notes == ()
    assert bodies(filled) == BODIES
    assert not filled.mail.exists()
    assert target.stat().st_mode & 0o077 == 0
    assert not do(filled, "set", name="mailroot", values=str(target)).changed
    bring(filled, "alice@example.com", BODIES[0], root=str(target))
    do(filled, "set", name="mailroot", values="default")
    assert bodies(filled) == [*BODIES, BODIES[0]]
    assert not target.exists()
    assert [row[2] for row in audited(filled)] == ["done", "unchanged", "done"]


def test_an_empty_directory_is_taken_and_a_relative_path_is_made_absolute(
    filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir(mode=0o700)
    do(filled, "set", name="mailroot", values="new")
    assert do(filled, "get", name="mailroot").data["settings"][0]["value"] == str(tmp_path / "new")
    assert bodies(filled) == BODIES


def test_it_stays_where_it_is_while_the_service_runs(filled: Home, tmp_path: Path) -> None:
    service = Leases(filled.leases)
    service.take(SERVICE)
    try:
        assert refused(filled, "set", name="mailroot", values=str(tmp_path / "new")).code == "service-running"
    finally:
        service.close()
    assert not (tmp_path / "new").exists()
    assert do(filled, "set", name="mailroot", values=str(tmp_path / "new")).changed


def test_no_service_can_start_before_the_move_is_committed(
    filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Leases(filled.leases)
    taken: list[bool] = []
    remove = mailroot._remove

    def watched(old: Blobs, database: object) -> str | None:
        taken.append(service.take(SERVICE))
        return remove(old, database)  # type: ignore[arg-type]  # it only passes through

    monkeypatch.setattr(mailroot, "_remove", watched)
    do(filled, "set", name="mailroot", values=str(tmp_path / "new"))
    assert taken == [False]
    assert service.take(SERVICE)
    service.close()


def test_directories_that_are_not_fit_are_refused(filled: Home, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    def code(path: Path | str) -> str:
        return refused(filled, "set", name="mailroot", values=str(path)).code

    assert code(tmp_path / "full") == "mailroot-not-empty"
    assert code(tmp_path / "full" / "file") == "bad-path"
    assert code(tmp_path / "full" / "file" / "below") == "bad-path"
    assert code(tmp_path / ("x" * 300)) == "bad-path"
    assert code("nul\0byte") == "bad-path"
    assert code("\udcff") == "bad-path"
    assert code(tmp_path / "open") == "unsafe-mailroot"
    assert code(filled.mail / "inside") == "mailroot-inside"
    assert code(filled.path) == "mailroot-inside"
    assert bodies(filled) == BODIES


def test_damaged_mail_is_not_moved(filled: Home, tmp_path: Path) -> None:
    name, _ = next(Blobs(filled.mail).names())
    path = Blobs(filled.mail).path(name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert refused(filled, "set", name="mailroot", values=str(tmp_path / "new")).code == "mail-damaged"
    path.unlink()
    assert refused(filled, "set", name="mailroot", values=str(tmp_path / "new")).code == "mail-damaged"
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_everything_as_it_was(filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").mkdir(mode=0o700)
    synchronise, copied = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal copied
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(tmp_path / "new"):
            copied += 1
            if copied == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert refused(filled, "set", name="mailroot", values=str(tmp_path / "new")).code == "disk-full"
    assert list((tmp_path / "new").iterdir()) == []
    assert bodies(filled) == BODIES
