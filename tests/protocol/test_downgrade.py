"""The header for clients without UTF8: ASCII, and said the same to whoever can read it (RFC 6858)."""

import re
from email import message_from_bytes
from email.header import decode_header, make_header
from email.headerregistry import AddressHeader
from email.message import EmailMessage
from email.policy import default
from email.utils import parseaddr
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.protocol.downgrade import LIMIT, downgrade, has_end, header_of, is_international

NOBODY = "<invalid@internationalized-address.invalid>"
LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=80)
NAMES = st.sampled_from(["From", "to", "Subject", "Content-Type", "X-Any", "Received", "Resent-Cc", "Return-Path", ""])
SAID = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=120)
ODD = st.text('aü@<>"\\(),:;[] =?*%.\t\x00' + "\N{LINE SEPARATOR}\N{PILE OF POO}", max_size=60)


def header(*fields: str) -> bytes:
    return "".join(f"{field}\r\n" for field in (*fields, "")).encode()


def one(field: str) -> str:
    """Return a field as it comes out, unfolded; each of its lines is within bounds."""
    result = downgrade(header(field))
    assert result.endswith(b"\r\n")
    assert all(len(line) <= 78 for line in result.split(b"\r\n"))
    return result.decode("ascii").removesuffix("\r\n").replace("\r\n ", " ").removesuffix("\r\n")


def read(octets: bytes) -> EmailMessage:
    """Read a header as others do."""
    return message_from_bytes(octets, policy=default)


# --- laws ---


