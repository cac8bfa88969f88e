"""Compares the sandbox with the API's page, by plain HTTP, and its book with its responses."""

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

# The examples of the API's page, unchanged.
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
    """Returns the example as a server writes it, with its keys in the same order."""
    return json.dumps(json.loads(example), separators=(",", ":")).encode()


def provoke(sandbox, status: int):
    """Causes the error with that status from the API's page, in the simplest way."""
    if status == 401:
        return run(sandbox.port, STORY, key="sk_wrong")
    if status == 402:
        sandbox.set_credits(0)
    if status == 429:
        change(sandbox.port, "limit", 0)
    if status == 500:
        return run(sandbox.port, {"story": "#fault:json-500"})
    return run(sandbox.port, STORY, "wf_abc123" if status == 404 else "wf_story")


def test_the_example_request_of_the_api_page_gets_the_answer_of_the_page(sandbox):
    """Uses the page's method, path, headers and body; compares keys, types and order of the
    answer."""
    got = run(sandbox.port, b'{"story": "a story about a dog named charlie"}')
    assert got.status == 200
    assert got.headers["content-type"] == "application/json"
    page = json.loads(PAGE_SUCCESS)
    assert list(got.json()) == [key for key in page if key != "citations"], "citations are optional"
    assert got.json()["success"] is True
    assert STORY["story"] in got.json()["result"]
    assert set(got.headers) >= RATE_HEADERS
    searched = run(sandbox.port, {"question": "why?"}, "wf_research").json()
    assert list(searched) == list(page)
    assert searched["citations"]
    assert all(url.startswith("https://example.") for url in searched["citations"])


@pytest.mark.parametrize("status", PAGE_ERRORS)
def test_each_error_of_the_api_page_is_sent_byte_for_byte(sandbox, status):
    """Its keys have the page's order, and it is never billed."""
    got = provoke(sandbox, status)
    assert got.status == status
    assert got.headers["content-type"] == "application/json"
    assert list(got.json().items()) == list(json.loads(PAGE_ERRORS[status]).items())
    assert got.body == compact(PAGE_ERRORS[status])
    assert not RATE_HEADERS & set(got.headers)
    assert sum(sandbox.billed().values()) == 0


def test_the_curl_line_of_the_api_page_works(sandbox):
    """Only host and key differ from the page."""
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


def test_only_a_bearer_token_of_the_account_is_a_valid_key(sandbox):
    """A change of the keys takes effect at once."""
    path = "/api/v1/run/wf_story"
    for key in (None, "", "sk_sandbox ", "SK_SANDBOX", "sk_sandbox,"):
        assert call(sandbox.port, "POST", path, STORY, key).status == 401
    change(sandbox.port, "keys", ["sk_other"])
    assert run(sandbox.port, STORY).status == 401
    assert run(sandbox.port, STORY, key="sk_other").status == 200


def test_the_checks_are_done_in_the_order_of_the_api(start_sandbox):
    """If several things are wrong, the first check decides."""
    sandbox = start_sandbox(limit=1, window="1h", credits=0)
    broken = b"not json"
    assert run(sandbox.port, broken, "wf_nowhere", "sk_wrong").status == 401
    assert run(sandbox.port, broken, "wf_nowhere").status == 402, "the 401 did not count"
    assert run(sandbox.port, broken, "wf_nowhere").status == 429, "the 402 counted"
    change(sandbox.port, "limit", 2)
    sandbox.set_credits(5)
    assert run(sandbox.port, broken, "wf_nowhere").status == 404, (
        "credits are checked before the workflow"
    )
    assert run(sandbox.port, broken).status == 429, "the 404 counted too"
    change(sandbox.port, "limit", 3)
    assert run(sandbox.port, broken).status == 500, "the body is checked last"
    assert sum(sandbox.billed().values()) == 0


def test_an_unpublished_workflow_gets_the_404_of_a_missing_one(sandbox):
    """It is the 404 of the API's page."""
    sandbox.publish("wf_draft", "{{story}}", published=False)
    assert run(sandbox.port, STORY, "wf_draft").body == compact(PAGE_ERRORS[404])
    sandbox.publish("wf_draft", "{{story}}")
    assert run(sandbox.port, STORY, "wf_draft").status == 200


def test_with_headers_every_all_responses_after_the_limiter_have_rate_limit_headers(start_sandbox):
    """A 401 comes before the limiter, and the edge's page does not come from the API."""
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


def test_remaining_requests_are_counted_when_a_request_arrives(start_sandbox):
    """Of three slow answers, the first request's says 2 remaining, whenever it is sent."""
    sandbox = start_sandbox(limit=3, window="1h", latency="500ms")
    with ThreadPoolExecutor(3) as pool:
        rests = []
        for n in range(3):
            rests.append(pool.submit(run, sandbox.port, {"story": str(n)}))
            time.sleep(0.1)
        assert [each.result().quota for each in rests] == [("3", "2"), ("3", "1"), ("3", "0")]


