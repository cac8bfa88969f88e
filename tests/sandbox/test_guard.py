"""Tests who can use a sandbox: no web page, and no other user of the machine."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.sandbox import peer
from pipeline.sandbox.spawn import Spawned, spawned_sandbox
from pipeline.system.children import start_python
from tests.conftest import closed_port, ended
from tests.support.plain_http import call, run

RUN = "/api/v1/run/wf_story"
CALLS = [
    ("GET", "bills"),
    ("DELETE", "bills"),
    *(("PUT", what) for what in ("credits", "keys", "limit", "workflows", "away")),
]


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    """Returns the status of one request with exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in ({"content_length": str(len(body))} | headers).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def spawned(tmp_path):
    """Starts a sandbox as `run --sandbox` does."""
    with spawned_sandbox("wf_story", ["story"], tmp_path / "book.sqlite", start_python) as one:
        yield one


def port_of(spawned: Spawned) -> int:
    return int(spawned.url.rpartition(":")[2])


def test_a_spawned_sandbox_accepts_only_its_random_key(spawned):
    """Every user of the machine knows the documented key."""
    port = port_of(spawned)
    body = {"story": "a secret of the sheet"}
    assert [run(port, body, key=key).status for key in (None, "", "sk_sandbox", spawned.token)] == (
        [401] * 4
    )
    assert run(port, body, key=spawned.key).status == 200
    assert len(spawned.key) > 40


@pytest.mark.parametrize(("method", "what"), CALLS)
def test_a_spawned_sandbox_shows_and_changes_nothing_without_its_token(spawned, method, what):
    """Its bills contain the rows that were sent."""
    port = port_of(spawned)
    run(port, {"story": "a secret of the sheet"}, key=spawned.key)
    for key in (None, "", "sk_sandbox", spawned.key):
        got = call(port, method, f"/_sandbox/{what}", b"1", key)
        assert got.status == 401
        assert b"secret" not in got.body
    bills = call(port, "GET", "/_sandbox/bills", key=spawned.token).json()["bills"]
    assert [entry["received"] for entry in bills] == [1]


