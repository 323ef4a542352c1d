"""The arguments of MAIL and RCPT, by the grammar and its lengths (RFC 5321 §4.1.2, §4.5.3.1)."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.protocol.smtp.paths import Path, forward_path, parameters, reverse_path

LONGEST_LOCAL_PART = b"a" * 64
LONGEST_DOMAIN = b".".join([b"d" * 61] * 3)  # with the local part, brackets and @ it is a path of 252 octets


@pytest.mark.parametrize(
    ("path", "mailbox", "domain"),
    [
        (b"<alice@example.com>", "alice", "example.com"),
        (b"<Alice.B@EXAMPLE.com>", "Alice.B", "EXAMPLE.com"),
        (b"<a!b%c+d=e@localhost>", "a!b%c+d=e", "localhost"),
        (b'<"a b"@example.com>', "a b", "example.com"),
        (b'<"a\\"\\\\b"@example.com>', 'a"\\b', "example.com"),
        (b'<"a@b>"@example.com>', "a@b>", "example.com"),
        (b'<""@example.com>', "", "example.com"),
        (b"<alice@[192.0.2.1]>", "alice", "[192.0.2.1]"),
        (b"<alice@[IPv6:2001:db8::1]>", "alice", "[IPv6:2001:db8::1]"),
        (b"<" + LONGEST_LOCAL_PART + b"@x.example>", "a" * 64, "x.example"),
        (b"<" + LONGEST_LOCAL_PART + b"@" + LONGEST_DOMAIN + b">", "a" * 64, LONGEST_DOMAIN.decode()),
        # RFC 5321 §3.6.1: a source route is read and dropped.
        (b"<@a.example:alice@example.com>", "alice", "example.com"),
        (b"<@a.example,@b.example:alice@example.com>", "alice", "example.com"),
    ],
)
def test_paths(path: bytes, mailbox: str, domain: str) -> None:
    written = path[1:-1].rpartition(b":@")[2].decode()
    if path.startswith(b"<@"):
        written = written.partition(":")[2]
    expected = Path(mailbox, domain, written)
    assert reverse_path(b"FROM:" + path) == (expected, b"")
    assert forward_path(b"to:" + path + b" X=1") == (expected, b" X=1")


BAD = [
    b"",
    b"<",
    b">",
    b"<<alice@example.com>>",
    b"<alice@example.com",
    b"alice@example.com",
    b"alice@example.com>",
    b" <alice@example.com>",
    b"<alice@example.com>,<bob@example.com>",
    b"<alice@example.com><bob@example.com>",
    b"<alice@example.com,bob@example.com>",
    b"<alice@example.com bob@example.com>",
    b"<alice@example.com>x",
    b"<alice@example.com>\t",
    b"< alice@example.com>",
    b"<alice@example.com >",
    b"<alice>",
    b"<@example.com>",
    b"<alice@>",
    b"<alice@@example.com>",
    b"<alice@bob@example.com>",
    b"<.alice@example.com>",
    b"<alice.@example.com>",
    b"<a..b@example.com>",
    b"<a b@example.com>",
    b'<"a"b@example.com>',
    b'<"a@example.com>',
    b'<"a\\"@example.com>',
    b'<"a\0"@example.com>',
    b"<alice@example.com.>",
    b"<alice@.example.com>",
    b"<alice@example..com>",
    b"<alice@-example.com>",
    b"<alice@example-.com>",
    b"<alice@exa_mple.com>",
    b"<alice@" + b"d" * 64 + b".example>",
    b"<alice@[192.0.2.1>",
    b"<alice@[]>",
    b"<alice@[192.0.2]>",
    b"<alice@[[192.0.2.1]]>",
    b"<@a.example alice@example.com>",
    b"<@a.example@b.example:alice@example.com>",
    b"<a.example:alice@example.com>",
    b"<al\0ice@example.com>",
    b"<alice\r@example.com>",
    b"<alice@example.com\r>",
    b"<alice\x7f@example.com>",
    b"<al\xc3\xafce@example.com>",
    b"<alice@ex\xc3\xa4mple.com>",
    b"<" + b"a" * 65 + b"@example.com>",
    b"<" + LONGEST_LOCAL_PART + b"@" + LONGEST_DOMAIN + b".dddd>",
]


@pytest.mark.parametrize("path", BAD)
def test_what_is_no_path(path: bytes) -> None:
    assert reverse_path(b"FROM:" + path) is None
    assert forward_path(b"TO:" + path) is None


def test_the_null_path_is_a_sender_and_no_recipient() -> None:
    assert reverse_path(b"FROM:<>") == (Path(), b"")
    assert reverse_path(b"FROM:<> SIZE=1") == (Path(), b" SIZE=1")
    assert reverse_path(b"FROM:<>x") is None
    assert forward_path(b"TO:<>") is None


def test_a_bare_postmaster_is_a_recipient_and_no_sender() -> None:
    """RFC 5321 §4.1.1.3 and §4.5.1: in any case of letters."""
    assert forward_path(b"TO:<PostMaster>") == (Path("postmaster", "", "postmaster"), b"")
    assert forward_path(b"TO:<postmaster>x") is None
    assert reverse_path(b"FROM:<postmaster>") is None


@pytest.mark.parametrize("argument", [b"", b"FROM", b"FROM:", b"FROM :<>", b"TO:<>", b"<>", b" FROM:<>"])
def test_what_does_not_begin_as_a_sender(argument: bytes) -> None:
    assert reverse_path(argument) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", {}),
        (b" SIZE=1", {b"SIZE": b"1"}),
        (b" size=1 Body=8bitmime x-y", {b"SIZE": b"1", b"BODY": b"8bitmime", b"X-Y": b""}),
    ],
)
def test_parameters(text: bytes, found: dict[bytes, bytes]) -> None:
    assert parameters(text) == found


@pytest.mark.parametrize(
    "text",
    [
        b" ",
        b"  SIZE=1",
        b" SIZE=1 ",
        b" SIZE=",
        b" =1",
        b" SIZE=1=2",
        b" SIZE=1 size=1",
        b" -X=1",
        b" X=\xff",
        b" X=\t",
    ],
)
def test_bad_parameters(text: bytes) -> None:
    assert parameters(text) is None


@given(st.binary(max_size=80) | st.text('<>@:,."\\[]a1- ', max_size=40).map(str.encode))
def test_no_octets_break_the_grammar_and_what_comes_out_is_harmless(argument: bytes) -> None:
    parameters(argument)
    for read in (reverse_path(b"FROM:" + argument), forward_path(b"TO:" + argument)):
        if read is not None:
            path, rest = read
            for text in (path.mailbox, path.domain, path.text):
                assert text.isascii()
                assert text.isprintable() or not text
            assert argument.endswith(path.text.encode() + b">" + rest) or path.mailbox == "postmaster"


@pytest.mark.parametrize(
    "unit", [b"a", b"a.", b"a-", b"@a.example,", b'"', b'"\\', b"\\\\", b"<", b"[1", b"[a:", b" A=1", b" A"]
)
def test_hostile_lines_take_no_time(unit: bytes) -> None:
    line = unit * (4096 // len(unit))
    start = time.perf_counter()
    for prefix in (b"<", b'<"', b"<a@", b"<@", b"<a@[x:", b"<a@a.example>"):
        reverse_path(b"FROM:" + prefix + line)
        parameters(line)
    assert time.perf_counter() - start < 0.5
