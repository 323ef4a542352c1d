"""Defects that are planted, so that it is seen whether the tests of faults find them.

Python imports this by itself where its directory is in PYTHONPATH; `WINPOP_PLANTED` names the defect:

    normal    commits are not synchronised (`synchronous=NORMAL`)
    early     250 is said before the commit
    early-quit  +OK is said to QUIT before the commit
    skipped   the directories of large messages are not synchronised

Invariant: a defect that cannot be planted any more, because the code has changed, ends the program that asked for it.
"""

import os
from typing import Any

planted = os.environ.get("WINPOP_PLANTED")

if planted == "normal":
    from winpop.db import sqlite

    pragmas = tuple(pragma.replace("FULL", "NORMAL") for pragma in sqlite._PRAGMAS)
    if pragmas == sqlite._PRAGMAS:
        os._exit(99)
    sqlite._PRAGMAS = pragmas  # type: ignore[assignment]

elif planted in ("early", "early-quit"):
    from winpop.services.pop3 import Pop3Connection
    from winpop.services.smtp import SmtpConnection
    from winpop.store.maildrops import Removed

    class Early:
        """A writer that says of what it was just given that it is done."""

        def __init__(self, writer: Any, outcome: Any) -> None:  # noqa: ANN401 - stands in for it
            self._writer, self._outcome = writer, outcome

        def submit(self, work: Any, then: Any) -> None:  # noqa: ANN401 - whatever the real one takes
            """Submit, and tell at once."""
            self._writer.submit(work, lambda _: None)
            then(self._outcome)

        def submit_with(self, work: Any, argument: Any, then: Any) -> None:  # noqa: ANN401 - as above
            """Submit one of many that are done together, and tell at once."""
            self._writer.submit_with(work, argument, lambda _: None)
            then(self._outcome)

    def with_early(self: Any, outcome: Any, do: Any) -> None:  # noqa: ANN401 - a connection, and what it does
        """Do it with such a writer."""
        world, writer = self.world, self.world.writer
        world.writer = Early(writer, outcome)
        try:
            do()
        finally:
            if not isinstance(world.writer, Early):
                os._exit(99)
            world.writer = writer

    if planted == "early":
        deliver = SmtpConnection._deliver

        def too_early(self: Any, envelope: Any, content: Any, **rest: Any) -> None:  # noqa: ANN401 - as the real one
            """Deliver with such a writer."""
            with_early(self, (True,) * len(envelope.recipients), lambda: deliver(self, envelope, content, **rest))

        SmtpConnection._deliver = too_early  # type: ignore[method-assign]
    else:
        update = Pop3Connection._update

        def quit_too_early(self: Any, indexes: Any) -> None:  # noqa: ANN401 - as the real one
            """Update with such a writer."""
            with_early(self, Removed(), lambda: update(self, indexes))

        Pop3Connection._update = quit_too_early  # type: ignore[method-assign]

elif planted == "skipped":
    from winpop.store import blobs

    if "synchronise" not in vars(blobs):
        os._exit(99)
    blobs.synchronise = lambda directory: None  # type: ignore[attr-defined]  # noqa: ARG005 - as the real one

elif planted:
    os._exit(99)
