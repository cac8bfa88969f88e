"""JSON as servers write it, which is not always as its RFC wants it."""

from __future__ import annotations

import json
from typing import Any

LATIN = "cp1252"
"""What browsers read where a page says Latin-1: it has the quotes and dashes of such pages."""


def parsed(body: bytes) -> Any:
    """The value in `body`: UTF-8, UTF-16 or UTF-32, and Latin-1 where it is none of these. Control
    characters may stand in its strings as they are.

    Raises:
        ValueError: when it is not JSON.
        RecursionError: when it is nested too deeply.
    """
    return json.loads(_latin(body) if is_guessed(body) else body, strict=False)


def is_guessed(body: bytes) -> bool:
    """Whether `body` is in none of JSON's own charsets, so that its letters may be others."""
    try:
        body.isascii() or body.decode(json.detect_encoding(body), "surrogatepass")
    except UnicodeDecodeError:
        return True
    return False


def is_utf8(body: bytes | bytearray) -> bool:
    """Whether `body` is text in UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _latin(body: bytes) -> str:
    try:
        return body.decode(LATIN)
    except UnicodeDecodeError:  # it leaves five bytes without a meaning
        return body.decode("latin-1")
