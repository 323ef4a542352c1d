"""The table and the functions behind it agree."""

import inspect

import pytest

from winpop.admin.contract import Operation
from winpop.admin.operations import OPERATIONS, Late

DOCUMENTED = {
    "add",
    "changepwd",
    "createquotafile",
    "delete",
    "get",
    "list",
    "lock",
    "migratetoad",
    "set",
    "stat",
    "unlock",
}


def test_every_documented_word_is_there() -> None:
    assert set(OPERATIONS) >= DOCUMENTED


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_function_takes_exactly_what_its_record_says(operation: Operation) -> None:
    run = operation.run.function() if isinstance(operation.run, Late) else operation.run
    _, *parameters = inspect.signature(run).parameters
    switches = [switch.name for switch in operation.switches if switch.many is None]
    assert parameters == [*(argument.name for argument in operation.arguments), *switches]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_every_function_of_a_record_is_there(operation: Operation) -> None:
    functions: list[object] = [operation.run, operation.question, operation.prepare]
    functions += [argument.read for argument in operation.arguments]
    functions += [function for switch in operation.switches for function in (switch.read, switch.many)]
    for function in functions:
        assert function is None or callable(function.function() if isinstance(function, Late) else function)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_record_makes_sense(operation: Operation) -> None:
    assert operation.meaning
    assert f"winpop {operation.word}" in operation.details
    assert operation.changes or not (operation.makes_home or operation.question)
    needed = [not argument.optional for argument in operation.arguments]
    assert needed == sorted(needed, reverse=True)  # what may be left out comes last
    assert not any(argument.rest for argument in operation.arguments[:-1])
