"""Whether the service runs, by its lease: nobody who died can be taken for running."""

import contextlib
from collections.abc import Iterator

from winpop.db.home import Home
from winpop.db.leases import SERVICE, Leases
from winpop.terms.refusals import Refusal, out_of_reach, readable


def service_runs(home: Home) -> bool:
    """Tell whether a service runs on this home."""
    try:
        with service_stopped(home):
            return False
    except Refusal as refusal:
        if refusal.code == "service-running":
            return True
        raise


@contextlib.contextmanager
def service_stopped(home: Home) -> Iterator[None]:
    """Hold the service's lease, so that none starts meanwhile. Raises `Refusal` (`service-running`)."""
    try:
        leases = Leases(home.leases)
    except OSError as error:
        raise out_of_reach("bad-home", f"{readable(str(home.leases))} cannot be opened: {error.strerror}.") from error
    try:
        if not leases.take(SERVICE):
            raise Refusal("service-running", "The service is running; stop it first.")
        yield
    finally:
        leases.close()
