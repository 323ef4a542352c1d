"""Names: whatever is let in can stand anywhere unescaped (threats.md A13)."""

import re
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.terms.names import Address, DomainName, parse_mailbox_name, parse_target
from winpop.terms.refusals import Kind, Refusal

T = TypeVar("T")
MAILBOX = re.compile(r"[a-z0-9]([a-z0-9._+-]{0,62}[a-z0-9])?")
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = re.compile(rf"{LABEL}(\.{LABEL})+")
NAMELIKE = st.text(st.sampled_from("abAZ09.-_+@ /\\%:\0\n\u212a\u00fc\u00df\u3002\u202exn"), max_size=80)
ANYTHING = st.text() | NAMELIKE | st.text(st.characters(categories=["Ll", "Lu", "Nd", "Pd"]), max_size=70)

BAD_MAILBOXES = [
    "",
    ".",
    "..",
    "a..b",
    "../etc/passwd",
    "a/b",
    "a\\b",
    "c:a",
    "a\0b",
    "a\n",
    "a b",
    " a",
    "a.",
    "a ",
    ".a",
    "-a",
    "a-",
    "a" * 65,
    "a" * 4000,
    "con",
    "CON",
    "nul.txt",
    "Aux",
    "com1",
    "lpt9.x",
    "\u0430lice",  # a Cyrillic letter that looks like an a
    "\u212a",  # the Kelvin sign, whose lower case is k
    "alic\u00e9",
    "\uff41",
    "a\u202eb",
    "a\ud800",
    '"a"',
    "a%b",
    "a!b",
    "a*b",
]
BAD_DOMAINS = [
    "",
    "com",
    "localhost",
    ".com",
    "example.",
    "example.com.",
    "a..com",
    "../etc.com",
    "a/b.com",
    "a\\b.com",
    "a\0.com",
    "example.com\n",
    "exa mple.com",
    "-a.com",
    "a-.com",
    "a_b.com",
    "a" * 64 + ".com",
    ".".join(["a" * 63] * 4),
    "192.168.7.1",
    "example.123",
    "[192.168.7.1]",
    "xn--a.com",
    "xn--.com",
    "XN--zzzzzzzz99999.com",
    "a\u202eb.com",
    "\u2603.com",  # a snowman is no letter: IDNA 2003 took it
    "\ud800.com",
    "\u00ad.com",
    "*.example.com",
]


def parsed(parse: Callable[[str], T], text: str) -> T | None:
    """Parse, or refuse; anything else that is raised is a defect."""
    try:
        return parse(text)
    except Refusal:
        return None


@given(ANYTHING)
def test_a_mailbox_name_that_parses_is_allow_listed_and_parses_to_itself(text: str) -> None:
    name = parsed(parse_mailbox_name, text)
    if name is not None:
        assert MAILBOX.fullmatch(name)
        assert ".." not in name
        assert name == text.lower()
        assert parse_mailbox_name(name) == name


@given(ANYTHING | st.builds("{}.{}".format, ANYTHING, st.sampled_from(["com", "b\u00fccher", "COM", "1"])))
def test_a_domain_that_parses_is_allow_listed_and_parses_to_itself(text: str) -> None:
    # RFC 1123 §2.1, and RFC 1035 §2.3.4 for its length
    domain = parsed(DomainName.parse, text)
    if domain is not None:
        assert DOMAIN.fullmatch(str(domain))
        assert len(str(domain)) <= 253
        assert DomainName.parse(str(domain)) == domain


@pytest.mark.parametrize("text", BAD_MAILBOXES)
def test_what_cannot_be_a_mailbox_name_is_refused_in_one_printable_line(text: str) -> None:
    with pytest.raises(Refusal, match="mailbox name") as caught:
        parse_mailbox_name(text)
    assert (caught.value.code, caught.value.kind) == ("bad-mailbox-name", Kind.NOT_UNDERSTOOD)
    assert caught.value.sentence.isprintable()


@pytest.mark.parametrize("text", BAD_DOMAINS)
def test_what_cannot_be_a_domain_is_refused_in_one_printable_line(text: str) -> None:
    with pytest.raises(Refusal, match="fully qualified") as caught:
        DomainName.parse(text)
    assert (caught.value.code, caught.value.kind) == ("bad-domain", Kind.NOT_UNDERSTOOD)
    assert caught.value.sentence.isprintable()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A", "a"),
        ("a" * 64, "a" * 64),
        ("Alice.Smith+tag_1-x", "alice.smith+tag_1-x"),
        ("7", "7"),
        ("console", "console"),
        ("com", "com"),
        ("com10", "com10"),
    ],
)
def test_mailbox_names_are_taken_in_any_case_up_to_64_characters(text: str, name: str) -> None:
    assert parse_mailbox_name(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("EXAMPLE.Com", "example.com"),
        ("a.b.c.d.example", "a.b.c.d.example"),
        ("3com.example", "3com.example"),
        ("a" * 63 + ".com", "a" * 63 + ".com"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("B\u00dcCHER.example", "xn--bcher-kva.example"),
        ("XN--bcher-KVA.example", "xn--bcher-kva.example"),
        ("a\u3002example", "a.example"),  # the ideographic full stop (UTS 46)
    ],
)
def test_one_domain_has_one_name_however_it_is_written(text: str, name: str) -> None:
    assert str(DomainName.parse(text)) == name


def test_domains_that_look_alike_stay_two() -> None:
    assert DomainName.parse("p\u0430ypal.com") != DomainName.parse("paypal.com")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("alice", "bad-address"),
        ("alice@a.com@b.com", "bad-address"),
        ("@example.com", "bad-mailbox-name"),
        ("alice@", "bad-domain"),
        ("alice@[127.0.0.1]", "bad-domain"),
        ("alice@example.com\0", "bad-domain"),
    ],
)
def test_what_cannot_be_an_address_is_refused(text: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        Address.parse(text)
    assert caught.value.code == code


def test_an_address_says_itself_as_it_is_read() -> None:
    address = Address.parse("Alice@EXAMPLE.com")
    assert str(address) == "alice@example.com"
    assert Address.parse(str(address)) == address


def test_a_target_is_an_address_when_it_has_an_at_sign() -> None:
    assert parse_target("example.com") == DomainName("example.com")
    assert parse_target("a@example.com") == Address(DomainName("example.com"), "a")
