"""The one way in: an actor invokes an operation.

Invariant: a change and its audit row are one transaction. A refusal is audited too, in a transaction of its own; what
could not even be read as an operation's arguments is not, since a password may stand in the wrong place.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from winpop.admin import audit, authority
from winpop.admin.authority import Actor
from winpop.admin.contract import Argument, Batches, Given, Look, Operation, Switch, Work
from winpop.admin.outcomes import Outcome
from winpop.admin.place import Place
from winpop.terms.files import File
from winpop.terms.refusals import Kind, Refusal, not_understood


def _silent(_progress: str) -> None:
    """Show nothing."""


def invoke(
    place: Place, actor: Actor, operation: Operation, given: Given, tell: Callable[[str], None] = _silent
) -> Outcome:
    """Do an operation and say what came of it. `tell` is given the progress of long ones, for people.

    Raises `Refusal`; then nothing was changed, or of many batches only those before.
    """
    words = _read(operation, given, secret=False)
    entry = _Entry(place, actor, operation, _target(operation, words))
    forbidden = authority.refusal(actor, operation)
    if forbidden is not None:
        entry.refused(forbidden)
        raise forbidden
    if operation.long:
        try:
            values = words | _read(operation, given, secret=True)
            return operation.run(entry.batches(tell), **values)
        except Refusal as refusal:
            entry.refused(refusal)
            raise
    if not operation.changes:
        with place.database().snapshot() as reader:
            return operation.run(Look(place.home, reader, place.accounts), **words)
    try:
        for switch in operation.switches:
            if switch.many is not None and switch.name in given:
                batches = entry.batches(tell)
                batches.open()
                return switch.many(batches, _file(given[switch.name]))
        if not operation.makes_home:
            place.database()  # nobody is asked for a password where there is nothing to change
        values = words | _read(operation, given, secret=True)
        database = place.database(make=operation.makes_home)
        look = Look(place.home, database, place.accounts)
        prepared = operation.prepare(look, **values) if operation.prepare is not None else None
        return entry.commit(lambda work: operation.run(replace(work, prepared=prepared), **values))
    except Refusal as refusal:
        entry.refused(refusal)
        raise


def question(place: Place, operation: Operation, given: Given) -> str | None:
    """Return what a person shall confirm before the operation is invoked, or None. Raises `Refusal`."""
    if operation.question is None:
        return None
    words = _read(operation, given, secret=False)
    with place.database().snapshot() as reader:
        return operation.question(Look(place.home, reader, place.accounts), **words)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the audit will say of one invocation."""

    place: Place
    actor: Actor
    operation: Operation
    target: str

    def batches(self, tell: Callable[[str], None]) -> Batches:
        """Return what an operation on many things works with."""
        return Batches(self.place.home, lambda: self.place.database(make=self.operation.makes_home), self.commit, tell)

    def commit(self, run: Callable[[Work], Outcome], target: str | None = None) -> Outcome:
        """Run, and write the audit row, in one transaction; then do what had to wait for the commit."""
        database = self.place.database()
        with contextlib.ExitStack() as held:
            with database.write() as transaction:
                work = Work(self.place.home, transaction, held, self.place.accounts)
                outcome = run(work)
                said = "done" if outcome.changed else "unchanged"
                audit.write(transaction, self.actor.name, self.operation.word, target or self.target, said)
            notes = list(outcome.notes)
            for later in work.later:
                # The change is made; what hinders the tidying must not look as if it were not. A sweep does the rest.
                with contextlib.suppress(Refusal, OSError):
                    note = later(database)
                    notes += [note] if note else []
        return replace(outcome, notes=tuple(notes))

    def refused(self, refusal: Refusal) -> None:
        """Write that nothing was done, if there is a database that can be written."""
        if self.operation.changes and refusal.kind is not Kind.OUT_OF_REACH:
            with contextlib.suppress(Refusal), self.place.database().write() as transaction:
                audit.write(transaction, self.actor.name, self.operation.word, self.target, refusal.code)


def _read(operation: Operation, given: Given, *, secret: bool) -> dict[str, Any]:
    """Read either the words or the secrets of what was given."""
    values: dict[str, Any] = {}
    for argument in operation.arguments:
        if argument.secret == secret:
            values[argument.name] = _argument(operation, argument, given)
    for switch in operation.switches:
        if switch.secret == secret and switch.many is None:
            values[switch.name] = _switch(switch, given)
    return values


def _argument(operation: Operation, argument: Argument, given: Given) -> Any:  # noqa: ANN401 - each has its own type
    value = given.get(argument.name)
    instead = bool(argument.unless) and argument.unless in given
    if value is not None and instead:
        raise not_understood(
            "too-many-arguments",
            f"'{operation.word}' takes either {argument.shown.replace(' | ', ' or ')} or /{argument.unless}.",
        )
    if value is not None:
        try:
            return _value(argument, value)
        except Refusal as refusal:
            if argument.secret or not _with_password(operation, given):
                raise
            shown = argument.shown.replace(" | ", " or ")
            raise not_understood(  # the two may be swapped, so not even this one is quoted
                refusal.code, f"The first word is not {shown}; write it like alice@example.com."
            ) from None
    if argument.optional or instead:
        return None
    raise not_understood(
        "missing-argument",
        f"'{operation.word}' needs {argument.shown.replace(' | ', ' or ')}; 'winpop help {operation.word}' shows how.",
    )


def _with_password(operation: Operation, given: Given) -> bool:
    """Tell whether a password is, or may be, among what was given."""
    secrets = [switch.name for switch in operation.switches if switch.secret]
    return any(argument.secret for argument in operation.arguments) or any(name in given for name in secrets)


def _switch(switch: Switch, given: Given) -> Any:  # noqa: ANN401 - each has its own type
    value = given.get(switch.name)
    if not switch.value:
        return value is not None
    return None if value is None else _value(switch, value)


def _value(what: Argument | Switch, value: object) -> Any:  # noqa: ANN401 - see `_argument`
    return value if isinstance(value, File) else what.read(_text(value))


def _text(value: object) -> str:
    text = value() if callable(value) else value
    assert isinstance(text, str)
    return text


def _file(value: object) -> BinaryIO:
    assert not isinstance(value, str)
    assert not callable(value)
    return value  # type: ignore[return-value]  # what is left of `Given`


def _target(operation: Operation, words: dict[str, Any]) -> str:
    """Say what an operation is about: its words, never its secrets."""
    values = [words.get(argument.name) for argument in operation.arguments]
    return " ".join(str(value) for value in values if value is not None)
