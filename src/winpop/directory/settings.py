"""The settings of an installation: one table of what there is, what it means, and which values it takes.

Invariant: a stored value was accepted by its setting's reader, so reading settings cannot fail; a setting that
was never set has its default. Rules marked *documented* are the POP3 Service's own.
"""

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from winpop.db.contract import Reader, Transaction
from winpop.terms.endpoints import Endpoint, Network, parse_networks
from winpop.terms.names import Address
from winpop.terms.refusals import Refusal, not_understood, out_of_reach, readable


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `read` turns the stored text into its value, or raises `Refusal` (`bad-value`)."""

    name: str
    default: str
    meaning: str
    read: Callable[[str], Any]
    secret: bool = False
    """It is a password: sealed where it is stored, and never shown."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings as values, at one moment. Times are in seconds, sizes in octets."""

    auth: int
    logging: int
    mailroot: str
    pop3: Endpoint | None
    pop3s: Endpoint | None
    smtp: Endpoint | None
    lmtp: Endpoint | None
    submission: Endpoint | None
    http: Endpoint | None
    hostname: str
    postmaster: Address | None
    trusted: tuple[Network, ...]
    threadcount: int
    sparequired: int
    scram: int
    scramplus: int
    apop: int
    crammd5: int
    ntlm: int
    proxies: tuple[Network, ...]
    expire: int | None
    logindelay: int
    socketmax: int
    socketmin: int
    socketthreshold: int
    socketbacklog: int
    sessionsperaddress: int
    linelength: int
    failuremax: int
    errormax: int
    idlemax: int
    logonqueue: int
    failuredelay: int
    failuredelaymax: int
    failurerate: int
    logoncache: int
    listingcache: int
    checkagain: int
    logontime: int
    autologout: int
    stalltime: int
    draintime: int
    messagesize: int
    diskreserve: int
    recipientmax: int
    hopmax: int
    smtplinelength: int
    smtptimeout: int
    datatime: int
    pamservice: str
    ldapservers: tuple[str, ...]
    ldapca: str
    ldapbase: str
    ldapuser: str
    ldappassword: str
    ldapcreatein: str
    ldapadmins: str
    ldaptimeout: int
    keytab: str
    ntlmhelper: str
    oauthissuer: str
    oauthaudience: str
    oauthkeys: str
    oauthclaim: str


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,15}", text) or not least <= int(text) <= most:
            raise _bad(text, f"take a whole number from {least:,} to {most:,}".replace(",", " "))
        return int(text)

    return read


def _octets(least: int, most: int) -> Callable[[str], int]:
    factors = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

    def read(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,15}) ?([kmg]?)i?b?", text.lower())
        size = int(match[1]) * factors[match[2]] if match else -1
        if not least <= size <= most:
            raise _bad(text, f"take a number of octets from {least} to {most}, such as 52428800 or 50MB")
        return size

    return read


def _endpoint(text: str) -> Endpoint | None:
    return None if text.lower() == "off" else Endpoint.parse(text)


def _address(text: str) -> Address | None:
    return None if text.lower() == "none" else Address.parse(text)


_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


def _hostname(text: str) -> str:
    if len(text) > 253 or not re.fullmatch(rf"{_LABEL}(?:\.{_LABEL})*", text):  # noqa: PLR2004 - RFC 1035 §2.3.4
        raise _bad(text, "take a host name such as mail.example.com")
    return text.lower()


def _path(text: str) -> str:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):  # the database keeps UTF-8
        raise _bad(text, "take the path of a directory")
    return text


def _text(text: str) -> str:
    if len(text) > _LONGEST_TEXT or not text.isprintable():
        raise _bad(text, f"take at most {_LONGEST_TEXT} characters that can be printed")
    return text


def _word(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}", text):
        raise _bad(text, "take one word of letters, digits and _ . : / -")
    return text


def _days(text: str) -> int | None:
    return None if text.lower() == "never" else _number(1, 36500)(text)


def _ldap_servers(text: str) -> tuple[str, ...]:
    words = tuple(text.replace(",", " ").split())
    if words == ("none",):
        return ()
    if not words or not all(map(_LDAP.fullmatch, words)):
        raise _bad(
            text, "take addresses such as ldaps://dc1.example.com,ldaps://dc2.example.com (ldap:// means StartTLS)"
        )
    return words


