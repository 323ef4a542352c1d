"""The SASL mechanisms by their names, those that tell an onlooker least first.

Invariant: a mechanism is one record here, and what must be known of it to offer it stands in the record.
"""

from dataclasses import dataclass
from functools import partial

from winpop.protocol.sasl.bearer import FAILURE, oauthbearer, xoauth2
from winpop.protocol.sasl.contexts import context
from winpop.protocol.sasl.cram_md5 import cram_md5
from winpop.protocol.sasl.external import external
from winpop.protocol.sasl.moves import Exchange, Surroundings
from winpop.protocol.sasl.passwords import login, plain
from winpop.protocol.sasl.run import Dialogue, Mechanism
from winpop.protocol.sasl.scram import scram


@dataclass(frozen=True, slots=True)
class Record:
    """A mechanism and what it asks of the connection."""

    mechanism: Mechanism
    in_clear: bool = False
    """The password or token itself crosses the wire."""
    binds: bool = False
    """It needs a channel binding of the TLS connection."""
    failure: bytes | None = None
    """What the client is told before a refusal."""


MECHANISMS: dict[str, Record] = {
    "SCRAM-SHA-256-PLUS": Record(partial(scram, hash_name="SHA-256", plus=True), binds=True),
    "SCRAM-SHA-1-PLUS": Record(partial(scram, hash_name="SHA-1", plus=True), binds=True),
    "EXTERNAL": Record(external),
    "GSSAPI": Record(partial(context, mechanism="GSSAPI")),
    "SCRAM-SHA-256": Record(partial(scram, hash_name="SHA-256", plus=False)),
    "SCRAM-SHA-1": Record(partial(scram, hash_name="SHA-1", plus=False)),
    "OAUTHBEARER": Record(oauthbearer, in_clear=True, failure=FAILURE),
    "XOAUTH2": Record(xoauth2, in_clear=True, failure=FAILURE),
    "PLAIN": Record(plain, in_clear=True),
    "LOGIN": Record(login, in_clear=True),
    "NTLM": Record(partial(context, mechanism="NTLM")),
    "CRAM-MD5": Record(cram_md5),
}


def begin(mechanism: str, surroundings: Surroundings) -> Exchange:
    """Return a new run of a mechanism, which is named as in `MECHANISMS`: upper case."""
    record = MECHANISMS[mechanism]
    return Dialogue(record.mechanism, surroundings, record.failure)
