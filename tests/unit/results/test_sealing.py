"""Sealing: after a crash at any step, the same rows end in the same parts."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.core.clock import SystemClock
from pipeline.core.errors import StorageFailed
from pipeline.core.model import Outcome, Reply, Row, State, Verdict
from pipeline.ledger import matching, queries
from pipeline.ledger.ledger import SqliteLedger, open_ledger
from pipeline.ledger.queries import Part
from pipeline.results.schema import RESULTS_SCHEMA
from pipeline.results.sealing import EMPTY_PART, Sealer
from pipeline.system.files import sha256_of

PAID = Outcome(Verdict.OK, http_status=200, maybe_paid=True)


def answered(ledger: SqliteLedger, answers: list[object], first: int = 1) -> None:
    """Writes ok attempts with these answers, in one run."""

    async def go() -> None:
        for number, answer in enumerate(answers, start=first):
            key = number.to_bytes(16, "big")
            row = Row(number, key, key, 0, b'{"story":"%d"}' % number, f"id-{number}")
            body = json.dumps(answer).encode("utf-8", "surrogatepass")
            attempt = await ledger.intend(row)
            await ledger.conclude(attempt, PAID, Reply(1, 2.5, 200, {}, body), State.OK)

    ledger.read(matching.begin)
    ledger.begin_run(f"run-{first}", "s", len(answers), 0)
    asyncio.run(go())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = tmp_path / "results"
    results.mkdir()
    return results


@pytest.fixture
def ledger(tmp_path: Path):
    with open_ledger(tmp_path / "ledger.sqlite", SystemClock()) as opened:
        yield opened


def texts(count: int) -> list[object]:
    return [{"success": True, "result": f"text {n}"} for n in range(count)]


def test_the_folder_is_a_table_before_the_first_row_and_after(ledger, folder):
    """With the same schema. Sealed answers leave the ledger."""
    sealer = Sealer(ledger, folder, "wf_x")
    sealer.recover()
    assert list(pd.read_parquet(folder).columns) == RESULTS_SCHEMA.names
    answered(ledger, texts(3))
    assert sealer.seal_all() == 1
    assert sealer.seal_all() == 0
    table = pd.read_parquet(folder)
    assert list(table["result"]) == ["text 0", "text 1", "text 2"]
    assert list(table["id"]) == ["id-1", "id-2", "id-3"]
    assert list(table["variables"]) == [f'{{"story":"{n}"}}' for n in (1, 2, 3)]
    assert set(table["latency_s"]) == {1.5}
    left = ledger.read(lambda db: db.execute("SELECT count(*) FROM payloads").fetchone()[0])
    assert left == ledger.read(lambda db: db.execute("SELECT count(*) FROM requests").fetchone()[0])
    assert left == 0


def test_a_crash_after_each_step_of_sealing_leaves_every_row_once(ledger, folder):
    """After naming the part, writing the draft, and renaming it; and with a torn file."""
    answered(ledger, texts(5))
    sealer = Sealer(ledger, folder, "wf_x")
    sealer.recover()
    number, first, last = ledger.next_part(2, 10**9)
    content = sealer._content(first, last)
    name = f"part-{number:05d}.parquet"
    for state in ("named", "draft", "renamed", "torn"):
        ledger.name_part(Part(number, name, first, last, "0" * 64))
        if state == "draft":
            (folder / f".{name}").write_bytes(content[:100])
        elif state == "renamed":
            (folder / name).write_bytes(content)
        elif state == "torn":
            (folder / name).write_bytes(content[: len(content) // 2])
        Sealer(ledger, folder, "wf_x").recover()
        assert sorted(p.name for p in folder.iterdir()) == [EMPTY_PART, name]
        assert sorted(pd.read_parquet(folder)["row"]) == [1, 2]
        # Another release of the Parquet library may make other bytes than the named ones.
        [sealed] = ledger.read(queries.sealed_parts)
        assert sealed.sha256 == sha256_of(folder / name)
        ledger.read(lambda db: db.execute("UPDATE parts SET sealed = 0 WHERE part = 1"))
        _unseal(ledger, first, last)
    Sealer(ledger, folder, "wf_x").recover()
    sealer.seal_all()
    assert sorted(pd.read_parquet(folder)["row"]) == [1, 2, 3, 4, 5]


def test_a_part_whose_sealing_failed_is_finished_before_the_next_one(ledger, folder):
    """As when another program had the ledger's lock: its answers must not be in two parts."""
    answered(ledger, texts(5))
    sealer = Sealer(ledger, folder, "wf_x")
    number, first, last = ledger.next_part(3, 10**9)
    content = sealer._content(first, last)
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"part-{number:05d}.parquet"
    ledger.name_part(Part(number, name, first, last, sha256))
    (folder / name).write_bytes(content)
    sealer.seal_all()
    assert sorted(pd.read_parquet(folder)["row"]) == [1, 2, 3, 4, 5]
    assert [part.rows for part in ledger.read(queries.sealed_parts)] == [3, 2]


def _unseal(ledger: SqliteLedger, first: int, last: int) -> None:
    """Restores the payloads, as they were before the part was sealed."""

    def operation(db) -> None:
        for seq in range(first, last + 1):
            body = json.dumps(texts(5)[seq - 1]).encode()
            db.execute("INSERT INTO payloads VALUES (?, ?, ?)", (seq, seq, body))
            db.execute("INSERT INTO requests VALUES (?, ?)", (seq, b'{"story":"%d"}' % seq))

    ledger.read(operation)