def _issuer(text: str) -> str:
    if text and not re.fullmatch(r"https://[!-~]+", text):
        raise _bad(text, "take an https: address, as the tokens have it in their claim iss")
    return text


def _bad(text: str, advice: str) -> Refusal:
    return not_understood("bad-value", f"'{readable(text)}' cannot be the value; {advice}.")


_DAY = 86400
_LONGEST_TEXT = 1000
_LDAP = re.compile(rf"ldaps?://(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")

_TABLE = (
    Setting(
        "auth",
        "3",
        "authentication method of new mailboxes: 1 local accounts, 2 Active Directory, 3 encrypted password file",
        _number(1, 3),
    ),
    Setting(
        "logging",
        "3",
        "0 None, 1 Minimum (critical), 2 Medium (and warnings), 3 Maximum (and information)",
        _number(0, 3),
    ),
    Setting("mailroot", "", "directory of large message bodies; empty: the directory mail in the home", _path),
    Setting(
        "pop3",
        "127.0.0.1:110",
        "where POP3 listens, HOST:PORT or off; 'set port' changes the port alone",
        _endpoint,
    ),
    Setting("pop3s", "off", "where POP3 over TLS listens, HOST:PORT or off; pop3 offers TLS by STLS", _endpoint),
    Setting("smtp", "127.0.0.1:25", "where mail comes in by SMTP, HOST:PORT or off", _endpoint),
    Setting("lmtp", "off", "where mail comes in by LMTP, HOST:PORT or off", _endpoint),
    Setting("submission", "off", "where users hand in mail; comes later", _endpoint),
    Setting("http", "off", "where the console listens; comes later", _endpoint),
    Setting("hostname", "", "the name this server gives itself; empty: the computer's name", _hostname),
    Setting(
        "postmaster",
        "none",
        "mailbox that gets mail for postmaster where no mailbox has that name, or none",
        _address,
    ),
    Setting(
        "trusted",
        "127.0.0.1/32,::1/128",
        "networks from which passwords in clear are taken and the limits per address do not apply, or none",
        parse_networks,
    ),
    Setting("threadcount", "2", "worker processes", _number(1, 64)),
    Setting("sparequired", "0", "1 refuses passwords in clear, also from trusted networks", _number(0, 1)),
    Setting(
        "scram",
        "1",
        "SCRAM logons: 0 never, 1 where every mailbox has its keys, 2 also where some have none yet",
        _number(0, 2),
    ),
    Setting(
        "scramplus",
        "1",
        "SCRAM-PLUS, bound to the TLS connection: 0 never, 1 where the runtime has tls-exporter, which some clients "
        "insist on, 2 always (else with tls-server-end-point alone)",
        _number(0, 2),
    ),
    Setting(
        "apop", "0", "1 offers APOP; its price: passwords are kept so that this server can read them", _number(0, 1)
    ),
    Setting(
        "crammd5",
        "0",
        "1 offers CRAM-MD5; its price: passwords are kept so that this server can read them",
        _number(0, 1),
    ),
    Setting(
        "ntlm",
        "0",
        "1 offers NTLM (SPA) with Active Directory; its price: what is overheard can be guessed at, and relayed",
        _number(0, 1),
    ),
    Setting(
        "proxies", "none", "networks of proxies, which say by the PROXY protocol who the client is", parse_networks
    ),
    Setting("expire", "never", "days that mail is kept, then it is deleted, fetched or not; or never", _days),
    Setting("logindelay", "0", "seconds between two logons to a mailbox; 0: no delay", _number(0, 86400)),
    Setting("socketmax", "10000", "open sessions in all; at this number new connections wait", _number(1, 32000)),
    Setting(
        "socketmin",
        "10",
        "kept for its documented rules; sockets are made when they are needed",
        _number(1, 32000),
    ),
    Setting(
        "socketthreshold",
        "10",
        "after socketmax was reached, waiting connections are served once this many sessions have ended",
        _number(0, 99),
    ),
    Setting(
        "socketbacklog",
        "1024",
        "connections that may wait for an answer, at socketmax and in a rush",
        _number(1, 32000),
    ),
    Setting("sessionsperaddress", "50", "open sessions from one address; 0: no limit", _number(0, 32000)),
    Setting("linelength", "255", "octets of a POP3 command line, its end included", _number(64, 8192)),
    Setting("failuremax", "3", "failed logons before a connection is closed; 0: no limit", _number(0, 1000)),
    Setting("errormax", "20", "faulty commands before a connection is closed", _number(1, 100_000)),
    Setting(
        "idlemax",
        "100",
        "SMTP commands that bring no message forward before a connection is closed",
        _number(10, 100_000),
    ),
    Setting(
        "logonqueue",
        "200",
        "logons of a worker that may wait for their check; more are told to come again",
        _number(1, 32000),
    ),
    Setting(
        "failuredelay", "1", "seconds until a failed logon is answered, whatever the reason; 0: at once", _number(0, 60)
    ),
    Setting(
        "failuredelaymax", "30", "seconds to which the delay grows for a client that goes on guessing", _number(0, 300)
    ),
    Setting(
        "failurerate",
        "5",
        "failed logons a second from one network, above which its logons wait; 0: as many as come",
        _number(0, 1000),
    ),
    Setting(
        "logoncache",
        "600",
        "seconds for which a password that was right is remembered, so that it need not be verified; 0: not at all",
        _number(0, _DAY),
    ),
    Setting(
        "listingcache",
        "200000",
        "messages, of large maildrops together, that each worker keeps listed from one session to the next; 0: none",
        _number(0, 10_000_000),
    ),
    Setting(
        "checkagain",
        "3600",
        "seconds for which a message that was compared with its checksum is fetched without comparing it again; "
        "0: it is compared each time",
        _number(0, _DAY),
    ),
    Setting("logontime", "120", "seconds for a logon, from the connection on", _number(1, _DAY)),
    Setting(
        "autologout",
        "610",
        "seconds without a command before a session ends, nothing deleted (RFC 1939: at least 600)",
        _number(1, _DAY),
    ),
    Setting("stalltime", "180", "seconds that a client may take no bytes of what is sent to it", _number(1, _DAY)),
    Setting("draintime", "10", "seconds that open sessions have to end when the service stops", _number(0, 3600)),
    Setting("messagesize", "52428800", "octets of a message that comes in (50 MB)", _octets(1024, 2**40)),
    Setting(
        "diskreserve",
        "33554432",
        "octets of free disk below which no mail is taken, so that fetching, deleting and unlocking go on (32 MB)",
        _octets(0, 2**40),
    ),
    Setting("recipientmax", "1000", "recipients of a message that comes in", _number(100, 100_000)),
    Setting("hopmax", "50", "servers a message may have come through (mail loops)", _number(10, 100)),
    Setting("smtplinelength", "4096", "octets of an SMTP command line, its end included", _number(512, 65536)),
    Setting(
        "smtptimeout",
        "300",
        "seconds without a command before an SMTP connection is closed",
        _number(1, _DAY),
    ),
    Setting("datatime", "1800", "seconds for a message to come in, from MAIL to the final dot", _number(1, _DAY)),
    Setting("pamservice", "winpop", "local accounts: the PAM service, a file in /etc/pam.d", _word),
    Setting(
        "ldapservers",
        "none",
        "Active Directory: domain controllers in the order they are tried, such as ldaps://dc1.example.com, or none",
        _ldap_servers,
    ),
    Setting("ldapca", "", "Active Directory: file of the authority of their certificates; empty: the system's", _path),
    Setting("ldapbase", "", "Active Directory: where accounts are looked for; empty: the whole domain", _text),
    Setting("ldapuser", "", "Active Directory: the account that winpop looks things up with", _text),
    Setting(
        "ldappassword",
        "",
        "Active Directory: its password, given as 'winpop set ldapuser NAME /password'",
        _text,
        secret=True,
    ),
    Setting("ldapcreatein", "", "Active Directory: where accounts are made; empty: the container Users", _text),
    Setting(
        "ldapadmins",
        "",
        "Active Directory: group whose members, also by other groups, administer this server; empty: nobody",
        _text,
    ),
    Setting("ldaptimeout", "5", "Active Directory: seconds to wait for a domain controller", _number(1, 60)),
    Setting(
        "keytab", "", "Active Directory: file with the keys of the service pop/HOST, for GSSAPI; empty: off", _path
    ),
    Setting(
        "ntlmhelper",
        "/usr/bin/ntlm_auth --helper-protocol=squid-2.5-ntlmssp",
        "Active Directory: the program of Samba's winbind that verifies NTLM",
        _text,
    ),
    Setting("oauthissuer", "", "OAuth: who issues the tokens, an https: address; empty: no tokens are taken", _issuer),
    Setting("oauthaudience", "", "OAuth: for whom a token has to be issued; needed", _text),
    Setting(
        "oauthkeys", "", "OAuth: the issuer's keys (JWKS), https: address or file; empty: found at the issuer", _text
    ),
    Setting("oauthclaim", "email", "OAuth: the claim that holds the mailbox address", _word),
)
SETTINGS = {setting.name: setting for setting in _TABLE}
"""Every setting by its name, in the order in which they are shown."""

