"""The program `winpop`: reads what was typed, does it, shows what came of it.

Invariant: whatever happens, the answer is an outcome or one sentence, and an exit status. A traceback is shown only
where WINPOP_DEBUG is set, and never with the values of variables.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from winpop import __version__
from winpop.admin.contract import Given, Operation
from winpop.admin.invoke import invoke, question
from winpop.admin.operations import OPERATIONS
from winpop.admin.place import Place
from winpop.cli import render, surroundings, terminal
from winpop.cli.arguments import Command, parse, wants_json
from winpop.cli.given import given_by
from winpop.db.home import become_owner, check_owner
from winpop.terms.refusals import Refusal, not_understood, out_of_reach


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    typed = list(sys.argv[1:] if argv is None else argv)
    as_json = wants_json(typed)
    try:
        _keep_to_ourselves()
        return _run(typed, as_json=as_json)
    except Refusal as refusal:
        return _refused(refusal, as_json=as_json)
    except KeyboardInterrupt:
        asked = "Interrupted; 'winpop audit' tells whether anything was changed before."
        return _refused(Refusal("interrupted", asked), as_json=as_json)
    except Exception as error:  # noqa: BLE001 - nobody shall ever be shown a traceback
        return _refused(_unexpected(error), as_json=as_json)


def _run(typed: Sequence[str], *, as_json: bool) -> int:
    command = parse(typed)
    if "version" in command.switches:
        return _say(f"winpop {__version__}", {"version": __version__}, as_json=as_json)
    if command.word in {None, "help"} or "help" in command.switches:
        return _help(command, as_json=as_json)
    home = surroundings.home(command.switches.get("home"))
    if command.word == "serve":
        from winpop.cli.serving import serve  # here: no other word needs the settings that it reads

        return serve(command, home, as_json=as_json)
    assert command.word is not None
    operation = OPERATIONS[command.word]
    actor = surroundings.actor()
    with contextlib.ExitStack() as closing:
        given, notes = given_by(command, operation, closing)
        hands = None
        if operation.accounts and check_owner(home.path) is not None:
            from winpop.auth.local.root_hands import root_hands  # here: only root needs it

            hands = root_hands()
        if hands is not None:
            closing.callback(hands.close)
        become_owner(home.path)
        progress = terminal.Progress()
        closing.callback(progress.end)
        place = Place(home, tell=progress.tell, hands=hands)
        closing.callback(place.close)
        if "yes" not in command.switches and terminal.is_there():
            _confirm(place, operation, given)
        outcome = invoke(place, actor, operation, given, progress.tell)
        if place.copy:
            notes += (f"The database was upgraded first; as it was before, it is kept as {place.copy}.",)
    render.outcome(replace(outcome, notes=outcome.notes + notes), as_json=as_json)
    return 0 if outcome.complete else 1


def _help(command: Command, *, as_json: bool) -> int:
    words = command.words if command.word == "help" else (command.word,) if command.word else ()
    if len(words) > 1:
        raise not_understood("too-many-arguments", "'help' takes one WORD and nothing more.")
    from winpop.cli import help as helping  # here: only those who ask need it

    text = helping.of_word(words[0]) if words else helping.overview()
    return _say(text, {"help": text}, as_json=as_json)


def _say(text: str, data: dict[str, str], *, as_json: bool) -> int:
    if as_json:
        render.document(data)
    else:
        render.text(text)
    return 0


def _confirm(place: Place, operation: Operation, given: Given) -> None:
    try:
        asked = question(place, operation, given)
    except Refusal:
        return  # the operation itself is refused for the same reason, and that is audited
    if asked and not terminal.confirms(asked):
        raise Refusal("not-confirmed", "Nothing was changed, since it was not confirmed.")


def _keep_to_ourselves() -> None:
    """Let nobody else read the files that are made, and no core file hold a password."""
    os.umask(0o077)
    if sys.platform != "win32":
        import resource  # here: there is none on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _refused(refusal: Refusal, *, as_json: bool) -> int:
    with contextlib.suppress(Refusal):  # not even that can be written; the exit status still tells
        render.refusal(refusal, as_json=as_json)
    return int(refusal.kind)


def _unexpected(error: Exception) -> Refusal:
    if os.environ.get("WINPOP_DEBUG"):
        import traceback  # here: it is hardly ever needed

        traceback.print_exc()
    return out_of_reach(
        "internal-error",
        f"Something went wrong inside winpop ({type(error).__name__}); with WINPOP_DEBUG=1 it shows where.",
    )


if __name__ == "__main__":
    sys.exit(main())
