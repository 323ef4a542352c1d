"""The log: one line an event, which nobody outside can forge (threats.md H5)."""

import io
import re
import sys
from collections.abc import Callable  # noqa: TC003 - one name needs no block of its own

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.telemetry.log import Log

LINE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z info logon "
    r'user=(?:"[^"]*"|[^ "=\\]+) seconds=1\n'
)


@given(st.text() | st.text(st.sampled_from(' ="\\\n\r\x1b\u202e\u2028a'), max_size=9))
def test_no_value_can_end_the_line_steer_a_terminal_or_pass_for_another_field(value: str) -> None:
    written: list[str] = []
    Log(write=written.append).info("logon", user=value, seconds=1)
    assert LINE.fullmatch(written[0])
    assert written[0][:-1].isprintable()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("alice@example.com", "alice@example.com"),
        (7, "7"),
        ("", '""'),
        ("a b", '"a b"'),
        ('a" end="x', "\"a' end='x\""),
        ("a\nb", r'"a\nb"'),
    ],
)
def test_values_are_quoted_where_they_have_to_be(value: object, shown: str) -> None:
    written: list[str] = []
    Log(write=written.append).info("logon", user=value)
    assert written[0].endswith(f" info logon user={shown}\n")


@pytest.mark.parametrize(
    ("level", "said"),
    [(0, []), (1, ["critical"]), (2, ["critical", "warning"]), (3, ["critical", "warning", "info"])],
)
def test_the_level_says_what_is_written_and_may_change_at_any_time(level: int, said: list[str]) -> None:
    written: list[str] = []
    log = Log(write=written.append)
    log.level = level
    log.critical("a")
    log.warning("b")
    log.info("c")
    assert [line.split()[1] for line in written] == said


def test_deferred_lines_are_written_once_a_batch_and_in_order() -> None:
    written: list[str] = []
    asked: list[Callable[[], None]] = []
    log = Log(write=written.append)
    log.defer = asked.append
    log.info("first")
    log.info("second")
    assert (written, len(asked)) == ([], 1)
    asked.pop()()
    assert [line.split()[2] for line in written[0].splitlines()] == ["first", "second"]
    log.info("third")
    asked.pop()()
    assert len(written) == 2
    log.flush()
    assert len(written) == 2


def test_serving_goes_on_when_nobody_reads_the_log_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stderr", gone)
    Log().critical("unheard")


def test_the_log_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Log().critical("heard", place="here")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith(" critical heard place=here\n")
