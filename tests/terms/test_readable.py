"""What somebody sent, quoted so that it can neither forge a line nor steer a terminal (threats.md H5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.terms.refusals import readable


@given(st.text())
def test_whatever_is_quoted_is_printable(text: str) -> None:
    assert readable(text).isprintable()


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=200))
def test_what_is_printable_is_quoted_as_it_is(text: str) -> None:
    assert readable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("a\r\nb", r"a\r\nb"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2028", r"\u2028"),
        ("\U000e0041", r"\U000e0041"),
        ("\udcff", r"\udcff"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 200 + "\u2026"),
    ],
)
def test_what_is_not_printable_is_spelled_out_and_what_is_long_is_cut(text: str, shown: str) -> None:
    assert readable(text) == shown
