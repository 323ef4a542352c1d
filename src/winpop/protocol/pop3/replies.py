"""Everything that a POP3 session says to people (RFC 1939 §3, RFC 2449 §8), without line ends.

Invariant: none holds an octet that came from the client; each has its translations in `languages`, but the greeting,
which comes before a client can ask for one.
"""

from winpop.protocol.lines import Flaw
from winpop.protocol.pop3.needs import Ending

READY = b"+OK POP3 server ready"
OK = b"+OK"
TOTALS = b"+OK %d messages (%d octets)"
CAPABILITIES = b"+OK Capabilities follow"
LANGUAGES = b"+OK Languages follow"
MECHANISMS = b"+OK Mechanisms follow"
MESSAGE = b"+OK Message follows"
MARKED = b"+OK Marked as deleted"
NOW_PASSWORD = b"+OK Now the password"
BEGIN_TLS = b"+OK Begin TLS"
UTF8 = b"+OK UTF-8 it is"
BYE = b"+OK Bye"

UNKNOWN_COMMAND = b"-ERR Unknown command"
OTHER_STATE = b"-ERR Not in this state"
NO_ARGUMENT = b"-ERR This command takes no argument"
BAD_USER = b"-ERR USER needs a mailbox address"
BAD_PASS = b"-ERR PASS needs a password"
BAD_APOP = b"-ERR APOP needs a mailbox address and a digest"
BAD_TOP = b"-ERR TOP needs a message number and a number of lines"
BAD_NUMBER = b"-ERR A message number is needed"
NOT_UTF8 = b"-ERR The name is not UTF-8"
NO_USER = b"-ERR USER comes first"
NO_MESSAGE = b"-ERR No such message"
MARKED_ALREADY = b"-ERR This message is marked as deleted"
NO_LANGUAGE = b"-ERR This language is not spoken here"
NO_TLS = b"-ERR TLS cannot begin here"
BEHIND_STLS = b"-ERR Nothing may follow STLS before TLS has begun"
NO_MECHANISM = b"-ERR This mechanism is not offered"
NOT_BASE64 = b"-ERR That is not base64"
CANCELLED = b"-ERR AUTH is cancelled"
MALFORMED = b"-ERR That is not how this mechanism goes"

IN_CLEAR = b"-ERR [AUTH] Passwords in clear are not accepted from your network"
TLS_FIRST = b"-ERR [AUTH] Begin TLS first: passwords in clear are not accepted from your network"
WRONG = b"-ERR [AUTH] The name or the password is wrong"
LOCKED = {
    "domain": b"-ERR [AUTH] An administrator has locked this domain; its mail is kept, "
    b"and another password will not help",
    "mailbox": b"-ERR [AUTH] An administrator has locked this mailbox; its mail is kept, "
    b"and another password will not help",
}
"""By what an administrator has locked."""
IN_USE = b"-ERR [IN-USE] Another session has this mailbox open"
TOO_SOON = b"-ERR [LOGIN-DELAY] The last logon was too short a time ago"
CANNOT_SAY = b"-ERR [SYS/TEMP] Logons cannot be checked now, try again later"
UNREADABLE = {
    False: b"-ERR [SYS/TEMP] This message cannot be read now, try again later",
    True: b"-ERR [SYS/PERM] This message is damaged; the administrator has to be told",
}
"""By whether it is for ever."""
NOT_REMOVED = b"-ERR [SYS/TEMP] Deleted messages were not removed, try again later"

HTTP = b"-ERR This is a POP3 server"
TOO_MUCH_AMISS = b"-ERR Too many errors"
FLAWS = {
    Flaw.BARE_NEWLINE: b"-ERR Lines end with CR LF and hold no other CR or LF",
    Flaw.TOO_LONG: b"-ERR The line is too long",
}
ENDINGS = {
    Ending.DOMAIN_LOCKED: LOCKED["domain"],
    Ending.MAILBOX_LOCKED: LOCKED["mailbox"],
    Ending.MAILBOX_DELETED: b"-ERR [SYS/PERM] This mailbox is no more",
    Ending.SLOW_LOGON: b"-ERR The logon took too long",
    Ending.STOPPING: b"-ERR [SYS/TEMP] The service is stopping, try again later",
    Ending.OVERLOADED: b"-ERR [SYS/TEMP] Too many connections, try again later",
    Ending.UNAVAILABLE: b"-ERR [SYS/TEMP] Something went wrong here, try again later",
}
