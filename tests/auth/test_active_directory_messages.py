"""LDAP messages as octets: what we send is what the standard says, and what is nonsense is never understood."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from winpop.auth.active_directory import ber, messages
from winpop.auth.active_directory.accounts import escaped, sam_name
from winpop.auth.active_directory.connection import Server
from winpop.auth.active_directory.messages import Entry, Reference, Result
from winpop.auth.active_directory.states import answer, states
from winpop.auth.contract import CannotSay, Right, Wrong

# Written out by hand from RFC 4511 §4.1.1, §4.2, §4.5 and §5.1.
BIND = "30 13 02 01 01 60 0e 02 01 03 04 04 43 4e 3d 61 80 03 70 77 64"
SEARCH = (
    "30 31 02 01 02 63 2c 04 04 44 43 3d 78 0a 01 02 0a 01 00 02 01 02 02 01 00 01 01 00"
    " a0 0f a3 06 04 01 6e 04 01 76 a1 05 87 03 78 79 7a 30 04 04 02 63 6e"
)


def test_a_bind_is_as_the_standard_has_it() -> None:
    assert messages.message(1, messages.bind("CN=a", b"pwd")) == bytes.fromhex(BIND)


def test_a_search_is_as_the_standard_has_it() -> None:
    wanted = messages.every(messages.equal("n", "v"), messages.some(ber.text("xyz", 0x87)))
    sent = messages.message(2, messages.search("DC=x", messages.SUBTREE, wanted, ["cn"], 2))
    assert sent[0] == 0x30
    assert sent.hex(" ") == SEARCH


def test_changes_are_as_the_standard_has_them() -> None:
    assert messages.add("a", {"n": b"v"}).hex(" ") == "68 0f 04 01 61 30 0a 30 08 04 01 6e 31 03 04 01 76"
    assert messages.replace("a", "n", b"v").hex(" ") == (
        "66 14 04 01 61 30 0f 30 0d 0a 01 02 30 08 04 01 6e 31 03 04 01 76"
    )
    assert messages.delete("CN=a").hex(" ") == "4a 04 43 4e 3d 61"
    assert messages.unbind().hex(" ") == "42 00"
    assert messages.start_tls() == b"\x77\x18\x80\x161.3.6.1.4.1.1466.20037"  # RFC 4511 §4.14


@pytest.mark.parametrize("value", ["*", "*)(uid=*", "\\2a", "(|(a=b)", "\0", "a" * 300, "ü"])
def test_a_name_in_a_filter_is_a_value_whatever_is_in_it(value: str) -> None:
    reader = ber.Reader(messages.equal("sAMAccountName", value)).enter(0xA3)
    assert reader.text() == "sAMAccountName"
    assert reader.text() == value
    assert not reader.more()


@given(st.integers(0, 2**31 - 1), st.binary(max_size=70000))
def test_what_is_written_is_read(number: int, octets: bytes) -> None:
    written = ber.element(ber.SEQUENCE, ber.integer(number), ber.text(octets))
    assert ber.whole(written, len(written)) == len(written)
    reader = ber.Reader(written).enter(ber.SEQUENCE)
    assert reader.number() == number
    assert reader.take(ber.OCTET_STRING) == octets
    assert not reader.more()


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_message_is_taken_when_it_is_whole_and_not_before(octets: bytes, at: int) -> None:
    written = messages.message(5, ber.text(octets))
    at = min(at, len(written) - 1)
    assert ber.whole(written[:at], 1000) == 0
    assert ber.whole(written + b"more", 1000) == len(written)


@given(st.binary(max_size=200))
@example(b"\x30\x80\0\0")
@example(bytes.fromhex("30 05 02 01 01 61 00"))
@example(bytes.fromhex("30 0c 02 01 01 61 07 0a 01 31 04 00 04 00"))
def test_octets_are_a_message_or_nonsense_and_nothing_else_happens(octets: bytes) -> None:
    try:
        size = ber.whole(octets, 150)
        read = messages.read(octets[:size]) if size else None
    except ber.Malformed:
        return
    assert read is None or isinstance(read[1], Result | Entry | Reference)


@given(st.data())
def test_a_cut_or_changed_answer_is_read_or_nonsense(data: st.DataObject) -> None:
    attribute = ber.element(ber.SEQUENCE, ber.text("cn"), ber.element(ber.SET, ber.text("x"), ber.text("y")))
    entry = messages.message(7, ber.element(0x64, ber.text("CN=x"), ber.element(ber.SEQUENCE, attribute)))
    assert messages.read(entry) == (7, Entry("CN=x", {"cn": (b"x", b"y")}))
    changed = bytearray(entry)
    changed[data.draw(st.integers(0, len(entry) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ber.Malformed):
        messages.read(bytes(changed[: data.draw(st.integers(0, len(entry)))]))


@pytest.mark.parametrize(
    "octets", ["30 80", "30 85 00 00 00 00 01", "30 84 ff ff ff ff", "30 83 10 00 00", "30 82 03 e5"]
)
def test_a_length_that_is_not_definite_or_too_large_is_refused_before_it_is_waited_for(octets: str) -> None:
    with pytest.raises(ber.Malformed):
        ber.whole(bytes.fromhex(octets), 1000)


@pytest.mark.parametrize(
    ("code", "text", "meant"),
    [
        (0, "", Right()),
        (49, "80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data 52e, v4563", Wrong()),
        (49, "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurity, data 775, v1db1", Wrong("locked out")),
        (49, "80090308: LdapErr: DSID-0C0903A9, comment: x, data 701, v1db1", Wrong("expired")),
        (49, "80090308: LdapErr: x, data 530, v1", Wrong("not at this hour")),
        (49, "80090308: LdapErr: x, data 525, v1", Wrong("no account")),
        (49, "80090308: LdapErr: x, data fff, v1", Wrong()),
        (49, "no more than that", Wrong()),
        (8, "TLS wanted", CannotSay("The domain controller did not check a password: 8 TLS wanted.")),
        (53, "", CannotSay("The domain controller did not check a password: 53 .")),
    ],
)  # fmt: skip
def test_the_answer_to_a_bind_says_why(code: int, text: str, meant: object) -> None:
    assert answer(Result(code, text)) == meant


NOW = 1_700_000_000
FILETIME = (NOW + 11_644_473_600) * 10**7


@pytest.mark.parametrize(
    ("control", "computed", "expires", "last_set", "found"),
    [
        (512, 0, 0, FILETIME, ()),
        (512, 0, 2**63 - 1, FILETIME, ()),
        (512, 0, FILETIME + 10**7, FILETIME, ()),
        (512, 0, FILETIME, FILETIME, ("expired",)),
        (514, 0, 0, FILETIME, ("disabled",)),
        (512, 0x10, 0, FILETIME, ("locked out",)),
        (512, 0x800000, 0, FILETIME, ("password expired",)),
        (512, 0x800000, 0, 0, ("must change password",)),
        (66048, 0, 0, 0, ()),
        (514, 0x800010, FILETIME, 1, ("disabled", "expired", "locked out", "password expired")),
    ],
)
def test_the_states_of_an_account_are_told(
    *, control: int, computed: int, expires: int, last_set: int, found: tuple[str, ...]
) -> None:
    values = {
        "useraccountcontrol": control,
        "msds-user-account-control-computed": computed,
        "accountexpires": expires,
        "pwdlastset": last_set,
    }
    entry = Entry("CN=x", {name: (str(value).encode(),) for name, value in values.items()})
    assert states(entry, NOW) == found


@pytest.mark.parametrize(
    ("mailbox", "number", "sam"),
    [
        ("alice", 0, "alice"),
        ("alice", 1, "alice1"),
        ("a-mailbox-of-very-many-letters", 0, "a-mailbox-of-very-ma"),
        ("a-mailbox-of-very-many-letters", 12, "a-mailbox-of-very-12"),
        ("a-mailbox-with-a-do.t", 0, "a-mailbox-with-a-do"),
        ("sales+news", 0, "sales_news"),
    ],
)
def test_a_pre_windows_2000_name_has_at_most_20_characters(mailbox: str, number: int, sam: str) -> None:
    assert sam_name(mailbox, number) == sam


@given(st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,62}[a-z0-9]", fullmatch=True), st.integers(0, 999))
def test_no_pre_windows_2000_name_is_one_that_windows_refuses(mailbox: str, number: int) -> None:
    name = sam_name(mailbox, number)
    assert 1 <= len(name) <= 20
    assert not set(name) & set('"[]:;|=+*?<>/\\,@')
    assert not name.endswith(".")


@pytest.mark.parametrize(
    ("name", "dn"),
    [
        ("alice", "alice"),
        ('a+b,c"d\\e<f>g;h=i', 'a\\+b\\,c\\"d\\\\e\\<f\\>g\\;h\\=i'),
        (" a ", "\\ a\\ "),
        ("#a", "\\#a"),
        ("a\0b", "a\\00b"),
        ("jürgen", "jürgen"),
    ],
)
def test_a_name_in_a_dn_is_escaped(name: str, dn: str) -> None:
    assert escaped(name) == dn  # RFC 4514 §2.4


@pytest.mark.parametrize(
    ("text", "in_tls", "endpoint"),
    [
        ("ldaps://dc1.example.com", True, ("dc1.example.com", 636)),
        ("ldap://dc1.example.com", False, ("dc1.example.com", 389)),
        ("ldaps://dc1:1636", True, ("dc1", 1636)),
        ("ldap://[2001:db8::1]", False, ("2001:db8::1", 389)),
        ("ldaps://[2001:db8::1]:1636", True, ("2001:db8::1", 1636)),
    ],
)
def test_a_server_of_the_settings_has_a_host_and_a_port(text: str, *, in_tls: bool, endpoint: tuple[str, int]) -> None:
    assert (Server(text).in_tls, Server(text).endpoint) == (in_tls, endpoint)