def headers(values: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    fields = st.builds(lambda name, value, rest: f"{name}: {value}\r\n\t{rest}", NAMES, values, values)
    return st.lists(fields, max_size=6).map(lambda those: header(*those))


@given(headers(LINES) | headers(ODD) | st.binary(max_size=400))
def test_whatever_comes_in_it_does_not_fail_and_is_done_once(octets: bytes) -> None:
    result = downgrade(octets)
    assert result.isascii() == (octets.isascii() or is_international(octets))
    assert result.endswith(b"\r\n\r\n") or not octets.endswith(b"\r\n\r\n") or result == b"\r\n"
    assert downgrade(result) == result
    if is_international(octets):
        assert max(map(len, result.split(b"\r\n"))) <= max(998, *map(len, octets.split(b"\r\n")))
        assert result.count(b"\n") == result.count(b"\r\n") == result.count(b"\r")


@given(headers(LINES), headers(ODD))
def test_fields_in_ascii_stay_as_they_are_and_where_they_are(octets: bytes, more: bytes) -> None:
    whole = octets[:-2] + more
    fields = re.split(rb"(?<=\r\n)(?![ \t])", whole)
    result = downgrade(whole)
    for field in filter(bytes.isascii, fields):
        assert field in result
        result = result[result.index(field) + len(field) :]


@given(SAID)
def test_others_read_the_same_subject(text: str) -> None:
    """RFC 6858 §2.3."""
    wanted = " ".join(text.split())
    found = read(downgrade(header("X-Forces: ü", f"Subject: {wanted}")))["subject"]
    if "=?" not in wanted:
        assert " ".join(str(found or "").split()) == wanted


@given(SAID)
def test_others_read_the_same_display_name(name: str) -> None:
    wanted = " ".join(re.sub(r'[\\"]', "", name).split())
    # The newer parser of that package shows a space between two encoded-words that stand side by side.
    found = message_from_bytes(downgrade(header(f'From: "{wanted}ü" <fred@example.com>')))["from"]
    shown, address = parseaddr(found)
    if "=?" not in wanted:
        assert (str(make_header(decode_header(shown))), address) == (f"{wanted}ü", "fred@example.com")


@given(SAID)
def test_others_read_the_same_file_name(name: str) -> None:
    wanted = re.sub(r'[\\"]', "", name).strip() + "ü"
    field = f'Content-Disposition: attachment; filename="{wanted}"; size=5'
    read_again = read(downgrade(header(field)))
    assert read_again.get_filename() == wanted
    assert read_again["content-disposition"].params["size"] == "5"


# --- fields ---


def test_ascii_and_what_is_no_utf_8_are_served_as_they_came() -> None:
    for octets in (b"Subject: x\r\n\r\n", b"\r\n", b"", b"Subject: \xfc\r\n\r\n", "Subject: ü\nTo: x\r\n\r\n".encode()):
        assert not is_international(octets)
        assert downgrade(octets) == octets


def test_a_text_becomes_encoded_words_that_split_no_character() -> None:
    result = downgrade(header("Subject: " + "\N{PILE OF POO}" * 50))
    for word in result.decode().removeprefix("Subject: ").split():
        assert len(word) <= 75  # RFC 2047 §2
        assert str(read(f"Subject: {word}\r\n\r\n".encode())["subject"]).strip("\N{PILE OF POO}") == ""


def test_words_that_are_encoded_already_stay_and_spaces_show_as_before() -> None:
    """RFC 2047 §5, §2: an encoded-word stands alone."""
    field = "Subject: =?ISO-8859-1?Q?W=F6rld?= =?UTF-8?B?w7w=?= and  höre"
    assert one(field).startswith("Subject: =?ISO-8859-1?Q?W=F6rld?= =?UTF-8?B?w7w=?= =?UTF-8?B?")
    assert str(read(downgrade(header(field)))["subject"]) == "Wörldü and  höre"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("fred@example.com, Zoë <zoe@x.org>", "fred@example.com, =?UTF-8?B?Wm/Dqw==?= <zoe@x.org>"),
        ("zoe@x.org (Zoë)", "=?UTF-8?B?Wm/Dqw==?= <zoe@x.org>"),
        ("Zoe <zoe@x.org> (Zoë)", "Zoe <zoe@x.org>"),
        ('"Fred, (F) \\"Foo" <f@x>, ü <u@x>', '"Fred, (F) \\"Foo" <f@x>, =?UTF-8?B?w7w=?= <u@x>'),
        ("(a (nested, one\\)) <x>) ü <u@x>,", "=?UTF-8?B?w7w=?= <u@x>"),
        ("ü@x.org", "=?UTF-8?B?w7xAeC5vcmc=?= :;"),
        ("Fred <ü@x.org>, b@x.org", "=?UTF-8?B?RnJlZCA8w7xAeC5vcmc+?= :;, b@x.org"),
        ("b@[IPv6:::1], ü <u@x>", "b@[IPv6:::1], =?UTF-8?B?w7w=?= <u@x>"),
        ("Us: a@x, ü@x;, b@x", f"Us : a@x, =?UTF-8?B?w7xAeA==?= {NOBODY} ;, b@x"),
        ("Ünd:;", "=?UTF-8?B?w5xuZA==?= : ;"),
        ("Us: ü <u@x>", "Us : =?UTF-8?B?w7w=?= <u@x> ;"),
        ("ü:ä:", f"=?UTF-8?B?w7w=?= : =?UTF-8?B?w6Q6?= {NOBODY} ;"),
    ],
)
def test_addresses(value: str, wanted: str) -> None:
    """RFC 5322 §3.4; nobody has an address in a domain of RFC 2606 §2."""
    assert one(f"To: {value}") == f"To: {wanted}"


