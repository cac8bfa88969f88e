"""The sandbox against the API's page, by plain HTTP; its book against what was answered."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest

from pipeline.sandbox.command import LIMITERS
from pipeline.sandbox.limiters import KINDS
from pipeline.sandbox.server import Options, serve
from tests.support.plain_http import call, change, exchange, request_bytes, run, wait_until_back

# The page's examples, as they stand there.
PAGE_SUCCESS = """{
  "success": true,
  "result": "Once upon a time, there was a friendly dog named Charlie...",
  "citations": ["https://example.com/source"]
}"""
PAGE_ERRORS = {
    401: """{
  "error": "Unauthorized. Please provide a valid secret key.",
  "success": false
}""",
    402: """{
  "error": "No credits remaining. Please add credits to continue using the service.",
  "success": false,
  "code": "invalid_billing"
}""",
    404: """{
  "error": "Workflow not found",
  "success": false,
  "code": "workflow_not_found"
}""",
    429: """{
  "error": "Rate limit exceeded",
  "success": false
}""",
    500: """{
  "error": "Failed to run workflow",
  "success": false,
  "code": "internal_server_error"
}""",
}
STORY = {"story": "a story about a dog named charlie"}
RATE_HEADERS = {"x-ratelimit-limit", "x-ratelimit-remaining"}


def compact(example: str) -> bytes:
    """The example with its keys in their order, as a server writes it."""
    return json.dumps(json.loads(example), separators=(",", ":")).encode()


def provoke(sandbox, status: int):
    """The page's error with that status, by the most ordinary way to get it."""
    if status == 401:
        return run(sandbox.port, STORY, key="sk_wrong")
    if status == 402:
        sandbox.set_credits(0)
    if status == 429:
        change(sandbox.port, "limit", 0)
    if status == 500:
        return run(sandbox.port, {"story": "#fault:json-500"})
    return run(sandbox.port, STORY, "wf_abc123" if status == 404 else "wf_story")


def test_the_pages_example_request_is_answered_as_the_page_says(sandbox):
    """Method, path, both headers and body of the page; keys, types and order of its answer."""
    got = run(sandbox.port, b'{"story": "a story about a dog named charlie"}')
    assert got.status == 200
    assert got.headers["content-type"] == "application/json"
    page = json.loads(PAGE_SUCCESS)
    assert list(got.json()) == [key for key in page if key != "citations"], "citations: optional"
    assert got.json()["success"] is True
    assert STORY["story"] in got.json()["result"]
    assert set(got.headers) >= RATE_HEADERS
    searched = run(sandbox.port, {"question": "why?"}, "wf_research").json()
    assert list(searched) == list(page)
    assert searched["citations"]
    assert all(url.startswith("https://example.") for url in searched["citations"])


@pytest.mark.parametrize("status", PAGE_ERRORS)
def test_each_error_of_the_page_comes_byte_for_byte(sandbox, status):
    """Key by key in the page's order; never billed."""
    got = provoke(sandbox, status)
    assert got.status == status
    assert got.headers["content-type"] == "application/json"
    assert list(got.json().items()) == list(json.loads(PAGE_ERRORS[status]).items())
    assert got.body == compact(PAGE_ERRORS[status])
    assert not RATE_HEADERS & set(got.headers)
    assert sum(sandbox.billed().values()) == 0


def test_the_pages_curl_line_works(sandbox):
    """As it stands there, with another host and key."""
    command = [
        *("curl", "--silent", "--request", "POST"),
        *("--url", f"{sandbox.url}/api/v1/run/wf_story"),
        *("--header", "Authorization: Bearer sk_sandbox"),
        *("--header", "Content-Type: application/json"),
        *("--data", '{"story": "a story about a dog named charlie"}'),
    ]
    done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    assert json.loads(done.stdout)["success"] is True
    assert sum(sandbox.billed().values()) == 1


def test_a_key_has_to_be_a_bearer_token_of_the_account(sandbox):
    """Nothing else opens; a change of the keys counts at once."""
    path = "/api/v1/run/wf_story"
    for key in (None, "", "sk_sandbox ", "SK_SANDBOX", "sk_sandbox,"):
        assert call(sandbox.port, "POST", path, STORY, key).status == 401
    change(sandbox.port, "keys", ["sk_other"])
    assert run(sandbox.port, STORY).status == 401
    assert run(sandbox.port, STORY, key="sk_other").status == 200


