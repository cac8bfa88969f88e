"""The proxy and the TLS files in the environment, with real processes and real sockets."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest

from pipeline.core.errors import Refused
from pipeline.core.model import Failure, Reply
from pipeline.job.access import Access
from pipeline.sending.engines.client import Client
from pipeline.system.network import check_way, find_proxy
from tests.unit.sending.test_client import BODY, answer, read_request, serving

API = "https://api.example"
UNUSABLE = [
    "socks://127.0.0.1:7891",
    "socks5://user:hunter22@127.0.0.1:7891",
    "direct://",
    "http://127.0.0.1:port",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:0",
    "http://user:hunter22@[::1",
    "http://999.1.1.1:3128",
    "http://127.0.0.1:3128/pac?hunter22",
    "http://user:hunter#22@127.0.0.1:3128",
    "http://",
    "my proxy:3128",
    "nothing at all",
    "2001:db8::1",
]


@pytest.fixture(autouse=True)
def _no_proxy_of_ours(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", UNUSABLE)
def test_an_unusable_proxy_is_refused_with_the_name_of_its_variable(monkeypatch, name, value):
    """The value is not shown, because it may contain a password."""
    monkeypatch.setenv(name, value)
    with pytest.raises(Refused) as refused:
        check_way(API)
    assert str(refused.value).startswith(f"{name}: ")
    assert "Nothing was sent" in str(refused.value)
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "url", "credentials"),
    [
        ("127.0.0.1:7891", "http://127.0.0.1:7891", None),
        (" proxy.example:3128\n", "http://proxy.example:3128", None),
        ("proxy.example", "http://proxy.example", None),
        ("localhost:80", "http://localhost:80", None),
        ("user:p%40ss@proxy:3128", "http://proxy:3128", "user:p@ss"),
        ("http://user:a:b@proxy:3128/", "http://proxy:3128", "user:a:b"),
        ("http://a@b:c@proxy:3128", "http://proxy:3128", "a@b:c"),
        ("https://proxy:3128", "https://proxy:3128", None),
        ("http://[::1]:3128", "http://[::1]:3128", None),
    ],
)
def test_a_proxy_is_read_as_curl_reads_it(monkeypatch, value, url, credentials):
    """Without a scheme it counts as http."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    proxy = find_proxy(API)
    assert proxy is not None
    assert (proxy.url, proxy.credentials) == (url, credentials)
    assert "ss" not in repr(proxy)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HTTPS_PROXY": "a:1", "https_proxy": "b:1"}, "http://b:1"),
        ({"ALL_PROXY": "a:1"}, "http://a:1"),
        ({"ALL_PROXY": "socks://a:1", "HTTPS_PROXY": "b:1"}, "http://b:1"),
        ({"HTTP_PROXY": "socks://a:1"}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "direct://", "NO_PROXY": "api.example"}, None),
        ({"HTTPS_PROXY": "direct://", "no_proxy": ".example"}, None),
        ({"HTTPS_PROXY": "direct://", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "a:1", "NO_PROXY": "other.example"}, "http://a:1"),
    ],
)
def test_the_same_variable_counts_as_for_other_tools(monkeypatch, environment, expected):
    """A variable that does not count is not refused either."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check_way(API)
    proxy = find_proxy(API)
    assert (proxy.url if proxy else None) == expected


TLS_FILES = {
    "SSL_CERT_FILE": ["/nowhere/ca.pem", "/etc", __file__],
    "SSL_CERT_DIR": ["/nowhere", __file__],
    "SSLKEYLOGFILE": ["/nowhere/keys", "/etc"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in TLS_FILES.items() for value in values]
)
def test_an_unusable_tls_file_is_refused_with_the_name_of_its_variable(monkeypatch, name, value):
    """The message has the reason and the fix."""
    monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=f"^{name}: the runner cannot use {value} .*Nothing was sent"):
        check_way(API)


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.parametrize("name", TLS_FILES)
def test_the_commands_refuse_an_unusable_tls_file(make_job, name, verb):
    """In a new process, because a library reads one of the variables when it is imported."""
    job = make_job(API, rows=[["a"]])
    done = job.shell(job.command(verb), {name: TLS_FILES[name][0]})
    assert done.returncode == 2, done.stderr
    assert f"{name}: the runner cannot use {TLS_FILES[name][0]} (" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["run", "check"])
def test_the_commands_refuse_an_unusable_proxy(make_job, verb):
    """Before anything is sent, and before the run folder changes."""
    job = make_job(API, rows=[["a"]])
    done = job.call(verb, env={"https_proxy": "socks://u:hunter22@127.0.0.1:7891"})
    assert done.returncode == 2, done.stderr
    assert "https_proxy: the runner cannot use this proxy" in done.stderr
    assert "hunter22" not in done.stdout + done.stderr
    assert not job.output.exists()


PROXIES = ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "ftp_proxy")
BROKEN = {name: values[0] for name, values in TLS_FILES.items()} | dict.fromkeys(
    PROXIES, "socks://127.0.0.1:1"
)


@pytest.mark.parametrize("verb", ["check", "run"])
def test_none_of_these_variables_matters_for_a_rehearsal(make_job, verb):
    """Not even all of them together, because a rehearsal never leaves this machine."""
    job = make_job(API, rows=[["a"], ["b"]])
    done = job.shell(job.command(verb, "--sandbox"), BROKEN)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_certificates_do_not_matter_without_tls(sandbox, make_job):
    """An address on this machine is reached without a proxy and without TLS."""
    job = make_job(sandbox.url, rows=[["a"]])
    environment = {name: value for name, value in BROKEN.items() if name != "SSLKEYLOGFILE"}
    done = job.shell(job.command("run"), environment)
    assert done.returncode == 0, done.stderr
    assert set(sandbox.billed().values()) == {1}


# -- on the wire --------------------------------------------------------------------------


def through_proxy(monkeypatch: pytest.MonkeyPatch, form: str, raw: bytes) -> tuple[bytes, Reply]:
    """Sends one request through a proxy that answers with `raw`. Returns the bytes that the proxy
    received, and the reply."""
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(raw)

    async def go() -> Reply:
        async with serving(proxy) as (_, url):
            monkeypatch.setenv("HTTPS_PROXY", form.format(url.removeprefix("http://")))
            async with Client(Access(API, "sk_secret_key", "h"), "wf", 5) as client:
                return await client.send(BODY)

    reply = asyncio.run(go())
    return asked[0], reply


@pytest.mark.parametrize("form", ["{}", "http://{}", "{}/"])
def test_a_proxy_without_a_scheme_is_asked_for_a_tunnel(monkeypatch, form):
    """Like curl."""
    asked, reply = through_proxy(monkeypatch, form, answer(b"", "502 Bad Gateway"))
    assert asked.startswith(b"CONNECT api.example:443 HTTP/1.1\r\n")
    assert b"proxy-authorization" not in asked.lower()
    assert reply.failure is Failure.NOT_SENT


def test_the_password_of_a_proxy_goes_to_the_proxy_and_appears_in_no_message(monkeypatch):
    """Even if the proxy repeats it in its refusal."""
    token = base64.b64encode("jö:hunter22".encode())
    refusal = answer(b"", f"407 hunter22 {token.decode()} is not welcome")
    asked, reply = through_proxy(monkeypatch, "http://j%C3%B6:hunter22@{}", refusal)
    assert b"\r\nproxy-authorization: Basic " + token + b"\r\n" in asked
    assert b"sk_secret_key" not in asked
    assert reply.failure is Failure.NOT_SENT
    assert "[key]" in reply.detail
    for secret in ("hunter22", token.decode()):
        assert secret not in reply.detail


def test_a_netrc_file_does_not_replace_the_key(monkeypatch, tmp_path: Path):
    """Some libraries prefer the password that this file has for a host."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password hunter22\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(answer())

    async def go() -> Reply:
        async with serving(serve) as (_, url):
            async with Client(Access(url, "sk_secret_key", "h"), "wf", 5) as client:
                return await client.send(BODY)

    assert asyncio.run(go()).failure is None
    assert seen[0].lower().count(b"\r\nauthorization: ") == 1
    assert b"Bearer sk_secret_key" in seen[0]
