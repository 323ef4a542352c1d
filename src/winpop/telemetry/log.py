"""The log: one line an event, `TIME LEVEL EVENT key=value …`, to standard error.

Levels are the POP3 Service's own: 0 None, 1 Minimum (critical), 2 Medium (and warnings), 3 Maximum (and
information). Invariant: a value that came from outside is quoted so that it can neither end the line nor steer a
terminal; nobody passes a password here. Lines are written in batches when `defer` is set.
"""

import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from winpop.terms.refusals import readable

CRITICAL, WARNING, INFORMATION = 1, 2, 3
_MOST_WAITING = 1_000_000
_STANDARD_ERROR = 2
_AS_IT_IS = re.compile(r"[!#-<>-\[\]-~]{1,200}")
"""What needs no quotes and hides nothing: most values."""
_NAMES = {CRITICAL: "critical", WARNING: "warning", INFORMATION: "info"}


class Log:
    """Where events go. `level` may be changed at any time."""

    def __init__(self, level: int = INFORMATION, write: Callable[[str], object] | None = None) -> None:
        """Write to `write`, by default standard error."""
        self.level = level
        self.defer: Callable[[Callable[[], None]], object] | None = None
        self._write = write or _to_standard_error
        self._waiting: list[str] = []

    def critical(self, event: str, **fields: object) -> None:
        """Say that something needs a person."""
        self._say(CRITICAL, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Say that something is not as it should be, and that the service goes on."""
        self._say(WARNING, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Say what happened."""
        self._say(INFORMATION, event, fields)

    def flush(self) -> None:
        """Write what was held back."""
        if self._waiting:
            text = "".join(self._waiting)
            self._waiting.clear()
            self._write(text)

    def _say(self, level: int, event: str, fields: dict[str, object]) -> None:
        if level > self.level:
            return
        shown = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
        self._waiting.append(f"{_stamp()} {_NAMES[level]} {event}{shown}\n")
        if self.defer is None:
            self.flush()
        elif len(self._waiting) == 1:
            self.defer(self.flush)


class LogThread:
    """Writes the log in a thread, so that a reader who takes nothing (a stopped pager) stops nobody.

    At most `_MOST_WAITING` characters wait; what does not fit is dropped, and a line says how much that was.
    """

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        """Write to `write`, by default standard error."""
        self._write = write or _to_descriptor
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._waiting = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Take lines to write."""
        with self._lock:
            if self._waiting + len(text) > _MOST_WAITING:
                self._dropped += text.count("\n")
                return
            self._waiting += len(text)
        self._queue.put(text)

    def close(self) -> None:
        """Write what waits, for a second at most."""
        self._queue.put(None)
        self._thread.join(1)

    def _run(self) -> None:
        while (text := self._queue.get()) is not None:
            self._write(text)
            with self._lock:
                self._waiting -= len(text)
                dropped, self._dropped = self._dropped, 0
            if dropped:
                self._write(f"{_stamp()} {_NAMES[CRITICAL]} log lines dropped={dropped}\n")


def _stamp() -> str:
    return _stamp_of(int(time.time()))


@functools.lru_cache(1)
def _stamp_of(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if _AS_IT_IS.fullmatch(text):
        return text
    text = readable(text)
    if text and not any(c in ' "=\\' for c in text):
        return text
    return '"' + text.replace('"', "'") + '"'


def _to_descriptor(text: str) -> None:
    """Write to standard error without its buffer, whose lock a blocked thread would keep when the process ends."""
    try:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data:
            data = data[os.write(_STANDARD_ERROR, data) :]
    except OSError:
        pass  # nobody reads the log any more; serving goes on


def _to_standard_error(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody reads the log any more; serving goes on