SECRET = frozenset(setting.name for setting in _TABLE if setting.secret)
"""The settings that are passwords."""

ALIASES = {"authentication": "auth"}
SOCKET = ("socketbacklog", "socketmax", "socketmin", "socketthreshold")
"""What the word `socket` means, in the documented order of its arguments."""

LATER = {"submission": "Submission", "http": "The console"}
"""Settings of parts that come later; they can be read and not yet be set."""


def find(name: str) -> Setting:
    """Return the setting of that name, in any case. Raises `Refusal` (`no-such-setting`)."""
    setting = SETTINGS.get(ALIASES.get(name.lower(), name.lower()))
    if setting is None:
        raise not_understood(
            "no-such-setting", f"'{readable(name)}' is not a setting; 'winpop get' shows those there are."
        )
    return setting


def stored(reader: Reader) -> dict[str, str]:
    """Return the settings that were set, as text."""
    return {str(name): str(value) for name, value in reader.all("SELECT name, value FROM setting")}


def load(reader: Reader, overrides: dict[str, str] | None = None) -> Settings:
    """Return all settings; `overrides` hold for this run and come before what is stored.

    Raises `Refusal` (`setting-damaged`).
    """
    texts = {name: setting.default for name, setting in SETTINGS.items()} | stored(reader) | (overrides or {})
    texts["hostname"] = texts["hostname"] or own_hostname()
    return Settings(**{name: read_stored(name, texts[name]) for name in SETTINGS})


