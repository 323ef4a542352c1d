"""A sample of every kind of fault, as CI runs it; `make durability` runs all of it.

That a kind finds what is broken on purpose is tested beside it: `test_shim`, `test_power`, `test_blocks`, `test_crowd`.
"""

import json
import os
import zlib
from collections.abc import Callable

import pytest

from durability import run
from durability.report import Extent

SEED = int(os.environ.get("WINPOP_SEED") or zlib.crc32(os.urandom(8)) % 10**6)
"""Another sample each time; the summary says the seed, and WINPOP_SEED repeats it."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", run.KINDS)
def test_nothing_is_lost(name: str, record_property: Callable[[str, object], None]) -> None:
    kind = there_is(name)
    results = kind.run(Extent(full=False, seed=SEED, seconds=kind.sample))
    for result in results:
        tried = f"{result.points} of {result.of} points, {result.states} states, {len(result.violations)} violations"
        record_property("tried", f"{result.kind}: {tried}, seed {SEED}")
    assert [violation for result in results for violation in result.violations] == []
    assert all(result.points for result in results), "nothing was tried"


def there_is(name: str) -> run.Kind:
    kind = run.KINDS[name]
    if lacking := kind.missing():
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    return kind


def test_the_table_of_the_page_is_the_suite_s_own() -> None:
    page = run.PAGE.read_text()
    made = page.partition(run.BEGIN)[2].partition(run.END)[0].strip()
    results = json.loads(run.RESULTS.read_text())
    assert made == run.table(results).strip()
    assert set(results) == set(run.KINDS), "a kind has never been run"
    assert all(row["extent"] != "a sample" for rows in results.values() for row in rows if not row["control"])
    assert not [row for rows in results.values() for row in rows if bool(row["violations"]) != bool(row["control"])]
