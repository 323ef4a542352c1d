"""Drafts and blobs: where a body lies, and in which order it becomes durable (durability.md, I1, I2)."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from winpop.store import blobs as blobs_module
from winpop.store.blobs import PIECE, SMALL, Blobs, Content, Draft, checksum
from winpop.store.maildrops import BlobReader, Stored
from winpop.terms.refusals import Kind, Refusal

BODY = bytes(range(256)) * 8


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    """A mail root."""
    made = Blobs(tmp_path / "mail")
    made.make()
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """A bound between row and blob that a test reaches soon."""
    monkeypatch.setattr(blobs_module, "SMALL", 100)
    return 100


def files(blobs: Blobs) -> list[Path]:
    return [path for path in blobs.root.rglob("*") if path.is_file()]


def stored(blobs: Blobs, name: str) -> Stored:
    """The row of a blob that is as it was placed."""
    octets = blobs.path(name).read_bytes()
    return Stored(b"P", plain=True, octets=None, blob=name, size=len(octets), checksum=checksum(b"P", octets))


def read(blobs: Blobs, name: str) -> bytes:
    reader = BlobReader(blobs, stored(blobs, name))
    pieces, last = [], False
    while not last:
        piece, last = reader.read()
        assert len(piece) <= PIECE
        pieces.append(piece)
    reader.close()
    reader.close()  # harmless
    return b"".join(pieces)


def placed(blobs: Blobs, body: bytes) -> str:
    draft = Draft(blobs)
    draft.write(body)
    content = draft.finish()
    assert content.blob is not None
    return content.blob


def broken(real: Callable[..., object], number: int, when: int) -> tuple[Callable[..., object], list[int]]:
    """Return the system call with an error at its `when`th call, and the list of its calls."""
    calls: list[int] = []

    def call(*arguments: object, **options: object) -> object:
        calls.append(len(calls) + 1)
        if len(calls) == when:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    return call, calls


@pytest.mark.parametrize("pieces", [1, 2, 1000])
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_body_is_in_memory_up_to_the_bound_and_in_a_file_beyond_it(blobs: Blobs, beyond: int, pieces: int) -> None:
    body = os.urandom(SMALL + beyond)
    draft = Draft(blobs)
    step = len(body) // pieces
    for start in range(0, len(body), step):
        piece = body[start : start + step]
        kept = draft.keep(piece)
        if not kept:
            draft.write(piece)
        assert draft.in_memory is kept
    assert draft.in_memory is (beyond == 0)
    content = draft.finish()
    assert content.size == draft.size == len(body)
    if beyond:
        assert content.octets is None
        assert content.blob is not None
        assert read(blobs, content.blob) == body
        assert files(blobs) == [blobs.path(content.blob)]
    else:
        assert content == Content(len(body), body, None)
        assert files(blobs) == []


def test_a_large_blob_is_read_in_pieces(blobs: Blobs) -> None:
    body = os.urandom(2 * PIECE + 1)
    assert read(blobs, placed(blobs, body)) == body


def test_an_empty_body_is_a_body(blobs: Blobs) -> None:
    assert Draft(blobs).finish() == Content(0, b"", None)


def test_short_writes_lose_nothing(blobs: Blobs, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BODY) > small
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    name = placed(blobs, BODY)
    monkeypatch.undo()
    assert read(blobs, name) == BODY


def test_the_bytes_are_on_disk_before_the_name_and_the_name_before_anything_else(
    blobs: Blobs, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(BODY) > small
    done: list[tuple[str, Path, int]] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(("fsync", path, path.stat().st_size if path.is_file() else -1))
        fsync(descriptor)

    def record_rename(source: Path, target: Path) -> None:
        done.append(("rename", Path(target), -1))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    name = placed(blobs, BODY)
    place = blobs.path(name)
    assert done == [
        ("fsync", blobs.tmp / name, len(BODY)),
        ("rename", place, -1),
        ("fsync", place.parent, -1),
    ]


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EIO, "mailroot-unusable")])
@pytest.mark.parametrize(
    ("call", "when"), [("open", 1), ("write", 1), ("write", 2), ("fsync", 1), ("rename", 1), ("fsync", 2), ("close", 1)]
)
def test_an_error_at_any_step_refuses_the_body_is_not_tried_again_and_leaves_no_file(  # noqa: PLR0913, PLR0917 - a table
    blobs: Blobs, small: int, monkeypatch: pytest.MonkeyPatch, call: str, when: int, number: int, code: str
) -> None:
    fake, calls = broken(getattr(os, call), number, when)
    draft = Draft(blobs)
    draft.write(b"x" * small)  # in memory; the next byte moves it all into a file

    def go_on() -> None:
        draft.write(b"y")
        draft.finish()

    monkeypatch.setattr(os, call, fake)
    with pytest.raises(Refusal) as caught:
        go_on()
    monkeypatch.undo()
    assert (caught.value.code, caught.value.kind) == (code, Kind.OUT_OF_REACH)
    assert files(blobs) == []
    assert len(calls) == when


@pytest.mark.parametrize("length", [1, 100, 101])
def test_a_draft_that_is_dropped_leaves_no_file(blobs: Blobs, small: int, length: int) -> None:
    draft = Draft(blobs)
    draft.write(b"x" * length)
    assert len(files(blobs)) == (length > small)
    draft.discard()
    draft.discard()  # harmless
    assert files(blobs) == []


def test_a_finished_body_is_not_dropped_with_its_draft(blobs: Blobs, small: int) -> None:
    draft = Draft(blobs)
    draft.write(b"x" * (small + 1))
    content = draft.finish()
    draft.discard()
    assert files(blobs) == [blobs.path(str(content.blob))]


@pytest.mark.usefixtures("small")
def test_only_the_owner_may_read_or_write(blobs: Blobs) -> None:
    place = blobs.path(placed(blobs, BODY))
    assert place.stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in [blobs.root, *blobs.root.glob("*")]} == {0o700}


@pytest.mark.usefixtures("small")
def test_names_are_opaque_and_the_files_are_listed_by_them(blobs: Blobs) -> None:
    names = {placed(blobs, BODY) for _ in range(20)}
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in names)
    assert {name for name, _ in blobs.names()} == names
    name = names.pop()
    blobs.unlink(name)
    blobs.unlink(name)  # harmless
    assert {name for name, _ in blobs.names()} == names


@pytest.mark.usefixtures("small")
def test_a_blob_that_was_cut_off_is_an_error_and_not_a_shorter_message(blobs: Blobs) -> None:
    name = placed(blobs, BODY)
    reader = BlobReader(blobs, stored(blobs, name))
    os.truncate(blobs.path(name), 0)
    with pytest.raises(OSError, match="shorter"):
        reader.read()
    reader.close()


@pytest.mark.usefixtures("small")
def test_a_link_in_the_place_of_a_blob_is_not_followed(blobs: Blobs, tmp_path: Path) -> None:
    name = placed(blobs, BODY)
    (tmp_path / "secret").write_bytes(b"secret")
    row = stored(blobs, name)
    blobs.path(name).unlink()
    blobs.path(name).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic"):
        BlobReader(blobs, row)


def test_a_mail_root_is_marked_as_made_only_once_its_directories_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path / "a" / "mail")
    fake, _ = broken(os.fsync, errno.EIO, 1)
    monkeypatch.setattr(os, "fsync", fake)
    with pytest.raises(Refusal) as caught:
        blobs.make()
    assert caught.value.code == "mailroot-unusable"
    again, calls = broken(os.fsync, errno.EIO, 0)
    monkeypatch.setattr(os, "fsync", again)
    blobs.make()  # what was not known to be on disk is synchronised now
    above = len(blobs.root.parents)
    assert len(calls) == 1 + above  # up to the top: somebody who was killed may have made some of them
    blobs.make()
    assert len(calls) == 1 + above


def test_a_mail_root_that_cannot_be_made_is_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refusal) as caught:
        Blobs(tmp_path / "file" / "mail").make()
    assert (caught.value.code, caught.value.kind) == ("mailroot-unusable", Kind.OUT_OF_REACH)


def test_what_is_in_memory_is_read_at_once_and_the_rest_follows(blobs: Blobs) -> None:
    octets = bytes(range(256)) * 2000
    name = placed(blobs, octets)
    pieces: list[tuple[bytes, bool]] = []
    with contextlib.closing(BlobReader(blobs, stored(blobs, name))) as reader:
        while len(pieces) < 3 and (piece := reader.read_now(memoryview(bytearray(64 * 1024)))) is not None:
            pieces.append(piece)
        assert pieces or not can_be_told_what_is_in_memory(blobs.path(name))
        while not (pieces and pieces[-1][1]):
            pieces.append(reader.read())
    assert b"".join(data for data, _ in pieces) == octets
    assert [last for _, last in pieces].count(True) == 1


def can_be_told_what_is_in_memory(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, getattr(os, "RWF_NOWAIT", 0)) == 1
        except (OSError, AttributeError):
            return False
