"""Tests every fault over a plain socket: its bytes and its bill are those that its line
promises."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.sandbox.faults import FAULTS
from tests.conftest import started_sandbox
from tests.support.plain_http import Wire, call, change, exchange, run, wait_until_back

RATE_HEADERS = (b"x-ratelimit-limit", b"x-ratelimit-remaining")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Runs one sandbox for the whole module, because each fault has a different body."""
    book = tmp_path_factory.mktemp("sandbox") / "book.sqlite"
    sandbox = started_sandbox(book=str(book), publish=["wf_job", ["story"]], limit=1_000_000)
    yield sandbox.port
    sandbox.stop()


def api_error(status: int, code: str | None = None) -> Callable[[Wire], bool]:
    def check(wire: Wire) -> bool:
        fields = json.loads(wire.body)
        return (
            (wire.status, wire.end) == (status, "open")
            and fields["success"] is False
            and isinstance(fields["error"], str)
            and fields.get("code") == code
        )

    return check


def page(status: int) -> Callable[[Wire], bool]:
    return lambda wire: wire.status == status and b"text/html" in wire.head and b"<h1>" in wire.body


def redirect(status: int) -> Callable[[Wire], bool]:
    return lambda wire: (
        wire.status == status and b"\r\nlocation: /api/v1/run/wf_redirected" in wire.head
    )


def ends(end: str, whole: bool = False) -> Callable[[Wire], bool]:
    """Returns a check that the connection ends this way, without a byte or after some of them."""
    return lambda wire: wire.end == end and bool(wire.data) is whole


def field(name: str, *expected: Any) -> Callable[[Wire], bool]:
    """Returns a check for a good answer except for that field, which is missing if no value is
    given."""

    def check(wire: Wire) -> bool:
        fields = json.loads(wire.body)
        value = [fields[name]] if name in fields else []
        return wire.status == 200 and fields["success"] is True and value == list(expected)

    return check


def headers(*expected: bytes) -> Callable[[Wire], bool]:
    def check(wire: Wire) -> bool:
        lines = dict(line.split(b": ", 1) for line in wire.head.split(b"\r\n")[1:])
        told = tuple(lines[name] for name in RATE_HEADERS if name in lines)
        return good(wire) and told == expected

    return check


def good(wire: Wire) -> bool:
    return wire.status == 200 and "#fault" in json.loads(wire.body)["result"]


def announced(wire: Wire) -> int:
    """Returns how many more bytes were announced than received."""
    length = next(line for line in wire.head.split(b"\r\n") if line.startswith(b"content-length: "))
    return int(length[16:]) - len(wire.body)


