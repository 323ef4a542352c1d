"""The LDAP messages that we send and understand (RFC 4511): bind, StartTLS, search, add, modify and delete.

Filters are built as what they mean and sent as that; they never are text (RFC 4515), so no name can change what is
asked for. Invariant: an answer is one of the records below, or `Malformed` is raised.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from winpop.auth.active_directory import ber
from winpop.auth.active_directory.ber import Malformed, Reader, element, integer, text

SUCCESS, SIZE_LIMIT_EXCEEDED, CONSTRAINT_VIOLATION, NO_SUCH_OBJECT, INVALID_CREDENTIALS = 0, 4, 19, 32, 49
INSUFFICIENT_RIGHTS, UNWILLING, ENTRY_EXISTS = 50, 53, 68
BASE, SUBTREE = 0, 2
START_TLS = "1.3.6.1.4.1.1466.20037"
_IN_CHAIN = "1.2.840.113556.1.4.1941"
"""Matching rule of Active Directory: also by way of other groups."""

_BIND, _UNBIND, _SEARCH, _MODIFY, _ADD, _DELETE, _EXTENDED = 0x60, 0x42, 0x63, 0x66, 0x68, 0x4A, 0x77
_ENTRY, _REFERENCE = 0x64, 0x73
_RESULTS = (0x61, 0x65, 0x67, 0x69, 0x6B, 0x78)
_VERSION, _REPLACE, _NEVER_ALIASES = 3, 2, 0


@dataclass(frozen=True, slots=True)
class Result:
    """How an operation ended. `text` is the server's own, for the log."""

    code: int
    text: str = ""

    @property
    def data(self) -> str:
        """The reason that Active Directory hides in its text: hexadecimal digits such as `52e`, or nothing."""
        match = re.search(r"\bdata ([0-9a-fA-F]{1,8})\b", self.text)
        return match[1].lower() if match else ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a search found. The names of attributes are in lower case."""

    dn: str
    values: Mapping[str, tuple[bytes, ...]] = field(repr=False)

    def one(self, attribute: str) -> bytes:
        """Return the only value, or nothing."""
        return next(iter(self.values.get(attribute.lower(), ())), b"")

    def text(self, attribute: str) -> str:
        """Return the only value as text, or nothing."""
        return self.one(attribute).decode("utf-8", "replace")

    def number(self, attribute: str) -> int:
        """Return the only value as a number; what is none is 0."""
        octets = self.one(attribute)
        return int(octets) if re.fullmatch(rb"-?[0-9]{1,20}", octets) else 0


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a search could go on; we do not."""


Answer = Result | Entry | Reference


def equal(attribute: str, value: str | bytes) -> bytes:
    """Return the filter: the attribute has this value."""
    return element(0xA3, text(attribute), text(value))


def within(attribute: str, dn: str) -> bytes:
    """Return the filter: the attribute leads to this group, also by way of others."""
    return element(0xA9, text(_IN_CHAIN, 0x81), text(attribute, 0x82), text(dn, 0x83))


def every(*filters: bytes) -> bytes:
    """Return the filter: each of them."""
    return element(0xA0, *filters)


def some(*filters: bytes) -> bytes:
    """Return the filter: at least one of them."""
    return element(0xA1, *filters)


ANYTHING = text("objectClass", 0x87)
"""The filter: everything."""


def bind(name: str, password: bytes) -> bytes:
    """Ask for a simple bind (RFC 4511 §4.2)."""
    return element(_BIND, integer(_VERSION), text(name), text(password, 0x80))


def unbind() -> bytes:
    """Say goodbye; there is no answer."""
    return element(_UNBIND)


def start_tls() -> bytes:
    """Ask for TLS (RFC 4511 §4.14)."""
    return element(_EXTENDED, text(START_TLS, 0x80))


def search(base: str, scope: int, wanted: bytes, attributes: Iterable[str], most: int) -> bytes:
    """Ask for at most `most` entries (RFC 4511 §4.5)."""
    limits = integer(most) + integer(0)
    types_only = element(ber.BOOLEAN, b"\0")
    which = element(ber.SEQUENCE, *map(text, attributes))
    how = integer(scope, ber.ENUMERATED) + integer(_NEVER_ALIASES, ber.ENUMERATED) + limits + types_only
    return element(_SEARCH, text(base), how, wanted, which)


def add(dn: str, values: Mapping[str, bytes]) -> bytes:
    """Ask for a new entry."""
    attributes = [element(ber.SEQUENCE, text(name), element(ber.SET, text(value))) for name, value in values.items()]
    return element(_ADD, text(dn), element(ber.SEQUENCE, *attributes))


def replace(dn: str, attribute: str, value: bytes) -> bytes:
    """Ask that an attribute has this value and no other."""
    change = element(ber.SEQUENCE, text(attribute), element(ber.SET, text(value)))
    changes = element(ber.SEQUENCE, integer(_REPLACE, ber.ENUMERATED), change)
    return element(_MODIFY, text(dn), element(ber.SEQUENCE, changes))


def delete(dn: str) -> bytes:
    """Ask that an entry goes."""
    return text(dn, _DELETE)


def message(number: int, operation: bytes) -> bytes:
    """Return an operation as a message with this number (RFC 4511 §4.1.1)."""
    return element(ber.SEQUENCE, integer(number), operation)


def read(octets: bytes) -> tuple[int, Answer]:
    """Read a message from a server: its number, which is 0 where the server ends the connection, and what it says."""
    reader = Reader(octets).enter(ber.SEQUENCE)
    number, tag = reader.number(), reader.tag()
    inside = reader.enter(tag)
    if tag == _ENTRY:
        return number, _entry(inside)
    if tag == _REFERENCE:
        return number, Reference()
    if tag not in _RESULTS:
        raise Malformed
    code, _ = inside.number(ber.ENUMERATED), inside.text()
    return number, Result(code, inside.text().strip("\0\r\n "))


def _entry(reader: Reader) -> Entry:
    dn, attributes = reader.text(), reader.enter(ber.SEQUENCE)
    values: dict[str, tuple[bytes, ...]] = {}
    while attributes.more():
        attribute = attributes.enter(ber.SEQUENCE)
        name, each = attribute.text().lower(), attribute.enter(ber.SET)
        found = []
        while each.more():
            found.append(each.take(ber.OCTET_STRING))
        values[name] = tuple(found)
    return Entry(dn, values)
