"""The reviews of a run folder: each decision of a person about an answer, in reviews.sqlite.

People review while a run is active, so the file has its own lock, and SQLite's write-ahead log
lets a run read while a person writes. A decision is only added, never changed. Its id is one more
than that of the decision before. Each row has a checksum that covers the id of the run folder, so a
row of another folder, an altered row and a missing row are found.

The last decision may be missing without a trace. So a run records in the ledger the last one that
it had read, and every later command refuses a file without it: with an older file, a run would pay
again for approved answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import DiskRefused, Locked, Refused, StorageFailed
from pipeline.core.model import Clock
from pipeline.core.review import Decision, Review, Standing
from pipeline.job.run_folder import RunFolder
from pipeline.ledger import checksums, queries, wal
from pipeline.ledger.reader import Read
from pipeline.ledger.schema import PATIENCE_S, bound, connect, is_busy
from pipeline.system.files import open_private, sync_folder

VERSION = 1
_TABLE = """
CREATE TABLE reviews (
    review_id INTEGER PRIMARY KEY, folder TEXT NOT NULL, attempt_id INTEGER NOT NULL,
    digest TEXT NOT NULL, part TEXT, decision TEXT NOT NULL, text TEXT, decided_at REAL NOT NULL
);
"""
_COLUMNS = checksums.columns_of(_TABLE)["reviews"]
_WHOLE = (
    f"({checksums.intact(_COLUMNS, 'r')} AND {checksums.kinds_of(_TABLE)['reviews'].format('r')})"
)
_DIGEST_BYTES = 8
_ASKED_AT_ONCE = 500
_ANSWER_ID = re.compile(r"a-([0-9a-f]{32})-([0-9]{1,15})-([0-9a-f]{16})(?:-r([0-9]{1,15}))?")

_Row = tuple[int, int, str, str | None, Decision]
_DECISIONS = {str(decision): decision for decision in Decision}


def digest_of(answer: str) -> str:
    """Returns the digest of an answer's text that a review stores."""
    return blake2b(answer.encode(), digest_size=_DIGEST_BYTES).hexdigest()


class AnswerId(NamedTuple):
    """The name of an answer in a review sheet. `last` is the last review of the answer when the
    sheet was written, so that an old sheet does not undo a newer decision."""

    folder_id: str
    attempt_id: int
    digest: str
    last: int = 0

    def __str__(self) -> str:
        end = f"-r{self.last}" if self.last else ""
        return f"a-{self.folder_id}-{self.attempt_id}-{self.digest}{end}"


def parsed_answer_id(text: str) -> AnswerId | None:
    """Returns the answer that `text` names, None for any other text."""
    found = _ANSWER_ID.fullmatch(text.strip())
    if found is None:
        return None
    return AnswerId(found[1], int(found[2]), found[3], int(found[4] or 0))


@dataclass(frozen=True)
class Reviews:
    """The reviews of one run folder, as they were when they were read.

    `last` is the id of the last one, 0 before the first. `standing` has the decisions about each
    answer, by the id of the attempt that brought it.
    """

    path: Path
    folder_id: str
    last: int = 0
    standing: Mapping[int, Standing] = field(default_factory=dict)

    @cached_property
    def protected(self) -> frozenset[int]:
        """The attempts whose answers are approved or edited."""
        return frozenset(n for n, standing in self.standing.items() if standing.protected)

    def with_decision(self, decision: Decision) -> frozenset[int]:
        """Returns the attempts whose answers have a decision."""
        return frozenset(n for n, one in self.standing.items() if one.decision is decision)

    def texts(self, review_ids: Iterable[int]) -> dict[int, str]:
        """Returns the texts of edits by the ids of their reviews.

        Raises:
            StorageFailed: when one of them was altered.
        """
        wanted = list(review_ids)
        found: dict[int, str] = {}
        if not wanted:
            return found
        with _viewing(self.path) as db:
            for start in range(0, len(wanted), _ASKED_AT_ONCE):
                ids = json.dumps(wanted[start : start + _ASKED_AT_ONCE])
                rows = db.execute(_TEXTS, (ids,)).fetchall() if db else []
                found |= {review_id: text for review_id, text, whole in rows if whole}
        if len(found) != len(wanted) or None in found.values():
            raise damaged(self.path, "an edit is not as it was saved")
        return found

    def at(self, attempt_id: int, last: int) -> Standing:
        """Returns the decisions about an answer up to the review `last`.

        Raises:
            StorageFailed: when one of them was altered.
        """
        now = self.standing.get(attempt_id, Standing(""))
        if last >= now.last:
            return now
        found = Standing(now.digest)
        for review_id, part, decision in self._by_attempt[attempt_id]:
            if review_id <= last:
                found = found.after(review_id, decision, part)
        return found

    @cached_property
    def _by_attempt(self) -> Mapping[int, list[tuple[int, str | None, Decision]]]:
        """Every decision about each answer, the oldest first. Read once: a sheet asks per line."""
        found = defaultdict(list)
        with _viewing(self.path) as db:
            for review_id, attempt_id, _, part, decision in _rows(db, replace(self, last=0)):
                found[attempt_id].append((review_id, part, decision))
        return found

    def newer(self) -> Reviews:
        """Returns these reviews with those that were added since. Does not wait for a lock.

        Raises:
            StorageFailed: when one of them was altered.
            Locked: when another program has locked the file.
        """
        found = _read(self, patience_s=0.0)
        if self.last and not self.path.exists():
            raise damaged(self.path, "it is missing")
        return found


