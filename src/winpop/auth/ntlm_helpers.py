"""Processes of Samba's `ntlm_auth`, which let winbind verify NTLM, and the lending of them.

Each speaks its protocol `squid-2.5-ntlmssp`, a line for a line: `YR` with the client's first token, `KK` with its last;
it answers `TT` with a challenge, `AF` with who that is, `NA` with a reason, `BH` where it is in trouble itself.
Invariants: a process serves one exchange at a time, and one that died, was late or talked nonsense is never lent again;
who does not answer its challenge keeps a process only until another exchange needs it.
"""

import asyncio
import contextlib
import os
import re
import shlex
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque

_MOST = 8
"""Processes of one worker."""
_LONGEST_QUEUE = 64
_LIMIT = 10.0
"""Seconds to wait for a process, and for each of its answers."""
_PATIENCE = 1.0
"""Seconds that a client surely has for its answer to the challenge, also when others wait for a process."""
_LONGEST_LINE = 1 << 17
_ANSWER = re.compile(r"(TT|AF|NA|BH)(?: ([^\n]*))?\n")


class HelperError(Exception):
    """The helper is out of reach; the text is a sentence for the log."""


class Loan:
    """One exchange with a process. Ends with `give_back` or with `HelperError`, whichever comes first."""

    def __init__(self, helpers: "Helpers", process: Process) -> None:
        self._helpers = helpers
        self._process: Process | None = process
        self._timer: asyncio.TimerHandle | None = None
        self._asking = False

    async def ask(self, word: str, token: str) -> tuple[str, str]:
        """Say a line; return the word of the answer and the rest. Raises `HelperError`."""
        process = self._begin()
        try:
            self._asking = True
            async with asyncio.timeout(_LIMIT):
                line = await _asked(process, f"{word} {token}\n".encode("ascii"))
            answer = _understood(line)
        except TimeoutError:
            raise self._failed(f"did not answer within {_LIMIT:.0f} s") from None
        except OSError:
            raise self._failed("ended") from None
        except ValueError:
            raise self._failed("answered nonsense") from None
        except asyncio.CancelledError:
            self.give_back()
            raise
        self._asking = False
        return answer

    def wait_for_client(self) -> None:
        """Let another exchange have the process when the client does not answer soon."""
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._helpers._late, self)  # noqa: SLF001 - its own

    def give_back(self) -> None:
        """End it. The process is free, unless it still owes an answer: the next would take that for its own."""
        self._end(alive=not self._asking)

    def discard(self, what: str) -> HelperError:
        """End it, and the process; return the error to raise."""
        return self._failed(what)

    def _begin(self) -> Process:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._helpers._in_time(self)  # noqa: SLF001 - its own
        if self._process is None:
            raise HelperError("The client took so long to answer that another logon got the NTLM helper.")
        return self._process

    def _failed(self, what: str) -> HelperError:
        self._end(alive=False)
        return HelperError(f"The NTLM helper {what}.")

    def _end(self, *, alive: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._helpers._in_time(self)  # noqa: SLF001 - its own
        if self._process is not None:
            self._helpers._take_back(self._process, alive=alive)  # noqa: SLF001 - its own
            self._process = None


class Helpers:
    """Lends processes of one command. Belongs to one event loop."""

    def __init__(self, command: str, most: int = _MOST) -> None:
        """Take the setting `ntlmhelper`, which is split as a shell would. Nothing is started before it is needed."""
        self.command = command
        self._places = asyncio.Semaphore(most)
        self._waiting = 0
        self._free: list[Process] = []
        self._tardy: deque[Loan] = deque()
        self._ending: set[asyncio.Task[object]] = set()
        self._lent: set[Process] = set()
        self._closed = False

    async def lend(self) -> Loan:
        """Return a process. Raises `HelperError`."""
        if self._waiting >= _LONGEST_QUEUE:
            raise HelperError("Too many NTLM logons wait for a helper.")
        if self._places.locked() and self._tardy:
            self._tardy.popleft().give_back()
        self._waiting += 1
        try:
            async with asyncio.timeout(_LIMIT):
                await self._places.acquire()
        except TimeoutError:
            raise HelperError(f"No NTLM helper was free within {_LIMIT:.0f} s.") from None
        finally:
            self._waiting -= 1
        try:
            process = await self._process()
        except BaseException:
            self._places.release()
            raise
        self._lent.add(process)
        return Loan(self, process)

    async def close(self) -> None:
        """End all processes, also those that are lent."""
        self._closed = True
        for process in (*self._free, *self._lent):
            self._end(process)
        self._free.clear()
        if self._ending:
            await asyncio.wait(self._ending, timeout=2)

    async def _process(self) -> Process:
        if self._closed:
            raise HelperError("The service stops.")
        while self._free:
            process = self._free.pop()
            if process.returncode is None:
                return process
            self._end(process)
        try:
            return await asyncio.create_subprocess_exec(
                *shlex.split(self.command),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                limit=_LONGEST_LINE,
                start_new_session=True,
            )
        except (OSError, ValueError, TypeError) as error:  # the last: there is no first word
            reason = getattr(error, "strerror", None) or "it is not a command"
            raise HelperError(f"The NTLM helper '{self.command}' cannot be started: {reason}.") from error

    def _late(self, loan: Loan) -> None:
        """Note that a client is late: another exchange gets the process, now or later."""
        if self._waiting:
            loan.give_back()
        else:
            self._tardy.append(loan)

    def _in_time(self, loan: Loan) -> None:
        with contextlib.suppress(ValueError):
            self._tardy.remove(loan)

    def _take_back(self, process: Process, *, alive: bool) -> None:
        self._lent.discard(process)
        if alive and not self._closed:
            self._free.append(process)
        else:
            self._end(process)
        self._places.release()

    def _end(self, process: Process) -> None:
        if process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it may have started; it has a session of its own
        task: asyncio.Task[object] = asyncio.create_task(_reaped(process))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _understood(line: bytes) -> tuple[str, str]:
    """Return the word and the rest of an answer. Raises `ValueError`."""
    match = _ANSWER.fullmatch(line.decode())
    if match is None:
        raise ValueError
    return match[1], match[2] or ""


async def _asked(process: Process, line: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    await process.stdin.drain()
    answer = await process.stdout.readline()
    if not answer:
        raise ConnectionError
    return answer


async def _reaped(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()