def test_the_checks_come_in_their_order(start_sandbox):
    """Where several things are wrong the first of the list decides."""
    sandbox = start_sandbox(limit=1, window="1h", credits=0)
    broken = b"not json"
    assert run(sandbox.port, broken, "wf_nowhere", "sk_wrong").status == 401
    assert run(sandbox.port, broken, "wf_nowhere").status == 402, "a 401 used no rate"
    assert run(sandbox.port, broken, "wf_nowhere").status == 429, "a 402 did"
    change(sandbox.port, "limit", 2)
    sandbox.set_credits(5)
    assert run(sandbox.port, broken, "wf_nowhere").status == 404, "credits come before"
    assert run(sandbox.port, broken).status == 429, "a 404 used rate too"
    change(sandbox.port, "limit", 3)
    assert run(sandbox.port, broken).status == 500, "the body is read last"
    assert sum(sandbox.billed().values()) == 0


def test_a_workflow_that_is_not_published_is_not_there(sandbox):
    """The page's 404 for both."""
    sandbox.publish("wf_draft", "{{story}}", published=False)
    assert run(sandbox.port, STORY, "wf_draft").body == compact(PAGE_ERRORS[404])
    sandbox.publish("wf_draft", "{{story}}")
    assert run(sandbox.port, STORY, "wf_draft").status == 200


def test_every_answer_carries_the_headers_where_the_page_is_taken_at_its_word(start_sandbox):
    """All that the limiter has seen; the 401 it has not, and the edge's page is not the API's."""
    sandbox = start_sandbox(headers="every", limit=4, window="1h")
    assert run(sandbox.port, STORY).quota == ("4", "3")
    assert run(sandbox.port, STORY, "wf_nowhere").quota == ("4", "2")
    assert run(sandbox.port, [1]).quota == ("4", "1")
    assert run(sandbox.port, STORY, key="sk_wrong").quota == (None, None)
    change(sandbox.port, "limit", 6)
    assert run(sandbox.port, {"story": "#fault:json-500"}).quota == ("6", "2")
    assert run(sandbox.port, {"story": "#fault:html-502"}).quota == (None, None)
    sandbox.set_credits(0)
    assert run(sandbox.port, STORY).quota == ("6", "0")
    denied = run(sandbox.port, STORY)
    assert (denied.status, denied.quota) == (429, ("6", "0"))


def test_the_rest_is_counted_when_a_request_arrives(start_sandbox):
    """Of three answers that take long the first request's is told 2, whenever it comes."""
    sandbox = start_sandbox(limit=3, window="1h", latency="500ms")
    with ThreadPoolExecutor(3) as pool:
        rests = []
        for n in range(3):
            rests.append(pool.submit(run, sandbox.port, {"story": str(n)}))
            time.sleep(0.1)
        assert [each.result().quota for each in rests] == [("3", "2"), ("3", "1"), ("3", "0")]


def test_without_the_limiters_store_answers_say_0_of_0(start_sandbox):
    """And everything is let through."""
    sandbox = start_sandbox(limit=1, window="1h")
    change(sandbox.port, "limit", {"store": "down"})
    assert {run(sandbox.port, STORY).quota for _ in range(3)} == {("0", "0")}
    change(sandbox.port, "limit", {"store": "up"})
    assert [run(sandbox.port, STORY).status for _ in range(2)] == [200, 429]


def test_the_limiter_changes_while_it_runs(start_sandbox):
    """Limit, window and kind, by an administrator's call."""
    sandbox = start_sandbox(limit=2, window="1h", limiter="fixed-window")
    assert [run(sandbox.port, STORY).status for _ in range(3)] == [200, 200, 429]
    change(sandbox.port, "limit", 3)
    assert [run(sandbox.port, STORY).status for _ in range(2)] == [200, 429]
    change(sandbox.port, "limit", {"limiter": "sliding-log", "window": "800ms"})
    assert [run(sandbox.port, STORY).status for _ in range(4)] == [200, 200, 200, 429]
    time.sleep(0.9)
    assert run(sandbox.port, STORY).status == 200
    refused = call(sandbox.port, "PUT", "/_sandbox/limit", {"windows": "1s"})
    assert (refused.status, b"windows" in refused.body) == (400, True)


