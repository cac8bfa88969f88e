"""The key stands nowhere, links are not followed, and no server or sheet commands a terminal."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from pipeline.access import Access, find_access
from pipeline.endpoint import find_endpoint
from pipeline.errors import Refused
from pipeline.wording import json_line, printable
from tests.conftest import Job, ended
from tests.servers import Answer, Server, ok
from tests.test_signals import until

KEY = "sk_live_Zm9v+/=%&'x7Q"
FORMS = [
    KEY.encode(),
    quote(KEY, safe="").encode(),
    base64.b64encode(KEY.encode()).rstrip(b"="),
    base64.b64encode(KEY.encode() + b"\n").rstrip(b"="),
    base64.urlsafe_b64encode(KEY.encode()).rstrip(b"="),
]


def tells_all(body: bytes) -> Answer:
    """A proxy that repeats the request's headers in whatever it answers."""
    page = b"<pre>authorization: Bearer " + b" ".join(FORMS) + b"</pre>"
    if b"redirect" in body:
        return 307, {"location": f"https://elsewhere.example/?key={quote(KEY, safe='')}"}, page
    if b"gateway" in body:
        return 502, {}, page
    if b"json" in body:
        message = {"success": False, "error": page.decode(), "code": "request_blocked"}
        return 400, {}, json.dumps(message).encode()
    if b"cut" in body:
        return 200, {}, page
    return ok(body)


def assert_nowhere(job: Job, *said: str) -> None:
    """Neither in a file of the job's folder, its names included, nor in what was printed."""
    files = [path for path in job.folder.rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in files] + [str(path).encode() for path in files]
    for text in [*texts, *(one.encode() for one in said)]:
        for form in FORMS:
            assert form not in text


@pytest.mark.parametrize("end", ["\n", pytest.param("\r\n\n", marks=pytest.mark.long)])
def test_the_key_stands_in_no_file_and_no_output(make_job, end):
    """Also where the server repeats it; plain, encoded for addresses, and in base64."""
    rows = [["fine"], ["gateway"], ["json"], ["cut"], ["redirect"]]
    with Server(tells_all) as server:
        job = make_job(server.url, rows=rows)
        key = {"AITUTOR_API_KEY": KEY + end}
        ran = job.call("run", "--json", env=key)
        assert ran.returncode == 4, ran.stderr
        report = job.call("report", "--json", env=key)
        target = str(job.folder / "out.csv")
        exported = job.call("export", "--to", target, env=key)
        assert server.received.total() == 5
    assert_nowhere(
        job, *(text for one in (ran, report, exported) for text in (one.stdout, one.stderr))
    )


def test_a_bad_key_is_not_shown_in_its_refusal(sandbox, make_job):
    """Nor is a traceback."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.call("run", env={"AITUTOR_API_KEY": f"{KEY} {KEY}"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert_nowhere(job, done.stdout, done.stderr)


def test_the_key_is_not_in_the_repr_that_a_traceback_may_show():
    """Of the only value that holds it."""
    assert KEY not in repr(Access("https://x.example", KEY, "x.example"))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_the_key_is_not_in_the_process_list_nor_given_to_the_sandbox(make_job):
    """Command lines anybody on the machine can read."""
    job = make_job("", rows=[[f"story {n}"] for n in range(40)])
    process = subprocess.Popen(
        job.command("run", "--sandbox", "--rate", "10", "--quiet"),
        env=job.environment(AITUTOR_API_KEY=KEY),
    )
    with ended(process):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: children.read_text())
        time.sleep(0.3)
        for pid in (process.pid, *children.read_text().split()):
            assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in children.read_text().split():
            assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


# -- the file of the key ------------------------------------------------------------------


def key_file(folder: Path, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_text("sk_sandbox\n")
    path.chmod(mode)
    return path


PROBE = """
import json, os, sys
known = {"words": sys.orig_argv, "key": os.environ.get("AITUTOR_API_KEY")}
with open(os.environ["PROBED"], "a") as file:
    file.write(json.dumps(known) + chr(10))
