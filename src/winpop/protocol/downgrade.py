"""The header of a message for clients that have not said UTF8 (RFC 6856, RFC 6858).

    Subject, Comments, ...       encoded-words (RFC 2047 §5, RFC 6858 §2.3)
    From, To, ...                display names as encoded-words; an address beyond ASCII becomes an empty group whose
                                 name shows it, or where no group can stand a mailbox at a name that nobody has
    Content-Type, ...            parameters as RFC 2231 §4 has them, or none (RFC 6858 §2.2)
    anything else                left out (RFC 6858 §2.4)

Invariant: the result is ASCII, and a field that was ASCII is as it was, byte for byte; the blank line and all that
follows it are nobody's business here. The work is linear in a header of at most `LIMIT` octets, and bounded (half a
second for the worst of 256 KiB on the machine where this was written); nothing recurses, and no octets make it fail: a
header that is longer or is not UTF-8 is served as it came. The size of what comes out is stored at delivery: whoever
changes what comes out adds a step to `db.migrations` that reckons it anew.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterator
from urllib.parse import quote

LIMIT = 256 * 1024
"""Octets of the longest header that is looked at."""

_BLANK = b"\r\n\r\n"
_FIELDS = re.compile(rb"(?<=\r\n)(?![ \t])")
_NAME = re.compile(rb"([!-9;-~]{1,100})[ \t]*:")
_FOLD = re.compile(r"\r\n(?=[ \t])")
_CONTROLS = re.compile(r"[\x00-\x20\x7f\x85\u2028\u2029]")

_TEXTS = frozenset(["subject", "comments", "content-description"])
_ADDRESSES = frozenset(
    f"{resent}{name}" for resent in ("", "resent-") for name in ("from", "sender", "reply-to", "to", "cc", "bcc")
)
_WITH_PARAMETERS = frozenset(
    ["content-type", "content-disposition", "content-transfer-encoding", "mime-version", "date"]
)

_MARKS = 10_000
"""What a header may have of the marks that make work; beyond that, fields that are not ASCII are left out."""
_LINE = 76
_WORD_OCTETS = 30
"""Octets in an encoded-word: the longest field name and one of them are within a line."""
_LONGEST = 900
"""Characters that stay together on a line: below 998 (RFC 5322 §2.1.1) with all that may stand around them."""
_LONGEST_PARAMETER = 1000
"""Characters of a parameter that is encoded."""
_SECTION = 45
"""Octets of a percent-encoded value on one line."""
_NOBODY = "<invalid@internationalized-address.invalid>"
"""RFC 6858 §2.1; nobody has a name below .invalid (RFC 2606 §2)."""

_ENCODED = re.compile(r"(?<![^ ])(=\?[!->@-~]{1,40}\?[BbQq]\?[!->@-~]{0,60}\?=)(?![^ ])")
_QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
_TOKEN = re.compile(rf"{_QUOTED}|<[^>\"]*(?:{_QUOTED}[^>\"]*)*>?|\[[^\]]*\]?|[(),:;]|[^\"<\[(),:;]+", re.DOTALL)
_COMMENT = re.compile(r"\\.|[()]", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_PARAMETER = re.compile(r"([!#$&+.0-9A-Z^_`a-z{|}~-]{1,60}) *= *(.*)", re.DOTALL)
_SPACES = re.compile(" +")


def header_of(octets: bytes) -> bytes:
    """Return the header with its blank line, given a message or the first `LIMIT` + 1 octets of it.

    All of it is header where there is no blank line; a header that is too long is none.
    """
    if octets.startswith(b"\r\n"):
        return b"\r\n"
    end = octets.find(_BLANK, 0, LIMIT)
    if end >= 0:
        return octets[: end + len(_BLANK)]
    return octets if len(octets) <= LIMIT else b""


def has_end(octets: bytes) -> bool:
    """Tell whether the beginning of a message has all of its header."""
    return octets.startswith(b"\r\n") or octets.find(_BLANK, 0, LIMIT) >= 0


def is_international(header: bytes) -> bool:
    """Tell whether clients without UTF8 get this header in another form: it is UTF-8 and beyond ASCII.

    One in which a LF stands alone is not: where its fields end is not for us to guess.
    """
    if header.isascii() or len(header) > LIMIT or header.count(b"\n") != header.count(b"\r\n"):
        return False
    try:
        header.decode()
    except UnicodeDecodeError:
        return False
    return True


def downgrade(header: bytes) -> bytes:
    """Return a header as clients without UTF8 get it; one that is not international is returned as it is."""
    if not is_international(header):
        return header
    fields, left = _FIELDS.split(header), _MARKS
    for n, field in enumerate(fields):
        if not field.isascii():
            left -= sum(map(field.count, b',:;"<[('))
            fields[n] = _downgraded(field) if left >= 0 else b""
    return b"".join(fields)


def _downgraded(field: bytes) -> bytes:
    """Return a field that is beyond ASCII in another form, or nothing."""
    match = _NAME.match(field)
    if match is None:
        return b""
    name = match[1].decode("ascii")
    value = _CONTROLS.sub(" ", _FOLD.sub("", field[match.end() :].removesuffix(b"\r\n").decode()))
    kind = name.lower()
    if kind in _TEXTS:
        pieces = _words(value)
    elif kind in _ADDRESSES:
        pieces = _addresses(value)
    elif kind in _WITH_PARAMETERS:
        pieces = _parameters(value)
    else:
        pieces = [_NOBODY] if kind == "return-path" else []
    return _folded(name, pieces)


def _folded(name: str, pieces: list[str]) -> bytes:
    """Return a field whose value is these pieces, a space between two; nothing where there are none."""
    if not pieces:
        return b""
    lines, line = [], f"{name}: {pieces[0]}"
    for piece in pieces[1:]:
        if len(line) + 1 + len(piece) <= _LINE:
            line += f" {piece}"
        else:
            lines.append(line)
            line = f" {piece}"
    return "".join(f"{each}\r\n" for each in (*lines, line)).encode("ascii")


# --- text ---


def _words(text: str) -> list[str]:
    """Return a text as encoded-words (RFC 2047 §2): UTF-8, none split in a character. Those in it stay as they are.

    A space beside an encoded-word shows only where it is in one itself, so those of the text go into the words.
    """
    words: list[str] = []
    for n, part in enumerate(_ENCODED.split(text.strip(" "))):
        if n % 2:
            words.append(part)
        elif part.strip(" "):
            words += _encoded(part)
    return words


def _encoded(text: str) -> Iterator[str]:
    octets, start = text.encode(), 0
    while start < len(octets):
        end = min(start + _WORD_OCTETS, len(octets))
        while end < len(octets) and octets[end] & 0xC0 == 0x80:  # noqa: PLR2004 - in the middle of a character
            end -= 1
        yield f"=?UTF-8?B?{b2a_base64(octets[start:end], newline=False).decode('ascii')}?="
        start = end


# --- addresses ---


def _addresses(text: str) -> list[str]:
    """Return the pieces of a list of addresses (RFC 5322 §3.4), each with the comma or what else ends it."""
    pieces: list[str] = []
    items: list[str] = []
    in_group = False
    for item in (*_items(text), ","):
        if item == ":" and not in_group:
            pieces += [*(_phrase("".join(filter(_is_no_comment, items))) or ['""']), ":"]
            in_group = True
        elif item == ";" and in_group:
            pieces += _ended(_mailbox(items, in_group=True), "")
            pieces += _ended([";"], ",")
            in_group = False
        elif item in ",;":
            pieces += _ended(_mailbox(items, in_group=in_group), ",")
        else:
            items.append(item)
            continue
        items = []
    pieces = _ended(pieces, "", drop=",")
    return [*pieces, ";"] if in_group else pieces


def _ended(pieces: list[str], mark: str, drop: str = "") -> list[str]:
    """Return pieces with a mark behind the last, in place of `drop`."""
    return [*pieces[:-1], pieces[-1].removesuffix(drop) + mark] if pieces else []


def _items(text: str) -> Iterator[str]:
    """Yield quoted strings, <...>, [...], whole comments, marks, and what is between them: together all of the text."""
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None
        end = match.end() if match[0] != "(" else _end_of_comment(text, position)
        yield text[position:end]
        position = end


def _end_of_comment(text: str, start: int) -> int:
    """Return where a comment ends, those in it included; without an end it goes on to that of the text."""
    depth = 0
    for mark in _COMMENT.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(mark[0], 0)
        if depth == 0:
            return mark.end()
    return len(text)


def _is_no_comment(item: str) -> bool:
    return not item.startswith("(")


def _mailbox(items: list[str], *, in_group: bool) -> list[str]:
    """Return the pieces of one mailbox."""
    whole = _squeezed("".join(items))
    if _stays(whole):
        return [whole] if whole else []
    said = list(filter(_is_no_comment, items))
    at = next((n for n, item in enumerate(said) if item.startswith("<")), -1)
    if at >= 0:
        name, address = _squeezed("".join(said[:at])), said[at].strip("<> ")
        shown, name = _phrase(name), _unquoted(name)
    else:  # the name, if there is one, is in a comment
        comments = [item[1:].removesuffix(")") for item in items if not _is_no_comment(item)]
        name, address = _QUOTED_PAIR.sub(r"\1", _squeezed(" ".join(comments))), _squeezed("".join(said))
        shown = _words(name)
    if address and _stays(address):
        return [*shown, f"<{address}>"]
    known = _words(_squeezed(f"{name} <{address}>") if name else address)
    if not known:
        return []
    return [*known, _NOBODY] if in_group else [*known, ":;"]


def _phrase(text: str) -> list[str]:
    """Return the pieces of a display name."""
    text = _squeezed(text)
    return _words(_unquoted(text)) if not _stays(text) else [text] if text else []


def _unquoted(text: str) -> str:
    """Return a display name as it is shown, without quotes."""
    return "".join(
        _QUOTED_PAIR.sub(r"\1", item[1:].removesuffix('"')) if item.startswith('"') else item for item in _items(text)
    )


def _squeezed(text: str) -> str:
    return _SPACES.sub(" ", text).strip(" ")


def _stays(text: str) -> bool:
    """Tell whether something may be sent as it is, on one line."""
    return text.isascii() and len(text) <= _LONGEST


# --- parameters ---


def _parameters(text: str) -> list[str]:
    """Return the pieces of a value with parameters (RFC 2045 §5.1), each with the semicolon that ends it."""
    parts: list[str] = []
    items: list[str] = []
    for item in (*filter(_is_no_comment, _items(text)), ";"):
        if item == ";":
            parts.append("".join(items).strip(" "))
            items = []
        else:
            items.append(item)
    if not parts[0] or not _stays(parts[0]):
        return []
    names = {part.partition("=")[0].strip(" ").lower() for part in parts[1:]}
    pieces = parts[:1]
    for part in filter(None, parts[1:]):
        pieces += [part] if _stays(part) else _extended(part, names)
    return [f"{piece};" for piece in pieces[:-1]] + pieces[-1:]


def _extended(part: str, names: set[str]) -> list[str]:
    """Return a parameter beyond ASCII, percent-encoded, in sections where it is long.

    Nothing for what cannot be so, and where one of that name is there that is encoded already: it says the same.
    """
    match = _PARAMETER.match(part)
    if match is None or len(part) > _LONGEST_PARAMETER or not names.isdisjoint(_encoded_names(match[1])):
        return []
    value = _unquoted(match[2]) if match[2].startswith('"') else match[2]
    sections = [""]
    for code in (quote(character, safe="") for character in value):
        if len(sections[-1]) + len(code) > _SECTION:
            sections.append("")
        sections[-1] += code
    sections[0] = f"UTF-8''{sections[0]}"
    if len(sections) == 1:
        return [f"{match[1]}*={sections[0]}"]
    return [f"{match[1]}*{n}*={section}" for n, section in enumerate(sections)]


def _encoded_names(name: str) -> tuple[str, ...]:
    return f"{name.lower()}*", f"{name.lower()}*0", f"{name.lower()}*0*"
