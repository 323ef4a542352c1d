"""Names as clients write them, and the header that SCRAM and OAUTHBEARER begin with (RFC 5802 §7, `gs2-header`).

Invariant: a name that comes out of here is UTF-8, not empty and without NUL; it is not normalised or folded, since it
is parsed where it is looked up.
"""

SASLNAME = r"(?:[^\0=,]|=2C|=3D)+"
"""A pattern: a name in which `,` and `=` are written as `=2C` and `=3D`."""
GS2_HEADER = rf"(?P<header>(?P<flag>n|y|p=(?P<binding>[A-Za-z0-9.-]+)),(?:a=(?P<authzid>{SASLNAME}))?,)"
"""A pattern: `flag` says whether the client binds (`p=` and the `binding`), could (`y`) or cannot (`n`)."""


def utf8(octets: bytes) -> str | None:
    """Return the text of these octets; None where they are not UTF-8 or there is a NUL among them."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def unescape(saslname: str) -> str:
    """Return the name that is written as `SASLNAME`."""
    return saslname.replace("=2C", ",").replace("=3D", "=")


def same(authzid: str, name: str) -> bool:
    """Tell whether who logs on as `name` may be `authzid`: nobody, or the same user, in any case."""
    return not authzid or authzid.casefold() == name.casefold()