def test_two_spawned_sandboxes_have_different_keys_and_tokens(spawned, tmp_path):
    """Neither keys nor tokens are in a command line."""
    book = tmp_path / "other.sqlite"
    with spawned_sandbox("wf_story", ["story"], book, start_python) as other:
        assert len({spawned.key, other.key, spawned.token, other.token}) == 4
        words = subprocess.run(
            ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout
    assert "pipeline.sandbox.server" in words
    assert not any(secret in words for secret in (other.key, other.token))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example"])
def test_a_host_name_that_a_web_page_made_point_here_is_refused(sandbox, host):
    """This is DNS rebinding: the browser believes that the sandbox is the page's own server."""
    named = host.format(port=sandbox.port)
    key = f"Bearer {sandbox.key}"
    for method, path in (("POST", RUN), *((m, f"/_sandbox/{what}") for m, what in CALLS)):
        assert ask(sandbox.port, method, path, b"1", host=named, authorization=key) == 403
    assert ask(sandbox.port, "POST", RUN, b"{}", authorization=key) == 403, "without a Host"
    assert sandbox.bills() == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_request_from_a_web_page_is_refused(sandbox, origin):
    """A page can send one without permission, but it cannot leave out its `Origin`."""
    here = {"host": f"127.0.0.1:{sandbox.port}", "origin": origin}
    key = f"Bearer {sandbox.key}"
    for method, path in (("POST", RUN), *((m, f"/_sandbox/{what}") for m, what in CALLS)):
        assert ask(sandbox.port, method, path, b"1", authorization=key, **here) == 403
    assert sandbox.bills() == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8017", "LOCALHOST"])
def test_programs_of_this_machine_are_served(sandbox, host):
    """The port in `Host` may differ, as behind a tunnel."""
    key = f"Bearer {sandbox.key}"
    body = b'{"story": "a dog"}'
    assert ask(sandbox.port, "POST", RUN, body, host=host, authorization=key) == 200


def test_a_request_without_a_valid_key_is_not_stored(sandbox):
    """Each has a megabyte, and the book has none of them. The client still gets its 401."""
    size = sandbox.book.stat().st_size
    for number in range(20):
        body = {"story": f"{number}" + "x" * 1_000_000}
        assert run(sandbox.port, body, key="sk_wrong").status == 401
    assert sandbox.bills() == []
    assert sandbox.statuses() == {"401": 20}
    log = sandbox.book.with_name(f"{sandbox.book.name}-wal")
    assert sandbox.book.stat().st_size + log.stat().st_size < size + 1_000_000


def test_no_other_user_can_spend_the_key_of_a_model(start_sandbox, monkeypatch):
    """With such a key in its environment, the server has a random key and a random token."""
    monkeypatch.setenv("SANDBOX_MODEL_KEY", "mk-1")
    model = {"model_url": f"http://127.0.0.1:{closed_port()}/v1", "model": "small"}
    sandbox = start_sandbox(**model)
    assert run(sandbox.port, {"story": "a dog"}).status == 401
    assert run(sandbox.port, {"story": "a dog"}, key=sandbox.key).status == 500, "the model is away"
    assert call(sandbox.port, "PUT", "/_sandbox/keys", ["sk_sandbox"]).status == 401
    assert call(sandbox.port, "GET", "/_sandbox/bills").status == 401
    assert sandbox.received() == 1


def test_keys_from_the_users_file_are_valid_for_a_model_too(start_sandbox, monkeypatch, tmp_path):
    """Only the documented key is not."""
    monkeypatch.setenv("SANDBOX_MODEL_KEY", "mk-1")
    file = tmp_path / "own.yaml"
    file.write_text('keys: [a-key-of-mine, sk_sandbox]\nworkflows: {wf_story: {template: "x"}}\n')
    model = {"model_url": f"http://127.0.0.1:{closed_port()}/v1", "model": "small"}
    sandbox = start_sandbox(workflows=str(file), **model)
    assert run(sandbox.port, {}, key="a-key-of-mine").status == 500
    assert run(sandbox.port, {}).status == 401


def test_the_command_says_how_to_use_a_sandbox_with_a_model(monkeypatch):
    """It prints key and token, and both work."""
    monkeypatch.setenv("SANDBOX_MODEL_KEY", "mk-1")
    pipeline = str(Path(sys.executable).with_name("pipeline"))
    words = ["--model-url", f"http://127.0.0.1:{closed_port()}/v1", "--model", "small"]
    process = subprocess.Popen(
        [pipeline, "sandbox", "--port", "0", *words], stdout=subprocess.PIPE, text=True
    )
    with ended(process):
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "new at each start" in line:
                break
        text = "".join(said)
        url = text.partition("The sandbox is at ")[2].split()[0]
        [curl] = [line for line in said if "/_sandbox/bills" in line]
        header = curl.split("'")[1]
        name, value = header.split(": ")
        asked = urllib.request.Request(f"{url}/_sandbox/bills", headers={name: value})
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert json.loads(answer.read())["bills"] == []
        process.stdout.close()


ANOTHER = """
import encodings.idna, http.client, os, sys
os.setuid(int(sys.argv[2]))
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=20)
try:
    connection.request("GET", "/_sandbox/bills")
    print(connection.getresponse().status)
except ConnectionError:
    print("hung up")
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="takes another user's place, as root can"
)
@pytest.mark.parametrize(("user", "met"), [(65534, "hung up"), (0, "200")])
def test_another_user_of_the_machine_is_not_served(sandbox, user, met):
    """The key of `pipeline sandbox` is documented, but the sandbox serves only root and the same
    user."""
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER, str(sandbox.port), str(user)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{met}\n", done.stderr


LEAVING = """
import contextlib, encodings.idna, os, socket, struct, sys
port, user, end = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setuid(user)
PUT = b"PUT /_sandbox/credits HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nContent-Length: 3\\r\\n\\r\\n777"
RUN = (
    b"POST /api/v1/run/wf_story HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n"
    b"Authorization: Bearer sk_sandbox\\r\\nContent-Length: 17\\r\\n\\r\\n" + b'{"story":"spent"}'
)
for request in (PUT, RUN) * 100:
    connection = socket.create_connection(("127.0.0.1", port))
    if end == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):  # the server may have hung up by now
        connection.sendall(request)
        if end == "shut down":
            connection.shutdown(socket.SHUT_WR)
    connection.close()
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="takes another user's place, as root can"
)
@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("end", ["close", "shut down", "reset"])
def test_another_user_who_disconnects_at_once_changes_and_spends_nothing(sandbox, end, stopped):
    """Linux names root as the owner of a connection whose client has disconnected, or no owner. A
    stopped server accepts all of these connections late, a busy one some of them."""
    sandbox.set_credits(1)
    if stopped:
        sandbox.process.send_signal(signal.SIGSTOP)
    words = [sys.executable, "-c", LEAVING, str(sandbox.port), "65534", end]
    subprocess.run(words, check=True)
    sandbox.process.send_signal(signal.SIGCONT)
    assert run(sandbox.port, {"story": "mine"}).status == 200  # after all the others
    assert sandbox.received() == 1
    assert run(sandbox.port, {"story": "no credits are left"}).status == 402


