"""Responses that may have been paid but are not results are stored, and written out on demand."""

from __future__ import annotations

import csv
import json

from tests.support.servers import Answer, Server, ok

TEXT = "the paid text, " * 4000 + "to its end"
PAGE = b"<html>" + b"busy " * 2000 + b"</html>"


def failing(body: bytes) -> Answer:
    """Answers by the text of the row. Each of these responses may be billed."""
    story = json.loads(body)["story"]
    if story == "refused":
        fields = {"success": False, "error": TEXT, "result": TEXT, "code": "run_blocked"}
        return 200, {}, json.dumps(fields).encode()
    return (502, {}, PAGE) if story == "lost" else ok(body)


def test_a_response_that_says_success_false_is_stored_whole_and_written_out(make_job, tmp_path):
    """A 200 with `success: false` may have been billed, so its text is not cut to one line."""
    with Server(failing) as server:
        job = make_job(server.url, rows=[["fine"], ["refused"], ["lost"]])
        assert job.run(expect=5)["by_code"] == {"gateway": 1, "run_blocked": 1}
        with (job.output / "failures.csv").open(newline="") as file:
            messages = [row["_error_message"] for row in csv.DictReader(file)]
        assert max(map(len, messages)) == 500
        bodies = tmp_path / "bodies"
        done = job.call("report", "--bodies", str(bodies))
        assert done.returncode == 0, done.stderr
        assert f"Responses that are not answers: 2, in {bodies}" in done.stdout
        kept = {path.name: path.read_bytes() for path in bodies.iterdir()}
        fields = json.loads(kept["row-2.txt"])
        assert (fields["error"], fields["result"]) == (TEXT, TEXT)
        assert kept == {"row-2.txt": failing(b'{"story":"refused"}')[2], "row-3.txt": PAGE}
        assert {path.stat().st_mode & 0o777 for path in bodies.iterdir()} == {0o600}
        # The failed row does not count as one that a later release may read.
        assert job.call("settle", "--reread").returncode == 0
        assert (job.status()["failed"], job.status()["ambiguous"]) == (1, 1)
        assert job.call("verify").returncode == 0


def test_a_stored_response_is_still_there_when_the_row_has_another_answer(make_job, tmp_path):
    """Two requests may have been paid for the row, so the user gets both responses."""
    with Server(failing) as server:
        job = make_job(server.url, rows=[["refused"]])
        job.run(expect=3)
        assert job.call("resume", "--yes", "--only", "run_blocked").returncode == 3
        server.answer = ok
        assert job.call("resume", "--yes", "--only", "run_blocked").returncode == 0
        bodies = tmp_path / "bodies"
        assert job.call("report", "--bodies", str(bodies)).returncode == 0
        assert sorted(path.name for path in bodies.iterdir()) == ["row-1-2.txt", "row-1.txt"]


def test_an_existing_folder_is_not_written_into(make_job, tmp_path):
    """Files of another job could be mistaken for files of this one."""
    with Server(failing) as server:
        job = make_job(server.url, rows=[["refused"]])
        job.run(expect=3)
    done = job.call("report", "--bodies", str(tmp_path))
    assert done.returncode == 2
    assert f"{tmp_path}: File exists. Name a new folder" in done.stderr