def test_while_the_limiters_store_is_down_answers_say_0_of_0(start_sandbox):
    """Every request is admitted then."""
    sandbox = start_sandbox(limit=1, window="1h")
    change(sandbox.port, "limit", {"store": "down"})
    assert {run(sandbox.port, STORY).quota for _ in range(3)} == {("0", "0")}
    change(sandbox.port, "limit", {"store": "up"})
    assert [run(sandbox.port, STORY).status for _ in range(2)] == [200, 429]


def test_the_limiter_can_be_changed_while_the_server_runs(start_sandbox):
    """A call below `/_sandbox` changes limit, window and kind."""
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
    """Within the workflow's cache time the answer is the same, without a bill or headers, but it
    counts for the rate limit."""
    sandbox = start_sandbox(limit=3, window="1h")
    sandbox.publish("wf_cached", "{{story}}", cache="1h", web_search=True)
    first, second = (run(sandbox.port, STORY, "wf_cached") for _ in range(2))
    assert first.body == second.body
    assert (first.quota, second.quota) == (("3", "2"), (None, None))
    other = run(sandbox.port, {"story": "another"}, "wf_cached")
    assert other.quota == ("3", "0"), "the cached answer counted"
    assert run(sandbox.port, STORY, "wf_cached").status == 429
    assert set(sandbox.billed().values()) == {1}


def test_the_cache_forgets_an_answer_after_its_time(sandbox):
    """A body that differs in one byte is not in the cache."""
    sandbox.publish("wf_cached", "{{story}}", cache="200ms")
    for body in (b'{"story":"a"}', b'{"story": "a"}'):
        assert run(sandbox.port, body, "wf_cached").quota != (None, None)
    time.sleep(0.25)
    assert run(sandbox.port, b'{"story":"a"}', "wf_cached").quota != (None, None)
    assert sorted(sandbox.billed().values()) == [1, 2]


def test_a_missing_variable_is_undefined_or_refused(start_sandbox):
    """The option decides. The text is billed, the refusal is not."""
    lenient, strict = start_sandbox(), start_sandbox(missing="error")
    got = run(lenient.port, {"name": "lamp", "tone": "warm"}, "wf_product")
    assert "What it has: undefined" in got.json()["result"]
    refused = run(strict.port, {"name": "lamp", "tone": "warm"}, "wf_product")
    assert (refused.status, refused.json()["code"]) == (400, "missing_input")
    assert "features" in refused.json()["error"]
    assert (sum(lenient.billed().values()), sum(strict.billed().values())) == (1, 0)


def test_a_body_that_is_not_a_map_of_texts_fails_as_on_other_servers(sandbox):
    """The client gets the API's 500, nothing is billed, and the server continues."""
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


def test_any_text_is_in_the_answer_as_it_was_sent(sandbox):
    """Characters that are special elsewhere are not special here."""
    texts = ["$& $$ \\1 {{story}}", "ünï 🦄", "\u2028", "\x00", "half \ud83d", "#fault:unknown", ""]
    for text in texts:
        assert text in run(sandbox.port, {"story": text}).json()["result"]
    assert list(sandbox.billed().values()) == [1] * len(texts)


def test_other_methods_and_paths_are_not_served(sandbox):
    """They get 405 and 404, and leave nothing in the book."""
    assert call(sandbox.port, "GET", "/api/v1/run/wf_story").status == 405
    assert call(sandbox.port, "POST", "/api/v1/run/", STORY).status == 404
    assert sandbox.bills() == []


def test_a_run_that_takes_too_long_gets_the_504_page_of_the_edge(start_sandbox):
    """The page is not the API's JSON. The run is ended and not billed."""
    sandbox = start_sandbox(latency="30s", max_duration="200ms")
    started = time.monotonic()
    got = run(sandbox.port, STORY)
    assert time.monotonic() - started < 5
    assert (got.status, got.headers["content-type"]) == (504, "text/html; charset=utf-8")
    assert b"<h1>504" in got.body
    assert sum(sandbox.billed().values()) == 0


def test_credits_depend_on_tokens_and_only_answers_cost_any(start_sandbox):
    """A long answer costs more than a short one, a failed run costs nothing."""
    sandbox = start_sandbox(credits=1000)
    run(sandbox.port, {"story": "short"})
    run(sandbox.port, {"story": "long " * 500})
    run(sandbox.port, {"story": "#fault:json-500"})
    short, long, failed = (entry["credits"] for entry in sandbox.bills())
    assert 1 == short < long
    assert failed == 0
    assert call(sandbox.port, "GET", "/_sandbox/bills").json()["credits"] == 1000 - short - long