def readable(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


PROSE = "I found more than one answer."
URLS = ["https://example.com/a", "https://example.org/b?c=d"]
OBJECTS = [{"title": f"Source {url[-1]}", "url": url} for url in URLS]
GARBAGE = [7, None, "", {"href": "x"}, ["y"], True]

# For each fault: whether it is billed, and a check of the bytes on the wire.
EXPECTED: dict[str, tuple[bool, Callable[[Wire], bool]]] = {
    "json-500": (False, api_error(500, "internal_server_error")),
    "json-500-once": (False, api_error(500, "internal_server_error")),
    "run-failed": (False, api_error(500, "workflow_run_failed")),
    "blocked": (False, api_error(400, "request_blocked")),
    "success-false": (True, api_error(200)),
    "unauthorized-once": (False, api_error(401)),
    "rate-limited-once": (False, api_error(429)),
    "credits-out": (False, api_error(402, "invalid_billing")),
    "spend-limit": (False, api_error(402, "spend_limit_reached")),
    "html-408": (False, page(408)),
    "html-413": (False, page(413)),
    "html-499": (False, page(499)),
    "html-502": (False, page(502)),
    "html-503": (False, page(503)),
    "html-504": (False, page(504)),
    "html-502-billed": (True, page(502)),
    "html-504-billed": (True, page(504)),
    "redirect": (False, redirect(307)),
    "redirect-301": (False, redirect(301)),
    "redirect-302": (False, redirect(302)),
    "redirect-308": (False, redirect(308)),
    "restart": (False, ends("reset")),
    "reset": (False, ends("reset")),
    "reset-billed": (True, ends("reset")),
    "hang-up": (False, ends("closed")),
    "hang-up-billed": (True, ends("closed")),
    "cut-headers": (True, lambda wire: wire.end == "closed" and wire.data[-10:] == b"content-ty"),
    "cut-body": (True, lambda wire: wire.end == "closed" and announced(wire) > 20),
    "cut-chunked": (True, lambda wire: wire.end == "closed" and wire.data[-4:] == b'"}\r\n'),
    "length-too-long": (True, lambda wire: wire.end == "open" and announced(wire) == 100),
    "length-too-short": (True, lambda wire: readable(wire.body) and announced(wire) == -10),
    "idle-close": (True, lambda wire: wire.end == "closed" and good(wire)),
    "slow": (True, good),
    "hang": (False, ends("open")),
    "silent-billed": (True, ends("open")),
    "slow-drip": (True, lambda wire: wire.end == "open" and wire.body in b'{"success":true'),
    "empty-body": (True, lambda wire: (wire.status, wire.body, wire.end) == (200, b"", "open")),
    "not-json": (True, lambda wire: (wire.status, wire.body) == (200, b"ok")),
    "no-result": (True, field("result")),
    "result-prose": (True, field("result", PROSE)),
    "result-prose-once": (True, field("result", PROSE)),
    "result-number": (True, field("result", 42)),
    "result-object": (True, field("result", {"text": "as object"})),
    "result-list": (True, field("result", ["a", "b"])),
    "result-null": (True, field("result", None)),
    "result-empty": (True, field("result", "")),
    "result-surrogate": (True, field("result", "a\ud83d")),
    "result-encoded": (
        True,
        lambda wire: "#fault" in json.loads(json.loads(wire.body)["result"])["text"],
    ),
    "result-5mb": (True, field("result", "x" * 5_000_000)),
    "extra-fields": (True, lambda wire: good(wire) and b'"run_id":"run_1"' in wire.body),
    "citations-urls": (True, field("citations", URLS)),
    "citations-objects": (True, field("citations", OBJECTS)),
    "citations-null": (True, field("citations", None)),
    "citations-garbage": (True, field("citations", GARBAGE)),
    "citations-text": (True, field("citations", "see example.com")),
    "citations-10000": (True, lambda wire: len(json.loads(wire.body)["citations"]) == 10_000),
    "gzip-bomb": (True, lambda wire: b"\r\ncontent-encoding: gzip" in wire.head),
    "body-1gb": (True, lambda wire: announced(wire) > 500_000_000),
    "headers-missing": (True, headers()),
    "headers-zero": (True, headers(b"0", b"0")),
    "headers-negative": (True, headers(b"-50", b"-1")),
    "headers-huge": (True, headers(b"1" + b"0" * 30, b"9" * 30)),
    "headers-bad": (True, headers(b"many", b"NaN")),
}


# The test does not wait for the end of faults that keep a client waiting or busy.
PATIENCE: dict[str, dict[str, Any]] = {
    "hang": {"within_s": 0.6},
    "silent-billed": {"within_s": 0.6},
    "slow-drip": {"within_s": 0.6},
    "length-too-long": {"within_s": 0.6},
    "idle-close": {"quiet_s": 2.0},
    "gzip-bomb": {"most": 100},
}


def entry_of(port: int, body: dict[str, str]) -> dict[str, Any]:
    bills = call(port, "GET", "/_sandbox/bills").json()["bills"]
    return next(each for each in bills if json.loads(each["body"]) == body)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_sends_and_bills_what_its_line_says(port, name):
    """It compares the bytes, the end of the connection, and the book."""
    billed, as_it_says = EXPECTED[name]
    body = {"story": f"about #fault:{name}, once"}
    started = time.monotonic()
    wire = exchange(port, body, **PATIENCE.get(name, {}))
    assert name != "slow" or time.monotonic() - started > 2
    assert as_it_says(wire), (wire.data[:500], wire.data[-80:], wire.end)
    if name == "restart":
        wait_until_back(port)
    if name == "credits-out":
        assert run(port, {"story": "another"}).status == 402
        change(port, "credits", 1_000_000)
    entry = entry_of(port, body)
    assert (entry["received"], entry["billed"]) == (1, int(billed))
    assert FAULTS[name].billed is billed
    assert name in ("hang",) or sum(entry["answers"].values()) == 1


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.once])
def test_a_fault_of_the_first_time_only_does_not_happen_again(port, name):
    """The book remembers it."""
    body = {"story": f"twice #fault:{name}"}
    exchange(port, body)
    if name == "restart":
        wait_until_back(port)
    change(port, "credits", 1_000_000)
    assert [run(port, body).status for _ in range(2)] == [200, 200]
    assert entry_of(port, body)["billed"] == 2 + FAULTS[name].billed


