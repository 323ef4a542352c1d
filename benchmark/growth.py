"""Growth: the same rows of winpop with a thousand, ten and a hundred thousand mailboxes, and with 1, 2 and 4 workers.

Invariant: what differs between two cells is only the number of mailboxes, each with its mail, or of workers: a thousand
of the mailboxes are active, spread evenly over all, so that what the caches of logons can hold is no part of it.
"""

import contextlib
import os
from pathlib import Path

from benchmark import bench, generator, population, scenarios, subject
from benchmark.bench import Bench, Extent, Row, Samples, Side
from benchmark.generator import Traffic
from benchmark.population import DOMAIN, HUNDRED, Certificate
from benchmark.scenarios import Scenario
from benchmark.subject import Winpop

POPULATIONS = (1_000, 10_000, 100_000)
WORKERS = (1, 2, 4)
MESSAGES = 10
"""In each mailbox, so that the store grows with the directory."""
_RECIPIENTS = 500
"""Of one message, when they are put there."""


def measure(place: Bench, extent: Extent) -> list[Row]:
    """Measure all cells. A cell that fails says so (`failed`)."""
    cells: list[Row] = []
    for mailboxes in (200, 1_000) if extent.quick else POPULATIONS:
        home = place.root / f"home-{mailboxes}"
        try:
            _make(home, place.certificate, mailboxes)
            for workers in (1, 2) if extent.quick else WORKERS:
                with contextlib.closing(Winpop(home, workers, f"growth-{mailboxes}-{workers}")) as server:
                    rows = map(scenarios.find, scenarios.GROWING)
                    cells += [_cell(server, home, mailboxes, workers, row, extent) for row in rows]
        except Exception as error:  # noqa: BLE001 - whatever it is, the other cells are to be measured
            cells.append({"row": "", "mailboxes": mailboxes, "workers": 0, "failed": bench.failure(error)})
    return cells


def _cell(  # noqa: PLR0913, PLR0917 - what a cell is
    server: Winpop, home: Path, mailboxes: int, workers: int, scenario: Scenario, extent: Extent
) -> Row:
    taken = Samples()
    cell: Row = {"row": scenario.name, "mailboxes": mailboxes, "workers": workers}
    users = home.with_suffix(".all" if scenario.of_messages else ".full" if scenario.kind is HUNDRED else ".active")
    side = Side(server, users)
    try:
        if not scenario.of_messages:
            bench.acquaint(server, users, len(users.read_text().splitlines()))
        bench.run(side, scenario, extent.seconds / 2)
        for _ in range(min(extent.pairs, 3)):
            bench.run(side, scenario, extent.seconds, taken)
    except Exception as error:  # noqa: BLE001 - see above
        return cell | {"failed": bench.failure(error)}
    return cell | taken.document() | {"failed": None}


def _make(home: Path, certificate: Certificate, mailboxes: int) -> None:
    """Make a home with so many mailboxes, mail in all of them, and more of it in some."""
    subject.begin_home(home, certificate)
    everybody = [f"grown{number}@{DOMAIN}" for number in range(mailboxes)]
    subject.add(home, everybody, population.cheap_hash())
    some = population.active(min(1_000, mailboxes), mailboxes)
    full = some[:: len(some) // HUNDRED.mailboxes][: HUNDRED.mailboxes]
    users = population.write_users(home.with_suffix(".all"), everybody)
    population.write_users(home.with_suffix(".full"), full)
    # Polls are of the others, who have the same few messages in homes of all sizes.
    population.write_users(home.with_suffix(".active"), [address for address in some if address not in full])
    with contextlib.closing(Winpop(home, 1, f"filling-{mailboxes}")) as server:
        at_once = min(_RECIPIENTS, mailboxes)
        script = (
            f"reply\nsend LHLO generator.benchmark.invalid\nreply\nsend MAIL FROM:<>\nreply\n"
            f"repeat 1 {at_once}\nuser\nsend RCPT TO:<%u>\nend\nrepeat 1 {at_once}\nreply\nend\n"
            f"send DATA\nreply\nbody 2048\nstored\nrepeat 2 {at_once}\nreply\nend\nsend QUIT\nreply\n"
        )
        sessions = mailboxes // at_once * MESSAGES
        generator.run(Traffic(server.ports["lmtp"], script, 1, users, sessions=sessions, flags=("--share",)), 600)
        more = scenarios.delivering("LHLO", HUNDRED.messages - MESSAGES, str(HUNDRED.octets), to_each=False)
        generator.run(Traffic(server.ports["lmtp"], more, 8, home.with_suffix(".full"), sessions=len(full)))
    os.sync()
