"""The columns that an export adds to a sheet: their kinds, their names, and how to know them. Pure.

With `as: outline` they are `outline`, `outline_citations`, `_outline_status` and so on. The columns
of `columns:` keep their own names. If the sheet already has such a column, all of them get the same
number: `result_2`, `title_2`, `_status_2`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

ANSWER = "result"
STATUS = "status"
FLAGS = "flags"
PARTS = "columns"
REVIEW = "review"
USUAL = (ANSWER, PARTS, "citations", STATUS, "error_code", "error_message")
"""The kinds that an export adds if the user chooses none."""
KINDS = (*USUAL, FLAGS, REVIEW)
"""The kinds of columns, in the order in which an export adds them."""
ANSWER_ID, EDIT = "answer", "edit"
REVIEWED = (ANSWER_ID, REVIEW, EDIT)
"""The kinds of a review sheet from which the runner reads a person's decisions."""
ALL_KINDS = (*USUAL, FLAGS, *REVIEWED)

TEXT_ASIDE = r"^\([0-9,]+ characters, too long for a cell: .*\.files/row-.*\.txt\)$"
"""The text of a cell of an .xlsx export whose own text is in a file next to the workbook."""

# failures.csv has a column `_http_status`, which is no answer's status.
ANSWER_NAME = re.compile(r"(?!http\Z)[^\W\d_]\w{0,59}")
"""What `as:` can be."""
# Release 0.1 put more _ in front where the sheet had such a column.
_STATUS = re.compile(rf"_+(?:({ANSWER_NAME.pattern})_)?status(?:_([2-9]|[1-9]\d{{1,4}}))?")


def column_names(
    kinds: Iterable[str], answer: str | None = None, number: int = 1, parts: Iterable[str] = ()
) -> dict[str, str]:
    """Returns the kind of each added column by its name, in the order of the kinds.

    `answer` is the name of the answer's column, and `parts` are those of `columns:`, each with a
    kind such as "columns.title". From 2 on, `number` stands at the end of each name.
    """
    chosen = set(kinds)
    end = f"_{number}" if number > 1 else ""
    names: dict[str, str] = {}
    for kind in ALL_KINDS:
        if kind == PARTS:
            names |= {f"{part}{end}": f"{kind}.{part}" for part in parts if kind in chosen}
        elif kind in chosen:
            names[f"{_name(kind, answer)}{end}"] = kind
    return names


def part_of(kind: str) -> str | None:
    """Returns the name under `columns:` of a column with this kind, None for other kinds."""
    return kind.partition(".")[2] or None


def is_chosen(kind: str, add: Container[str]) -> bool:
    """Whether `add`, words of `KINDS`, includes a column of this kind."""
    return kind.partition(".")[0] in add


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


def exported_columns(columns: Iterable[str], parts: Iterable[str] = ()) -> set[str]:
    """Returns the columns that an export wrote, as far as its status column shows. The columns
    `parts` count if all usual columns of the same export are there."""
    there = set(columns)
    return {name for group in _groups(there, parts) for name in group if name in there}


def is_exported(columns: Iterable[str]) -> bool:
    """Whether these are the columns of an export with all usual columns."""
    there = set(columns)
    return any(_is_whole(group, there) for group in _groups(there))


def _is_whole(group: dict[str, str], there: set[str]) -> bool:
    return all(name in there for name, kind in group.items() if is_chosen(kind, USUAL))


def _groups(columns: set[str], parts: Iterable[str] = ()) -> list[dict[str, str]]:
    found = []
    for one in filter(None, map(_STATUS.fullmatch, columns)):
        answer, number = one[1], int(one[2] or 1)
        whole = column_names(ALL_KINDS, answer, number, parts)
        found.append(
            whole if _is_whole(whole, columns) else column_names(ALL_KINDS, answer, number)
        )
    return found
