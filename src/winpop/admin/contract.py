"""What an operation is: a record in a table, from which each face makes its own form of it.

Invariant: an operation's function is called with exactly the arguments and switches of its record, each read once.
A function is given a `Look` (it reads), a `Work` (it changes, inside one transaction), or, where it takes long or a
switch brings many things at once, `Batches`.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from winpop.admin.outcomes import Outcome
from winpop.auth.contract import Accounts
from winpop.db.contract import Database, Reader, Transaction
from winpop.db.home import Home
from winpop.terms.files import File

Secret = Callable[[], str]
"""A password, as a function that gives it: it stands in no repr and no traceback, and it is only asked for when
everything else was understood and is permitted. Raises `Refusal` where none can be had."""

Given = Mapping[str, str | Secret | File | BinaryIO]
"""What a face was given, by the names of arguments and switches; a switch without a value is the empty text."""


AccountsOf = Callable[[int, Reader], Accounts]
"""What administers the accounts of an authentication method (by its number) as the settings say."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a reading operation works with: a snapshot of the installation in `home`."""

    home: Home
    reader: Reader
    accounts: AccountsOf


Later = Callable[[Database], str | None]
"""Work for after the commit; it returns a note when something of it is left to be done."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a changing operation works with: a transaction on the installation in `home`.

    What is entered into `held` is left after the commit and what comes `later`, or after the refusal. `prepared` is
    what the operation's `prepare` has returned.
    """

    home: Home
    transaction: Transaction
    held: ExitStack
    accounts: AccountsOf
    prepared: Any = None
    later: list[Later] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batches:
    """What an operation on many things works with: `commit` makes one batch durable, `tell` shows progress.

    `open` gives the database, and begins a new installation where the operation may. `commit` takes what to do and what
    the audit shall call it; what needs no audit is written to `database` itself.
    """

    home: Home
    open: Callable[[], Database]
    commit: Callable[[Callable[[Work], Outcome], str], Outcome]
    tell: Callable[[str], None]

    @property
    def database(self) -> Database:
        """The database, opened when it is asked for."""
        return self.open()


@dataclass(frozen=True, slots=True)
class Argument:
    """A word that is given after the operation's own. `read` makes its value from the text, or raises `Refusal`.

    `rest`: it takes all further words too. `secret`: it is a password, and is asked for when it is left out.
    `unless`: the switch that may stand in its place. `path`: a word that begins with `/` is no switch here.
    `file`: it names a file, read by the face, and the operation is given the `File`.
    """

    name: str
    shown: str
    read: Callable[[str], Any] = str
    optional: bool = False
    rest: bool = False
    secret: bool = False
    unless: str = ""
    path: bool = False
    file: bool = False


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch, written `/name` or `--name`. `value` is how its value is shown, empty where it takes none.

    `secret`: the value is a password, and is asked for when it is left out. `many`: the value is a file, opened by
    the face, and this function does the operation for all that is in it. `file`: the value names a file, read by the
    face, and the operation is given the `File`; `instead` is the one word that stands for itself there.
    """

    name: str
    meaning: str
    value: str = ""
    read: Callable[[str], Any] = str
    secret: bool = False
    many: Callable[[Batches, BinaryIO], Outcome] | None = None
    file: bool = False
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be done, under the word that names it.

    `run` takes a `Look`, or a `Work` where the operation `changes` something, or `Batches` where it is `long`, and then
    its arguments and switches by name: None for what was not given, True or False for a switch without a value.
    `question` takes a `Look` and the arguments, and says what a person shall confirm. `makes_home`: it may begin a new
    installation. `accounts`: it may change accounts of the operating system, for which somebody has to stay root.
    `prepare` takes a `Look` (no snapshot: it may take long) and all that `run` takes, and does what others have to be
    asked for, so that nobody waits for them who wants to write to the database.
    """

    word: str
    meaning: str
    details: str
    run: Callable[..., Outcome]
    arguments: tuple[Argument, ...] = ()
    switches: tuple[Switch, ...] = ()
    changes: bool = False
    long: bool = False
    makes_home: bool = False
    accounts: bool = False
    question: Callable[..., str] | None = None
    prepare: Callable[..., Any] | None = None
