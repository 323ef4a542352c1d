"""Defects that are planted, so that it is seen whether the tests of faults find them.

Python imports this by itself where its directory is in PYTHONPATH; `WINPOP_PLANTED` names the defect:

    normal    commits are not synchronised (`synchronous=NORMAL`)
    early     250 is said before the commit
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

elif planted == "early":
    from winpop.services.smtp import SmtpConnection

    deliver = SmtpConnection._deliver

    class Early:
        """A writer that says of what it was just given that it is done."""

        def __init__(self, writer: Any, recipients: int) -> None:  # noqa: ANN401 - stands in for it
            self._writer, self._recipients = writer, recipients

        def submit(self, work: Any, then: Any) -> None:  # noqa: ANN401 - whatever the real one takes
            """Submit, and tell at once."""
            self._writer.submit(work, lambda _: None)
            then((True,) * self._recipients)

    def too_early(self: Any, envelope: Any, content: Any, **rest: Any) -> None:  # noqa: ANN401 - as the real one
        """Deliver with such a writer."""
        world, writer = self.world, self.world.writer
        world.writer = Early(writer, len(envelope.recipients))
        try:
            deliver(self, envelope, content, **rest)
        finally:
            if not isinstance(world.writer, Early):
                os._exit(99)
            world.writer = writer

    SmtpConnection._deliver = too_early  # type: ignore[method-assign]

elif planted == "skipped":
    from winpop.store import blobs

    if "synchronise" not in vars(blobs):
        os._exit(99)
    blobs.synchronise = lambda directory: None  # type: ignore[attr-defined]  # noqa: ARG005 - as the real one

elif planted:
    os._exit(99)
