"""What is measured beside the opponents, and the goals: one row of the table for each kind of work.

Invariant: a row is the same dialogue for both servers, by the same generator, with mailboxes that hold the same mail.
"""

from dataclasses import dataclass
from typing import Literal

from benchmark.population import EMPTY, HELD, HUGE, HUNDRED, INBOX, KIB, LARGE, LEAVING, LOGON, MANY, MEDIUM, WARM, Kind

Per = Literal["1,000 sessions", "1,000 messages", "GB"]
"""What the processor's seconds are told by."""
Opponent = Literal["dovecot", "dovecot's best store", "dovecot's schemes", "postfix"]
FRESH_EVERY = 1000
"""Every so many logons is one of a user who has not logged on before: 99.9 % are repeated."""

GREETING = "reply\n"
LOG_ON = GREETING + "send USER %u\nreply\nsend PASS %p\nreply\n"
QUIT = "send QUIT\nreply\n"
POLL = LOG_ON + "send STAT\ncount\n" + QUIT
ONLY_LOG_ON = LOG_ON + QUIT
HOLD = LOG_ON + "send STAT\ncount\nhold\n" + QUIT


def listing(messages: int) -> str:
    """List all messages with their unique-ids and sizes. A line has at least six octets."""
    return LOG_ON + f"send UIDL\nmulti {messages * 6}\nsend LIST\nmulti {messages * 6}\n" + QUIT


def fetching(kind: Kind, *, pipelined: bool = False) -> str:
    """Fetch all messages, with a round trip for each or all asked for at once. Headers add at most 2 KiB."""
    size = f"message {kind.octets} {kind.octets + 2 * KIB}\n"
    begin = f"repeat 1 {kind.messages}\n"
    between = f"end\n{begin}" if pipelined else ""
    return f"{LOG_ON}{begin}send RETR %n\n{between}{size}end\n{QUIT}"


def emptying(kind: Kind) -> str:
    """Fetch and delete all messages."""
    return f"{LOG_ON}repeat 1 {kind.messages}\nsend RETR %n\nmessage {kind.octets}\nsend DELE %n\nreply\nend\n{QUIT}"


