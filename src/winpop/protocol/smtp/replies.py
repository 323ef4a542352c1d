"""Everything that an SMTP or LMTP session says (RFC 5321 §4.2, RFC 3463), without line ends.

Invariant: each reply but the greeting, `354` and those to HELO, EHLO and LHLO has an enhanced status code
(RFC 2034 §4), and none holds an octet that came from the client.
"""

from winpop.protocol.lines import Flaw
from winpop.protocol.smtp.needs import Ending

OK = b"250 2.0.0 OK"
BYE = b"221 2.0.0 Bye"
HELP = b"214 2.0.0 See RFC 5321"
CANNOT_VERIFY = b"252 2.5.0 Send mail and it will be tried"
SENDER_OK = b"250 2.1.0 Sender OK"
RECIPIENT_OK = b"250 2.1.5 Recipient OK"
START_INPUT = b"354 End with a dot on a line of its own"
DELIVERED = b"250 2.0.0 Delivered"

BAD_NAME = b"501 The client's name is missing or cannot be one"
BAD_SENDER = b"501 5.1.7 Write it like MAIL FROM:<alice@example.com>"
BAD_RECIPIENT = b"501 5.1.3 Write it like RCPT TO:<alice@example.com>"
BAD_PARAMETER = b"501 5.5.4 A parameter is written wrongly"
UNKNOWN_PARAMETER = b"555 5.5.4 A parameter is not known here"
NO_ARGUMENT = b"501 5.5.4 This command takes no argument"
ARGUMENT_MISSING = b"501 5.5.4 This command needs an argument"
UNKNOWN_COMMAND = b"500 5.5.1 Unknown command"
NOT_OFFERED = b"502 5.5.1 Not offered here"
HELLO_FIRST = b"503 5.5.1 The client's greeting comes first"
MAIL_FIRST = b"503 5.5.1 MAIL comes first"
MAIL_ALREADY = b"503 5.5.1 There is a sender already"
RECIPIENT_FIRST = b"503 5.5.1 RCPT comes first"
NO_RECIPIENTS = b"554 5.5.1 No recipient was accepted"

UNKNOWN_RECIPIENT = b"550 5.1.1 No such mailbox here"
FOREIGN_RECIPIENT = b"550 5.7.1 This is no relay"
TOO_MANY_RECIPIENTS = b"452 4.5.3 Too many recipients for one message"
TOO_LARGE = b"552 5.3.4 The message is too large"
TOO_MANY_HOPS = b"554 5.4.6 Too many hops, this looks like a mail loop"
NUL = b"550 5.6.0 The message holds a NUL"
BARE_NEWLINE = b"550 5.5.2 Lines end with CR LF and hold no other CR or LF"
UNAVAILABLE = {
    False: b"451 4.3.0 It cannot be done now, try again later",
    True: b"452 4.3.1 There is no room now, try again later",
}
"""By whether there is no room."""

HTTP = b"421 4.7.0 This is a mail server"
HEADER = b"521 5.5.2 This is a line of a message and no command"
TOO_MUCH_AMISS = b"421 4.7.0 Too many errors, or too many commands without a message"
FLAWS = {
    Flaw.BARE_NEWLINE: b"500 5.5.2 Lines end with CR LF and hold no other CR or LF",
    Flaw.TOO_LONG: b"500 5.5.2 The line is too long",
}
ENDINGS = {
    Ending.IDLE: b"421 4.4.2 Nothing came for too long",
    Ending.SLOW: b"421 4.4.2 The message took too long to come in",
    Ending.STOPPING: b"421 4.3.2 The service is stopping, try again later",
    Ending.OVERLOADED: b"421 4.3.2 Too many connections, try again later",
    Ending.UNAVAILABLE: b"421 4.3.0 Something went wrong here, try again later",
}