def test_an_equal_body_is_answered_from_the_cache(start_sandbox):
    """For the workflow's time: no bill, no headers, the same answer, but it uses rate."""
    sandbox = start_sandbox(limit=3, window="1h")
    sandbox.publish("wf_cached", "{{story}}", cache="1h", web_search=True)
    first, second = (run(sandbox.port, STORY, "wf_cached") for _ in range(2))
    assert first.body == second.body
    assert (first.quota, second.quota) == (("3", "2"), (None, None))
    other = run(sandbox.port, {"story": "another"}, "wf_cached")
    assert other.quota == ("3", "0"), "the cached one used rate"
    assert run(sandbox.port, STORY, "wf_cached").status == 429
    assert set(sandbox.billed().values()) == {1}


def test_the_cache_forgets_after_its_time(sandbox):
    """And what is not the same byte for byte was never in it."""
    sandbox.publish("wf_cached", "{{story}}", cache="200ms")
    for body in (b'{"story":"a"}', b'{"story": "a"}'):
        assert run(sandbox.port, body, "wf_cached").quota != (None, None)
    time.sleep(0.25)
    assert run(sandbox.port, b'{"story":"a"}', "wf_cached").quota != (None, None)
    assert sorted(sandbox.billed().values()) == [1, 2]


def test_a_missing_variable_is_undefined_or_refused(start_sandbox):
    """By option; the text is billed, the refusal is not."""
    lenient, strict = start_sandbox(), start_sandbox(missing="error")
    got = run(lenient.port, {"name": "lamp", "tone": "warm"}, "wf_product")
    assert "What it has: undefined" in got.json()["result"]
    refused = run(strict.port, {"name": "lamp", "tone": "warm"}, "wf_product")
    assert (refused.status, refused.json()["code"]) == (400, "missing_input")
    assert "features" in refused.json()["error"]
    assert (sum(lenient.billed().values()), sum(strict.billed().values())) == (1, 0)


def test_a_body_that_is_no_map_of_texts_fails_like_the_family(sandbox):
    """The page's 500, nothing billed, the server lives on."""
    for body in (
        b"",
        b"nonsense",
        b"[]",
        b'"text"',
        b'{"story": 7}',
        b'{"story": null}',
        b"\xff",
        b"[" * 99999,
    ):
        assert run(sandbox.port, body).body == compact(PAGE_ERRORS[500])
    assert sum(sandbox.billed().values()) == 0
    assert run(sandbox.port, STORY).status == 200


def test_text_comes_back_as_it_was_sent(sandbox):
    """Whatever is special elsewhere is not special here."""
    texts = ["$& $$ \\1 {{story}}", "ünï 🦄", "\u2028", "\x00", "half \ud83d", "#fault:unknown", ""]
    for text in texts:
        assert text in run(sandbox.port, {"story": text}).json()["result"]
    assert list(sandbox.billed().values()) == [1] * len(texts)


def test_other_methods_and_paths_are_not_served(sandbox):
    """405 and 404, without a trace in the book."""
    assert call(sandbox.port, "GET", "/api/v1/run/wf_story").status == 405
    assert call(sandbox.port, "POST", "/api/v1/run/", STORY).status == 404
    assert sandbox.bills() == []


def test_the_edge_answers_where_a_run_takes_too_long(start_sandbox):
    """Its own 504 page, not the API's JSON; the run is ended and not billed."""
    sandbox = start_sandbox(latency="30s", max_duration="200ms")
    started = time.monotonic()
    got = run(sandbox.port, STORY)
    assert time.monotonic() - started < 5
    assert (got.status, got.headers["content-type"]) == (504, "text/html; charset=utf-8")
    assert b"<h1>504" in got.body
    assert sum(sandbox.billed().values()) == 0


def test_credits_go_by_tokens_and_only_for_successes(start_sandbox):
    """A long answer costs more than a short one, a failed run nothing."""
    sandbox = start_sandbox(credits=1000)
    run(sandbox.port, {"story": "short"})
    run(sandbox.port, {"story": "long " * 500})
    run(sandbox.port, {"story": "#fault:json-500"})
    short, long, failed = (entry["credits"] for entry in sandbox.bills())
    assert 1 == short < long
    assert failed == 0
    assert call(sandbox.port, "GET", "/_sandbox/bills").json()["credits"] == 1000 - short - long


