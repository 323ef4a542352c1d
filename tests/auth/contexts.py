"""What the tests of security contexts share: settings, and a loop with the parts that a worker keeps."""

import asyncio
from collections.abc import Awaitable, Callable

from winpop.auth.contexts import Context, Contexts
from winpop.directory.settings import SETTINGS, Settings, read_stored


def settings(**texts: str) -> Settings:
    """Return settings with these values, by default with Active Directory."""
    given = {"auth": "2", "hostname": "mail.winpop.test"} | texts
    return Settings(**{name: read_stored(name, given.get(name, SETTINGS[name].default)) for name in SETTINGS})


def run(test: Callable[[Callable[[], Context]], Awaitable[None]], mechanism: str, **texts: str) -> None:
    """Run a test with a function that begins a context."""
    chosen = settings(**texts)

    async def whole() -> None:
        contexts = Contexts()
        try:
            async with asyncio.timeout(60):
                await test(lambda: contexts.begin(mechanism, chosen))
        finally:
            await contexts.close()

    asyncio.run(whole())