"""


def long_answer(body: bytes) -> Answer:
    """1 MB: twenty of them make a ledger that a process of its own looks through."""
    return 200, {}, json.dumps({"success": True, "result": "x" * 1_000_000}).encode()


def test_no_module_of_the_current_folder_is_imported_and_no_child_gets_the_key(make_job, tmp_path):
    """Each command is given in a folder that holds a pipeline.py, a json.py and a sqlite3.py.

    `sitecustomize` tells which processes of Python started, and whether they had the key.
    """
    job = make_job("", rows=[[f"story {n}"] for n in range(20)])
    here, probe, ran, probed = (tmp_path / name for name in ("here", "probe", "ran", "probed"))
    here.mkdir()
    probe.mkdir()
    for module in ("pipeline", "json", "sqlite3", "httpx", "asyncio"):
        (here / f"{module}.py").write_text(f"open({str(ran)!r}, 'a').write(__file__)\n")
    (probe / "sitecustomize.py").write_text(PROBE)

    def given(verb: str, *options: str) -> None:
        command = [str(Path(sys.executable).with_name("pipeline")), verb, str(job.spec), *options]
        env = job.environment(PYTHONPATH=str(probe), PROBED=str(probed), AITUTOR_API_KEY=KEY)
        done = subprocess.run(command, cwd=here, env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    with Server(long_answer) as server:
        job.base_url = server.url
        given("run")
        assert (job.output / "ledger.sqlite").stat().st_size > 16 << 20
        for verb, *options in (
            ("run",),
            ("run", "--sandbox"),
            ("check",),
            ("status",),
            ("report",),
            ("export", "--to", str(tmp_path / "all.csv")),
            ("verify",),
        ):
            given(verb, *options)
        assert not ran.exists(), ran.read_text()
        assert server.received.total() == 20
    children = [json.loads(line) for line in probed.read_text().splitlines()]
    children = [child for child in children if "-m" in child["words"]]
    assert {child["words"][3] for child in children} == {
        "pipeline.paid",
        "pipeline.sandbox.server",
    }
    assert {child["key"] for child in children} == {None}


def test_a_key_file_may_be_a_link_and_the_file_behind_it_decides(tmp_path):
    """Secrets are often mounted as links; who may read it is a question of the file itself."""
    link = tmp_path / "link"
    link.symlink_to(key_file(tmp_path))
    assert find_access(None, link, {}).key == "sk_sandbox"
    key_file(tmp_path, 0o644)
    with pytest.raises(Refused, match="chmod 600"):
        find_access(None, link, {})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_file_that_others_can_open_is_refused(tmp_path, mode):
    """Group and everybody else."""
    with pytest.raises(Refused, match="others on this machine"):
        find_access(None, key_file(tmp_path, mode), {})


def test_a_key_file_that_is_none_is_refused(tmp_path):
    """A folder, nothing, a link to nothing, no text: a message each."""
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nothing")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "nothing", dangling, binary):
        with pytest.raises(Refused, match="the key cannot be read"):
            find_access(None, path, {})


def test_the_command_for_a_key_file_can_be_pasted(tmp_path):
    """A path with a space in it, as the shell wants it."""
    folder = tmp_path / "my keys"
    folder.mkdir()
    with pytest.raises(Refused) as caught:
        find_access(None, key_file(folder, 0o644), {})
    command = str(caught.value).partition("with: ")[2]
    subprocess.run(command, shell=True, check=True)
    assert find_access(None, folder / "key", {}).key == "sk_sandbox"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "example.com",
        "https://[::1",
        "https://exa mple.com",
        "https://h:99999",
        "ftp://h",
        "https://999.1.1.1",
    ],
)
@pytest.mark.parametrize("named_by", ["--base-url", "AITUTOR_BASE_URL"])
def test_an_address_that_is_none_is_refused_by_what_named_it(address, named_by):
    """Not by a traceback, nor after a minute of trying; the empty option is no default."""
    if named_by == "AITUTOR_BASE_URL" and not address:
        return
    given = address if named_by == "--base-url" else None
    with pytest.raises(Refused) as caught:
        find_access(given, None, {"AITUTOR_API_KEY": "sk_sandbox", "AITUTOR_BASE_URL": address})
    message = str(caught.value)
    assert message.startswith(f"{named_by} {address}".rstrip() + ": not an ")
    assert message.endswith("Write it like https://aitutor-api.vercel.app. Nothing was sent.")


@pytest.mark.parametrize("address", ["https://u:secret@h", "https://u:secret@[::1", "u:secret@h"])
def test_a_password_in_an_address_is_not_repeated(address):
    """Messages end up in the logs of schedulers."""
    with pytest.raises(Refused) as caught:
        find_access(address, None, {"AITUTOR_API_KEY": "sk_sandbox"})
    assert "secret" not in str(caught.value)


# -- links in the folder ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "lock",
        "results",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("log.jsonl", "ledger.sqlite", "summary.json", ".input.parquet.new")
        ),
    ],
)
def test_a_link_in_the_run_folder_is_refused_not_followed(sandbox, make_job, tmp_path, name):
    """What is written through it would land in another's file."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.output.mkdir(parents=True)
    other = tmp_path / "other"
    if name == "results":
        other.mkdir()
    else:
        other.write_text("precious")
    (job.output / name).symlink_to(other)
    done = job.call("run")
    assert done.returncode == 2, done.stderr
    assert f"{name} is a link" in done.stderr
    assert list(other.iterdir()) == [] if name == "results" else other.read_text() == "precious"
    assert sandbox.received() == 0


