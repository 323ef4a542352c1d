"""Domain names, mailbox names and addresses.

Keeps the documented rules of the POP3 Service (names in any case; domains fully qualified, at any depth;
mailbox names of 1 to 64 characters) and RFC 1123 §2.1, RFC 5321 §4.5.3.1. Invariant: a name is lower-case
ASCII from a short allow-list, so it can stand in a log, a reply, a table or a file name of another system
without being escaped. Names never become paths here (the store uses opaque identifiers).
"""

import re
from dataclasses import dataclass
from typing import Self

from winpop.terms.refusals import not_understood, readable

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MAILBOX = re.compile(r"[a-z0-9](?:[a-z0-9._+-]{0,62}[a-z0-9])?")
_DOMAIN_LENGTH = 253
# Names that a Windows file system does not take: mail is moved to and from such machines.
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))])


@dataclass(frozen=True, slots=True, order=True)
class DomainName:
    """A fully qualified domain name in lower-case A-label form, such as `example.com`."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the domain that `text` names, in any case; names beyond ASCII by IDNA 2008.

        Raises `Refusal` (`bad-domain`) that says what is wrong with it.
        """
        name = _to_ascii(text).lower()
        labels = name.split(".")
        if (
            len(name) > _DOMAIN_LENGTH
            or len(labels) < 2  # noqa: PLR2004 - fully qualified: at least two labels
            or not all(map(_LABEL.fullmatch, labels))
            or labels[-1].isdigit()
        ):
            raise not_understood(
                "bad-domain",
                f"'{readable(text)}' is not a fully qualified domain name; write it like example.com.",
            )
        return cls(name)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """The address of a mailbox, `mailbox@domain`. `mailbox` is the mailbox name, the part before the `@`."""

    domain: DomainName
    mailbox: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address that `text` names, in any case.

        Raises `Refusal` (`bad-address`, `bad-mailbox-name` or `bad-domain`).
        """
        mailbox, at, domain = text.partition("@")
        if not at or "@" in domain:
            raise not_understood(
                "bad-address",
                f"'{readable(text)}' is not a mailbox address; write it like alice@example.com.",
            )
        return cls(DomainName.parse(domain), parse_mailbox_name(mailbox))

    def __str__(self) -> str:
        return f"{self.mailbox}@{self.domain.text}"

    def __hash__(self) -> int:  # a third of what the one takes that would be made: two calls, one for the domain
        return hash((self.domain.text, self.mailbox))


def parse_mailbox_name(text: str) -> str:
    """Return the mailbox name that `text` gives, in lower case. Raises `Refusal` (`bad-mailbox-name`)."""
    name = text.lower() if text.isascii() else ""
    if not _MAILBOX.fullmatch(name) or ".." in name or name.partition(".")[0] in _RESERVED:
        raise not_understood(
            "bad-mailbox-name",
            f"'{readable(text)}' cannot be a mailbox name; take 1 to 64 letters, digits and . _ + -, "
            "beginning and ending with a letter or digit, without '..' and none that Windows reserves.",
        )
    return name


def parse_target(text: str) -> DomainName | Address:
    """Return the domain or the address that an administrator named, as `DOMAIN | USER@DOMAIN`."""
    return Address.parse(text) if "@" in text else DomainName.parse(text)


def _to_ascii(text: str) -> str:
    """Return a domain name in A-label form; the empty text where IDNA 2008 forbids it."""
    if text.isascii() and "xn--" not in text.lower():
        return text
    import idna  # here, since few names need it and its tables take time to load

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return ""
