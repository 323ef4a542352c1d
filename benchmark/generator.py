"""The load generator (load.c): made from its source once, run for each figure, and its answer read.

Invariant: an answer with errors in it is never a figure; `run` raises `RunError` with the first of them.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("load.c")
_LIBRARIES = ("-lssl", "-lcrypto", "-lm")


class RunError(Exception):
    """A run that gives no figure; says why in a sentence."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the generator is to do. `flags` are its own (load.c's head names them)."""

    port: int
    script: str
    connections: int
    users: Path | None = None
    sessions: int | None = None
    seconds: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Times:
    """How long something took, in milliseconds."""

    count: int
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it. Times in milliseconds, `elapsed` and `cpu` in seconds."""

    sessions: int
    messages: int
    octets: int
    elapsed: float
    cpu: float
    resumed: int
    session: Times
    message: Times
    named: dict[str, Times] = field(default_factory=dict)
    errors: int = 0
    first_error: str | None = None


def missing() -> str:
    """Return what this machine lacks to make the generator, or nothing."""
    if not shutil.which("gcc"):
        return "the load generator needs gcc (packages gcc and libc6-dev)"
    if not _has_headers():
        return "the load generator needs OpenSSL's headers (package libssl-dev)"
    return ""


def _has_headers() -> bool:
    command = ["gcc", "-E", "-x", "c", "-"]
    result = subprocess.run(command, input=b"#include <openssl/ssl.h>\n", capture_output=True, timeout=60, check=False)
    return result.returncode == 0


def program() -> Path:
    """Return the generator, made if this source of it was not made before. Raises OSError."""
    if missing():
        raise OSError(missing())
    cache = Path(tempfile.gettempdir()) / f"winpop-load-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    made = cache / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    if not made.exists():
        descriptor, name = tempfile.mkstemp(dir=cache)
        os.close(descriptor)
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", name, str(SOURCE), *_LIBRARIES]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if result.returncode:
            raise OSError(f"gcc: {result.stderr}")
        Path(name).chmod(0o700)
        Path(name).rename(made)
    return made


def command(traffic: Traffic) -> list[str]:
    """Return the generator's command for this; the script comes on its standard input."""
    words = [str(program()), "--port", str(traffic.port), "--connections", str(traffic.connections)]
    for flag, value in (("sessions", traffic.sessions), ("seconds", traffic.seconds), ("users", traffic.users)):
        words += [f"--{flag}", str(value)] if value is not None else []
    return [*words, *traffic.flags, "-"]


def begin(traffic: Traffic) -> subprocess.Popen[bytes]:
    """Start the generator and return at once; `finish` gives its answer."""
    process = subprocess.Popen(
        command(traffic), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(traffic.script.encode())
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[bytes], within: float = 300.0) -> Answer:
    """Wait for the answer. Raises `RunError` for anything but a whole one without errors."""
    answer = finish_with_errors(process, within)
    if answer.errors:
        raise RunError(f"{answer.errors} errors beside {answer.sessions} sessions; the first: {answer.first_error}")
    return answer


def finish_with_errors(process: subprocess.Popen[bytes], within: float = 300.0) -> Answer:
    """Wait for the answer, with whatever errors it counts. Raises `RunError` where there is none."""
    try:
        output, complaint = process.communicate(timeout=within)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"the load generator did not end within {within:g} s") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    lines = output.splitlines()
    if not lines or not lines[-1].startswith(b"{"):
        raise RunError(f"the load generator gave no answer: {complaint.decode(errors='replace').strip()}")
    return _read(json.loads(lines[-1]))


def run(traffic: Traffic, within: float = 300.0) -> Answer:
    """Run the generator to its end. Raises `RunError`."""
    return finish(begin(traffic), within)


def _read(document: dict[str, Any]) -> Answer:
    return Answer(
        sessions=document["sessions"],
        messages=document["messages"],
        octets=document["octets"],
        elapsed=document["elapsed"],
        cpu=document["cpu"],
        resumed=document["resumed"],
        session=Times(**document["session_ms"]),
        message=Times(**document["message_ms"]),
        named={name: Times(**times) for name, times in document["times"].items()},
        errors=document["errors"],
        first_error=document["first_error"],
    )