def test_a_restart_refuses_connections_for_a_second(sandbox):
    """After that, the same body is run."""
    body = {"story": "#fault:restart"}
    assert exchange(sandbox.port, body).end == "reset"
    time.sleep(0.2)
    with pytest.raises(ConnectionRefusedError):
        exchange(sandbox.port, body)
    wait_until_back(sandbox.port)
    assert run(sandbox.port, body).status == 200


def test_a_run_that_hangs_ends_with_the_504_page_of_the_edge(start_sandbox):
    """It is not billed."""
    sandbox = start_sandbox(max_duration="300ms")
    assert run(sandbox.port, {"story": "#fault:hang"}).status == 504
    assert sandbox.bills()[0]["answers"] == {"504": 1}


def test_the_gzip_bomb_is_valid_gzip_of_a_gigabyte(sandbox):
    """About a megabyte is sent, and it unpacks to a normal answer."""
    got = run(sandbox.port, {"story": "#fault:gzip-bomb"})
    assert got.headers["content-encoding"] == "gzip"
    assert len(got.body) < 3_000_000
    unpacker, size, rest = zlib.decompressobj(31), 0, got.body
    first = unpacker.decompress(rest, 1000)
    size += len(first)
    while rest := unpacker.unconsumed_tail:
        last = unpacker.decompress(rest, 1 << 24)
        size += len(last)
    assert unpacker.eof, "checksum and length are right"
    assert first.startswith(b'{"success":true,"result":"xxx')
    assert last.endswith(b'xxx"}')
    assert size > 2**30


def test_bodies_of_a_gigabyte_need_no_memory_in_the_server(sandbox):
    """Each client reads only a part of such a body."""

    def resident_kb() -> int:
        status = Path(f"/proc/{sandbox.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    run(sandbox.port, {"story": "warm"})
    before = resident_kb()
    for name, most in [("body-1gb", 20_000_000), ("gzip-bomb", 500_000)] * 2:
        exchange(sandbox.port, {"story": f"#fault:{name}"}, most=most)
    assert resident_kb() - before < 20_000


def test_every_run_of_a_workflow_can_meet_a_fault(sandbox):
    """Its `fault` field or a marker in its template causes it."""
    sandbox.publish("wf_broken", "{{story}}", fault="html-502")
    assert {run(sandbox.port, {"story": str(n)}, "wf_broken").status for n in range(5)} == {502}
    sandbox.publish("wf_broken", "#fault:html-503 {{story}}")
    assert run(sandbox.port, {"story": "0"}, "wf_broken").status == 503
    assert run(sandbox.port, {"story": "x"}).status == 200


def test_a_share_of_all_bodies_is_spoilt_the_same_ones_each_time(start_sandbox):
    """So each rehearsal of a job fails in the same rows."""
    spoil = {"json-500": 0.2, "html-502": 0.1}
    seen = []
    for sandbox in (start_sandbox(spoil=spoil), start_sandbox(spoil=spoil)):
        seen.append([run(sandbox.port, {"story": str(n)}).status for n in range(200)])
    assert seen[0] == seen[1]
    assert 20 < seen[0].count(500) < 60
    assert 8 < seen[0].count(502) < 35
    assert set(seen[0]) == {200, 500, 502}


def test_the_server_works_after_every_spoilt_connection(port):
    """It still answers after all of the above."""
    assert run(port, {"story": "still there?"}).status == 200
