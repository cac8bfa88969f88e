"""The text of a value in a cell of an export, and the value of such a text."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.core.added_columns import FLAGS, part_of
from pipeline.job.answer_columns import JSON, canonical, json_of


def cell_text(value: Any) -> str:
    """The text of a cell: citations one per line, as title and address; flags one per line."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(
            f"{v['title']} {v['url']}".strip() if isinstance(v, dict) else v for v in value
        )
    return str(value)


def read_value(kind: str, types: Mapping[str, str], text: str) -> Any:
    """The value of a cell that an earlier export wrote into a column of this kind."""
    if part_of(kind):
        return _read_part(types[kind], text)
    return {"citations": _read_citations, FLAGS: _read_flags}.get(kind, _read_text)(text)


def _read_text(text: str) -> str | None:
    return text or None


def _read_part(kind: str, text: str) -> str | None:
    """A value of `columns:`. If the user wrote something else into the cell, it is no value."""
    if kind != JSON:
        return canonical(text, kind) if text else None
    with contextlib.suppress(ValueError):
        return canonical(json_of(text), JSON)
    return None


def _read_flags(text: str) -> list[str] | None:
    """The flags of a cell as an export wrote it: JSON, or one a line."""
    if text.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            return [str(flag) for flag in json.loads(text)]
    return text.split("\n") if text else None


def _read_citations(text: str) -> list[dict[str, str]] | None:
    """The citations of a cell as an export wrote it: JSON, or one a line as title and address."""
    if not text:
        return None
    if text.startswith("["):
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            return [{"title": one["title"], "url": one["url"]} for one in json.loads(text)]
    lines = (line.rpartition(" ") for line in text.split("\n"))
    return [
        {"title": title, "url": url} if "://" in url else {"title": f"{title}{gap}{url}", "url": ""}
        for title, gap, url in lines
    ]
