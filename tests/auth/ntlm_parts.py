"""The messages of NTLM as the tests send them, and a helper that does as it is told."""

import base64
import shlex
import struct
import sys
import time
from pathlib import Path

from winpop.auth.contexts import Context
from winpop.protocol.sasl.moves import Continue

UNICODE = 1
NEGOTIATE = b"NTLMSSP\0" + struct.pack("<II", 1, 0xA2088207) + bytes(16)
CHALLENGE = b"NTLMSSP\0" + struct.pack("<I", 2) + bytes(36)


def authenticate(user: bytes, domain: bytes = b"", response: bytes = b"r" * 24, flags: int = UNICODE) -> bytes:
    """Return the third message. Nothing here can verify it; a helper that is not real takes it as it is."""
    parts = (b"", response, domain, user, b"", b"")
    start, fields, payload = 64, b"", b""
    for part in parts:
        fields += struct.pack("<HHI", len(part), len(part), start + len(payload))
        payload += part
    return b"NTLMSSP\0" + struct.pack("<I", 3) + fields + struct.pack("<I", flags) + payload


ALICE = authenticate("alice".encode("utf-16-le"), "WINPOP".encode("utf-16-le"))

SCRIPT = f"""
import os, sys, time
mode, directory = sys.argv[1:3]
open(f"{{directory}}/{{os.getpid()}}", "w").close()
say = lambda text: print(text, flush=True)
for line in sys.stdin:
    word, _, token = line.rstrip("\\n").partition(" ")
    challenge = "TT {base64.b64encode(CHALLENGE).decode()}"
    if mode == f"dies at {{word}}":
        sys.exit(1)
    if mode == f"hangs at {{word}}":
        time.sleep(600)
    if mode == f"waits at {{word}}":
        open(f"{{directory}}.asked", "w").close()
        while not os.path.exists(f"{{directory}}.go"):
            time.sleep(0.01)
    if mode == f"talks at {{word}}":
        say("TT " + "x" * 200_000)
        continue
    if mode == f"stammers at {{word}}":
        os.write(1, b"TT \\xff\\n")
        continue
    if mode.startswith(f"at {{word}} "):
        say(mode[6:])
    elif word == "YR":
        say(challenge)
    else:
        say("AF WINPOP\\\\" + __import__("base64").b64decode(token)[64 + 24 + 12:].decode("utf-16-le"))
"""


class Fake:
    """A helper that does as it is told; `processes` are those that were started."""

    def __init__(self, directory: Path) -> None:
        self._script = directory / "helper.py"
        self._script.write_text(SCRIPT)
        self._directory = directory / "started"
        self._directory.mkdir()

    def command(self, mode: str = "right") -> str:
        return shlex.join([sys.executable, "-S", "-E", str(self._script), mode, str(self._directory)])

    def wait_until_asked(self) -> None:
        while not self._directory.with_suffix(".asked").exists():
            time.sleep(0.01)

    def go_on(self) -> None:
        self._directory.with_suffix(".go").touch()

    def processes(self) -> list[int]:
        return [int(path.name) for path in self._directory.iterdir()]

    def alive(self) -> list[int]:
        return [pid for pid in self.processes() if Path(f"/proc/{pid}").exists()]


def as_user(name: str) -> bytes:
    return authenticate(name.encode("utf-16-le"), "WINPOP".encode("utf-16-le"))


async def both(context: Context) -> object:
    said = await context.step(NEGOTIATE)
    return await context.step(ALICE) if isinstance(said, Continue) else said
