"""GSSAPI (RFC 4752) and NTLM (SPA): tokens for a security context that is kept elsewhere.

Invariant: each token of the client goes to the context as it came, also an empty one, and its answer back.
"""

from winpop.protocol.sasl.moves import Continue, Step, Surroundings
from winpop.protocol.sasl.run import Run, Talk, challenge, first


def context(_: Surroundings, initial: bytes | None, *, mechanism: str) -> Run:
    """Carry tokens until the context has come to an end, which ends the run."""
    token = yield from first(initial)
    answer = yield from _step(Step(mechanism, token, first=True))
    while True:
        token = yield from challenge(answer)
        answer = yield from _step(Step(mechanism, token))


def _step(step: Step) -> Talk[bytes]:
    answer = yield step
    assert isinstance(answer, Continue)
    return answer.token