def test_an_answer_that_is_missing_from_the_ledger_stops_the_sealing(ledger, folder):
    """The part must not be shorter without notice."""
    answered(ledger, texts(3))
    ledger.read(lambda db: db.execute("DELETE FROM requests WHERE row_id = 2"))
    with pytest.raises(StorageFailed, match="2 of the 3 answers"):
        Sealer(ledger, folder, "wf_x").seal_all()


def test_odd_answers_are_flagged_and_keep_their_content(ledger, folder):
    """Numbers, objects, surrogates, odd citations and unknown fields."""
    answered(
        ledger,
        [
            {"success": True, "result": 42},
            {"success": True, "result": {"a": [1]}, "citations": "x"},
            {"success": True, "result": "half \ud83d of a pair", "usage": {"tokens": 3}},
            {"success": True, "result": "", "citations": [{"url": "u", "title": "t"}, 7, "v"]},
        ],
    )
    Sealer(ledger, folder, "wf_x").seal_all()
    rows = pq.read_table(folder).to_pylist()
    assert [row["result"] for row in rows] == ["42", '{"a":[1]}', "half \ufffd of a pair", ""]
    assert [sorted(row["flags"]) for row in rows] == [
        ["result_not_text"],
        ["citations_odd", "result_not_text"],
        ["result_repaired"],
        ["citations_odd", "empty"],
    ]
    assert json.loads(rows[2]["extra"]) == {
        "usage": {"tokens": 3},
        "result": "half \ud83d of a pair",
    }
    assert rows[3]["citations"] == [{"title": "t", "url": "u"}, {"title": "", "url": "v"}]
    assert rows[0]["citations"] == []


def test_answers_are_divided_into_parts_by_number_and_by_size(ledger, folder):
    """A big answer gets its own part. No answer is missing."""
    big = {"success": True, "result": "x" * 17_000_000}
    answered(ledger, [*texts(2), big, *texts(2)])
    assert Sealer(ledger, folder, "wf_x").seal_all() == 3
    assert sorted(pd.read_parquet(folder, columns=["row"])["row"]) == [1, 2, 3, 4, 5]
    parts = ledger.read(queries.sealed_parts)
    assert [part.name for part in parts] == [f"part-{n:05d}.parquet" for n in (1, 2, 3)]
    assert [part.rows for part in parts] == [2, 1, 2]


def test_a_folder_that_cannot_be_written_stops_the_sealing_and_loses_nothing(ledger, tmp_path):
    """The answers stay in the ledger, and the next run seals them."""
    answered(ledger, texts(2))
    with pytest.raises(StorageFailed, match="safe in the ledger"):
        Sealer(ledger, tmp_path / "nowhere", "wf_x").seal_all()
    (tmp_path / "nowhere").mkdir()
    again = Sealer(ledger, tmp_path / "nowhere", "wf_x")
    again.recover()
    again.seal_all()
    assert len(pd.read_parquet(tmp_path / "nowhere")) == 2


def test_every_column_of_a_part_has_the_values_of_the_ledger(ledger, folder):
    """Names, numbers and times of one answer, and the part's compression and permissions."""
    before = datetime.now(UTC)
    answered(ledger, [{"success": True, "result": "text", "citations": ["u"], "more": 1}])
    Sealer(ledger, folder, "wf_x").seal_all()
    part = folder / "part-00001.parquet"
    [row] = pq.read_table(part).to_pylist()
    sent_at, finished_at = row.pop("sent_at"), row.pop("finished_at")
    assert before - timedelta(seconds=2) <= sent_at <= finished_at <= datetime.now(UTC)
    assert row == {
        "row": 1,
        "id": "id-1",
        "row_key": (1).to_bytes(16, "big").hex(),
        "version": 1,
        "run_id": "run-1",
        "workflow": "wf_x",
        "variables": '{"story":"1"}',
        "result": "text",
        "citations": [{"title": "", "url": "u"}],
        "citations_raw": '["u"]',
        "extra": '{"more":1}',
        "flags": [],
        "http_status": 200,
        "attempts": 1,
        "latency_s": 1.5,
    }
    columns = pq.ParquetFile(part).metadata.row_group(0)
    used = {columns.column(n).compression for n in range(columns.num_columns)}
    assert used == {"ZSTD"}
    assert part.stat().st_mode & 0o777 == 0o600


def test_a_reader_of_a_part_with_changed_bytes_gets_an_error(ledger, folder):
    """Each page has a checksum, which a reader can verify."""
    answered(ledger, texts(50))
    Sealer(ledger, folder, "wf_x").seal_all()
    part = folder / "part-00001.parquet"
    column = pq.ParquetFile(part).metadata.row_group(0).column(RESULTS_SCHEMA.names.index("result"))
    content = bytearray(part.read_bytes())
    # The last byte of the column's last page is in its data, not in a header.
    first = column.dictionary_page_offset or column.data_page_offset
    content[first + column.total_compressed_size - 1] ^= 1
    part.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(part, page_checksum_verification=True).read(columns=["result"])
