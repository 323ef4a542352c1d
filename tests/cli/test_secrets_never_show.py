"""A canary goes in as a password by every way there is, and never comes out."""

import base64

import pytest

from cli.tool import Result, dump, winpop
from winpop.db.home import Home

CANARY = "CaNaRy-7f3a"
FORMS = [
    CANARY.encode(),
    *(base64.b64encode(b"x" * offset + CANARY.encode())[4 if offset else 0 : -4] for offset in range(3)),
]


def shows(home: Home, result: Result) -> bool:
    files = [path.read_bytes() for path in home.path.rglob("*") if path.is_file()]
    seen = [result.out.encode(), result.err.encode(), "\n".join(dump(home)).encode(), *files]
    return any(form in text for form in FORMS for text in seen)


@pytest.mark.parametrize("json", [[], ["--json"]])
@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize(
    "typed",
    [
        f"changepwd alice@example.com {CANARY}",
        f"changepwd nobody@example.com {CANARY}",
        f"changepwd nobody {CANARY}",
        f"changepwd {CANARY} alice@example.com",
        f"changepwd p@{CANARY} alice@example.com",
        f"changepwd {CANARY}",
        f"add {CANARY} /createuser dave@example.com",
        f"add p@{CANARY} /createuser:dave@example.com",
        f"changepwd alice@example.com {CANARY} {CANARY}",
        f"changepwd alice@example.com --{CANARY}",
        f"changepwd alice@example.com {CANARY}\r",
        f"add dave@example.com /createuser {CANARY}",
        f"add dave@example.com /createuser:{CANARY}",
        f"add dave@example.com --createusr={CANARY}",
        f"add dave@example.com {CANARY}",
        f"add dave@nowhere.example /createuser {CANARY}",
        f"add example.com /createuser {CANARY}",
        f"add alice@example.com /createuser {CANARY}",
        "changepwd alice@example.com",
        "add dave@example.com /createuser",
        "add --from -",
    ],
)
def test_no_way_in_is_a_way_out(
    home: Home, typed: str, json: list[str], debug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINPOP_DEBUG", debug)
    given = f"{CANARY}\n" if "--from" not in typed else (
        f"dave@example.com,{CANARY}\neve@nowhere.example,{CANARY}\nalice@example.com,{CANARY}\n{CANARY},x@example.com\n"
        f"{CANARY}\na@example.com;{CANARY}\nb@example.com,{CANARY},{CANARY}\nc@example.com,"
        f'"{CANARY}\n'
        f"{CANARY},dave@example.com\np@{CANARY},dave@example.com\np%{CANARY}@example.com,x\nd@example.com,$argon2id${CANARY}\n"
    )  # fmt: skip
    result = winpop(home, *typed.split(" "), *json, given=given.encode())
    assert not shows(home, result)


def test_the_canary_would_be_found(home: Home) -> None:
    (home.path / "leak").write_text(base64.b64encode(f"xx{CANARY}".encode()).decode())
    assert shows(home, Result(0, "", ""))
