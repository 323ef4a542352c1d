"""What the tests' own helper for real processes has to know."""

import contextlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from running import wait_until_gone
from services.wire import paused
from winpop.db.home import Home
from winpop.db.sqlite import Sqlite

FIRST_THREAD_ENDS = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
print(flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_a_process_is_not_gone_while_any_of_its_threads_runs() -> None:
    command = [sys.executable, "-c", FIRST_THREAD_ENDS]
    with subprocess.Popen(command, stdin=-1, stdout=-1, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        waiting = threading.Thread(target=wait_until_gone, args=(process.pid,))
        time.sleep(0.3)  # its first thread has ended
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        process.send_signal(signal.SIGKILL)
        waiting.join(5)
        assert not waiting.is_alive()


WRITES_FOR_A_MOMENT = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print(flush=True)
time.sleep(0.2)
database.execute("COMMIT")
sys.stdin.read()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it stops a process")
def test_a_process_is_paused_where_nobody_waits_for_its_commit(home: Home) -> None:
    command = [sys.executable, "-c", WRITES_FOR_A_MOMENT, str(home.database)]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as process, contextlib.closing(Sqlite(home)) as database:
        assert process.stdout is not None
        process.stdout.readline()
        with paused(process.pid, home), database.write() as transaction:
            assert transaction.all("SELECT 1") == [(1,)]
