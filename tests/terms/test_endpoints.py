"""Endpoints and networks: what parses can be bound and compared as it stands."""

from ipaddress import ip_address

import pytest

from winpop.terms.endpoints import Endpoint, parse_networks, parse_peer, within
from winpop.terms.refusals import Refusal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:110", "127.0.0.1:110"),
        ("*:0", "*:0"),
        ("LocalHost:65535", "127.0.0.1:65535"),
        ("[::1]:110", "[::1]:110"),
        ("[0:0:0:0:0:0:0:1]:110", "[::1]:110"),
    ],
)
def test_an_endpoint_says_itself_as_it_is_read(text: str, shown: str) -> None:
    endpoint = Endpoint.parse(text)
    assert str(endpoint) == shown
    assert Endpoint.parse(shown) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "110",
        ":110",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:+1",
        "127.0.0.1:1_0",
        "127.0.0.1:\u0661",
        "127.0.0.1:110\n",
        " 127.0.0.1:110",
        "127.0.0.256:110",
        "010.0.0.1:110",
        "::1:110",
        "[::1]",
        "[::1%eth0]:110",
        "[localhost]:110",
        "mail.example.com:110",
        "\x1b[2J:110",
    ],
)
def test_what_cannot_be_bound_is_no_endpoint(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        Endpoint.parse(text)
    assert caught.value.code == "bad-endpoint"
    assert caught.value.sentence.isprintable()


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("none", []),
        (" NONE ", []),
        ("127.0.0.1", ["127.0.0.1/32"]),
        ("10.0.0.0/8,::1 192.168.7.0/255.255.255.0", ["10.0.0.0/8", "::1/128", "192.168.7.0/24"]),
    ],
)
def test_networks_are_read_into_one_form(text: str, networks: list[str]) -> None:
    assert [str(network) for network in parse_networks(text)] == networks


@pytest.mark.parametrize(
    "text", ["", ",", "all", "127.0.0.1,none", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "fe80::1%\x1b", "::1%eth0"]
)
def test_one_bad_network_spoils_the_list(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_networks(text)
    assert caught.value.code == "bad-network"


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("127.0.0.1", True),
        ("::ffff:127.0.0.1", True),  # as a listener for both families gives it
        ("127.0.0.2", False),
        ("::1", True),
        ("::7f00:1", False),
        ("fe80::1%eth0", True),
        ("fe81::1", False),
    ],
)
def test_a_peer_is_compared_without_scope_and_as_the_address_it_is(peer: str, trusted: bool) -> None:  # noqa: FBT001
    assert within(parse_peer(peer), parse_networks("127.0.0.1/32,::1,fe80::/64")) is trusted


def test_nobody_is_within_no_network() -> None:
    assert not within(ip_address("127.0.0.1"), parse_networks("none"))
