"""The error sweep: at each system call that changes the home the disk fails once, and the service goes on.

The fixed script runs as in the kill sweep; one call fails with EIO or ENOSPC, or writes only half. Whatever was under
way is done, or refused for now; everything after it is done, by the same processes; then the home is judged as it is,
and again after a start.

Invariant: only what was under way when the call failed may be refused. A service that is only being started may refuse
to start, with a sentence; the next start must succeed.
"""

import time
from pathlib import Path

from durability.kills import Case, Outcome, Scene, chosen, commits, judge, points_of, scenes, sweep, varied
from durability.ledger import look_inside
from durability.report import Extent, Result
from durability.script import ALICE, CAROL, DONE, OPEN, REFUSED, Story
from durability.service import Attempt, troubles
from durability.shim import Action, Faults, missing  # noqa: F401 - `run` asks what is missing
from running import Service
from winpop.db.home import Home

_LOOKED = 0.6
"""Seconds in which every worker has looked at the database."""
_ACTIONS: tuple[Action, ...] = ("eio", "enospc", "short")


def fail(case: Case, place: Path) -> Outcome:
    """Run a scene in which a call fails; judge what it did and what it left."""
    outcome, ledger = Outcome(), case.scene.ledger()
    home = case.scene.lay(place)
    with Faults(home.path, case.action, case.point) as faults:
        service = _started(case, home, faults, outcome)
        if service is None:
            return outcome
        try:
            story = Story(home.path, service.ports, ledger, faults.environment)
            master, workers = service.process.pid, service.workers()
            _all(case, story, faults, outcome)
            if service.process.poll() is not None or sorted(service.workers()) != sorted(workers):
                outcome.wrong.append(f"master {master} and workers {workers} are not what they were")
            outcome.wrong += ledger.violations(look_inside(home))
        finally:
            status = _stopped(service)
        if status:
            outcome.wrong.append(f"the service stopped with status {status}")
        if not faults.hits:
            return outcome
        outcome.where = faults.hit
    outcome.wrong += [f"the log says that {line}" for line in _deaths(service.log)] + troubles(home.path)
    judge(home, ledger, outcome)
    return outcome


def _started(case: Case, home: Home, faults: Faults, outcome: Outcome) -> Attempt | None:
    """Start the service; one that refuses says so in a sentence, and starts the next time."""
    try:
        return case.scene.serve(home, faults)
    except AssertionError as error:
        log = home.path.parent / f"{home.path.name}.log"
        outcome.where = faults.hit
        outcome.wrong += troubles(home.path)
        said = log.read_text(errors="replace").strip().splitlines()
        refused = [line for line in said if '"error"' in line or "winpop:" in line or '"code"' in line]
        if not faults.hits or len(refused) != 1:
            outcome.wrong.append(f"no start, and not one sentence about it: {error}")
        outcome.remarks.append(f"did not start: {' / '.join(refused)}")
    try:
        return case.scene.serve(home, faults)
    except AssertionError as error:
        outcome.wrong.append(f"no start after a start that failed: {error}")
        return None


def _all(case: Case, story: Story, faults: Faults, outcome: Outcome) -> None:
    """Do the steps, and then some that must be done whatever happened."""
    late = False
    for name, do in case.scene.steps(story):
        struck = bool(faults.hits)
        said = story.step(name, do)
        if said == OPEN:
            outcome.wrong.append(f"{name} had no answer, or a wrong one")
        elif said == REFUSED and struck and (late or not faults.hit.startswith("open winpop.db")):
            outcome.wrong.append(f"{name} was refused when the fault was over")
        elif said == REFUSED:
            outcome.remarks.append(f"{name} was refused")
            if struck:
                # SQLite goes on for reading with what it could not open for writing, so that shows at the first write;
                # the connections of the process that share it are opened anew when the worker looks at the database.
                late = True
                time.sleep(_LOOKED)
            # A message that is handed in again may be there twice, so only the others are tried again.
            if not name.startswith("deliver ") and story.step(name, do) != DONE:
                outcome.wrong.append(f"{name} was refused again")
    fresh = CAROL if case.scene.home is not None else ALICE
    after = [
        ("deliver afresh", lambda: story.deliver("f-1", 900, fresh)),
        ("deliver large afresh", lambda: story.deliver("f-2", 200_000, fresh)),
        ("fetch afresh", lambda: story.fetch(fresh, delete=1)),
        ("lock afresh", lambda: story.lock(fresh, True)),
        ("unlock afresh", lambda: story.lock(fresh, False)),
    ]
    for name, do in after:
        struck = bool(faults.hits)
        said = story.step(name, do)
        if said != DONE and (struck or said == OPEN):
            outcome.wrong.append(f"{name} was {said}")
    outcome.wrong += story.wrong


def _stopped(service: Service) -> int:
    try:
        return service.stop()
    except BaseException:
        service.kill()
        raise


def _deaths(log: Path) -> list[str]:
    return [line for line in log.read_text(errors="replace").splitlines() if " worker died" in line]


def run(extent: Extent) -> Result:
    """Let calls fail, once each."""
    result = Result("an error from a system call")
    with scenes() as (place, every):
        cases: list[Case] = []
        for scene in every:
            calls = points_of(scene, place)
            result.notes.append(f"{scene.name}: {len(calls)} calls")
            for action in _ACTIONS:
                kinds = ("write ", "pwrite ") if action == "short" else ("",)
                wanted = chosen(extent, calls, lambda call, kinds=kinds: call.startswith(kinds))  # type: ignore[misc]
                cases += [Case(scene, action, n, calls[n - 1]) for n in wanted]
        outcomes = sweep(result, extent, varied(extent, cases), place, fail)
    refused = sum(any("was refused" in remark for remark in outcome.remarks) for outcome in outcomes)
    unborn = sum(any("did not start" in remark for remark in outcome.remarks) for outcome in outcomes)
    result.notes.append(f"{refused} times something was refused for now, {unborn} times a start was")
    return result


def control(extent: Extent) -> Result:
    """Let calls fail in the commits of a service that says 250 before them."""
    result = Result("errors in a program that says 250 too early")
    with scenes() as (place, (script, _)):
        scene = Scene("too early", script.home, lambda story: story.steps()[:5], "early")
        sweep(result, extent, commits(extent, scene, place, "eio"), place, fail)
    return result
