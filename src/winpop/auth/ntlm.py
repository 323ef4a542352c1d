"""NTLM, which old clients call SPA: three messages, of which the last is verified by Samba's winbind.

The messages are those of the public document [MS-NLMP], sections 2.2.1.1 to 2.2.1.3. Only what refuses nonsense and
nobody's logon is read here, and whom the client says it is, for the log and for the limits.
Invariant: a reason that does not speak of the account or its password is no refusal: then it cannot be said.
"""

import base64
import struct

from winpop.auth.contract import DISABLED, EXPIRED, LOCKED_OUT, MUST_CHANGE, NO_ACCOUNT, PASSWORD, PASSWORD_EXPIRED
from winpop.auth.ntlm_helpers import HelperError, Helpers, Loan
from winpop.protocol.sasl.moves import Continue, Malformed, Proved, Unavailable
from winpop.terms.credentials import Established, Failed
from winpop.terms.refusals import readable

_NEGOTIATE, _CHALLENGE, _AUTHENTICATE = 1, 2, 3
_SIGNATURE = b"NTLMSSP\0"
_HEADER = 64
_NT_RESPONSE, _DOMAIN, _USER, _FLAGS = 20, 28, 36, 60
"""Where these stand in the third message."""
_UNICODE = 1
_LONGEST_NAME = 256
_REASONS = {
    "NT_STATUS_LOGON_FAILURE": PASSWORD,
    "NT_STATUS_WRONG_PASSWORD": PASSWORD,
    "NT_STATUS_NO_SUCH_USER": NO_ACCOUNT,
    "NT_STATUS_ACCOUNT_DISABLED": DISABLED,
    "NT_STATUS_ACCOUNT_EXPIRED": EXPIRED,
    "NT_STATUS_ACCOUNT_LOCKED_OUT": LOCKED_OUT,
    "NT_STATUS_PASSWORD_MUST_CHANGE": MUST_CHANGE,
    "NT_STATUS_PASSWORD_EXPIRED": PASSWORD_EXPIRED,
    "NT_STATUS_ACCOUNT_RESTRICTION": "restricted",
    "NT_STATUS_INVALID_LOGON_HOURS": "not at this hour",
    "NT_STATUS_INVALID_WORKSTATION": "not from this computer",
    "NT_STATUS_LOGON_TYPE_NOT_GRANTED": "not granted",
}
"""What speaks of the account; every other reason is trouble of the helper, of winbind or of the domain."""
_NONSENSE = "NT_STATUS_INVALID_PARAMETER"


class Ntlm:
    """One context. `why` says for the log what went wrong."""

    def __init__(self, helpers: Helpers) -> None:
        self.why = ""
        self._helpers = helpers
        self._loan: Loan | None = None

    async def step(self, token: bytes) -> Continue | Proved | Malformed | Unavailable:
        """Take the client's token. Never raises."""
        try:
            return await (self._challenge(token) if self._loan is None else self._verify(self._loan, token))
        except HelperError as error:
            self.why = str(error)
            return Unavailable()

    async def close(self) -> None:
        """Give the process back, if there still is one."""
        if self._loan is not None:
            self._loan.give_back()

    async def _challenge(self, token: bytes) -> Continue | Malformed:
        if _kind(token) != _NEGOTIATE:
            return Malformed()
        self._loan = loan = await self._helpers.lend()
        word, rest = await loan.ask("YR", base64.b64encode(token).decode("ascii"))
        if (word, rest) == ("NA", _NONSENSE):
            loan.give_back()
            return Malformed()
        try:
            challenge = base64.b64decode(rest, validate=True)
        except ValueError:
            challenge = b""
        if word != "TT" or _kind(challenge) != _CHALLENGE:
            raise loan.discard(f"said {word} {'' if word == 'TT' else readable(rest)}".rstrip())
        loan.wait_for_client()
        return Continue(challenge)

    async def _verify(self, loan: Loan, token: bytes) -> Proved | Malformed:
        claimed = _claimed(token)
        if claimed is None:
            return Malformed()
        if not claimed:
            self.why = "nobody"
            return Proved(Failed(""))  # an anonymous logon would be one, and it would be right
        word, rest = await loan.ask("KK", base64.b64encode(token).decode("ascii"))
        if word == "AF" and 0 < rest.find("\\") < len(rest) - 1:
            loan.give_back()
            return Proved(Established("NTLM", rest))
        if word == "NA" and rest in _REASONS:
            loan.give_back()
            self.why = _REASONS[rest]
            return Proved(Failed(claimed))
        if (word, rest) == ("NA", _NONSENSE):
            loan.give_back()
            return Malformed()
        raise loan.discard(f"said {word} {'' if word == 'TT' else readable(rest)}".rstrip())


def _kind(token: bytes) -> int:
    """Return the number of a message, 0 for what is none."""
    if len(token) < len(_SIGNATURE) + 4 or not token.startswith(_SIGNATURE):
        return 0
    (kind,) = struct.unpack_from("<I", token, len(_SIGNATURE))
    return int(kind)


def _claimed(token: bytes) -> str | None:
    r"""Return whom the third message is from, `DOMAIN\user` or `user`; empty for nobody, None for no such message."""
    if _kind(token) != _AUTHENTICATE or len(token) < _HEADER:
        return None
    response, domain, user = (_field(token, at) for at in (_NT_RESPONSE, _DOMAIN, _USER))
    if response is None or domain is None or user is None:
        return None
    if not response or not user:
        return ""
    (flags,) = struct.unpack_from("<I", token, _FLAGS)
    encoding = "utf-16-le" if flags & _UNICODE else "latin-1"
    name = b"\\".join((domain, user)) if encoding == "latin-1" else b"\\\0".join((domain, user))
    return name.decode(encoding, "replace").removeprefix("\\")[:_LONGEST_NAME]


def _field(token: bytes, at: int) -> bytes | None:
    length, _, start = struct.unpack_from("<HHI", token, at)
    return token[start : start + length] if start + length <= len(token) else None
