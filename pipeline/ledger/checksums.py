"""A checksum of every row of every table of the ledger, which no statement can forget.

SQLite itself notices a damaged page's structure, not a changed byte inside of a value. So each
table has a column `sum`, generated and stored by SQLite whenever a row is written: 8 bytes of
BLAKE2b over all its other columns. A connection without the function cannot write to them at all.

The sum says that a row is what was written. Who writes a row anew gives it a new sum, so whatever
updates a row that it did not write itself checks it first.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from hashlib import blake2b
from typing import Any

FUNCTION = "row_sum"
SUM_BYTES = 8

_TABLE = re.compile(r"CREATE TABLE (\w+) \((.*?)\n?\)( WITHOUT ROWID)?;", re.DOTALL)
_pack = struct.Struct("<d").pack


def row_sum(*values: Any) -> bytes:
    """The checksum of a row's values, in the order of its columns.

    Each value is written with its type, and texts and blobs with their length, so that no two
    rows read alike. The same on every machine and Python; ledgers move between them.
    """
    encoded = []
    for value in values:  # most are numbers or nothing, and a call for each would double the time
        kind = type(value)
        if kind is int:
            encoded.append(b"i%d;" % value)
        elif value is None:
            encoded.append(b"n")
        else:
            encoded.append(_ENCODE[kind](value))
    return blake2b(b"".join(encoded), digest_size=SUM_BYTES).digest()


def register(db: sqlite3.Connection) -> None:
    """Lets a connection write summed tables and check them."""
    db.create_function(FUNCTION, -1, row_sum, deterministic=True)
    # Without it no schema may call a function of the application's own, and Python cannot mark
    # one as harmless. What a schema can call is bounded otherwise: `schema.check_version` refuses
    # every ledger with anything but the runner's own tables before a statement runs on them.
    db.execute("PRAGMA trusted_schema = ON")


def columns_of(schema: str) -> dict[str, tuple[str, ...]]:
    """The columns of each table that a schema makes, `sum` left out."""
    db = sqlite3.connect(":memory:")
    db.executescript(schema)
    tables = [name for name, *_ in _TABLE.findall(schema)]
    found = {
        table: tuple(column[1] for column in db.execute(f"PRAGMA table_info({table})"))
        for table in tables
    }
    db.close()
    return found


def kinds_of(schema: str) -> dict[str, str]:
    """For each table that a schema makes, an SQL expression with ``{0}`` for its alias: whether the
    values of a row are of their columns' types, and its numbers ones that a run can write.

    SQLite keeps a text in a column of numbers, and the sums of whoever put it there are right.
    """
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(schema)
        return {
            table: " AND ".join(
                _kind(column, kind, required or key)
                for _, column, kind, required, _, key in db.execute(f"PRAGMA table_info({table})")
            )
            for table, *_ in _TABLE.findall(schema)
        }


def _kind(column: str, kind: str, required: bool) -> str:
    value = f"{{0}}.{column}"
    test = f"typeof({value}) = '{kind.lower()}'"
    if kind in _RANGES:
        test += " AND {} BETWEEN {} AND {}".format(value, *_RANGES[kind])
    return f"({test})" if required else f"({value} IS NULL OR {test})"


# Times in seconds that a calendar has, years 68 to 8307, and numbers that a float holds.
_RANGES = {"REAL": ("-6e10", "2e11"), "INTEGER": (0, 1 << 53)}


def with_sums(schema: str) -> str:
    """The schema with a checksum in each table."""
    columns = columns_of(schema)

    def summed(table: re.Match[str]) -> str:
        name, inside, without_rowid = table.groups(default="")
        covered = ", ".join(columns[name])
        return (
            f"CREATE TABLE {name} ({inside},\n    sum BLOB NOT NULL"
            f" GENERATED ALWAYS AS ({FUNCTION}({covered})) STORED\n){without_rowid};"
        )

    return _TABLE.sub(summed, schema)


def intact(columns: Sequence[str], alias: str) -> str:
    """An SQL expression: whether a row of the table that is called `alias` is as it was written."""
    return f"{alias}.sum IS {FUNCTION}({', '.join(f'{alias}.{name}' for name in columns)})"


def is_damage(error: sqlite3.Error) -> bool:
    """Whether `error` means text that is none any more: SQLite hands it over, Python refuses."""
    said = str(error)
    return "user-defined function raised" in said or "Could not decode" in said


def _text(value: str) -> bytes:
    # `verify` reads altered text, too, with its odd bytes as surrogates.
    return _sized(b"s", value.encode("utf-8", "surrogateescape"))


def _sized(kind: bytes, value: bytes) -> bytes:
    return b"%b%d;%b" % (kind, len(value), value)


_ENCODE: dict[type, Callable[[Any], bytes]] = {
    # SQLite keeps no sign of zero.
    float: lambda value: b"f" + _pack(value + 0.0),
    str: _text,
    bytes: lambda value: _sized(b"b", value),
}
