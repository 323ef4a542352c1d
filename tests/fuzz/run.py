"""Fuzz one target with atheris, within so many seconds and executions.

    python tests/fuzz/run.py TARGET [--seconds N] [--runs N] [--seed N] [--corpus DIR] [--keep]

Prints one line of JSON at the end: executions, edges and features covered (at the start and now), the crashing input if
there is one. Exit status: 0, 1 for a crash, 3 where atheris is missing. `--keep` merges what was found into the corpus
and minimises it. Invariant: the fuzzer runs in one process at a time, that is over when this one is.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE / "corpus"
MISSING = 3
_PROGRESS = re.compile(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+)", re.MULTILINE)
_EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
_GRACE = 60
"""Seconds for the start, and for the one execution that is going on at the end."""


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """What came of one run."""

    target: str
    executions: int
    edges_at_start: int
    edges: int
    features: int
    crash: str
    """The path of the crashing input; empty where there is none."""
    trace: str
    seconds: int


def available() -> bool:
    """Tell whether atheris is there."""
    return importlib.util.find_spec("atheris") is not None


def fuzz(  # noqa: PLR0913 - each is a switch of the program
    target: str,
    *,
    seconds: int,
    runs: int = -1,
    seed: int = 0,
    corpus: Path | None = None,
    keep: bool = False,
) -> Fuzzed:
    """Fuzz a target. What it begins with is `corpus`, by default the one that is kept."""
    corpus = corpus or KEPT / target
    crashes = Path(tempfile.mkdtemp(prefix="winpop-fuzz-crash-"))
    with tempfile.TemporaryDirectory(prefix="winpop-fuzz-") as scratch:
        found = Path(scratch, "found")
        found.mkdir()
        corpora = [str(found), *([str(corpus)] if corpus.is_dir() else [])]
        bounds = [f"-max_total_time={seconds}", f"-runs={runs}", f"-seed={seed}", "-timeout=20", "-print_final_stats=1"]
        said, status = _child(target, [*bounds, f"-artifact_prefix={crashes}/", *corpora], seconds + _GRACE, scratch)
        crash = "" if status == 0 else str(next(crashes.glob("*-*"), "no input was written"))
        if not crash:
            shutil.rmtree(crashes)
        if keep:
            _keep(target, corpora, corpus, scratch)
    progress = _PROGRESS.findall(said) or [("0", "", "0", "0")]
    executions = _EXECUTIONS.findall(said)
    first, last = next((line for line in progress if line[1] == "INITED"), progress[0]), progress[-1]
    return Fuzzed(
        target,
        int(executions[-1] if executions else last[0]),
        int(first[2]),
        int(last[2]),
        int(last[3]),
        crash,
        said[-4000:] if status else "",
        seconds,
    )


def _keep(target: str, corpora: list[str], corpus: Path, scratch: str) -> None:
    """Let the corpus be few inputs, old and new, that cover what all of them cover, however often."""
    merged = Path(scratch, "merged")
    merged.mkdir()
    said, status = _child(target, ["-merge=1", "-use_counters=0", str(merged), *corpora], 600, scratch)
    if status:
        raise SystemExit(f"the corpus cannot be merged:\n{said[-2000:]}")
    if corpus.exists():
        shutil.rmtree(corpus)
    corpus.mkdir(parents=True)
    for path in merged.iterdir():
        data = path.read_bytes()
        (corpus / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


def _child(target: str, arguments: Sequence[str], seconds: int, scratch: str) -> tuple[str, int]:
    """Run libFuzzer in a process of its own, for it ends the process that it runs in.

    It starts itself again for a merge, by its first argument: a small program that is this one.
    """
    again = Path(scratch, "again")
    again.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "run.py"}" --child {target} "$0" "$@"\n')
    again.chmod(0o700)
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    environment.pop("WINPOP_HOME", None)
    with subprocess.Popen(
        [str(again), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=scratch,
        env=environment,
        start_new_session=True,
    ) as child:
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, 9)
            said, _ = child.communicate()
    return said.decode("utf-8", "replace"), child.returncode


def _be_the_child(target: str, argv: list[str]) -> None:
    """Be the fuzzer: never returns."""
    import atheris  # type: ignore[import-untyped]  # here: the parent does without

    with atheris.instrument_imports(include=["winpop"], enable_loader_override=False):
        from fuzz.targets import TARGETS
    words = Path(f"words-{os.getpid()}")
    escaped = ["".join(f"\\x{octet:02x}" for octet in word) for word in TARGETS[target].words]
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    atheris.Setup([*argv, f"-dict={words}", f"-max_len={TARGETS[target].longest}"], TARGETS[target].run)
    atheris.Fuzz()


def main() -> int:
    """Run the program; return its exit status."""
    if sys.argv[1:2] == ["--child"]:
        _be_the_child(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    if not available():
        sys.stderr.write("atheris is missing: pip install 'atheris==3.0.0'\n")
        return MISSING
    corpus = given.corpus.absolute() if given.corpus else None
    fuzzed = fuzz(given.target, seconds=given.seconds, runs=given.runs, seed=given.seed, corpus=corpus, keep=given.keep)
    sys.stderr.write(fuzzed.trace)
    sys.stdout.write(json.dumps({name: what for name, what in asdict(fuzzed).items() if name != "trace"}) + "\n")
    return 1 if fuzzed.crash else 0


if __name__ == "__main__":
    sys.path[0] = str(HERE.parent)
    sys.exit(main())
