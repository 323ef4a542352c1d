"""The fields in front of a delivered message (RFC 5321 §4.4), whatever a client called itself."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.protocol.smtp import trace
from winpop.terms.names import Address

ALICE = Address.parse("alice@example.com")
BOB = Address.parse("bob@example.com")
WHEN = datetime(2024, 2, 29, 23, 4, 5, 999, UTC)


def fields(  # noqa: PLR0913 - as many as the function has
    *,
    sender: str = "carol@example.net",
    recipients: tuple[Address, ...] = (ALICE,),
    helo: str = "client.example.net",
    ip: str = "192.0.2.1",
    protocol: str = "ESMTP",
    when: datetime = WHEN,
) -> bytes:
    return trace(
        sender=sender,
        recipients=recipients,
        helo=helo,
        ip=ip,
        hostname="mail.example.com",
        protocol=protocol,
        identifier="0a1b2c",
        when=when,
    )


def test_one_recipient() -> None:
    assert fields() == (
        b"Return-Path: <carol@example.net>\r\n"
        b"Received: from client.example.net ([192.0.2.1])\r\n"
        b"\tby mail.example.com with ESMTP id 0a1b2c\r\n"
        b"\tfor <alice@example.com>;\r\n"
        b"\tThu, 29 Feb 2024 23:04:05 +0000\r\n"
    )


def test_recipients_are_not_told_of_each_other() -> None:
    """RFC 5321 §7.2: a field that names them all would show the blind copies."""
    both = fields(recipients=(ALICE, BOB))
    assert b"alice" not in both
    assert b"bob" not in both
    assert b"id 0a1b2c;\r\n\tThu" in both


def test_null_sender_and_ipv6_and_lmtp() -> None:
    written = fields(sender="", ip="2001:db8::1", protocol="LMTP")
    assert written.startswith(b"Return-Path: <>\r\nReceived: from client.example.net ([IPv6:2001:db8::1])\r\n")
    assert b" with LMTP id " in written


def test_a_peer_without_an_address_and_without_a_name() -> None:
    assert b"Received: from unknown\r\n\tby " in fields(helo="", ip="")


@pytest.mark.parametrize("offset", [-12, 0, 14])
def test_the_time_is_written_in_utc(offset: int) -> None:
    """RFC 5322 §3.3."""
    assert fields(when=WHEN.astimezone(timezone(timedelta(hours=offset)))) == fields()


@pytest.mark.parametrize(
    "helo", ["a\r\nX-Forged: yes", "a) by evil (", "a\0b", "<x>", "a;b", "gr\xfcn", "\u2028", "a b", "x" * 5000]
)
def test_hostile_names(helo: str) -> None:
    written = fields(helo=helo, sender=helo, ip=helo)
    assert written.count(b"\r\n") == 5
    assert written.count(b"(") == written.count(b")") == 1
    assert written.count(b"<") == written.count(b">") == 2
    assert b"\nX-Forged" not in written


@given(st.text(max_size=400), st.text(max_size=400), st.text(max_size=400))
def test_the_result_is_two_fields_of_printable_lines(helo: str, sender: str, ip: str) -> None:
    first, second, *folded, nothing = fields(helo=helo, sender=sender, ip=ip).split(b"\r\n")
    assert first.startswith(b"Return-Path: <")
    assert second.startswith(b"Received: from ")
    assert len(folded) == 3
    assert all(line.startswith(b"\t") for line in folded)
    assert nothing == b""
    for line in (first, second, *folded):
        assert len(line) <= 998  # RFC 5322 §2.1.1
        assert all(0x20 <= octet < 0x7F for octet in line.lstrip(b"\t"))
