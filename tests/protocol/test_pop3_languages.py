"""LANG (RFC 6856 §3): every word that people read has its translations, and nothing that programs read changes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winpop.protocol.pop3 import languages, replies
from winpop.protocol.pop3.languages import LANGUAGES, in_language, language_for

SOURCES = Path(replies.__file__).parent
STATUS = re.compile(r"(\+OK|-ERR) (\[[^\]]+\] )?(.*)", re.DOTALL)
FORMAT = re.compile("%[db]")
OTHERS = sorted(LANGUAGES.keys() - {"en"})


def said(directory: Path) -> Iterator[str]:
    """Yield the words of every status line that stands in the source of the POP3 session."""
    for path in directory.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
                match = STATUS.fullmatch(node.value.decode("ascii", "replace"))
                if match is not None and path.name != "languages.py":
                    yield FORMAT.sub("#", match[3])


def for_people(words: str) -> bool:
    """Tell whether there are words, and not only what programs read."""
    return any(character.isalpha() for character in words)


def test_every_text_has_its_translations_and_no_translation_is_without_its_text() -> None:
    greeting = replies.READY.removeprefix(b"+OK ").decode()  # nobody can have asked for another language
    texts = set(filter(for_people, said(SOURCES)))
    assert len(texts) > 40
    assert texts - {greeting} == languages.texts()


@pytest.mark.parametrize("text", sorted(languages.texts()))
def test_a_translation_is_a_line_with_the_same_numbers(text: str) -> None:
    translations = languages.translations(text)
    assert sorted(translations) == OTHERS
    for words in translations.values():
        assert words.count("#") == text.count("#")
        assert words.isprintable()
        assert words.strip() == words
        assert not words.startswith("[")
        assert len(words.encode()) < 400  # RFC 2449 §4: 512 octets with status, code and numbers


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("code", ["", "[AUTH] ", "[SYS/TEMP] ", "[LOGIN-DELAY] "])
def test_the_status_and_the_code_stay(language: str, code: str) -> None:
    reply = f"-ERR {code}Unknown command".encode()
    words = languages.translations("Unknown command")[language]
    assert in_language(reply, language) == f"-ERR {code}{words}".encode()
    assert in_language(reply, "en") == reply


def test_numbers_are_put_in_in_their_order() -> None:
    assert in_language(b"+OK 12 messages (345 octets)", "de") == b"+OK 12 Nachrichten (345 Oktette)"
    assert in_language(b"-ERR That is not base64", "de") == b"-ERR Das ist kein Base64"


@pytest.mark.parametrize("reply", [b"+OK", b"+OK 3 120", b"+OK 1 uid", b"+OK de Deutsch", b"+ VXNlcm5hbWU6", b"1 120"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_programs_read_is_the_same_in_every_language(reply: bytes, language: str) -> None:
    assert in_language(reply, language) == reply


@given(asked=st.binary(max_size=12) | st.text("defrn-*x1", max_size=8).map(str.encode))
def test_a_language_is_one_that_is_spoken_or_none(asked: bytes) -> None:
    tag = language_for(asked)
    assert tag is None or (tag in LANGUAGES and (asked == b"*" or asked.lower().startswith(tag.encode())))


@pytest.mark.parametrize(
    ("asked", "tag"),
    [(b"de", "de"), (b"DE", "de"), (b"de-AT", "de"), (b"fr-ca-x-y", "fr"), (b"*", "en"), (b"en-GB", "en")]
    + [(asked, None) for asked in (b"", b"-", b"d", b"deu", b"de_AT", b"-de", b"**", b"i-default", b"d\xc3\xa9")],
)
def test_a_country_is_left_out_where_it_has_to_be(asked: bytes, tag: str | None) -> None:
    """RFC 4647 §3.4: looked up with ever fewer parts."""
    assert language_for(asked) == tag
