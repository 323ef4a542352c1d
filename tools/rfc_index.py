"""Prove the citations: every `RFC n §x` in src/ and tests/ against docs/rfc-index.toml, both ways.

A citation of a section that the index does not have is a slip of the pen or a claim that nobody checked. A
section of the index that no code or no test cites is a promise that nobody keeps, unless the index itself
says why (`code = "..."`, `test = "..."`). docs/rfc.md is made from both and shows where each section is kept.

    python tools/rfc_index.py            check; exit status 1 when something is wrong
    python tools/rfc_index.py --write    write docs/rfc.md, then check
"""

import argparse
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Section = tuple[int, str]
"""An RFC's number and one of its sections."""

# `RFC 1939 §7`, also at the end of a comment's or docstring's line, and `RFC 1939 §5, §7 and §9`.
_NUMBER = r"§([0-9]+(?:\.[0-9]+)*)"
_GAP = r"(?:\s|#)+"
_CITATION = re.compile(rf"RFC{_GAP}([0-9]+){_GAP}({_NUMBER}(?:(?:,|{_GAP}and|{_GAP}or){_GAP}{_NUMBER})*)")
_SUFFIXES = frozenset({".py", ".txt", ".sql", ".html", ".js"})


@dataclass(frozen=True, slots=True)
class Claim:
    """A section that we say we keep."""

    rfc: str
    title: str
    support: str = ""
    """What of the RFC is kept, where the sections alone do not say it."""
    without: dict[str, str] = field(default_factory=dict)
    """Why there is no citation in the code or in a test, for each of "code" and "test"."""


def read_index(path: Path) -> dict[Section, Claim]:
    """Read which sections of which RFCs we say we keep."""
    index: dict[Section, Claim] = {}
    for rfc in tomllib.loads(path.read_text("utf-8"))["rfc"]:
        for section, entry in rfc["sections"].items():
            titled = {"title": entry} if isinstance(entry, str) else dict(entry)
            index[rfc["number"], section] = Claim(rfc["title"], titled.pop("title"), rfc.get("support", ""), titled)
    return index


def citations(root: Path, directory: str) -> dict[Section, set[str]]:
    """Return which files cite which sections."""
    found: dict[Section, set[str]] = defaultdict(set)
    for path in sorted((root / directory).rglob("*")):
        if path.suffix in _SUFFIXES and path.is_file():
            for section in cited(path.read_text("utf-8")):
                found[section].add(path.relative_to(root / directory).as_posix())
    return found


def cited(text: str) -> Iterator[Section]:
    """Yield the sections that a text cites."""
    for citation in _CITATION.finditer(text):
        for section in re.findall(_NUMBER, citation[2]):
            yield int(citation[1]), section


def problems(
    index: dict[Section, Claim], code: dict[Section, set[str]], tests: dict[Section, set[str]]
) -> Iterator[str]:
    """Yield what is wrong, one sentence each."""
    for section in sorted(index.keys() | code.keys() | tests.keys(), key=order):
        name = f"RFC {section[0]} §{section[1]}"
        claim = index.get(section)
        if claim is None:
            files = ", ".join(sorted(code.get(section, set()) | tests.get(section, set())))
            yield f"{name} is cited in {files} and is not in the index"
            continue
        for kind, found in (("code", code), ("test", tests)):
            if section not in found and kind not in claim.without:
                yield f"{name} ({claim.title}) has no {kind}"
            elif section in found and kind in claim.without:
                yield f"{name} ({claim.title}) has {kind}, and the index says it has none"


def page(index: dict[Section, Claim], code: dict[Section, set[str]], tests: dict[Section, set[str]]) -> str:
    """Return docs/rfc.md."""
    rows = [
        "# The standards, section by section",
        "",
        "Made by `tools/rfc_index.py --write` from `docs/rfc-index.toml` and the citations in the code. Where we",
        "differ on purpose, [deviations.md](deviations.md) says why.",
        "",
        "| RFC | title | what of it |",
        "|---|---|---|",
        *overview(index),
    ]
    number = 0
    for section in sorted(index, key=order):
        claim = index[section]
        if section[0] != number:
            number = section[0]
            rows += [
                "",
                f'## <a id="rfc-{number}"></a>RFC {number}: {claim.rfc}',
                "",
                "| § | title | code | tests |",
                "|---|---|---|---|",
            ]
        places = [
            claim.without.get(kind) or "<br>".join(f"`{file}`" for file in sorted(found.get(section, ())))
            for kind, found in (("code", code), ("test", tests))
        ]
        rows.append(f"| {section[1]} | {claim.title} | {places[0]} | {places[1]} |")
    return "\n".join(rows) + "\n"


def overview(index: dict[Section, Claim]) -> Iterator[str]:
    """Yield a row for each RFC."""
    for number in sorted({number for number, _ in index}):
        sections = sorted((section for section in index if section[0] == number), key=order)
        claim = index[sections[0]]
        kept = claim.support or ", ".join(f"§{name}" for _, name in sections)
        yield f"| [{number}](#rfc-{number}) | {claim.rfc} | {kept} |"


def order(section: Section) -> tuple[int, ...]:
    """Put §4.10 after §4.9."""
    return (section[0], *map(int, section[1].split(".")))


def main() -> int:
    """Check, and write when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/rfc.md first")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the checkout")
    options = parser.parse_args()
    root: Path = options.root
    index = read_index(root / "docs/rfc-index.toml")
    code, tests = citations(root, "src/winpop"), citations(root, "tests")
    shown = root / "docs/rfc.md"
    if options.write:
        shown.write_text(page(index, code, tests), "utf-8")
    wrong = list(problems(index, code, tests))
    if not shown.exists() or shown.read_text("utf-8") != page(index, code, tests):
        wrong.append("docs/rfc.md is not current: run tools/rfc_index.py --write")
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
