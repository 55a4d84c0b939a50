"""Ids, and the words of which all names are made."""

from __future__ import annotations

import re
from typing import Final

from skyhold import error_codes
from skyhold.errors import InvalidInput

WORD: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_]|[.-](?=[A-Za-z0-9_-])){0,95}"
"""Regular expression: 1 to 96 letters, digits and `_`, with single `.` and `-` inside."""
_WORD: Final = re.compile(WORD)
_ID: Final = re.compile(r"[0-9a-f]{32}")


def is_word(text: str) -> bool:
    """Whether a text is one word of letters, digits, `_`, `-` and single dots inside, of at most 96 characters."""
    return _WORD.fullmatch(text) is not None


def check_id(id_: str) -> str:
    """Return the id of a repository, document or deployment, or raise `InvalidInput` unless it is 32 hex characters."""
    if _ID.fullmatch(id_) is None:
        raise InvalidInput(f"Expected an id of 32 hex characters but got {id_!r}", code=error_codes.INVALID_ID)
    return id_