def test_the_book_says_of_each_body_how_often_when_and_what(sandbox):
    """Received and billed counts, answers by kind, first and last time, text and sources."""
    before = time.time()
    for _ in range(2):
        got = run(sandbox.port, {"question": "why?"}, "wf_research")
    run(sandbox.port, {"question": "#fault:reset-billed"}, "wf_story")
    change(sandbox.port, "limit", 0)
    run(sandbox.port, {"question": "why?"}, "wf_research")
    entry, spoilt = sandbox.bills()
    assert json.loads(entry["body"]) == {"question": "why?"}
    assert (entry["workflow"], entry["received"], entry["billed"]) == ("wf_research", 3, 2)
    assert entry["answers"] == {"200": 2, "429": 1}
    assert (entry["result"], entry["citations"]) == (got.json()["result"], got.json()["citations"])
    assert before < entry["first_received_at"] < entry["billed_at"] < entry["last_received_at"]
    assert spoilt["citations"] is None
    brief = call(sandbox.port, "GET", "/_sandbox/bills?entries=no").json()
    assert brief["totals"] == {
        "bodies": 2,
        "received": 4,
        "billed": 3,
        "credits": brief["totals"]["credits"],
    }
    assert "bills" not in brief


def test_a_reset_empties_the_book(sandbox):
    """And what comes next is new."""
    run(sandbox.port, STORY)
    assert call(sandbox.port, "DELETE", "/_sandbox/bills").status == 204
    assert sandbox.bills() == []
    run(sandbox.port, STORY)
    assert sandbox.bills()[0]["received"] == 1


def test_a_run_is_billed_although_its_client_has_gone(start_sandbox):
    """As at the hosted one: credits are taken when the model has answered."""
    sandbox = start_sandbox(latency="500ms")
    with socket.create_connection(("127.0.0.1", sandbox.port)) as connection:
        connection.sendall(request_bytes(STORY))
        while not sandbox.received():
            time.sleep(0.01)
    assert sandbox.billed() == {json.dumps(STORY): 0}
    time.sleep(1.0)
    assert sandbox.billed() == {json.dumps(STORY): 1}


def test_a_body_that_does_not_come_whole_is_not_run(sandbox):
    """Its client has gone in the middle of it; though what came is good JSON."""
    whole = request_bytes(STORY)
    head, _, body = whole.partition(b"\r\n\r\n")
    longer = head.replace(b"%d" % len(body), b"%d" % (len(body) + 1)) + b"\r\n\r\n" + body
    with socket.create_connection(("127.0.0.1", sandbox.port)) as connection:
        connection.sendall(longer)
        time.sleep(0.1)
    time.sleep(0.1)
    assert sandbox.bills() == []


def test_kill_9_loses_no_bill_that_was_answered(start_sandbox, tmp_path):
    """Killed under load five times on one book; every 200 that a client saw is in it."""
    book, answered = str(tmp_path / "book.sqlite"), []

    def client(port: int, name: str) -> None:
        for n in range(10_000):
            story = f"{name}-{n}"
            try:
                got = run(port, {"story": story})
            except (OSError, HTTPException):
                return
            if got.status == 200:
                answered.append(json.dumps({"story": story}))

    for round_ in range(5):
        sandbox = start_sandbox(book=book)
        clients = [
            threading.Thread(target=client, args=(sandbox.port, f"{round_}-{n}")) for n in range(4)
        ]
        for each in clients:
            each.start()
        time.sleep(0.3)
        sandbox.process.send_signal(signal.SIGKILL)
        for each in clients:
            each.join()
    billed = start_sandbox(book=book).billed()
    assert len(answered) > 200
    assert [body for body in answered if billed.get(body) != 1] == []


def test_a_book_that_cannot_be_written_bills_nothing(start_sandbox, tmp_path):
    """The run fails by the page's 500, and the server lives on."""
    sandbox = start_sandbox(book=str(tmp_path / "book.sqlite"))
    with sqlite3.connect(sandbox.book, isolation_level=None) as db:
        db.execute(
            "CREATE TRIGGER full BEFORE UPDATE OF billed ON book BEGIN"
            " SELECT raise(ABORT, 'no space'); END"
        )
        assert run(sandbox.port, STORY).body == compact(PAGE_ERRORS[500])
        db.execute("DROP TRIGGER full")
        assert run(sandbox.port, STORY).status == 200
    db.close()
    assert sum(sandbox.billed().values()) == 1


def test_an_idle_connection_is_kept_as_long_as_it_is_told(start_sandbox):
    """`idle` is what a client that keeps connections has to survive."""
    sandbox = start_sandbox(idle="100ms")
    started = time.monotonic()
    got = exchange(sandbox.port, STORY, quiet_s=1)
    assert (got.status, got.end) == (200, "closed")
    assert 0.1 < time.monotonic() - started < 2
    assert exchange(start_sandbox().port, STORY, quiet_s=0.3).end == "open"


