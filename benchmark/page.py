"""The page docs/performance.md and its plots, made from docs/performance.json.

    python -m benchmark.page            write the page again from the document

Invariant: the page says nothing that the document does not hold; a goal that is not met is marked so, and a row that
failed is named with its reason.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmark import growth, plots, provider, scenarios
from benchmark.figures import Ratio, number, ratios, slope, spread
from benchmark.plots import Bar, Line

Document = dict[str, Any]
DOCS = Path(__file__).resolve().parent.parent / "docs"
_RATIOS = {
    "cpu": "Processor: how many times less than the opponent",
    "rate": "Rate: how many times the opponent's",
    "p99": "Slowest of a hundred: how many times shorter",
}
_MEANING = {
    "cpu": "Processor seconds of the whole server, with all its processes.",
    "rate": "Clients come again as soon as they are served; they share the machine with the server.",
    "p99": "99 of 100 sessions, or messages that were handed in, took no longer.",
}
_BASE_WORKERS = 2


def render(document: Document) -> dict[str, str]:
    """Return the files, by their names below the docs: the page and its plots."""
    files = {f"performance/{name}.svg": svg for name, svg in _plots(document)}
    sections = [
        *_head(document),
        *_provider(document),
        *_beside(document, files),
        *_memory(document),
        *_growth(document, files),
        *_rows(document, "administration", "Administration of a large server"),
        *_rows(document, "crowd", "Ten thousand sessions, and a hostile crowd"),
        *_how(document),
    ]
    return {"performance.md": "\n".join(sections).rstrip() + "\n", **files}


def write(document: Document, docs: Path) -> None:
    """Write the document, the page and the plots."""
    (docs / "performance").mkdir(exist_ok=True)
    (docs / "performance.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    for name, text in render(document).items():
        (docs / name).write_text(text, "utf-8")


def _of(row: Document, wanted: str) -> Ratio | None:
    return next((ratio for ratio in ratios(row) if ratio.name == wanted), None)


def _head(document: Document) -> Iterator[str]:
    machine = document["machine"]
    all_of_them = [ratio for row in document["rows"] for ratio in ratios(row)]
    failed = [row for row in document["rows"] if row["failed"]]
    met = sum(ratio.met for ratio in all_of_them)
    yield "# What it costs to serve your people\n"
    yield "`make benchmark` makes this page; each of its runs is in [performance.json](performance.json).\n"
    if document["quick"]:
        yield "**A quick run: it shows that everything works; its figures are too short to be trusted.**\n"
    yield (
        f"Measured on {document['taken']} with `{document['command']}` in {document['minutes']:g} minutes, on this "
        f"kind of machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory; "
        f"{machine['system']}, Linux {machine['kernel']}, {machine['python']}; a disk with {machine['filesystem']} "
        f"that synchronises {machine['fsyncs_per_second']:,} small writes a second. winpop and its opponent took "
        f"turns, {document['pairs']} times in each row, after a warm-up; a figure is the median, and beside it stand "
        "the least and the greatest.\n"
    )
    yield (
        f"Of {len(all_of_them)} goals {met} are met and {len(all_of_them) - met} are not"
        + (f"; {len(failed)} rows failed" if failed else "")
        + ". Everything that a server says is stored or deleted is on the disk by then, on both sides.\n"
    )
    if failed:
        yield "Failed:\n"
        yield from (f"- {row['work']}: {row['failed']}" for row in failed)
        yield ""


def _provider(document: Document) -> Iterator[str]:
    found = document.get("provider")
    if not found:
        return
    yield "## A provider's evening\n"
    yield (
        "The busiest hour of an Internet provider. Each user looks for mail "
        f"{provider.SESSIONS} times (STAT and UIDL; half of them over TLS; {provider.FETCHING} % fetch and delete all "
        f"that is there) and gets {provider.MESSAGES} message, of 512 octets to 256 KiB, by SMTP. All this arrives at "
        "random, whether the server keeps up or not, and there are more users each time until 95 of 100 answers no "
        "longer come within their level.\n"
    )
    if found["failed"]:
        yield f"Failed: {found['failed']}\n"
        return
    yield "| server | most users within all levels | cores busy then | cores busy for 100,000 users | what gave way |"
    yield "|---|---|---|---|---|"
    for server in found["servers"]:
        kept = [step for step in server["steps"] if step["kept"]]
        late = [step for step in server["steps"] if not step["kept"]]
        best = max(kept, key=lambda step: step["users"], default=None)
        small = next((step for step in kept if step["users"] == 2 * provider.SMALLEST), None)
        yield (
            f"| {server['name']} | {best['users']:,} | {number(best['cores'])} | "
            f"{number(small['cores']) if small else 'not kept'} | {_gave_way(late)} |"
            if best
            else f"| {server['name']} | fewer than {provider.SMALLEST:,} | | | {_gave_way(late)} |"
        )
    yield ""
    if _provider_lines(document):
        yield "![Cores by users](performance/provider.svg)\n"
    best_steps = [
        max((step for step in server["steps"] if step["kept"]), key=lambda step: step["users"], default=None)
        for server in found["servers"]
    ]
    yield "At that load, 95 of 100 came within (milliseconds):\n"
    yield "| answer | level | " + " | ".join(server["name"] for server in found["servers"]) + " |"
    yield "|---|---|" + "---|" * len(best_steps)
    for name, level in provider.LEVELS.items():
        cells = [number(step["p95"][name]) if step and name in step["p95"] else "" for step in best_steps]
        yield f"| {provider.WHAT[name]} | {level:g} | {' | '.join(cells)} |"
    yield ""


def _gave_way(late: Sequence[Document]) -> str:
    if not late:
        return "nothing; more was not tried"
    first = min(late, key=lambda step: step["users"])
    return f"at {first['users']:,}: {first['why']}"


def _beside(document: Document, files: dict[str, str]) -> Iterator[str]:
    rows = [row for row in document["rows"] if not row["failed"] and "memory" not in row["goals"]]
    if not rows:
        return
    yield "## Beside Dovecot and Postfix\n"
    yield (
        "*Times* says how many times better winpop is by the medians, by the pair of runs in which it did least, and "
        "by that in which it did best; then the goal. The opponents: "
        + "; ".join(sorted({row["opponent"] for row in rows}))
        + ".\n"
    )
    for name, title in _RATIOS.items():
        yield f"### {title}\n"
        yield f"{_MEANING[name]}\n"
        yield "| work | winpop | opponent | in | times | goal |"
        yield "|---|---|---|---|---|---|"
        for row in rows:
            ratio = _of(row, name)
            if ratio is not None:
                cells = [
                    f"{number(median(row[side][name]))} ({spread(row[side][name])})" for side in ("winpop", "other")
                ]
                yield f"| {row['work']} | {' | '.join(cells)} | {_unit(row, name)} | {_times(ratio)} |"
        yield ""
        if f"performance/{name}.svg" in files:
            yield f"![{title}](performance/{name}.svg)\n"
    shares = [share for row in rows for side in ("winpop", "other") for share in row[side]["generator"]]
    yield (
        f"The load generator (`benchmark/load.c`) took {100 * median(shares):.0f} % of the machine in the middle of "
        f"all runs, {100 * max(shares):.0f} % at most.\n"
    )


def _unit(row: Document, name: str) -> str:
    of_gigabytes = row["per"] == "GB"
    if name == "cpu":
        return f"s for {'a GB' if of_gigabytes else row['per']}"
    if name == "rate":
        return "MB/s" if of_gigabytes else f"{row['per'].split()[1]}/s"
    return "ms"


def _times(ratio: Ratio) -> str:
    """Return two cells: the ratio with its spread, and what became of the goal."""
    mark = "met" if ratio.met else "**not met**"
    return f"{number(ratio.times)} ({number(ratio.least)} to {number(ratio.greatest)}) | {ratio.goal:g} {mark}"


def _memory(document: Document) -> Iterator[str]:
    rows = [row for row in document["rows"] if not row["failed"] and "memory" in row["goals"]]
    if not rows:
        return
    yield "## Memory of an open session\n"
    yield (
        "KiB of memory that the processes have for themselves, for each session that is logged on: with "
        f"{scenarios.HELD_BY_US:,} of them ({scenarios.HELD_BY_THEM:,} with Dovecot) less without any, in servers that "
        "have just been started, three times.\n"
    )
    yield "| work | winpop | opponent | times | goal |"
    yield "|---|---|---|---|---|"
    for row in rows:
        ratio = _of(row, "memory")
        assert ratio is not None
        cells = [
            f"{number(median(row[side]['memory']))} ({spread(row[side]['memory'])})" for side in ("winpop", "other")
        ]
        yield f"| {row['work']} | {' | '.join(cells)} | {_times(ratio)} |"
    yield ""


def _cells(document: Document) -> list[Document]:
    return [cell for cell in document.get("growth", []) if not cell["failed"]]


def _growth(document: Document, files: dict[str, str]) -> Iterator[str]:
    cells = _cells(document)
    if not document.get("growth"):
        return
    yield "## Growth\n"
    yield (
        "The same work of winpop with more mailboxes (each with ten messages; a thousand of them are active, spread "
        "over all) and with more workers: processor seconds for 1,000 sessions or messages, and in brackets the rate. "
        "The exponent e says that the cost grows like the number of mailboxes to the power of e (0: not at all; 1: in "
        "step with it), or the rate with that of workers; the clients are on the same cores.\n"
    )
    failed = [cell for cell in document["growth"] if cell["failed"]]
    yield from (f"- Failed with {cell['mailboxes']:,} mailboxes: {cell['row']} {cell['failed']}" for cell in failed)
    workers = sorted({cell["workers"] for cell in cells})
    yield "| work | mailboxes | " + " | ".join(_workers(count) for count in workers) + " | e of the rate, by workers |"
    yield "|---|---|" + "---|" * (len(workers) + 1)
    for name in scenarios.GROWING:
        mine = [cell for cell in cells if cell["row"] == name]
        for mailboxes in sorted({cell["mailboxes"] for cell in mine}):
            line = {cell["workers"]: cell for cell in mine if cell["mailboxes"] == mailboxes}
            shown = [
                f"{number(median(line[count]['cpu']))} ({number(median(line[count]['rate']))}/s)"
                if count in line
                else ""
                for count in workers
            ]
            exponent = _slope([(count, median(cell["rate"])) for count, cell in line.items()])
            yield f"| {_growing(name)} | {mailboxes:,} | {' | '.join(shown)} | {exponent} |"
    yield ""
    yield "| work | " + " | ".join(f"e of the cost, by mailboxes, {_workers(count)}" for count in workers) + " |"
    yield "|---|" + "---|" * len(workers)
    for name in scenarios.GROWING:
        exponents = [
            _slope([(c["mailboxes"], median(c["cpu"])) for c in cells if c["row"] == name and c["workers"] == count])
            for count in workers
        ]
        yield f"| {_growing(name)} | {' | '.join(exponents)} |"
    yield ""
    if "performance/growth.svg" in files:
        yield "![Cost by mailboxes](performance/growth.svg)\n"


def _growing(name: str) -> str:
    work = scenarios.find(name).work
    return work.replace("an empty mailbox", f"a mailbox of {growth.MESSAGES} messages")


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _slope(points: Sequence[tuple[float, float]]) -> str:
    return f"{slope(points):.2f}" if len({x for x, _ in points}) > 1 else ""


def _rows(document: Document, key: str, title: str) -> Iterator[str]:
    found = document.get(key)
    if not found:
        return
    yield f"## {title}\n"
    if isinstance(found, str):
        yield f"Failed: {found}\n"
        return
    yield "| what | figure | spread | goal |"
    yield "|---|---|---|---|"
    for row in found:
        goal = row.get("goal")
        met = goal is not None and (row["figure"] <= goal or (row["unit"] == "sessions" and row["figure"] >= goal))
        verdict = "" if goal is None else f"{goal:g} {row['unit']}, {'met' if met else '**not met**'}"
        least, greatest = row["spread"]
        figure = f"{number(row['figure'])} {row['unit']}"
        yield f"| {row['what']} | {figure} | {number(least)} to {number(greatest)} | {verdict} |"
    yield ""
    yield "Command: " + ", ".join(sorted({f"`{row['command']}`" for row in found})) + ".\n"


_HOW = """\
- `make benchmark` installs what is missing (as root; otherwise it says what), measures everything, writes this page and
  leaves nothing running. `python -m benchmark.run --only NAME` measures some rows; `--help` names them.