@given(
    st.lists(st.sampled_from(["Zoë <z@x.org>", "ü@x.org", "a@x.org", "Us: ö <o@x.org>, ä@x.org;", '"x, y" <b@x.org>']))
)
def test_others_find_every_address_that_can_be_used(entries: list[str]) -> None:
    """RFC 6858 §2.1: no address comes out that may be somebody else's."""
    found = read(downgrade(header("Cc: " + ", ".join(["ë <e@x.org>", *entries]))))["cc"]
    assert isinstance(found, AddressHeader)
    wanted = re.findall(r"\b[a-z]@x.org", " ".join(entry for entry in entries if entry.isascii() or "<" in entry))
    usable = [each.addr_spec for each in found.addresses if f"<{each.addr_spec}>" != NOBODY]
    assert usable == ["e@x.org", *wanted]
    assert len(found.groups) == 1 + len(entries)


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (
            'Content-Type: text/plain; charset=utf-8; name="ü"',
            "Content-Type: text/plain; charset=utf-8; name*=UTF-8''%C3%BC",
        ),
        ("Content-Type: a/b; name=ü; name*=UTF-8''%C3%BC", "Content-Type: a/b; name*=UTF-8''%C3%BC"),
        ('Content-Type: a/b (ü; x); boundary="a;b"', 'Content-Type: a/b; boundary="a;b"'),
        ("Content-Type: a/b; ü=1; x=2;", "Content-Type: a/b; x=2"),
        ("Content-Transfer-Encoding: base64 (ü)", "Content-Transfer-Encoding: base64"),
        ("MIME-Version: 1.0 (ü)", "MIME-Version: 1.0"),
    ],
)
def test_what_says_how_to_read_the_body_survives(field: str, wanted: str) -> None:
    """RFC 2045 §5.1 and RFC 2231 §4, and RFC 6858 §2.2 for what cannot be said so."""
    assert one(field) == wanted


@pytest.mark.parametrize(
    "field", ["Received: from ü", "Message-ID: <ü@x>", "X-Ü: x", "X-Any: ü", "ü", "Content-Type: ü/x"]
)
def test_what_has_no_other_form_is_left_out(field: str) -> None:
    """RFC 6858 §2.4."""
    assert downgrade(header("To: x", field, "Subject: y")) == header("To: x", "Subject: y")


def test_a_sender_is_told_to_be_nobody() -> None:
    assert one("Return-Path: <ü@x>") == f"Return-Path: {NOBODY}"


# --- where a header ends, and what it may cost ---


def test_the_header_ends_with_its_blank_line() -> None:
    assert header_of(b"a: b\r\n\r\nbody\r\n\r\n") == b"a: b\r\n\r\n"
    assert header_of(b"\r\nbody\r\n\r\n") == b"\r\n"
    assert header_of(b"a: b\r\n") == b"a: b\r\n"
    assert header_of(b"") == b""
    assert has_end(b"a: b\r\n\r\n")
    assert not has_end(b"a: b\r\n")


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_header_up_to_the_limit_is_looked_at(beyond: int) -> None:
    whole = beyond == 0
    octets = (
        b"Subject: " + "ü".encode() * ((LIMIT + beyond - 13) // 2) + b"x" * ((LIMIT + beyond - 13) % 2) + b"\r\n\r\n"
    )
    assert len(octets) == LIMIT + beyond
    assert bool(header_of(octets + b"body")) is whole
    assert is_international(octets) is whole
    assert downgrade(octets).isascii() is whole


@pytest.mark.parametrize(
    "text",
    [
        "ü,",
        'ü"',
        '<"',
        "(",
        "ü (",
        ";a=ü",
        "=?a?b?",
        "\\",
        "[<",
        ":;",
        " ",
        "ü <a@b>, ",
        "ü\r\nTo:",
        '"\\ü',
        "=?UTF-8?B?",
        "a=ü;",
    ],
)
@pytest.mark.parametrize("name", ["To", "Subject", "Content-Type"])
def test_bombs_do_not_go_off(name: str, text: str) -> None:
    """The time grows with the size and no faster; threats.md, H4."""

    def took(size: int) -> float:
        octets = f"{name}: ü a/b {text * ((size - 60) // len(text.encode()))}ü\r\n\r\n".encode()
        assert is_international(octets)
        began = perf_counter()
        assert downgrade(octets).isascii()
        return perf_counter() - began

    assert took(LIMIT) < 10 * max(min(took(LIMIT // 4) for _ in range(3)), 0.1)