def test_a_server_that_is_away_refuses_and_comes_back_on_its_port(sandbox):
    """For the time that it was told; its book is the same one."""
    run(sandbox.port, STORY)
    change(sandbox.port, "away", b"500ms")
    time.sleep(0.1)
    with pytest.raises(ConnectionRefusedError):
        run(sandbox.port, STORY)
    wait_until_back(sandbox.port)
    assert run(sandbox.port, STORY).status == 200
    assert sandbox.billed() == {json.dumps(STORY): 2}


def test_the_sandbox_ends_with_its_parent(start_sandbox):
    """Its standard input closes when the parent dies, however it dies."""
    sandbox = start_sandbox(latency="30s")
    sandbox.process.stdin.close()
    assert sandbox.process.wait(timeout=5) == 0
    sandbox.process.stdin = None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": "1"}, "'1' is not a length of time. Write it like 500ms"),
        ({"latency": "gauss:1s"}, "is not a latency. Write it like 2s"),
        ({"limiter": "leaky"}, "Write one of sliding-window"),
        ({"headers": "none"}, "Write success or every"),
        ({"missing": "fail"}, "Write undefined or error"),
        ({"model_url": "http://127.0.0.1:1"}, "Add --model"),
        ({"spoil": {"html-599": 0.1}}, "There is no fault 'html-599'"),
        ({"spoil": {"html-502": 0.6, "html-503": 0.6}}, "more than 100 %"),
        ({"workflows": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"book": "/dev/null/book"}, "Name another file with --book"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options, says):
    """With what would."""
    with pytest.raises(ValueError, match=re.escape(says)):
        serve(Options(**options))


def test_two_servers_cannot_have_one_port(sandbox):
    """The second says which port it is."""
    with pytest.raises(OSError, match=f"port {sandbox.port} of 127.0.0.1"):
        serve(Options(port=sandbox.port))


def test_the_command_prints_a_curl_line_that_works(tmp_path):
    """Pasted into a shell as it stands."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "sandbox", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    try:
        lines = [process.stdout.readline() for _ in range(10)]
        line = next(line.strip() for line in lines if line.strip().startswith("curl "))
        done = subprocess.run(line, shell=True, capture_output=True, timeout=20, check=True)
        assert json.loads(done.stdout)["success"] is True
        assert "sk_sandbox" in lines[0]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        process.stdout.close()


def test_ctrl_c_ends_the_command_although_a_run_hangs(tmp_path):
    """After a second and in silence; the client that waits is told by a reset or a close."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "sandbox", "--port", "0", "--book", "b.sqlite"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    port = int(re.search(r":(\d+) with", process.stdout.readline())[1])
    with ThreadPoolExecutor(1) as pool:
        hangs = pool.submit(exchange, port, {"story": "#fault:hang"}, within_s=8)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert hangs.result().end in ("closed", "reset")
    assert (process.returncode, said) == (0, "")


def test_the_command_refuses_in_one_line(tmp_path):
    """Exit 2, no traceback."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("workflows: {wf_a: {tempalte: x}}", encoding="utf-8")
    for options in (["--workflows", str(wrong)], ["--spoil", "html-502"], ["--window", "x"]):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "sandbox", "--port", "0", *options],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith("pipeline: ")


def test_help_lists_no_limiter_that_is_not_there():
    """The command names them itself, so that its help needs no import."""
    assert list(LIMITERS) == list(KINDS)


def test_the_sandbox_stands_alone():
    """It imports nothing of the runner, so that no mistake of it agrees with itself."""
    code = (
        "import sys; import pipeline.sandbox.server, pipeline.sandbox.openai;"
        "print(*sorted(m for m in sys.modules if m.startswith('pipeline.') and "
        "not m.startswith('pipeline.sandbox')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.long(first=True)
def test_memory_stays_flat_over_200000_requests():
    """As the benchmark prints it, and every request is billed once."""
    command = [sys.executable, "benchmarks/sandbox.py", "--requests", "200000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=True)
    memory_mb = [float(mb) for mb in re.findall(r"([0-9.]+) MB after", done.stdout)]
    assert memory_mb[1] - memory_mb[0] < 10, done.stdout
    billed, received = re.findall(r"billed ([0-9,]+) of ([0-9,]+) received", done.stdout)[0]
    assert billed == received, done.stdout
