"""The arguments of MAIL and RCPT (RFC 5321 §4.1.2): paths and parameters, from bytes.

Keeps the lengths of RFC 5321 §4.5.3.1 and takes nothing that the grammar does not: a space after the colon,
an unbalanced bracket, a second address, a control or an octet beyond ASCII makes the whole argument bad.
Source routes are read and dropped (RFC 5321 §3.6.1, and its appendix C). Invariant: what comes out is
printable ASCII without a line end, and the grammar is read in time that grows with the argument, no faster.
"""

import re
from dataclasses import dataclass

_PATH_LENGTH = 256
_LOCAL_PART_LENGTH = 64
_DOMAIN_LENGTH = 255

# `+` and `*` followed by `+` never give back what they took, so a hostile line cannot make them try again.
_LABEL = rb"[A-Za-z0-9][A-Za-z0-9-]{0,62}+(?<!-)"
_NAME = rb"%b(?:\.%b)*+" % (_LABEL, _LABEL)
_LITERAL = rb"\[(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]++)\]"
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
_DOT_STRING = rb"%b(?:\.%b)*+" % (_ATOM, _ATOM)
_QUOTED_STRING = rb'"(?:[ !#-\[\]-~]|\\[ -~])*+"'
_ROUTE = rb"@%b(?:,@%b)*+:" % (_NAME, _NAME)
_PATH = re.compile(
    rb"<(?:%b)?((?P<local>%b|%b)@(?P<domain>%b|%b))>" % (_ROUTE, _DOT_STRING, _QUOTED_STRING, _NAME, _LITERAL)
)
_POSTMASTER = re.compile(rb"<postmaster>", re.IGNORECASE)
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([!-<>-~]++))?+")
_QUOTED_PAIR = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Path:
    """Where mail comes from or goes to. All is empty for the null reverse-path, `<>`."""

    mailbox: str = ""
    """The local part without its quotes."""
    domain: str = ""
    """A name or an address literal; empty for a bare `<postmaster>` (RFC 5321 §4.5.1)."""
    text: str = ""
    """The address as the client wrote it, quotes and all, without a source route."""


def reverse_path(argument: bytes) -> tuple[Path, bytes] | None:
    """Read `FROM:<...>` and return the path and what follows it; None where it is not one."""
    if argument[:5].upper() != b"FROM:":
        return None
    if argument[5:7] == b"<>":
        return _followed(Path(), argument[7:])
    return _path(argument[5:])


def forward_path(argument: bytes) -> tuple[Path, bytes] | None:
    """Read `TO:<...>` and return the path and what follows it; None where it is not one."""
    if argument[:3].upper() != b"TO:":
        return None
    if bare := _POSTMASTER.match(argument, 3):
        return _followed(Path("postmaster", "", "postmaster"), argument[bare.end() :])
    return _path(argument[3:])


def parameters(text: bytes) -> dict[bytes, bytes] | None:
    """Read what follows a path (RFC 5321 §4.1.1.11): values by keyword; None where it is bad."""
    found: dict[bytes, bytes] = {}
    for word in text.split(b" ")[1:]:
        parameter = _PARAMETER.fullmatch(word)
        if parameter is None or parameter[1].upper() in found:
            return None
        found[parameter[1].upper()] = parameter[2] or b""
    return found


def _path(text: bytes) -> tuple[Path, bytes] | None:
    path = _PATH.match(text)
    if (
        path is None
        or path.end() > _PATH_LENGTH
        or len(path["local"]) > _LOCAL_PART_LENGTH
        or len(path["domain"]) > _DOMAIN_LENGTH
    ):
        return None
    mailbox = path["local"].decode("ascii")
    if mailbox.startswith('"'):
        mailbox = _QUOTED_PAIR.sub(r"\1", mailbox[1:-1])
    return _followed(Path(mailbox, path["domain"].decode("ascii"), path[1].decode("ascii")), text[path.end() :])


def _followed(path: Path, rest: bytes) -> tuple[Path, bytes] | None:
    return (path, rest) if not rest or rest.startswith(b" ") else None
