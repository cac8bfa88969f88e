"""Tests which row is next: rows to send again, waiting rows, and rows that were not read yet."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.model import Row
from pipeline.policy.row_queue import RowQueue


def row(number: int) -> Row:
    return Row(number, bytes(16), bytes(16), 0, b"{}")


def read_into(read: list[int], last: int) -> Iterator[Row]:
    for number in range(1, last + 1):
        read.append(number)
        yield row(number)


def test_a_row_is_read_only_when_it_is_needed():
    """A sheet with a million rows is read while the run sends."""
    read: list[int] = []
    queue = RowQueue(read_into(read, 3))
    assert read == []
    assert queue.ready(0.0)
    assert queue.ready(0.0)
    assert read == [1]
    assert queue.take(0.0).number == 1
    assert read == [1]


def test_unread_rows_are_not_in_the_queue():
    """No row waits before the run has read the next one."""
    queue = RowQueue(read_into([], 1))
    assert not queue.holds_any
    queue.ready(0.0)
    assert queue.holds_any
    queue.take(0.0)
    assert not queue.ready(0.0)
    assert not queue.holds_any


def test_a_refused_row_that_is_due_is_next_and_its_refusal_is_not_a_failure():
    """A storm of 429s uses up no retries and keeps the order of the sheet."""
    queue = RowQueue(read_into([], 3))
    assert queue.ready(0.0)
    first = queue.take(0.0)
    assert queue.ready(0.0)  # the second is read ahead
    queue.refused(first, 0.0)
    assert (queue.failures(first), queue.refusals(first)) == (0, 1)
    taken = []
    while queue.ready(0.0):
        taken.append(queue.take(0.0).number)
    assert taken == [1, 2, 3]


def test_a_failed_row_waits_until_it_is_due_while_others_are_sent():
    """Due rows come before new rows, in the order in which they became due."""
    queue = RowQueue(read_into([], 4))
    rows = []
    for _ in range(3):
        assert queue.ready(0.0)
        rows.append(queue.take(0.0))
    queue.failed(rows[0], 20.0)
    queue.failed(rows[1], 10.0)
    queue.failed(rows[2], 10.0)
    assert queue.due_at == 10.0
    assert queue.holds_any
    assert queue.ready(9.9)
    assert queue.take(9.9).number == 4
    assert not queue.ready(9.9)
    assert queue.ready(10.0)
    assert [queue.take(10.0).number, queue.take(10.0).number] == [2, 3]
    assert not queue.ready(19.9)
    assert queue.due_at == 20.0
    assert queue.ready(20.0)
    assert queue.take(20.0).number == 1
    assert queue.due_at is None


def test_failures_are_counted_until_the_row_is_finished():
    """A row that is resumed in the same process has all its retries again."""
    queue = RowQueue([])
    queue.failed(row(1), 1.0)
    queue.failed(row(1), 2.0)
    queue.failed(row(2), 2.0)
    assert (queue.failures(row(1)), queue.failures(row(2))) == (2, 1)
    queue.refused(row(1), 3.0)
    assert queue.refusals(row(1)) == 1
    queue.finished(row(1))
    assert (queue.failures(row(1)), queue.failures(row(2))) == (0, 1)
    assert queue.refusals(row(1)) == 0
    queue.finished(row(3))


def test_a_refused_row_waits_until_it_is_due_while_others_are_sent():
    """One row that the server keeps refusing does not delay the others."""
    queue = RowQueue(read_into([], 2))
    assert queue.ready(0.0)
    first = queue.take(0.0)
    queue.refused(first, 0.25)
    assert queue.ready(0.1)
    assert queue.take(0.1).number == 2
    assert not queue.ready(0.2)
    assert queue.due_at == 0.25
    assert queue.ready(0.25)
    assert queue.take(0.25) is first
