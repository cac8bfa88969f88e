"""A checksum of every row of every table of the ledger, which no SQL statement can forget.

SQLite notices a page with a damaged structure, but not a changed byte within a value. So each table
has a column `sum`: 8 bytes of BLAKE2b over all other columns. SQLite computes and stores it
whenever it writes a row. A connection without the function `row_sum` cannot write to these tables.

A correct sum shows that a row is as it was written. An UPDATE gives the row a new sum, which would
hide earlier damage. So code that updates a row that it did not write itself checks the sum first.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from hashlib import blake2b
from typing import Any

FUNCTION = "row_sum"
SUM_BYTES = 8

_TABLE = re.compile(r"CREATE TABLE (\w+) \((.*?)\n?\)( WITHOUT ROWID)?;", re.DOTALL)
_HASH = blake2b(digest_size=SUM_BYTES)  # a copy takes a third of the time of another one
_pack = struct.Struct("<cd").pack
# Most numbers of a row are small, and to write one again takes four times as long as to look it up.
_SMALL = [b"i%d;" % value for value in range(1000)]


def row_sum(*values: Any) -> bytes:
    """Returns the checksum of a row's values, in the order of its columns.

    The hashed bytes contain each value with its type, and each text and blob with its length, so
    different rows give different bytes. The result is the same on every machine and Python, because
    ledgers move between them.
    """
    encoded = []
    # A function for each type would be shorter, but its call takes as long as the encoding.
    for value in values:
        kind = type(value)
        if kind is int:
            encoded.append(_SMALL[value] if 0 <= value < len(_SMALL) else b"i%d;" % value)
        elif value is None:
            encoded.append(b"n")
        elif kind is float:
            encoded.append(_pack(b"f", value + 0.0))  # SQLite does not store the sign of zero
        elif kind is str:
            # `verify` reads altered text too, with its invalid bytes as surrogates.
            text = value.encode("utf-8", "surrogateescape")
            encoded.append(b"s%d;%b" % (len(text), text))
        else:
            encoded.append(b"b%d;%b" % (len(value), value))
    digest = _HASH.copy()
    digest.update(b"".join(encoded))
    return digest.digest()


def register(db: sqlite3.Connection) -> None:
    """Enables a connection to write tables with checksums and to check them."""
    db.create_function(FUNCTION, -1, row_sum, deterministic=True)
    # Without this pragma no schema may call a function of the application, and Python cannot mark
    # one as harmless. Another check limits what a schema can call: `schema.check_version` refuses
    # every ledger with other tables than the runner's before any statement runs on them.
    db.execute("PRAGMA trusted_schema = ON")


def columns_of(schema: str) -> dict[str, tuple[str, ...]]:
    """Returns the columns of each table that the SQL in `schema` creates, without `sum`."""
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
    """Returns for each table that the SQL in `schema` creates an SQL expression, with ``{0}`` for
    the table's alias: whether the values of a row have the types of their columns, and its numbers
    are within the range that a run can write.

    Checksums do not show this: SQLite stores a text in a column of numbers, with a correct sum.
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


# REAL: times in seconds since 1970 for the years 68 to 8307. INTEGER: numbers that a float can hold
# exactly.
_RANGES = {"REAL": ("-6e10", "2e11"), "INTEGER": (0, 1 << 53)}


def with_sums(schema: str) -> str:
    """Returns the SQL in `schema` with the column `sum` in each table."""
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
    """Returns an SQL expression: whether a row of the table `alias` has a correct checksum."""
    return f"{alias}.sum IS {FUNCTION}({', '.join(f'{alias}.{name}' for name in columns)})"


def is_damage(error: sqlite3.Error) -> bool:
    """Tells whether `error` means that stored text is no longer valid UTF-8: SQLite returns such
    bytes, but Python cannot decode them."""
    message = str(error)
    return "user-defined function raised" in message or "Could not decode" in message