NO_REVIEWS = Reviews(Path(), "")


def read_reviews(folder: RunFolder, read: Read) -> Reviews:
    """Returns the reviews of a run folder. Its view of the ledger must be older than this call.

    Raises:
        StorageFailed: when the file is damaged or altered, belongs to another folder, or is missing
            or older than the one that a run has read.
        Locked: when another program has locked the file.
    """
    found = _read(Reviews(folder.reviews, read(queries.meta(queries.FOLDER_ID)) or ""))
    last_read = read(queries.last_review_read)
    if found.last < last_read:
        problem = "is missing" if not found.path.exists() else "is older than the last run"
        raise StorageFailed(
            f"{found.path}: the file with the reviews {problem}: a run has read review {last_read},"
            f" and this file ends with {found.last}. Without the reviews, a run could pay again "
            "for approved answers. Nothing was sent. Restore the file from a copy that was made "
            "after the last run."
        )
    return found


def add_reviews(
    folder: RunFolder,
    read: Read,
    reviews: Sequence[Review],
    clock: Clock,
    known: Reviews | None = None,
) -> int:
    """Stores decisions durably, all or none. Returns the id of the last one.

    The ledger must have the id of its folder. Waits for other reviewers, but never for a run.
    `known` are the reviews on which these decisions are based.

    Raises:
        Refused: when somebody has decided about one of these answers after `known` was read.
        StorageFailed: as `read_reviews`, or when the disk refuses the write. Nothing was saved.
        Locked: when another process keeps the file locked.
    """
    path, folder_id = folder.reviews, read(queries.meta(queries.FOLDER_ID))
    assert folder_id is not None
    with _locked(folder.review_lock):
        now = read_reviews(folder, read)
        if known is not None:
            _refuse_overtaken(path, known, now, {one.attempt_id for one in reviews})
        try:
            return _write(path, folder_id, reviews, clock.wall())
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and is_busy(error):
                raise _busy(path) from error
            raise DiskRefused(
                f"{path}: the disk refused this review ({error}). It was not saved. Check whether "
                "the disk is full or read-only, then run the command again."
            ) from error


def _refuse_overtaken(path: Path, known: Reviews, now: Reviews, attempts: set[int]) -> None:
    none = Standing("")
    newer = [
        n for n in attempts if known.standing.get(n, none).last != now.standing.get(n, none).last
    ]
    if newer:
        raise Refused(
            f"{path}: somebody has just decided about {len(newer)} of these answers. "
            "Run the command again: it then names them."
        )


def _write(path: Path, folder_id: str, reviews: Sequence[Review], now: float) -> int:
    if not path.exists():
        open_private(path).close()
    with closing(connect(path, read_only=False)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for pragma in ("synchronous = FULL", "fullfsync = ON", "checkpoint_fullfsync = ON"):
            db.execute(f"PRAGMA {pragma}")
        db.execute("BEGIN IMMEDIATE")
        if not _version(db):
            for statement in (checksums.with_sums(_TABLE), f"PRAGMA user_version = {VERSION}"):
                db.execute(statement)
        db.executemany(
            "INSERT INTO reviews (folder, attempt_id, digest, part, decision, text, decided_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (folder_id, one.attempt_id, one.digest, one.column, one.decision, one.text, now)
                for one in reviews
            ],
        )
        [last] = db.execute("SELECT max(review_id) FROM reviews").fetchone()
        db.execute("COMMIT")
        sync_folder(path.parent)  # the first review creates the file
        return int(last)


def _read(before: Reviews, patience_s: float = PATIENCE_S) -> Reviews:
    """Returns the reviews in a file, of which `before` was read already."""
    standing, last = dict(before.standing), before.last
    with _viewing(before.path, patience_s) as db:
        for review_id, attempt_id, digest, part, decision in _rows(db, before):
            if review_id != last + 1:
                raise damaged(before.path, f"review {last + 1} is missing")
            known = standing.get(attempt_id) or Standing(digest)
            standing[attempt_id] = known.after(review_id, decision, part)
            last = review_id
    return Reviews(before.path, before.folder_id, last, standing)