def read_stored(name: str, text: str) -> Any:  # noqa: ANN401 - each setting has its own type
    """Read what is stored. Raises `Refusal` (`setting-damaged`) where somebody else has written it."""
    setting = SETTINGS[name]
    try:
        return setting.read(text)
    except Refusal as refusal:
        raise out_of_reach(
            "setting-damaged",
            f"The stored setting {name} cannot be read ({refusal.sentence.removesuffix('.')}); "
            f"'winpop set {name} default' gives it its default back.",
        ) from None


def own_hostname() -> str:
    """Return the computer's name, or `localhost` where it has none that can be said."""
    try:
        return _hostname(socket.gethostname())
    except (Refusal, OSError):
        return "localhost"


def store(transaction: Transaction, values: dict[str, str]) -> None:
    """Keep settings, each read first; refuse a combination that the documented rules forbid."""
    for name, text in values.items():
        if name in LATER:
            raise Refusal("not-yet", f"{LATER[name]} is not part of this version yet, so {name} cannot be set.")
        # An empty default stands for something that is found at run time.
        if text != SETTINGS[name].default:
            SETTINGS[name].read(text)
    if not values.keys().isdisjoint(SOCKET):
        _check_sockets(load(transaction, values))
    for name, text in values.items():
        transaction.run(
            "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            name,
            text,
        )


def _check_sockets(settings: Settings) -> None:
    """Documented: min below max, max above min + threshold, threshold 0 only when min is max."""
    least, most, threshold = settings.socketmin, settings.socketmax, settings.socketthreshold
    allowed = threshold == 0 if least == most else threshold >= 1 and most > least + threshold
    if not allowed:
        raise not_understood(
            "bad-sockets",
            f"socketmax {most}, socketmin {least} and socketthreshold {threshold} do not go together: max must be "
            "above min + threshold, threshold 1 to 99; or min = max and threshold 0. 'set socket BACKLOG MAX MIN "
            "THRESHOLD' sets them together.",
        )
