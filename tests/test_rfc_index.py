"""The citations of standards hold, and the tool that says so can say the opposite."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = "\N{SECTION SIGN}"  # spelled out, so that the invented citations here are not taken for ours

INDEX = """
[[rfc]]
number = 1939
title = "Post Office Protocol - Version 3"
[rfc.sections]
"3" = "Basic Operation"
"9" = { title = "POP3 Command Summary", code = "a summary", test = "a summary" }
"""


def check(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/rfc_index.py"), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one section kept and tested, and its page written."""
    for directory in ("src/winpop", "tests", "docs"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "docs/rfc-index.toml").write_text(INDEX, "utf-8")
    (tmp_path / "src/winpop/a.py").write_text(f'"""Keeps RFC 1939 {SECTION}3."""\n', "utf-8")
    (tmp_path / "tests/a.txt").write_text(f"# RFC 1939\n# {SECTION}3: over the end of a line\n", "utf-8")
    assert check(tmp_path, "--write").stderr == ""
    return tmp_path


def test_our_citations_hold() -> None:
    checked = check(ROOT)
    assert checked.stderr == ""
    assert checked.returncode == 0


def test_a_checkout_in_order_holds(checkout: Path) -> None:
    assert check(checkout).returncode == 0
    assert "| 3 | Basic Operation | `a.py` | `a.txt` |" in (checkout / "docs/rfc.md").read_text("utf-8")


@pytest.mark.parametrize("citation", [f"RFC 1939 {SECTION}99", f"RFC 1939 {SECTION}3, {SECTION}99"])
def test_an_invented_section_fails(checkout: Path, citation: str) -> None:
    (checkout / "src/winpop/b.py").write_text(f"# {citation}\n", "utf-8")
    checked = check(checkout, "--write")
    assert checked.returncode == 1
    assert f"RFC 1939 {SECTION}99 is cited in b.py and is not in the index" in checked.stderr


@pytest.mark.parametrize(("file", "kind"), [("src/winpop/a.py", "code"), ("tests/a.txt", "test")])
def test_a_claim_without_code_or_test_fails(checkout: Path, file: str, kind: str) -> None:
    (checkout / file).unlink()
    checked = check(checkout, "--write")
    assert checked.returncode == 1
    assert checked.stderr == f"RFC 1939 {SECTION}3 (Basic Operation) has no {kind}\n"


def test_an_excuse_that_is_no_longer_true_fails(checkout: Path) -> None:
    (checkout / "tests/b.txt").write_text(f"# RFC 1939 {SECTION}9\n", "utf-8")
    assert "the index says it has none" in check(checkout, "--write").stderr


def test_a_page_that_is_not_current_fails(checkout: Path) -> None:
    (checkout / "docs/rfc.md").write_text("old\n", "utf-8")
    checked = check(checkout)
    assert checked.returncode == 1
    assert "docs/rfc.md is not current" in checked.stderr