def delivering(hello: str, messages: int, size: str, *, to_each: bool = True) -> str:
    """Hand in messages as mail servers do, with MAIL, RCPT and DATA in one write; each to the next user if so."""
    return (
        f"{GREETING}send {hello} generator.benchmark.invalid\nreply\nrepeat 1 {messages}\n"
        + ("user\n" if to_each else "")
        + "send MAIL FROM:<sender@elsewhere.example>\nsend RCPT TO:<%u>\nsend DATA\nreply\nreply\nreply\n"
        + f"body {size}\nstored\nend\n{QUIT}"
    )


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row. The goals say how many times better winpop is to be: processor, rate, p99, memory."""

    name: str
    work: str
    script: str
    kind: Kind
    connections: int
    goal_cpu: float = 0
    goal_rate: float = 0
    goal_p99: float = 3
    goal_memory: float = 0
    port: str = "pop3"
    flags: tuple[str, ...] = ()
    per: Per = "1,000 sessions"
    opponent: Opponent = "dovecot"
    refilled: bool = False
    """The mailboxes are emptied by each run and filled again before the next."""
    scheme: str = ""
    """How the opponent keeps the passwords of a row about logons."""

    @property
    def of_messages(self) -> bool:
        """Tell whether the rate and the times are those of messages handed in, not of sessions."""
        return self.port in ("lmtp", "smtp")


_TLS, _RESUMED, _SHARE = ("--tls",), ("--tls", "--resume"), ("--share",)
_AGAIN = ("--warm", str(WARM), "--fresh-every", str(FRESH_EVERY))


def _poll(clients: int, cpu: float, rate: float) -> Scenario:
    who = "one client" if clients == 1 else f"{clients} clients"
    return Scenario(f"poll-{clients}", f"poll an empty mailbox, {who}", POLL, EMPTY, clients, cpu, rate)


def _fetch(name: str, work: str, kind: Kind, clients: int, goals: tuple[float, float]) -> Scenario:
    """Return a row of fetching all mail; its name says whether over TLS, and whether pipelined."""
    return Scenario(
        name,
        work,
        fetching(kind, pipelined="pipelined" in name),
        kind,
        clients,
        *goals,
        port="pop3s" if name.startswith("tls") else "pop3",
        flags=_TLS if name.startswith("tls") else (),
        per="1,000 sessions" if kind is HUNDRED else "GB",
    )


def _deliver(port: str, clients: int, cpu: float, rate: float) -> Scenario:
    who = "one connection" if clients == 1 else f"{clients} connections"
    return Scenario(
        f"{port}-{clients}",
        f"durable delivery of 2 KiB by {port.upper()}, {who}",
        delivering("LHLO" if port == "lmtp" else "EHLO", 20, str(2 * KIB)),
        INBOX,
        clients,
        cpu,
        rate,
        port=port,
        flags=_SHARE,
        per="1,000 messages",
        opponent="dovecot's best store" if port == "lmtp" else "postfix",
    )


def _log_on(scheme: str, clients: int, cpu: float, rate: float) -> Scenario:
    return Scenario(
        f"logon-{scheme}",
        f"logon, 99.9 % repeated; opponent: {scheme.upper()}",
        ONLY_LOG_ON,
        LOGON,
        clients,
        cpu,
        rate,
        flags=_AGAIN,
        opponent="dovecot's schemes",
        scheme=scheme,
    )


SCENARIOS = (
    _poll(1, 6, 3),
    _poll(32, 10, 5),
    _poll(500, 14, 6),
    Scenario("list-100", "UIDL and LIST of 100 messages", listing(100), HUNDRED, 8, 12, 5),
    Scenario("list-10000", "UIDL and LIST of 10,000 messages", listing(10_000), MANY, 2, 80, 40),
    _fetch("retr-2k", "RETR of 100 messages of 2 KiB, round trips", HUNDRED, 8, (5, 3)),
    _fetch("retr-2k-pipelined", "RETR of 100 messages of 2 KiB, pipelined", HUNDRED, 8, (8, 4)),
    _fetch("retr-20k", "RETR of 100 messages of 20 KiB", MEDIUM, 8, (5, 3)),
    _fetch("retr-1m", "RETR of 10 messages of 1 MiB", LARGE, 4, (10, 4)),
    _fetch("retr-20m", "RETR of 2 messages of 20 MiB", HUGE, 2, (10, 3)),
    Scenario(
        "dele-20", "RETR, DELE and QUIT of 20 messages of 2 KiB", emptying(LEAVING), LEAVING, 8, 6, 4, refilled=True
    ),
    Scenario("tls-poll", "poll over TLS, full handshake", POLL, EMPTY, 32, 3, 1.5, port="pop3s", flags=_TLS),
    Scenario("tls-poll-resumed", "poll over TLS, resumed", POLL, EMPTY, 32, 3, 1.5, port="pop3s", flags=_RESUMED),
    _fetch("tls-retr-20k", "RETR over TLS of 100 messages of 20 KiB", MEDIUM, 8, (5, 2.5)),
    _fetch("tls-retr-1m", "RETR over TLS of 10 messages of 1 MiB", LARGE, 4, (6, 4)),
    _deliver("lmtp", 1, 6, 4),
    _deliver("lmtp", 16, 10, 6),
    _deliver("lmtp", 64, 14, 10),
    _deliver("smtp", 1, 15, 6),
    _deliver("smtp", 16, 25, 15),
    _deliver("smtp", 64, 30, 25),
    _log_on("sha256-crypt", 8, 20, 10),
    _log_on("argon2id", 8, 200, 100),
    Scenario("memory", "memory of an open session", HOLD, HELD, 0, goal_p99=0, goal_memory=200),
    Scenario("memory-tls", "memory of an open session, TLS", HOLD, HELD, 0, 0, 0, 0, 22, port="pop3s", flags=_TLS),
)
HELD_BY_US, HELD_BY_THEM = 2000, 500
"""Open sessions in the rows about memory."""
GROWING = ("poll-32", "list-100", "retr-2k-pipelined", "lmtp-16")
"""The rows that are measured again with more mailboxes and with other numbers of workers."""


def find(name: str) -> Scenario:
    """Return the row of that name. Raises KeyError."""
    return {scenario.name: scenario for scenario in SCENARIOS}[name]
