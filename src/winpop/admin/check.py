"""The operation `check`: looking through a whole installation while its service runs, and mending what needs no guess.

Invariant: nothing of a body is ever removed or changed. A mend looks again in its own transaction, which says in the
audit what was mended; a look without /repair changes nothing, and neither does one with it where the engine says that
its own file is damaged: what is written then may end up anywhere.
"""

import time

from winpop.admin.contract import Batches
from winpop.admin.outcomes import Outcome


def check(batches: Batches, repair: bool) -> Outcome:  # noqa: FBT001 - a switch, by name
    """Look through everything; with `repair`, mend what needs no guess. Complete when nothing is left."""
    from winpop.admin import check_installation as installation  # here: no other operation needs it
    from winpop.admin.check_report import Progress, Report  # here: no other operation needs it
    from winpop.store import inspection  # here: no other operation needs it
    from winpop.store.blobs import Blobs  # here: no other operation needs it

    report = Report(batches, repair=repair)
    database, home = batches.database, batches.home
    batches.tell("Checking the database; this may take a while")
    installation.look_at_engine(database, report.add)
    root = installation.look_at_settings(database, home, report.add)
    owner = home.path.stat().st_uid
    progress = Progress(batches)
    looks = inspection.Inspection(database, Blobs(root), report.add, lambda: progress.tell(looks.read))
    for doing, part in (
        ("Looking at the files", lambda: installation.look_at_home(home, owner, report.add)),
        ("Looking at the files", lambda: inspection.inspect_files(looks, owner, time.time())),
        ("Looking at the rows", lambda: inspection.inspect_sequences(looks)),
        ("Looking at the mailboxes", lambda: installation.look_at_mailboxes(database, report.add)),
        ("Looking at the mailboxes", lambda: inspection.inspect_unique_ids(looks)),
        ("Reading messages", lambda: inspection.inspect_bodies(looks)),
        ("Looking at the files", lambda: inspection.inspect_discarded(looks)),
    ):
        batches.tell(doing)
        installation.as_far_as_it_goes(database, part, report.add)
        report.mend()
    return report.outcome(looks.read)
