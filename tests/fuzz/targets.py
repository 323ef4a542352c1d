"""What is fuzzed: for each target a plain function that takes any bytes, and raises where a law does not hold.

Invariant: a target knows nothing of the fuzzer, gives the same result each time, and touches nothing but memory and,
for the command line, a scratch home. `words` are what the fuzzer puts together, `modules` what the target is about.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fuzz import of_cli, of_pop3, of_smtp, of_terms

_SMTP = tuple(f"winpop.protocol.smtp.{name}" for name in ("session", "body", "data", "paths", "state"))

_READERS = (
    "winpop.directory.settings:"
    "_number.<locals>.read _octets.<locals>.read _endpoint _address _hostname _path _text _word "
    "_days _ldap_servers _issuer _bad find read_stored"
)
_ARGUMENTS = ("winpop.cli.arguments", "winpop.cli.given:given_by", "winpop.cli.words:unknown_word")
_LINES = "winpop.protocol.lines:Lines.append Lines.clear Lines.next looks_like_http"


@dataclass(frozen=True, slots=True)
class Target:
    """A function, the words of its language, and the modules (or `module:functions`) that it must reach."""

    run: Callable[[bytes], None]
    words: tuple[bytes, ...]
    modules: tuple[str, ...]
    longest: int = 600


TARGETS = {
    "pop3": Target(
        of_pop3.pop3_session,
        of_pop3.WORDS,
        (
            "winpop.protocol.pop3.session",
            "winpop.protocol.pop3.authorization",
            "winpop.protocol.pop3.output",
            "winpop.protocol.pop3.languages:language_for in_language",
            "winpop.protocol.pop3.multiline",
            f"{_LINES} Lines.begin_with",
        ),
    ),
    "smtp": Target(of_smtp.smtp_session, of_smtp.WORDS, (*_SMTP, _LINES), longest=900),
    "lmtp": Target(of_smtp.lmtp_session, of_smtp.WORDS, (*_SMTP, _LINES), longest=900),
    "addresses": Target(
        of_terms.addresses, of_terms.ADDRESS_WORDS, ("winpop.terms.names", "winpop.protocol.smtp.paths"), longest=320
    ),
    "endpoints": Target(of_terms.endpoints, of_terms.ENDPOINT_WORDS, ("winpop.terms.endpoints",), longest=120),
    "settings": Target(of_terms.setting_values, of_terms.SETTING_WORDS, (_READERS,), longest=200),
    "command-line": Target(
        of_cli.command_line,
        of_cli.WORDS,
        _ARGUMENTS,
        longest=300,
    ),
}