def test_the_book_has_counts_times_and_answers_of_each_body(sandbox):
    """It counts requests, bills and responses by kind, and has first and last time, text and
    sources."""
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
    """Later requests are counted from zero."""
    run(sandbox.port, STORY)
    assert call(sandbox.port, "DELETE", "/_sandbox/bills").status == 204
    assert sandbox.bills() == []
    run(sandbox.port, STORY)
    assert sandbox.bills()[0]["received"] == 1


def test_a_run_is_billed_although_its_client_disconnected(start_sandbox):
    """The hosted API does the same: it takes the credits when the model has answered."""
    sandbox = start_sandbox(latency="500ms")
    with socket.create_connection(("127.0.0.1", sandbox.port)) as connection:
        connection.sendall(request_bytes(STORY))
        while not sandbox.received():
            time.sleep(0.01)
    assert sandbox.billed() == {json.dumps(STORY): 0}
    time.sleep(1.0)
    assert sandbox.billed() == {json.dumps(STORY): 1}


def test_a_body_that_arrives_incomplete_is_not_run(sandbox):
    """The client disconnects in the middle of it, although the received part is valid JSON."""
    whole = request_bytes(STORY)
    head, _, body = whole.partition(b"\r\n\r\n")
    longer = head.replace(b"%d" % len(body), b"%d" % (len(body) + 1)) + b"\r\n\r\n" + body
    with socket.create_connection(("127.0.0.1", sandbox.port)) as connection:
        connection.sendall(longer)
        time.sleep(0.1)
    time.sleep(0.1)
    assert sandbox.bills() == []


def test_kill_9_loses_no_bill_of_a_sent_answer(start_sandbox, tmp_path):
    """The server is killed under load five times with one book. Every 200 that a client received is
    in it."""
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
    """The run fails with the API's 500, and the server continues."""
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


def test_an_idle_connection_stays_open_for_the_given_time(start_sandbox):
    """A client that keeps connections must handle the end of this time."""
    sandbox = start_sandbox(idle="100ms")
    started = time.monotonic()
    got = exchange(sandbox.port, STORY, quiet_s=1)
    assert (got.status, got.end) == (200, "closed")
    assert 0.1 < time.monotonic() - started < 2
    assert exchange(start_sandbox().port, STORY, quiet_s=0.3).end == "open"


def test_a_server_that_is_away_refuses_connections_and_returns_on_its_port(sandbox):
    """It is away for the given time and has the same book afterwards."""
    run(sandbox.port, STORY)
    change(sandbox.port, "away", b"500ms")
    time.sleep(0.1)
    with pytest.raises(ConnectionRefusedError):
        run(sandbox.port, STORY)
    wait_until_back(sandbox.port)
    assert run(sandbox.port, STORY).status == 200
    assert sandbox.billed() == {json.dumps(STORY): 2}


def test_the_sandbox_ends_with_its_parent(start_sandbox):
    """Its standard input closes when the parent dies, whatever kills it."""
    sandbox = start_sandbox(latency="30s", forked=False)
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
def test_an_invalid_option_is_refused(options, says):
    """The message names valid values."""
    with pytest.raises(ValueError, match=re.escape(says)):
        serve(Options(**options))


def test_two_servers_cannot_have_one_port(sandbox):
    """The second one names the port."""
    with pytest.raises(OSError, match=f"port {sandbox.port} of 127.0.0.1"):
        serve(Options(port=sandbox.port))


def test_the_command_prints_a_curl_line_that_works(tmp_path):
    """It works when it is pasted into a shell."""
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
    """It ends after a second without a message. The waiting client sees a reset or a close."""
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


def test_the_command_refuses_wrong_options_in_one_line(tmp_path):
    """It ends with exit code 2 and prints no traceback."""
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


def test_the_help_lists_exactly_the_limiters_that_exist():
    """The command has its own list, so that its help needs no import."""
    assert list(LIMITERS) == list(KINDS)


def test_the_sandbox_imports_nothing_of_the_runner():
    """So the two cannot share a mistake."""
    code = (
        "import sys; import pipeline.sandbox.server, pipeline.sandbox.openai;"
        "print(*sorted(m for m in sys.modules if m.startswith('pipeline.') and "
        "not m.startswith('pipeline.sandbox')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.long(first=True)
def test_memory_stays_flat_over_200000_requests():
    """The benchmark prints the memory, and every request is billed once."""
    command = [sys.executable, "benchmarks/sandbox.py", "--requests", "200000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=True)
    memory_mb = [float(mb) for mb in re.findall(r"([0-9.]+) MB after", done.stdout)]
    assert memory_mb[1] - memory_mb[0] < 10, done.stdout
    billed, received = re.findall(r"billed ([0-9,]+) of ([0-9,]+) received", done.stdout)[0]
    assert billed == received, done.stdout
