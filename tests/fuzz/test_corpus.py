"""The kept inputs of the fuzzer, replayed without it; that they reach what they are for; that the targets can fail."""

import functools
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fuzz import of_terms
from fuzz.chosen import HEADER
from fuzz.fence import fence
from fuzz.reach import reach
from fuzz.run import KEPT, available
from fuzz.targets import TARGETS
from winpop.admin import invoke
from winpop.cli import arguments, render
from winpop.directory import settings
from winpop.protocol import lines, pop3, smtp
from winpop.protocol.pop3 import authorization, multiline, output
from winpop.protocol.pop3 import session as pop3_session
from winpop.protocol.smtp import body, data, paths, replies
from winpop.protocol.smtp import session as smtp_session
from winpop.terms import endpoints, names
from winpop.terms.refusals import Kind, Refusal

RUN = Path(__file__).with_name("run.py")


@functools.cache
def kept(target: str) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted((KEPT / target).iterdir()))


def test_the_corpus_is_small_and_belongs_to_the_targets() -> None:
    assert {path.name for path in KEPT.iterdir()} == set(TARGETS)
    files = [path for target in TARGETS for path in (KEPT / target).iterdir()]
    assert sum(path.stat().st_size for path in files) < 400_000
    assert all(len(kept(target)) >= 10 for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_no_kept_input_breaks_a_law(target: str) -> None:
    for octets in kept(target):
        TARGETS[target].run(octets)


FOUND = [
    # A session that was closed without a word kept what had come in and was not used.
    ("pop3", bytes([0, 0, 2, 3, 0]) + b"NOOP\r\n" * 20),
    ("pop3", bytes([2, 0, 0, 0, 0, 0, 3]) + b"USER a\r\nPASS b\r\nRETR 1\r\n" + b"NOOP\r\n" * 20),
    ("pop3", bytes([2, 0, 4, 0, 0, 0, 4]) + b"USER a\r\nPASS b\r\nRETR 1\r\n" + b"NOOP\r\n" * 20),
]
"""What the fuzzer has found, each with what it was."""


@pytest.mark.parametrize(("target", "octets"), FOUND)
def test_what_was_found_stays_mended(target: str, octets: bytes) -> None:
    TARGETS[target].run(octets)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("octets", [b"", b"\0", b"\xff" * 40, HEADER, HEADER + b"\r\n", bytes(range(256))])
def test_every_bytes_value_is_an_input(target: str, octets: bytes) -> None:
    TARGETS[target].run(octets)


COMMANDS = {
    "pop3": {f"Session.{command.__name__}" for table in pop3_session.COMMANDS.values() for command in table.values()}
    | {f"Authorization.{command.__name__}" for command in authorization.COMMANDS.values()},
    "smtp": {
        f"Session.{command.__name__}"
        for table in (*smtp_session.COMMANDS.values(), smtp_session.SMTP_HELLOS)
        for command in table.values()
    },
    "lmtp": {
        f"Session.{command.__name__}"
        for table in (*smtp_session.COMMANDS.values(), smtp_session.LMTP_HELLOS)
        for command in table.values()
    },
}


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_reaches_what_it_is_for(target: str) -> None:
    seen = reach(TARGETS[target].run, kept(target), TARGETS[target].modules)
    assert COMMANDS.get(target, set()) <= seen.entered
    assert seen.share >= 0.95, f"{seen.share:.3f}, missed: {seen.missed()}"


def test_the_fence_holds(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "kept").write_text("kept")
    with fence(inside):
        Path("made").write_text("made")
        Path("directory").mkdir()
        sqlite3.connect(inside / "database").close()
        for change in (
            lambda: (tmp_path / "file").write_text("out"),
            (tmp_path / "directory").mkdir,
            (tmp_path / "kept").unlink,
            lambda: Path("made").rename(tmp_path / "moved"),
            lambda: Path("../kept").chmod(0),
            lambda: sqlite3.connect(tmp_path / "database"),
            lambda: Path("/dev/zero").read_bytes(),
            lambda: subprocess.run(["true"], check=False),
        ):
            with pytest.raises(PermissionError):
                change()
    assert {path.name for path in tmp_path.iterdir()} == {"inside", "kept"}
    assert (inside / "made").read_text() == "made"
    (tmp_path / "file").write_text("free again")


# --- a target that cannot fail is not trusted ---


@dataclass(frozen=True)
class Defect:
    """A mistake that somebody could make: what stands in place of `name` in `where`."""

    target: str
    what: str
    where: object
    name: str
    instead: Callable[[Any], Any]
    """Makes the faulty thing from the right one."""
    witness: bytes = b""
    """An input that shows it, where the corpus need not have one."""


def _raise(_right: object) -> Callable[..., Any]:
    def broken(*_: object, **__: object) -> None:
        raise IndexError

    return broken


def _lenient_next(right: Callable[[lines.Lines], bytes | lines.Flaw | None]) -> object:
    def faulty(self: lines.Lines) -> bytes | lines.Flaw | None:
        line = right(self)
        if line is lines.Flaw.BARE_NEWLINE:
            line, _, rest = bytes(self._buffer).partition(b"\n")
            self.clear()
            self.append(rest)
        return line

    return faulty


def _talking_end(right: Callable[[pop3.Session, pop3.Ending], None]) -> object:
    def faulty(self: pop3.Session, reason: pop3.Ending) -> None:
        self._stuffing = None
        right(self, reason)

    return faulty


def _smuggled(right: Callable[[data.Decoder, bytes], bytes]) -> object:
    return lambda self, octets: right(self, octets.replace(b"\n.\n", b"\n.\r\n"))


def _rash(right: Callable[[smtp.Session, smtp.Answer], None]) -> object:
    def faulty(self: smtp.Session, answer: smtp.Answer) -> None:
        need = self.needs()
        if isinstance(need, smtp.Commit) and isinstance(answer, smtp.Unavailable):
            answer = smtp.Committed((True,) * len(need.envelope.recipients))
        right(self, answer)

    return faulty


def _one_reply(right: Callable[..., None]) -> object:
    def faulty(self: smtp.Session, *given: object) -> None:
        self.lmtp = False
        right(self, *given)
        self.lmtp = True

    return faulty


def _talkative(right: Callable[..., Refusal]) -> object:
    return lambda word, syntax, text: Refusal("unknown-switch", f"{right(word, syntax, text)} No {text}", Kind(2))


def _careless(right: Callable[..., None]) -> object:
    def faulty(self: Any, refusal: Refusal) -> None:  # noqa: ANN401 - a private type
        with self.place.database().write() as transaction:
            transaction.run("DELETE FROM domain_lock")
        right(self, refusal)

    return faulty


BODY = HEADER + b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n"
TO_TWO = b"LHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<c@b.example>\r\nDATA\r\nx\r\n.\r\n"
LOGON = b"USER a\r\nPASS b\r\n"

DEFECTS = (
    Defect("pop3", "no dot is stuffed", multiline.Stuffing, "feed", lambda _: lambda _, octets, **__: octets),
    Defect("pop3", "no final CRLF is added", multiline.Stuffing, "finish", lambda _: lambda _: b".\r\n"),
    Defect("pop3", "TOP gives one line more", pop3_session, "Top", lambda right: lambda n: right(n + 1)),
    Defect("pop3", "a bare LF ends a line", lines.Lines, "next", _lenient_next, HEADER + b"USER a\nPASS b\r\n"),
    Defect(
        "pop3",
        "int() reads numbers",
        pop3_session,
        "_number",
        lambda _: lambda digits: int(digits) if digits.strip(b" +").isdigit() else None,
        HEADER + LOGON + b"DELE +1\r\n",
    ),
    Defect(
        "pop3",
        "what was said in clear survives STLS",
        pop3.Session,
        "_secured",
        lambda _: lambda self, offer: setattr(self, "offer", offer),
        HEADER + b"USER a\r\nSTLS\r\nPASS b\r\n",
    ),
    Defect(
        "pop3",
        "failures do not count",
        output.Output,
        "failed",
        lambda _: lambda self, reply: self.put(reply),
        bytes([3, 0, 0, 0, 0, 1, 1, 1]) + b"AUTH PLAIN AGEAYg==\r\n" * 3,
    ),
    Defect("pop3", "an argument is ignored", pop3.Session, "_takes_nothing", lambda _: lambda *_: True),
    Defect(
        "pop3",
        "an ending speaks within a message",
        pop3.Session,
        "end",
        _talking_end,
        bytes([2, 0, 3, 0, 0, 0, 4]) + LOGON + b"RETR 1\r\n",
    ),
    Defect("smtp", "CRLF.LF ends a message", data.Decoder, "feed", _smuggled, BODY + b"x\r\n.\n\r\n.\r\n"),
    Defect("smtp", "a cut hides the end", data, "_unfinished", lambda _: lambda _: b"", BODY + b"x\r\n.\r\nQUIT\r\n"),
    Defect("smtp", "bare newlines are taken", data, "_LONE_CR", lambda _: re.compile(b"(?!)"), BODY + b"x\ry\n."),
    Defect(
        "smtp",
        "hops are not counted",
        data.Decoder,
        "_count_hops",
        lambda _: lambda *_: None,
        BODY + b"Received: a\r\n" * 4 + b".\r\n",
    ),
    Defect("smtp", "what is lost is acknowledged", smtp.Session, "supply", _rash),
    Defect("smtp", "nothing is dropped", body, "Abandon", lambda _: lambda: None),
    Defect("smtp", "a reply is no line", replies, "RECIPIENT_OK", lambda right: right + b"\n"),
    Defect("lmtp", "one reply for all recipients", smtp.Session, "_committed", _one_reply, HEADER + TO_TWO),
    Defect("lmtp", "what is lost is acknowledged", smtp.Session, "supply", _rash, bytes([3, *[0] * 6, 5]) + TO_TWO),
    Defect("addresses", "a name ends with a dot", names, "_MAILBOX", lambda _: re.compile("[a-z0-9._+-]+"), b"a."),
    Defect("addresses", "names have a case", names.DomainName, "__str__", lambda _: lambda self: self.text.upper()),
    Defect("addresses", "Windows reserves nothing", names, "_RESERVED", lambda _: frozenset(), b"con.x"),
    Defect(
        "addresses",
        "a path has no bound",
        paths,
        "_PATH_LENGTH",
        lambda _: 9999,
        b"<@" + b"a." * 130 + b"b:c@d.example>",
    ),
    Defect("addresses", "a quote stays", paths, "_QUOTED_PAIR", _raise, b'"a"@b.example'),
    Defect("endpoints", "ports go on", endpoints, "_LARGEST_PORT", lambda _: 99999, b"*:65536"),
    Defect(
        "endpoints", "no brackets", endpoints.Endpoint, "__str__", lambda _: lambda self: f"{self.host}:{self.port}"
    ),
    Defect("endpoints", "the last network is lost", of_terms, "parse_networks", lambda right: lambda t: right(t)[:-1]),
    Defect("settings", "a reader is int()", settings, "SETTINGS", lambda right: _with_reader(right, int)),
    Defect(
        "settings", "octets are bytes", settings, "SETTINGS", lambda right: _with_reader(right, lambda _: 0), b"\01"
    ),
    Defect(
        "settings", "a sentence has no end", settings, "_bad", lambda _: lambda *_: Refusal("bad-value", "no", Kind(2))
    ),
    Defect("command-line", "a parser raises", arguments, "_shape", _raise),
    Defect(
        "command-line",
        "a refusal has no end",
        arguments,
        "_unknown_switch",
        _talkative,
    ),
    Defect("command-line", "a refusal changes something", invoke._Entry, "refused", _careless),
    Defect(
        "command-line",
        "a refusal is two lines",
        render,
        "_shown",
        lambda _: lambda text: f"{text}\nSo it is.",
    ),
)


def _with_reader(right: dict[str, settings.Setting], reader: Callable[[str], Any]) -> dict[str, settings.Setting]:
    return {name: replace(setting, read=reader) for name, setting in right.items()}


@pytest.mark.parametrize("defect", DEFECTS, ids=[f"{defect.target}: {defect.what}" for defect in DEFECTS])
def test_a_planted_defect_is_found(monkeypatch: pytest.MonkeyPatch, defect: Defect) -> None:
    target = TARGETS[defect.target]
    inputs = [*kept(defect.target), defect.witness]
    target.run(defect.witness)
    monkeypatch.setattr(defect.where, defect.name, defect.instead(getattr(defect.where, defect.name)))
    assert any(_breaks(target.run, octets) for octets in inputs)


def _breaks(run: Callable[[bytes], None], octets: bytes) -> bool:
    try:
        run(octets)
    except Exception:  # noqa: BLE001 - a broken law, or whatever else gets out
        return True
    return False


# --- the fuzzer itself ---


@pytest.mark.parametrize("target", TARGETS)
def test_the_fuzzer_runs_and_learns(target: str, tmp_path: Path) -> None:
    if not available():
        missing = "atheris is missing, so nothing was fuzzed: pip install 'atheris==3.0.0'"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    command = [sys.executable, str(RUN), target, "--seconds", "5", "--seed", "1", "--corpus", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    fuzzed = json.loads(line)
    assert fuzzed["executions"] > 0
    assert fuzzed["edges"] > fuzzed["edges_at_start"] > 0
    assert fuzzed["crash"] == ""
