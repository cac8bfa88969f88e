"""What the page finds among the rows is what an export has, whatever happens to the index."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.core.errors import Refused, StorageFailed
from pipeline.job.job import find_job
from pipeline.show.finder import Finder
from tests.conftest import Job, ended
from tests.support.browser import eventually
from tests.support.found import compare, found, same
from tests.support.servers import Answer, Server

COLUMNS = ["sku", "story", "note"]
NOTES = ["Straße", "STRASSE", "ab", "b", "İstanbul", "", "ünï", "a\nb", "<b>"]
SHEET = [[f"S{n}", f"story {n}", NOTES[n % len(NOTES)]] for n in range(60)]
SPEC = {
    "id": "sku",
    "variables": {"story": "story"},
    "where": [{"column": "note", "empty": True, "not": True}],
    "columns": {"name": "$.name", "size": {"path": "$.size", "type": "integer"}},
}
SAME = "The same long answer for several rows, which nobody wants to read twice."


def answer(body: bytes) -> Answer:
    """Some answers are JSON, every third is the same, and some rows are blocked."""
    number = int(json.loads(body)["story"].split()[1])
    if number % 9 == 4:
        return 400, {}, b'{"success": false, "error": "no", "code": "request_blocked"}'
    size: object = number if number % 2 else "big"
    text = SAME if number % 3 == 0 else json.dumps({"name": f"Dog {number}", "size": size})
    return 200, {}, json.dumps({"success": True, "result": text, "citations": []}).encode()


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Iterator[Job]:
    place = tmp_path_factory.mktemp("found")
    made = Job(place, place / "job.yaml", place / "sheet.csv", "")
    with Server(answer) as server:
        made.base_url = server.url
        made.write_spec(**SPEC)
        made.write_sheet(COLUMNS, SHEET)
        made.call("run", "--limit", "20", "--quiet")
        made.call("run", "--limit", "25", "--quiet")
        pipeline.review_job(find_job(made.spec), "approved", rows=pipeline.parse_rows("2"))
        yield made


def job_of(make_job, server: Server, rows: list[list[str]], **fields) -> Job:
    made = make_job(server.url)
    made.write_spec(**SPEC, **fields)
    made.write_sheet(COLUMNS, rows)
    return made


def texts_of(exported: pd.DataFrame, names: list[str]) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in exported[names].fillna("").values.tolist()]


@pytest.fixture(scope="module")
def exported(job) -> pd.DataFrame:
    path = job.folder / "out.csv"
    assert job.call("export", "--to", str(path), "--quiet").returncode == 0
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def finder(job) -> Finder:
    return Finder(find_job(job.spec))


def test_every_filter_finds_what_a_plain_reading_finds(job, finder):
    compare(finder, find_job(job.spec), random.Random(1))
    assert same(finder, find_job(job.spec), flags=("repeated",)) > 5
    assert same(finder, find_job(job.spec), flags=("type:size",)) > 5
    assert same(finder, find_job(job.spec), reviews=("approved",)) == 1
    assert same(finder, find_job(job.spec), statuses=("failed",), codes=("request_blocked",)) > 1


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([None, "sku", "story", "note", "result", "name"]),
    st.text("aAbBsSßẞİıdog 1\n<ü", min_size=1, max_size=4) | st.sampled_from(["STRASSE", "Dog 1"]),
    st.sampled_from([None, "ok", "failed", "pending", "skipped"]),
)
def test_a_text_is_found_where_the_export_has_it(job, finder, exported, column, text, status):
    """In capital or small letters, never across two cells, and together with a status."""
    names = [*COLUMNS, "result"] if column is None else [column]
    rows = texts_of(exported, names)
    fits = [any(text.casefold() in cell.casefold() for cell in row) for row in rows]
    if status:
        fits = [one and word == status for one, word in zip(fits, exported["_status"], strict=True)]
    expected = [row for row, one in enumerate(fits, start=1) if one]
    choice = {"find": text, "find_in": column, "statuses": (status,) if status else ()}
    assert [row.row for row in found(finder, **choice).rows] == expected
    assert [one.row for one in pipeline.show_job(find_job(job.spec), **choice)] == expected


def test_a_word_that_the_job_does_not_have_is_refused(finder):
    for choice in (
        {"statuses": ("fine",)},
        {"codes": ("nonsense",)},
        {"flags": ("nonsense",)},
        {"ids": ("S999",)},
        {"find": "x", "find_in": "price"},
    ):
        with pytest.raises(Refused, match=r"no "):
            finder.find(pipeline.show.choice.Choice(**choice))


def damage(path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "gone":
            path.unlink()
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "garbage":
            path.write_bytes(os.urandom(len(content)))
        case "one byte":
            path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        case "a folder":
            path.unlink()
            path.mkdir()
        case "a FIFO":
            path.unlink()
            os.mkfifo(path)
        case "a link":
            path.unlink()
            path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "how", ["gone", "cut", "empty", "garbage", "one byte", "a folder", "a FIFO", "a link"]
)
def test_a_damaged_index_is_made_again(job, how):
    """For a finder that has used it, and for a new one."""
    known = find_job(job.spec)
    used = Finder(known)
    found(used)
    files = sorted((job.output / "index").iterdir())
    assert files
    for path in files:
        damage(path, how)
    compare(used, known, random.Random(2))
    compare(Finder(known), known, random.Random(2))
    for path in (job.output / "index").iterdir():
        if path.is_dir():
            path.rmdir()
        elif not path.is_file():
            path.unlink()


def test_the_index_of_another_job_is_not_used(job, tmp_path):
    """Neither its files under the names of this one, nor the same file with other columns."""
    known = find_job(job.spec)
    found(Finder(known))
    files = {path.name: path.read_bytes() for path in (job.output / "index").iterdir()}
    parts = sorted(name for name in files if name.startswith("part"))
    assert len(parts) > 1
    for one, other in zip(parts, reversed(parts), strict=True):
        (job.output / "index" / one).write_bytes(files[other])
    compare(Finder(known), known, random.Random(3))
    fewer = tmp_path / "job.yaml"
    text = job.spec.read_text().replace('"size"', '"bulk"')
    fewer.write_text(text.replace('"sheet.csv"', json.dumps(str(job.sheet))))
    with fewer.open("a") as file:
        file.write(f"output: {json.dumps(str(job.output))}\n")
    other = find_job(fewer)
    assert same(Finder(other), other, find="big", find_in="bulk") == 0
    assert same(Finder(other), other, flags=("type:bulk",)) > 5
    compare(Finder(known), known, random.Random(3))


def test_two_pages_make_the_index_at_once(job):
    known = find_job(job.spec)
    shutil.rmtree(job.output / "index", ignore_errors=True)
    finders = [Finder(known) for _ in range(4)]
    totals: list[int] = []
    work = [
        threading.Thread(target=lambda one=one: totals.append(found(one, find="dog").total))
        for one in finders
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(totals) == 4
    assert len(set(totals)) == 1
    compare(finders[0], known, random.Random(4))


def test_a_link_at_the_place_of_the_index_is_not_followed(job, tmp_path):
    """The runner would write and delete elsewhere."""
    known, index, kept = find_job(job.spec), job.output / "index", tmp_path / "part-00001"
    kept.write_text("mine")
    shutil.rmtree(index, ignore_errors=True)
    index.symlink_to(tmp_path)
    try:
        compare(Finder(known), known, random.Random(5))
        assert [path.name for path in tmp_path.iterdir()] == [kept.name]
        assert kept.read_text() == "mine"
    finally:
        index.unlink()


def test_the_index_is_private_and_small_changes_leave_the_rest(job):
    known, index = find_job(job.spec), job.output / "index"
    found(Finder(known))
    assert index.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in index.iterdir()} == {0o600}
    before = {path.name: path.stat().st_mtime_ns for path in index.iterdir()}
    (index / "part-99999").write_text("of a part that is gone")
    (index / "notes.txt").write_text("not a file of the index")
    found(Finder(known))
    after = {path.name: path.stat().st_mtime_ns for path in index.iterdir()}
    assert after.keys() - before.keys() == {"notes.txt"}
    assert {name: after[name] for name in before} == before
    (index / "notes.txt").unlink()


def test_a_run_folder_that_cannot_be_written_is_searched_too(job, tmp_path):
    """As on a read-only disk. The index is in memory then."""
    known, index = find_job(job.spec), job.output / "index"
    shutil.rmtree(index, ignore_errors=True)
    index.write_text("a file is in the way, which root cannot write into either")
    try:
        finder = Finder(known)
        compare(finder, known, random.Random(6))
        assert index.is_file()
    finally:
        index.unlink()


def test_rows_of_an_active_run_are_shown_as_they_are_now(make_job):
    """One finder sees the rows pending, in flight, answered and sealed."""
    with Server(answer) as server:
        server.holding = True
        job = job_of(make_job, server, SHEET[:12], concurrency=4)
        process = job.start()
        with ended(process):
            eventually(lambda: server.in_flight == 4)
            known = find_job(job.spec)
            finder = Finder(known)
            compare(finder, known, random.Random(7))
            assert found(finder, statuses=("pending",)).total == 11
            server.holding = False
            eventually(lambda: found(finder, statuses=("ok",)).total >= 8)
            process.wait()
        compare(finder, known, random.Random(8))
        assert found(finder, statuses=("pending",)).total == 0


def test_a_finder_follows_a_sorted_sheet_and_new_reviews(make_job):
    with Server(answer) as server:
        job = job_of(make_job, server, SHEET[:20])
        job.call("run", "--quiet")
        known = find_job(job.spec)
        finder = Finder(known)
        compare(finder, known, random.Random(9))
        for row, word, text in ((1, "edited", "Grüße by a person"), (4, "rejected", None)):
            rows = pipeline.parse_rows(str(row))
            pipeline.review_job(known, word, rows=rows, text=text, yes=True)
            compare(finder, known, random.Random(10))
        assert [row.row for row in found(finder, find="GRÜSSE").rows] == [1]
        assert found(finder, find=SAME[:12]).total == same(finder, known, find=SAME[:12])
        job.write_sheet(COLUMNS, [["S99", "story 99", "new"], *SHEET[:20][::-1]])
        job.call("run", "--quiet")
        compare(finder, known, random.Random(11))
        assert [row.row for row in found(finder, find="GRÜSSE").rows] == [21]


def test_a_sheet_with_the_columns_of_an_export_is_searched_too(make_job):
    with Server(answer) as server:
        job = job_of(make_job, server, SHEET[:12])
        job.call("run", "--quiet")
        exported = job.folder / "back.csv"
        assert job.call("export", "--to", str(exported), "--quiet").returncode == 0
        exported.replace(job.sheet)
        job.call("run", "--quiet")
        known = find_job(job.spec)
        compare(Finder(known), known, random.Random(12))


def test_an_altered_record_of_a_shown_row_is_refused(make_job):
    """A page does not check the whole ledger, but each row that it shows."""
    with Server(answer) as server:
        job = job_of(make_job, server, SHEET[:12])
        job.call("run", "--quiet")
    known = find_job(job.spec)
    finder = Finder(known)
    total = found(finder, statuses=("failed",)).total
    alter(known.folder.ledger, b"request_blocked", b"request_blockeD")
    with pytest.raises(StorageFailed, match="damaged"):
        found(Finder(known), statuses=("failed",), count=total)


def alter(ledger, before: bytes, after: bytes) -> None:
    """Changes bytes of the file, as a disk might."""
    content = ledger.read_bytes()
    assert before in content
    ledger.write_bytes(content.replace(before, after))


def test_a_finder_reads_one_row_as_show_does(sandbox, make_job):
    """With its requests, its versions, the edits of a person and its cells."""
    rows = [["a", "1"], ["b #fault:blocked", "2"], ["c #fault:cut-body", "3"], ["d", "4"]]
    job = make_job(sandbox.url, ["story", "n"], rows, concurrency=1)
    job.write_spec(variables={"story": "story"}, columns={"title": "$.title"})
    job.call("run", "--limit", "3")
    job.run("--again", "1", "--yes", "--limit", "3")
    found = pipeline.find_job(job.spec)
    pipeline.review_job(found, "edited", rows=pipeline.parse_rows("1"), text="Mine.")
    finder = Finder(found)
    for number, shown in enumerate(pipeline.show_job(found, versions=True), 1):
        whole = finder.row(number)
        assert whole.cells == dict(zip(["story", "n"], rows[number - 1], strict=True))
        if len(shown.versions) < 2:
            shown = replace(shown, versions=())
        assert whole.row == shown
    assert len(finder.row(1).row.versions) == 2
    for number in (0, 5, 10**9):
        with pytest.raises(Refused):
            finder.row(number)