def test_the_run_folder_itself_may_be_a_link_to_a_folder(sandbox, make_job, tmp_path):
    """People keep results on another disk. A link to nothing is said before anything is sent."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.output.parent.mkdir()
    elsewhere = tmp_path / "elsewhere"
    job.output.symlink_to(elsewhere)
    done = job.call("run")
    assert done.returncode == 6
    assert "Nothing was sent" in done.stderr
    elsewhere.mkdir()
    assert job.run()["ok"] == 1
    assert (elsewhere / "ledger.sqlite").exists()
    assert os.stat(elsewhere).st_mode & 0o077 == 0


# -- what is printed ----------------------------------------------------------------------

NASTY = (
    "\x1b]0;title\x07\x1b[2J\r\x9b31m\n::error file=x::bad\n ##[error]b ##vso[task.x]c \u202etxt"
)


def commands_in(text: str) -> list[str]:
    """What a terminal or hosted CI would obey in a text."""
    found = [
        mark for mark in ("\x1b", "\x07", "\r", "\x9b", "\u202e", "##[", "##vso[") if mark in text
    ]
    return found + [line for line in text.split("\n") if line.strip().startswith("::")]


def nasty(body: bytes) -> Answer:
    """Errors in the API's JSON, and a page that is none."""
    if b"page" in body:
        return 502, {}, NASTY.encode()
    code = "invalid_billing" if b"stop" in body else "request_blocked"
    error = {"success": False, "error": NASTY, "code": code}
    return 402 if b"stop" in body else 400, {}, json.dumps(error).encode()


def test_what_a_server_says_commands_neither_terminal_nor_hosted_ci(make_job):
    """Through every command and in the log, which people print in CI."""
    with Server(nasty) as server:
        job = make_job(server.url, rows=[["blocked"], ["page"], ["stop"]], concurrency=1)
        ran = job.call("run", "--json")
        assert ran.returncode == 4
        said = [ran, job.call("report", "--json"), job.call("status", "--json")]
    for text in [*(t for one in said for t in (one.stdout, one.stderr))]:
        assert commands_in(text) == []
    log = (job.output / "log.jsonl").read_text()
    assert commands_in(log) == []
    assert "error" in log


def test_what_a_sheet_says_commands_neither_terminal_nor_hosted_ci(sandbox, make_job):
    """Column names and cells, in refusals and in `check`."""
    job = make_job(sandbox.url, columns=["story", NASTY], rows=[["a", NASTY], ["", "x"]])
    for verb in ("check", "run"):
        done = job.call(verb, "--json")
        assert done.returncode == 2
        assert commands_in(done.stdout) + commands_in(done.stderr) == []
        assert "Traceback" not in done.stderr


def test_printable_text_stays_readable_and_json_reads_back_the_same():
    """Nothing that is no command is touched."""
    plain = "Ärger: a::b, 1 ## 2, [x], \N{WOMAN}\N{ZERO WIDTH JOINER}\N{SCHOOL}\n\tnext line: ok"
    assert printable(plain) == plain
    assert commands_in(printable(NASTY)) == []
    assert commands_in(json_line({NASTY: [NASTY, "\ud800", plain]})) == []
    assert json.loads(json_line({NASTY: [NASTY, "\ud800", plain]})) == {
        NASTY: [NASTY, "\ud800", plain]
    }


@pytest.mark.parametrize(
    "address",
    [
        "http://[::1%lo]:8000",
        "https://[fe80::1%25eth0]",
        "http://[::1]%lo:80",
        "http://[::1]x:80",
        "http://evil.example[::1]:80",
        "http://[::1",
        "http://[127.0.0.1]:80",
    ],
)
def test_an_address_with_a_zone_or_with_more_than_its_brackets_is_refused(address):
    """Some readers of addresses take `http://evil.example[::1]` for this machine."""
    environment = {"AITUTOR_API_KEY": "sk_sandbox", "WHERE": address}
    with pytest.raises(Refused):
        find_access(address, None, environment)
    with pytest.raises(Refused):
        find_endpoint("${WHERE}", "spec: `webhook`", environment)


@pytest.mark.parametrize("address", ["http://[::1]:8000", "https://[2001:db8::1]"])
def test_an_ipv6_address_in_brackets_is_one(address):
    """With and without a port."""
    assert find_access(address, None, {"AITUTOR_API_KEY": "sk_sandbox"}).base_url == address
