"""Names, addresses, SMTP paths, endpoints, networks and the values of settings, fuzzed.

Each reader either gives a value that reads back as itself, or refuses with one sentence. Invariant: what a legal name
is, is told here a second time and from RFC 1123 and the docs alone.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Any, TypeVar

from fuzz.chosen import law
from winpop.admin import accounts, audit
from winpop.admin import settings as settings_operations
from winpop.auth import passwords
from winpop.directory import settings
from winpop.protocol.smtp import paths
from winpop.terms import names
from winpop.terms.endpoints import Endpoint, parse_networks, parse_peer, within
from winpop.terms.names import Address, DomainName
from winpop.terms.refusals import Kind, Refusal, readable

T = TypeVar("T")

ADDRESS_WORDS = (
    *b"@ . .. xn-- FROM:< TO:<> <postmaster> SIZE=1 BODY=7BIT example.com con. lpt1".split(),
    b'"a\\ b"@',
    b"@a.example,@b.example:",
    b"[127.0.0.1]",
    b"[IPv6:::1]",
    "ü".encode(),
    "ß".encode(),
    "。".encode(),
    "\u202e".encode(),
)
ENDPOINT_WORDS = (*b"* : [::1]: localhost 127.0.0.1 ::ffff: /32 /0 none % , 65535 65536 0".split(), b" ")
SETTING_WORDS = (*b"off none default kb MB GiB 52428800 1,5 true $argon2id$v=19$m=19456,t=2,p=1$ mail.example".split(),)

_CODE = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


def read(reader: Callable[[str], T], text: str, *codes: str) -> T | None:
    """Return what `reader` makes of a text, or None where it refuses, which it must do well."""
    try:
        return reader(text)
    except Refusal as refusal:
        sound(refusal)
        law(refusal.kind is Kind.NOT_UNDERSTOOD, "a reader refuses what it cannot judge", refusal.code)
        law(refusal.code in codes, "a refusal has another code", refusal.code, codes)
        return None


def sound(refusal: Refusal) -> None:
    """Check that a refusal is one sentence with a code."""
    law(_CODE.fullmatch(refusal.code), "a code is none", refusal.code)
    law(refusal.sentence.isprintable(), "a sentence could steer a terminal", refusal.sentence)
    law(refusal.sentence.endswith((".", "?")), "a sentence has no end", refusal.sentence)
    law(len(refusal.sentence) <= 2500, "a sentence is too long", refusal.sentence)


def addresses(data: bytes) -> None:
    """Domains, mailbox names, addresses, targets, and the paths of SMTP."""
    text = data.decode("utf-8", "surrogateescape")
    _domain(text)
    _mailbox(text)
    _address(text)
    _paths(data)
    law(readable(text).isprintable() and len(readable(text)) <= 2001, "what is readable is not", text)


def _domain(text: str) -> None:
    domain = read(DomainName.parse, text, "bad-domain")
    if text.isascii() and "xn--" not in text.lower():
        law((domain is not None) == _is_domain(text), "a domain is taken that is none, or refused", text)
        law(domain is None or str(domain) == text.lower(), "a domain is changed", text, domain)
    if domain is not None:
        law(str(domain).isascii() and str(domain) == str(domain).lower(), "a domain is not lower case", domain)
        law(_is_domain(str(domain)), "a domain is none", domain)
        law(DomainName.parse(str(domain)) == domain, "a domain does not read back", text, domain)
        law(DomainName.parse(str(domain).upper()) == domain, "a domain has a case", text, domain)


def _is_domain(text: str) -> bool:
    labels = text.split(".")
    return (
        text.isascii()
        and len(text) <= 253
        and len(labels) >= 2
        and all(0 < len(label) <= 63 and label.replace("-", "a").isalnum() for label in labels)
        and not any(label.startswith("-") or label.endswith("-") for label in labels)
        and not labels[-1].isdigit()
    )


def _mailbox(text: str) -> None:
    mailbox = read(names.parse_mailbox_name, text, "bad-mailbox-name")
    law((mailbox is not None) == _is_mailbox(text), "a mailbox name is taken that is none, or refused", text)
    if mailbox is not None:
        law(mailbox == text.lower(), "a mailbox name is changed", text, mailbox)
        law(names.parse_mailbox_name(mailbox) == mailbox, "a mailbox name does not read back", text)


def _is_mailbox(text: str) -> bool:
    stem = text.lower().split(".")[0]
    port = stem[:3] in ("com", "lpt") and len(stem) == 4 and stem[3] in "123456789"
    return (
        text.isascii()
        and 1 <= len(text) <= 64
        and all(c.isalnum() or c in "._+-" for c in text)
        and text[0].isalnum()
        and text[-1].isalnum()
        and ".." not in text
        and stem not in ("con", "prn", "aux", "nul")
        and not port
    )


def _address(text: str) -> None:
    address = read(Address.parse, text, "bad-address", "bad-mailbox-name", "bad-domain")
    target = read(names.parse_target, text, "bad-address", "bad-mailbox-name", "bad-domain")
    expected = address if "@" in text else read(DomainName.parse, text, "bad-domain")
    law(target == expected, "a target is something else", text, target, expected)
    if address is None:
        return
    law(text.count("@") == 1, "an address has another number of @", text)
    mailbox, _, domain = text.partition("@")
    law(_is_mailbox(mailbox) and DomainName.parse(domain) == address.domain, "an address is none", text)
    law(Address.parse(str(address)) == address, "an address does not read back", text, address)
    if len(str(address)) <= 254:
        there = paths.forward_path(b"TO:<%b>" % str(address).encode("ascii"))
        law(there == (paths.Path(address.mailbox, str(address.domain), str(address)), b""), "no path", address, there)


def _paths(data: bytes) -> None:
    for prefix, reader in ((b"FROM:", paths.reverse_path), (b"TO:", paths.forward_path)):
        for argument in (data, prefix + data, prefix + b"<" + data + b">"):
            found = reader(argument)
            if found is None:
                continue
            path, rest = found
            law(argument[: len(prefix)].upper() == prefix, "a path begins with another word", argument)
            law(argument.endswith(rest) and (not rest or rest.startswith(b" ")), "what follows?", argument, rest)
            used = argument[len(prefix) : len(argument) - len(rest)]
            law(used.startswith(b"<") and used.endswith(b">") and len(used) <= 256, "no path", argument)
            for text in (path.mailbox, path.domain, path.text):
                law(text.isascii() and (text.isprintable()), "a path is no text", path)
            law(path.text.encode("ascii").lower() in used.lower(), "a path is not what was written", argument, path)
            law(not re.search(r"[<>\s]", path.domain), "a domain is none", path)
            again = reader(prefix + b"<" + path.text.encode("ascii") + b">")
            law(again == (path, b""), "a path does not read back", argument, path, again)
            given = paths.parameters(rest)
            if given is not None:
                written = b"".join(b" " + key + (b"=" + value if value else b"") for key, value in given.items())
                law(paths.parameters(written) == given, "parameters do not read back", rest, given)
                law(b"".join(written.upper().split()) == b"".join(rest.upper().split()), "parameters are lost", rest)


def endpoints(data: bytes) -> None:
    """Endpoints, networks and the addresses of peers."""
    text = data.decode("utf-8", "surrogateescape")
    endpoint = read(Endpoint.parse, text, "bad-endpoint")
    if endpoint is not None:
        law(0 <= endpoint.port <= 65535, "no port", text, endpoint)
        law(endpoint.host == "*" or str(ipaddress.ip_address(endpoint.host)) == endpoint.host, "no host", endpoint)
        law(Endpoint.parse(str(endpoint)) == endpoint, "an endpoint does not read back", text, endpoint)
        law(text.endswith(text.rpartition(":")[2]) and int(text.rpartition(":")[2]) == endpoint.port, "port?", text)
    networks = read(parse_networks, text, "bad-network")
    if networks is None:
        return
    written = ",".join(map(str, networks)) or "none"
    law(parse_networks(written) == networks, "networks do not read back", text, written)
    law(parse_networks(written.replace(",", " ")) == networks, "a space is no comma", text, written)
    law(len(networks) == len(re.sub(r"[\s,]+", " ", text).split()) or not networks, "networks are lost", text)
    for network in networks:
        for address in (network[0], network[-1]):
            law(within(address, networks), "a network does not hold its own address", network)
            mapped = getattr(address, "ipv4_mapped", None)
            law(parse_peer(str(address)) == (mapped or address), "a peer is another", address)
            if address.version == 4:
                law(parse_peer(f"::ffff:{address}") == address, "a mapped peer is another", address)
                law(parse_peer(f"::ffff:{address}%lo") == address, "a scoped peer is another", address)


_VALUES = {
    "auth": "bad-value",
    "postmaster": "bad-address bad-mailbox-name bad-domain",
    "trusted": "bad-network",
    "proxies": "bad-network",
    **dict.fromkeys(("pop3", "pop3s", "smtp", "lmtp", "submission", "http"), "bad-endpoint"),
}


def setting_values(data: bytes) -> None:
    """Every setting's reader, its name, and the other values that an administrator writes."""
    which = list(settings.SETTINGS.values())[data[0] % len(settings.SETTINGS)] if data else settings.SETTINGS["auth"]
    text = data[1:].decode("utf-8", "surrogateescape")
    value = read(which.read, text, *_VALUES.get(which.name, "bad-value").split())
    if value is not None:
        _setting(which, text, value)
    else:
        _damaged(which, text)
    name = read(settings_operations.read_name, text, "no-such-setting")
    law(name is None or name in {*settings.SETTINGS, "port", "socket"}, "no setting", text)
    count = read(audit.read_count, text, "bad-number")
    law(count is None or (1 <= count <= 10_000 and int(text) == count), "no count", text)
    user = read(accounts.read_user, text, "bad-user")
    law(user is None or user.isprintable(), "no user", text)
    octets = read(passwords.check, text, "bad-password")
    law(octets is None or octets == text.encode("utf-8", "surrogateescape"), "a password is changed", text)
    law(octets is None or (1 <= len(octets) <= 248 and not set(octets) & set(b"\0\r\n")), "no password", text)
    hashed = read(passwords.check_hash, text, "bad-password-hash")
    if hashed is not None:
        law(hashed == text and re.fullmatch(r"[!-~]+", hashed), "a hash is changed", text)
        passwords_cost = dict(part.split("=") for part in hashed.split("$")[3].split(","))
        law(int(passwords_cost["m"]) <= 2**18, "a hash costs too much", text)