- Processor and memory are those of all processes of a server. Here they were read from: {meter}.
- Both servers log; both show a certificate of the same type (ECDSA, P-256); both have the same mailboxes with the same
  mail on the same disk; clients come from 127.0.0.1, from where both take passwords in clear.
- winpop has its passwords as argon2id in every row, and remembers for an hour which were right. Dovecot's `auth_cache`
  keeps the hash and verifies it at each logon; so that this does not decide every row, it has {{SHA256}}, which costs
  next to nothing, in all rows but those about logons. There its passwords are SHA256-CRYPT, or argon2id with winpop's
  parameters, and are verified in processes of their own.
- In the rows about memory and growth winpop's passwords have argon2id's least parameters, since there are too many to
  hash all of them first. No logon that is measured there hashes one.
- Deliveries: Dovecot's maildir, sdbox and mdbox are tried, and each row has the quickest; always `mail_fsync = always`.
  The other mail of Dovecot is in Maildir. Postfix's rate is that of messages in the mailbox, not in the queue.
- A session's time runs from the connection to the last reply, a message's from its end to the reply. A wrong reply is
  an error, and a run with an error gives no figure.
"""


def _how(document: Document) -> Iterator[str]:
    yield "## How it is measured\n"
    yield _HOW.format(meter=document["meter"])
    for name, text in document["configurations"].items():
        yield f"<details><summary>{name}</summary>\n\n```\n{text.rstrip()}\n```\n\n</details>\n"


def _plots(document: Document) -> Iterator[tuple[str, str]]:
    for name, title in _RATIOS.items():
        found = [(row["work"], ratio) for row in document["rows"] if (ratio := _of(row, name))]
        if found:
            yield (
                name,
                plots.bars(
                    title,
                    [Bar(work, ratio.times, ratio.least, ratio.greatest, ratio.goal) for work, ratio in found],
                ),
            )
    growing = []
    for name in scenarios.GROWING:
        points = [
            (float(c["mailboxes"]), median(c["cpu"]))
            for c in _cells(document)
            if c["row"] == name and c["workers"] == _BASE_WORKERS
        ]
        if len(points) > 1:
            growing.append(Line(_growing(name).partition(",")[0][:34], points))
    if growing:
        title = f"Processor seconds for 1,000, by mailboxes ({_workers(_BASE_WORKERS)})"
        yield "growth", plots.lines(title, "mailboxes", "processor seconds", growing)
    if served := _provider_lines(document):
        yield (
            "provider",
            plots.lines("A provider's evening: cores by users", "users in their busiest hour", "cores", served),
        )


def _provider_lines(document: Document) -> list[Line]:
    found = document.get("provider") or {"servers": []}
    served = []
    for server in found["servers"]:
        points = sorted((float(step["users"]), step["cores"]) for step in server["steps"] if "cores" in step)
        if len(points) > 1:
            served.append(Line(server["name"].replace(" with ", ", "), points))
    return served


def main() -> int:
    """Write the page again."""
    path = DOCS / "performance.json"
    if not path.exists():
        print("There is no docs/performance.json; make benchmark makes it.", file=sys.stderr)
        return 1
    write(json.loads(path.read_text("utf-8")), DOCS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
