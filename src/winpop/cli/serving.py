"""The word `serve`: its switches, read before anything is started."""

import re
from collections.abc import Mapping

from winpop.cli.arguments import Command
from winpop.cli.words import OWN_WORDS
from winpop.db.home import Home
from winpop.directory import settings
from winpop.terms.refusals import not_understood, readable

_MOST_WORKERS = 64


def serve(command: Command, home: Home, *, as_json: bool) -> int:
    """Run the service; return the exit status. Raises `Refusal`."""
    if command.words:
        raise not_understood("too-many-arguments", "'serve' takes only switches; 'winpop help serve' shows them.")
    overrides, workers = _read(command.switches)
    from winpop.services.serve import run  # here: no other word needs the event loop

    return run(home, overrides, workers, as_json=as_json)


def _read(switches: Mapping[str, str | None]) -> tuple[dict[str, str], int | None]:
    overrides: dict[str, str] = {}
    workers: int | None = None
    for name, text in switches.items():
        assert text is not None or name not in {switch.name for switch in OWN_WORDS["serve"].switches}
        if name == "workers":
            workers = _workers(text or "")
        elif name in settings.SETTINGS:
            settings.SETTINGS[name].read(text or "")
            overrides[name] = text or ""
    return overrides, workers


def _workers(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) > _MOST_WORKERS:
        raise not_understood(
            "bad-value", f"'{readable(text)}' cannot be a number of workers; take 0 to {_MOST_WORKERS}."
        )
    return int(text)
