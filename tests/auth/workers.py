"""Other processes for the tests of the shared memory: each maps it as a worker does and runs some lines of Python."""

import os
import subprocess
import sys
from typing import Self

BEGINNING = """
import ipaddress, sys
from winpop.auth.shared import *
from winpop.auth.throttle import *
from winpop.auth.remembered import *
from winpop.auth.logindelay import *
shared = Shared(int(sys.argv[1]))
def say(*words): print(*words, flush=True)
def wait(): sys.stdin.readline()
"""


class Worker:
    """A process that runs `program`, which `say`s things and can `wait` for a line."""

    def __init__(self, descriptor: int, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGINNING + program, str(descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[descriptor],
        )

    def said(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
