"""Who may do what: a pure function.

Invariant: what is not permitted here is refused. For now there is one right, the operating system's: who could open
the home as its owner may do everything in it. Administrators of single domains come with the faces that need them.
"""

from dataclasses import dataclass

from winpop.admin.contract import Operation
from winpop.terms.refusals import Kind, Refusal, readable


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. `name` is for the audit; `of_the_system` says that the operating system vouches for them."""

    name: str
    of_the_system: bool = False


def refusal(actor: Actor, operation: Operation) -> Refusal | None:
    """Return why the actor may not do this, or None where they may (`not-permitted`)."""
    if actor.of_the_system:
        return None
    return Refusal(
        "not-permitted",
        f"{readable(actor.name)} may not use '{operation.word}' here; ask an administrator of this server.",
        Kind.NOT_PERMITTED,
    )