def _rows(db: sqlite3.Connection | None, before: Reviews) -> Iterator[_Row]:
    if db is None:
        return
    for number, attempt_id, digest, part, word, folder, has_text, whole in db.execute(
        _NEWER, (before.last,)
    ):
        decision = _DECISIONS.get(word)
        if not whole or decision is None or has_text != (decision is Decision.EDITED):
            raise damaged(before.path, f"review {number} is not as it was saved")
        if folder != before.folder_id:
            raise damaged(before.path, "it belongs to another run folder")
        yield number, attempt_id, digest, part, decision


_NEWER = (
    "SELECT review_id, attempt_id, digest, part, decision, folder, text IS NOT NULL,"
    f" {_WHOLE} FROM reviews r WHERE review_id > ? ORDER BY review_id"
)
_TEXTS = (
    f"SELECT review_id, text, {_WHOLE} FROM reviews r"
    " WHERE review_id IN (SELECT value FROM json_each(?))"
)


@contextmanager
def _viewing(path: Path, patience_s: float = PATIENCE_S) -> Iterator[sqlite3.Connection | None]:
    """Opens one view of the file. Yields None if there is none, or if a kill left it empty.

    Raises:
        StorageFailed: when it is no file of reviews, or SQLite finds damage.
        Locked: when another program has locked it for longer than `patience_s`.
    """
    log = path.with_name(f"{path.name}-wal")
    if not path.exists():
        if log.exists():
            raise damaged(path, "it is missing, and its log (-wal) is there")
        yield None
        return
    if wal.is_damaged(path):
        raise damaged(path, "the log of its last writes (-wal) is damaged")
    with ExitStack() as stack:
        try:
            yield _view(path, log, patience_s, stack)
        except (sqlite3.Error, UnicodeError) as error:
            if isinstance(error, sqlite3.Error) and is_busy(error):
                raise _busy(path) from error
            raise damaged(path, str(error)) from error


def _view(path: Path, log: Path, patience_s: float, stack: ExitStack) -> sqlite3.Connection | None:
    def opened(*, resting: bool) -> sqlite3.Connection | None:
        db = stack.enter_context(closing(connect(path, read_only=True, resting=resting)))
        db.execute(f"PRAGMA busy_timeout = {round(patience_s * 1000)}")
        db.execute("BEGIN")
        return db if _version(db, path) else None

    try:
        return opened(resting=False)
    except sqlite3.OperationalError as error:
        # A full or read-only disk has no room for the file that SQLite makes for its readers.
        if is_busy(error) or (log.exists() and log.stat().st_size):
            raise
        return opened(resting=True)


def _version(db: sqlite3.Connection, path: Path | None = None) -> int:
    """Returns the version of the table, 0 for an empty file. Looks at the definitions before it
    runs any statement on them, because another person may have made the file."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if path is None:
        return version
    if version > VERSION:
        raise Refused(f"{path}: a newer release wrote these reviews. Upgrade the runner.")
    found = db.execute("SELECT sql FROM sqlite_schema LIMIT 2").fetchall()
    made = checksums.with_sums(_TABLE).strip().removesuffix(";")
    if found != ([(made,)] if version else []):
        raise damaged(path, "it is not a file that `pipeline review` made")
    bound(db, path)
    return version


def damaged(path: Path, problem: str) -> StorageFailed:
    """Returns the exception for a file of reviews that cannot be trusted."""
    return StorageFailed(
        f"{path}: the runner cannot use these reviews: {problem}. Without them, a run could pay "
        "again for approved answers. Nothing was sent. Restore the file from a copy of this run "
        "folder."
    )


def _busy(path: Path) -> Locked:
    return Locked(
        f"{path}: another program has locked the reviews, for example a database editor. Close the "
        "file there, then try again. Nothing was sent."
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one reviewer write at a time."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise DiskRefused(
            f"{path}: the runner cannot open this lock ({error.strerror}). Nothing was saved."
        ) from None
    try:
        _take(fd, path)
        yield
    finally:
        os.close(fd)


def _take(fd: int, path: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > until:
            raise Locked(f"{path}: another review is being saved. Nothing was saved. Try again.")
        time.sleep(0.02)


def count_reviews(folder: RunFolder, read: Read) -> dict[str, int]:
    """Counts the rows of the sheet whose answers have a decision, by the decision.

    Raises:
        StorageFailed: as `read_reviews`.
    """
    reviews = read_reviews(folder, read)
    rows = read(queries.reviewed_rows(reviews.standing)) if reviews.standing else []
    counted = {one.row_id: one for one in rows if one.last}
    counted |= {one.row_id: one for one in rows if one.attempt_id in reviews.protected}
    found: Counter[Decision | None] = Counter()
    for one in counted.values():
        found[reviews.standing[one.attempt_id].decision] += one.rows
    return {str(word): found[word] for word in Decision if found[word]}
