"""Every dialogue, run pure, pure at every cut of what the client sends, and over a real socket."""

from pathlib import Path

import pytest

from dialogues.dialogue import Cut, Dialogue, PurePeer, SocketPeer, hold, read
from dialogues.world import HOSTNAME, Deliveries, Maildrops, offer
from winpop.protocol import pop3, smtp

HERE = Path(__file__).parent / "dialogues"
DIALOGUES = {f"{path.parent.name}/{path.stem}": read(path) for path in sorted(HERE.glob("*/*.txt"))}

every_dialogue = pytest.mark.parametrize("dialogue", DIALOGUES.values(), ids=DIALOGUES)
every_dialogue_to_cut = pytest.mark.parametrize(
    "dialogue", [pytest.param(d, id=name) for name, d in DIALOGUES.items() if "uncut" not in d.directives]
)
every_real_dialogue = pytest.mark.parametrize(
    "dialogue", [pytest.param(d, id=name) for name, d in DIALOGUES.items() if not d.pure_only]
)


Pop3Peer = PurePeer[pop3.Need, pop3.Answer, pop3.Ending]
SmtpPeer = PurePeer[smtp.Need, smtp.Answer, smtp.Ending]


def pure_peer(dialogue: Dialogue) -> Pop3Peer | SmtpPeer:
    return pop3_peer(dialogue) if dialogue.protocol == "pop3" else smtp_peer(dialogue)


def pop3_peer(dialogue: Dialogue) -> Pop3Peer:
    session = pop3.Session(pop3.Limits(), offer(dialogue.directives))
    return PurePeer(session, Maildrops(dialogue.directives).answers, pop3.Ending, handshake=pop3.StartTls)


def smtp_peer(dialogue: Dialogue) -> SmtpPeer:
    session = smtp.Session(smtp.Limits(), hostname=HOSTNAME, lmtp=dialogue.protocol == "lmtp")
    return PurePeer(session, Deliveries().answers, smtp.Ending)


def whole(_index: int, data: bytes) -> list[bytes]:
    return [data]


def octet_by_octet(_index: int, data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut_at(step: int, offset: int) -> Cut:
    return lambda index, data: [data[:offset], data[offset:]] if index == step else [data]


@every_dialogue
def test_pure(dialogue: Dialogue) -> None:
    hold(dialogue, pure_peer(dialogue), whole)


@every_dialogue_to_cut
def test_pure_at_every_cut(dialogue: Dialogue) -> None:
    uncut = pure_peer(dialogue)
    hold(dialogue, uncut, whole)
    for cut in (octet_by_octet, *(cut_at(step, offset) for step, offset in dialogue.cuts)):
        peer = pure_peer(dialogue)
        hold(dialogue, peer, cut)
        assert peer.said == uncut.said


@every_real_dialogue
def test_over_a_socket(dialogue: Dialogue, dialogue_server: tuple[str, dict[str, int]]) -> None:
    host, ports = dialogue_server
    stranger = "stranger" in dialogue.directives
    with SocketPeer(host, ports[dialogue.protocol + "-stranger" * stranger]) as peer:
        hold(dialogue, peer, whole)


@pytest.mark.parametrize(
    "dialogue",
    [
        pytest.param(dialogue, id=name)
        for name, dialogue in DIALOGUES.items()
        if dialogue.protocol == "pop3"
        and not dialogue.pure_only
        and dialogue.directives.isdisjoint({"stranger", "clear"})
        and all(step.kind != "T:" for step in dialogue.steps)
    ],
)
def test_over_tls_from_the_beginning(dialogue: Dialogue, dialogue_server: tuple[str, dict[str, int]]) -> None:
    """RFC 8314 §3: the same dialogue, only that nobody else can read it."""
    host, ports = dialogue_server
    with SocketPeer(host, ports["pop3s"], tls=True) as peer:
        hold(dialogue, peer, whole)


@pytest.mark.parametrize(
    "lines",
    [
        "C: NOOP",
        "S: +OK something else",
        "S: +OK ...\nS: +OK ...",
        "S: +OK ...\nC: QUIT",
        "S: +OK ...\nC: QUIT\nX:",
        "S: +OK ...\nX:",
        "S: +OK ...\nC: QUIT\nS: +OK ...",
        "S| +OK POP3 server ready",
    ],
)
def test_a_pop3_dialogue_that_does_not_hold_fails(lines: str, tmp_path: Path) -> None:
    dialogue = written(tmp_path, lines)
    with pytest.raises(AssertionError):
        hold(dialogue, pure_peer(dialogue), whole)


@pytest.mark.parametrize(
    "line", ["C: NOOP ", "S:+OK", "Q: what?", "NOOP", "#! nonsense\nC: NOOP", "# nothing", "X:\nC: NOOP"]
)
def test_a_pop3_dialogue_that_cannot_be_read_says_so(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dialogue"):
        written(tmp_path, line)


def written(directory: Path, lines: str) -> Dialogue:
    path = directory / "pop3" / "dialogue.txt"
    path.parent.mkdir()
    path.write_text(lines + "\n")
    return read(path)
