"""The columns that an export adds to a sheet: their kinds, their names, and how to know them. Pure.

With `as: outline` they are `outline`, `outline_citations`, `_outline_status` and so on. If the
sheet already has such a column, all of them get the same number: `result_2`, `_status_2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ANSWER = "result"
STATUS = "status"
FLAGS = "flags"
KINDS = (ANSWER, "citations", STATUS, "error_code", "error_message", FLAGS)
"""The kinds of columns, in the order in which an export adds them."""
USUAL = KINDS[:-1]
"""The kinds that an export adds if the user chooses none."""

TEXT_ASIDE = r"^\([0-9,]+ characters, too long for a cell: .*\.files/row-.*\.txt\)$"
"""The text of a cell of an .xlsx export whose own text is in a file next to the workbook."""

# failures.csv has a column `_http_status`, which is no answer's status.
ANSWER_NAME = re.compile(r"(?!http\Z)[^\W\d_]\w{0,59}")
"""What `as:` can be."""
# Release 0.1 put more _ in front where the sheet had such a column.
_STATUS = re.compile(rf"_+(?:({ANSWER_NAME.pattern})_)?status(?:_([2-9]|[1-9]\d{{1,4}}))?")


def column_names(
    kinds: Iterable[str], answer: str | None = None, number: int = 1
) -> dict[str, str]:
    """Returns the kind of each added column by its name, in the order of `KINDS`.

    `answer` is the name of the answer's column. From 2 on, `number` stands at the end of each name.
    """
    chosen = set(kinds)
    end = f"_{number}" if number > 1 else ""
    return {f"{_name(kind, answer)}{end}": kind for kind in KINDS if kind in chosen}


def _name(kind: str, answer: str | None) -> str:
    if kind == ANSWER:
        return answer or kind
    if kind == "citations":
        return f"{answer}_{kind}" if answer else kind
    return f"_{answer}_{kind}" if answer else f"_{kind}"


def status_columns(columns: Iterable[str]) -> list[int]:
    """Returns the places of the columns in which an export says how rows ended. A person may have
    typed the names again, so capital letters and spaces at the ends do not count."""
    return [place for place, name in enumerate(columns) if _STATUS.fullmatch(name.strip().lower())]


def exported_columns(columns: Iterable[str]) -> set[str]:
    """Returns the columns that an export wrote, as far as its status column shows."""
    there = set(columns)
    return {name for group in _groups(there) for name in group if name in there}


def is_exported(columns: Iterable[str]) -> bool:
    """Whether these are the columns of an export with all usual columns."""
    there = set(columns)
    return any(
        all(name in there for name, kind in group.items() if kind in USUAL)
        for group in _groups(there)
    )


def _groups(columns: set[str]) -> list[dict[str, str]]:
    found = filter(None, map(_STATUS.fullmatch, columns))
    return [column_names(KINDS, one[1], int(one[2] or 1)) for one in found]