def test_a_client_that_disconnects_after_it_was_accepted_is_billed(sandbox):
    """The check of its user is over by then, and a run that has begun costs credits."""
    body = b'{"story":"mine"}'
    head = f"POST {RUN} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {sandbox.key}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", sandbox.port)) as client:
            client.sendall(request)
            assert client.recv(65_536).startswith(b"HTTP/1.1 200")
            client.sendall(request)
    deadline = time.monotonic() + 10
    while sandbox.bills()[0]["billed"] < 40 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sandbox.bills()[0]["billed"] == 40


def test_no_connection_of_the_same_user_is_refused_under_load(sandbox):
    """It makes 500 connections, up to 100 at once."""

    def one(number: int) -> int:
        return run(sandbox.port, {"story": f"number {number}"}).status

    with ThreadPoolExecutor(100) as pool:
        assert Counter(pool.map(one, range(500))) == {200: 500}
    assert sandbox.received() == 500


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_the_owner_of_a_connection_is_known():
    """This holds for both ends, also if the client uses IPv6 with a mapped address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = server.getsockname()
        with socket.socket(socket.AF_INET6) as mapped, socket.create_connection(ours) as plain:
            mapped.connect(("::ffff:127.0.0.1", ours[1]))
            for client in (mapped, plain):
                theirs = ("127.0.0.1", client.getsockname()[1])
                assert peer._owner(theirs, ours) == os.getuid()
        assert peer._owner(("127.0.0.1", closed_port()), ours) is None


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_connection_without_a_process_has_no_known_owner():
    """Neither has a reset one, although another program listens at its end since then."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for linger in (0, 1):
            # No other program connects from this address, so its port stays free meanwhile.
            client = socket.create_connection(
                server.getsockname(), source_address=("127.0.0.77", 0)
            )
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
            taken, theirs = server.accept()
            with taken:
                assert not peer.may_be_another_users(taken)
                client.shutdown(socket.SHUT_WR)
                assert not peer.may_be_another_users(taken)
                client.close()
                assert peer.may_be_another_users(taken)
                assert peer._owner(theirs, server.getsockname()) is None
        with socket.create_server(theirs):
            assert peer._owner(theirs, server.getsockname()) is None


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_client_is_refused_if_the_kernel_cannot_name_its_user():
    """For example no descriptor is left: another user might have used them up."""
    assert peer.kernel_tells()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        taken, _ = server.accept()
        with client, taken:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken.fileno() + 1, most[1]))
            try:
                assert peer.may_be_another_users(taken)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, most)
            assert not peer.may_be_another_users(taken)
