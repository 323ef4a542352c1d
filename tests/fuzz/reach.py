"""Which lines of which functions a target enters, without a fuzzer.

Invariant: only lines within functions count; what an import runs is not reached by any input.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any


@dataclass(slots=True)
class Reach:
    """The functions of some modules, and what was entered of them; a line is a file and a number."""

    lines: set[tuple[str, int]] = field(default_factory=set)
    reached: set[tuple[str, int]] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    entered: set[str] = field(default_factory=set)

    @property
    def share(self) -> float:
        return len(self.reached & self.lines) / len(self.lines)

    def missed(self) -> list[str]:
        return [f"{Path(file).name}:{line}" for file, line in sorted(self.lines - self.reached)]


def reach(run: Callable[[bytes], None], inputs: Iterable[bytes], modules: Iterable[str]) -> Reach:
    """Run all inputs and return what they reach of the modules; `module:one two` means these functions of it only."""
    seen = Reach()
    files = set()
    for named in modules:
        name, _, only = named.partition(":")
        file = importlib.import_module(name).__file__
        assert file is not None
        files.add(file)
        for function in _functions(compile(Path(file).read_text("utf-8"), file, "exec")):
            if function.co_qualname.startswith("<"):  # a comprehension that an import runs
                continue
            if only and function.co_qualname not in only.split():
                continue
            seen.functions.add(function.co_qualname)
            own = {line for _, _, line in function.co_lines() if line}
            seen.lines |= {(file, line) for line in own - {function.co_firstlineno}}

    def step(frame: FrameType, event: str, _argument: Any) -> Any:  # noqa: ANN401 - the interpreter's own signature
        if event == "call":
            if frame.f_code.co_filename not in files:
                return None
            seen.entered.add(frame.f_code.co_qualname)
        elif event == "line":
            seen.reached.add((frame.f_code.co_filename, frame.f_lineno))
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        for data in inputs:
            run(data)
    finally:
        sys.settrace(before)
    return seen


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Yield the functions of a module; a class body is none, and what stands in a function is part of it."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 0x1:  # optimised: a function, not a class body
                yield constant
            yield from _functions(constant)