def _damaged(which: settings.Setting, text: str) -> None:
    """Check that what no reader takes is told as damage where it is stored; None is also a value, such as `off`."""
    try:
        law(settings.read_stored(which.name, text) is None, "a setting is stored as another", which.name, text)
    except Refusal as refusal:
        sound(refusal)
        law((refusal.code, refusal.kind) == ("setting-damaged", Kind.OUT_OF_REACH), "damage has another code", refusal)


def _setting(which: settings.Setting, text: str, value: Any) -> None:  # noqa: ANN401 - each has its own type
    law(settings.read_stored(which.name, text) == value, "a setting is stored as another", which.name, text)
    if isinstance(value, int):
        digits = re.match("[0-9]+", text)
        law(digits and int(digits[0]) <= value, "a number is another", which.name, text, value)
        law(text != str(value) or which.read(str(value)) == value, "a number does not read back", which.name, text)
        law(which.read(str(value)) == value, "a number does not read back", which.name, text, value)
    elif isinstance(value, str):
        law(value == text or which.name == "hostname", "a text is changed", which.name, text, value)
        law(which.read(value) == value, "a text does not read back", which.name, text, value)
        value.encode()
    elif isinstance(value, tuple):
        law(which.read(",".join(map(str, value)) or "none") == value, "networks do not read back", text)
    else:
        law(which.read(str(value)) == value, "a value does not read back", which.name, text, value)
