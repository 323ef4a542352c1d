"""Directories that an administrator names.

Invariant: a name is read without a look at the disk.
"""

from pathlib import Path

from winpop.terms.refusals import Refusal, not_understood, readable


def read_directory(text: str) -> Path:
    """Return the directory that is meant, from the root on. Raises `Refusal` (`bad-path`)."""
    try:
        if text and "\0" not in text:
            text.encode()
            return Path(text).absolute()
    except (OSError, UnicodeEncodeError):
        pass  # no current directory, or a name that the database cannot hold
    raise bad_path(text)


def bad_path(text: str) -> Refusal:
    """Make the refusal of a text that names no directory."""
    return not_understood("bad-path", f"'{readable(text)}' cannot be the path of a directory; give an absolute path.")
