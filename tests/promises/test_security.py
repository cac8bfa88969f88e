"""Tests that the key is in no file, that no link is followed, and that neither a server nor a sheet
can command a terminal."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

import pipeline
from pipeline.commands import console
from pipeline.core.errors import Refused
from pipeline.core.wording import json_line, printable
from pipeline.job.access import Access, find_access
from pipeline.notify.endpoint import find_endpoint
from tests.conftest import Job, ended
from tests.promises.test_signals import catches, until
from tests.support.servers import Answer, Server, ok

KEY = "sk_live_Zm9v+/=%&'x7Q"
PLAIN_KEY = "sk_live_0123456789"
FORMS = [
    KEY.encode(),
    quote(KEY, safe="").encode(),
    base64.b64encode(KEY.encode()).rstrip(b"="),
    base64.b64encode(KEY.encode() + b"\n").rstrip(b"="),
    base64.urlsafe_b64encode(KEY.encode()).rstrip(b"="),
    base64.b64encode(b"x:" + KEY.encode()).rstrip(b"="),
    KEY.encode().hex().encode(),
]


def as_php(**fields: object) -> bytes:
    """Returns JSON as PHP writes it, with a backslash before each slash."""
    return json.dumps(fields).replace("/", "\\/").encode()


def by_number(text: str) -> bytes:
    """Returns `text` as JSON that writes each letter as its number."""
    return "".join(f"\\u{ord(letter):04X}" for letter in text).encode()


def tells_all(body: bytes) -> Answer:
    """Plays a proxy that repeats the request's headers in every response."""
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
    if b"escaped" in body:
        return 400, {}, as_php(success=False, error=f"no {KEY}", code="request_blocked")
    if b"letters" in body:
        return 400, {}, b'{"success":false,"error":"-","code":"%s"}' % by_number(PLAIN_KEY)
    if b"wide" in body:
        return 400, {}, as_php(success=False, error=f"no {KEY}").decode().encode("utf-16")
    if b"paid" in body:
        source = {"title": KEY, "url": f"https://a.example/{KEY}"}
        return (
            200,
            {},
            as_php(success=True, result=f"is {KEY}", citations=[source], more={KEY: KEY}),
        )
    return ok(body)


def assert_nowhere(job: Job, *said: str) -> None:
    """Asserts that the key is neither in a file of the job's folder or a file's name nor in the
    output."""
    files = [path for path in job.folder.rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in files] + [str(path).encode() for path in files]
    for text in [*texts, *(one.encode() for one in said)]:
        for form in FORMS:
            assert form not in text


@pytest.mark.parametrize("end", ["\n", pytest.param("\r\n\n", marks=pytest.mark.long)])
def test_the_key_is_in_no_file_and_no_output(make_job, end):
    """The server repeats it, plain, encoded for URLs, and in base64."""
    rows = [["fine"], ["gateway"], ["json"], ["cut"], ["escaped"], ["wide"], ["paid"], ["redirect"]]
    with Server(tells_all) as server:
        job = make_job(server.url, rows=rows)
        key = {"AITUTOR_API_KEY": KEY + end}
        ran = job.call("run", "--json", env=key)
        assert ran.returncode == 4, ran.stderr
        report = job.call("report", "--json", env=key)
        target = str(job.folder / "out.csv")
        exported = job.call("export", "--to", target, env=key)
        assert server.received.total() == 8
    assert_nowhere(
        job, *(text for one in (ran, report, exported) for text in (one.stdout, one.stderr))
    )


def test_an_error_code_that_is_the_key_is_replaced_by_that_of_the_status(make_job):
    """Error codes are in summary.json, in --json and in the labels for Prometheus."""
    with Server(tells_all) as server:
        job = make_job(server.url, rows=[["letters"]])
        ran = job.call("run", "--json", env={"AITUTOR_API_KEY": PLAIN_KEY})
        assert json.loads(ran.stdout)["by_code"] == {"http_400": 1}, ran.stdout
    kept = [path.read_bytes() for path in job.folder.rglob("*") if path.is_file()]
    assert not any(PLAIN_KEY.encode() in text for text in (*kept, ran.stderr.encode()))


def test_a_bad_key_is_not_shown_in_its_refusal(sandbox, make_job):
    """Nor is a traceback shown."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.call("run", env={"AITUTOR_API_KEY": f"{KEY} {KEY}"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert_nowhere(job, done.stdout, done.stderr)


def test_the_key_is_not_in_the_repr_that_a_traceback_may_show():
    """Only one value contains the key."""
    assert KEY not in repr(Access("https://x.example", KEY, "x.example"))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_the_key_is_not_in_the_process_list_nor_given_to_the_sandbox(make_job):
    """Every user of the machine can read command lines."""
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


def test_a_key_file_may_be_a_link_and_the_rights_of_its_target_count(tmp_path):
    """Secrets are often mounted as links. The file itself says who may read it."""
    link = tmp_path / "link"
    link.symlink_to(key_file(tmp_path))
    assert find_access(None, link, {}).key == "sk_sandbox"
    key_file(tmp_path, 0o644)
    with pytest.raises(Refused, match="chmod 600"):
        find_access(None, link, {})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_file_that_other_users_can_open_is_refused(tmp_path, mode):
    """Other users are the group and everyone else."""
    with pytest.raises(Refused, match="other users of this machine"):
        find_access(None, key_file(tmp_path, mode), {})


def test_only_systemd_may_let_others_read_a_key_file(tmp_path):
    """systemd sets the rights of its credentials itself. A file of the same name elsewhere is an
    ordinary file."""
    file = tmp_path / "aitutor-api-key"
    file.write_text("sk_sandbox")
    file.chmod(0o440)
    with pytest.raises(Refused, match="other users of this machine"):
        find_access(None, file, {})
    with pytest.raises(Refused, match="other users of this machine"):
        find_access(None, file, {"CREDENTIALS_DIRECTORY": str(tmp_path.parent)})
    systemd = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert find_access(None, file, systemd).key == find_access(None, None, systemd).key


def test_an_endless_key_file_is_refused(tmp_path):
    """Reading it to its end would use all memory."""
    endless = tmp_path / "key"
    endless.symlink_to("/dev/zero")
    with pytest.raises(Refused, match="no key can contain"):
        find_access(None, endless, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_key_file_without_a_readable_key_is_refused(tmp_path):
    """A folder, an empty file, a broken link and a file that is not text each have a message."""
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nothing")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "nothing", dangling, binary):
        with pytest.raises(Refused, match="cannot read the key"):
            find_access(None, path, {})


def test_a_key_file_may_begin_with_a_byte_order_mark(tmp_path):
    """Some editors write one."""
    file = key_file(tmp_path)
    file.write_text("sk_sandbox\r\n", encoding="utf-8-sig")
    assert find_access(None, file, {}).key == "sk_sandbox"


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    "words", ["--key-file <(printf sk_sandbox)", "--key-file /dev/stdin < <(echo sk_sandbox)"]
)
@pytest.mark.parametrize("sent_to", [None, "https://example.com/${PIPELINE_NOTIFY_HOOK}"])
def test_the_key_may_come_through_a_pipe(sandbox, make_job, command, words, sent_to):
    """A pipe contains it once, and a run needs it twice: to check that no address under `notify:`
    contains it, and for the requests."""
    notify = {"notify": {"webhook": sent_to}} if sent_to else {}
    job = make_job(sandbox.url, rows=[["a"]], **notify)
    line = f"{shlex.join(job.command(command))} {words}"
    done = job.shell(
        ["bash", "-c", line], env={"AITUTOR_API_KEY": "", "PIPELINE_NOTIFY_HOOK": "x=sk_sandbox"}
    )
    if sent_to:
        assert done.returncode == 2
        assert "contains the API key" in done.stderr + done.stdout
    else:
        assert done.returncode == 0, done.stderr
    assert sandbox.received() == (1 if command == "run" and not sent_to else 0)


def test_the_key_may_arrive_in_the_pipe_later_and_in_pieces(tmp_path):
    """The program that writes it starts together with the runner."""
    pipe = tmp_path / "key"
    os.mkfifo(pipe, 0o600)
    line = 'exec > "$0"; sleep 0.2; printf sk_; sleep 0.2; echo sandbox'
    with subprocess.Popen(["sh", "-c", f"sleep 0.2; {line}", str(pipe)]):
        assert find_access(None, pipe, {}).key == "sk_sandbox"


def test_a_run_ends_if_no_program_writes_the_key_into_its_pipe(sandbox, make_job):
    """It refuses the pipe, and a signal waits until then. A rehearsal needs no key."""
    job = make_job(sandbox.url, rows=[["a"]])
    pipe = job.folder / "key"
    os.mkfifo(pipe, 0o600)
    words = job.command("run", "--key-file", str(pipe))
    process = subprocess.Popen(words, env=job.environment(), stderr=subprocess.PIPE, text=True)
    with ended(process):
        until(lambda: catches(process, signal.SIGTERM))
        process.terminate()
        _, said = process.communicate(timeout=15)
    assert process.returncode == 2
    assert f"{pipe}: no complete key came through this pipe within 10 s. Nothing was sent." in said
    assert job.call("run", "--sandbox", "--key-file", str(pipe)).returncode == 0
    assert sandbox.received() == 0


def test_the_command_for_a_key_file_can_be_pasted(tmp_path):
    """The path has a space, which is quoted for the shell."""
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
def test_the_refusal_of_an_invalid_address_names_its_option_or_variable(address, named_by):
    """There is no traceback and no minute of trying. An empty option does not mean the default."""
    if named_by == "AITUTOR_BASE_URL" and not address:
        return
    given = address if named_by == "--base-url" else None
    with pytest.raises(Refused) as caught:
        find_access(given, None, {"AITUTOR_API_KEY": "sk_sandbox", "AITUTOR_BASE_URL": address})
    message = str(caught.value)
    assert message.startswith(f"{named_by} {address}".rstrip() + ": this is not an ")
    assert message.endswith("Write it like https://aitutor-api.vercel.app. Nothing was sent.")


@pytest.mark.parametrize("address", ["https://u:secret@h", "https://u:secret@[::1", "u:secret@h"])
def test_a_password_in_an_address_is_not_repeated(address):
    """Messages are kept in the logs of schedulers."""
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
    """A file written through it would overwrite one elsewhere."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.output.mkdir(parents=True)
    other = tmp_path / "other"
    if name == "results":
        other.mkdir()
    else:
        other.write_text("precious")
    (job.output / name).symlink_to(other)
    done = job.call("run")
    if name == "ledger.sqlite":  # the record of payments is missing, as after damage
        assert done.returncode == 6, done.stderr
        assert "not a file but a link" in done.stderr
    else:
        assert done.returncode == 2, done.stderr
        assert f"{name} is a link" in done.stderr
    assert list(other.iterdir()) == [] if name == "results" else other.read_text() == "precious"
    assert sandbox.received() == 0


def test_the_run_folder_itself_may_be_a_link_to_a_folder(sandbox, make_job, tmp_path):
    """People keep results on another disk. A broken link is reported before anything is sent."""
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
    """Returns the parts of a text that a terminal or hosted CI would obey."""
    found = [
        mark for mark in ("\x1b", "\x07", "\r", "\x9b", "\u202e", "##[", "##vso[") if mark in text
    ]
    # GitHub's runner is written in .NET, which ignores invisible characters when it compares texts.
    seen = "".join(c for c in text if c in "\n\t" or c.isprintable() or c.isspace())
    found += [mark for mark in ("##[", "##vso[") if mark in seen]
    return found + [line for line in seen.split("\n") if line.strip().startswith("::")]


UNSEEN = "\u200e\u200f\u061c\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e\U000e0001\U000e003a"


@pytest.mark.parametrize("mark", UNSEEN)
def test_an_invisible_character_does_not_hide_a_command(mark):
    """Direction marks, zero-width characters and tags stand before, between and after the
    colons."""
    for text in ("{}::error::x", " {} :{}:error::x", "a\n{}{}::set-output::x", ":{}{}:x",
                 "#{}#[error]x", "#{}#vso{}[task.x]y", "a ##{}[error]"):  # fmt: skip
        assert commands_in(printable(text.replace("{}", mark))) == []
        line = json_line({"a": text.replace("{}", mark)})
        assert commands_in(line) == []
        assert json.loads(line) == {"a": text.replace("{}", mark)}


def test_invisible_characters_are_printed_as_replacement_characters():
    """Tags are invisible letters, and direction marks move words."""
    hidden = "".join(chr(0xE0000 + ord(c)) for c in "send the key")
    for text in (f"a{hidden}b", "a\u200e\u200f\u061cb", "a\u200bb"):
        shown = printable(text)
        assert set(shown) == {"a", "\N{REPLACEMENT CHARACTER}", "b"}


def nasty(body: bytes) -> Answer:
    """Returns errors in the API's JSON, and a page that is not JSON."""
    if b"page" in body:
        return 502, {}, NASTY.encode()
    code = "invalid_billing" if b"stop" in body else "request_blocked"
    error = {"success": False, "error": NASTY, "code": code}
    return 402 if b"stop" in body else 400, {}, json.dumps(error).encode()


def test_text_of_a_server_commands_neither_terminal_nor_hosted_ci(make_job):
    """It is printed by every command and is in the log, which people print in CI."""
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


def test_text_of_a_sheet_commands_neither_terminal_nor_hosted_ci(sandbox, make_job):
    """Column names and cells are in refusals and in `check`."""
    job = make_job(sandbox.url, columns=["story", NASTY], rows=[["a", NASTY], ["", "x"]])
    for verb in ("check", "run"):
        done = job.call(verb, "--json")
        assert done.returncode == 2
        assert commands_in(done.stdout) + commands_in(done.stderr) == []
        assert "Traceback" not in done.stderr


def test_printable_text_stays_readable_and_json_reads_back_the_same():
    """Text without a command does not change."""
    plain = "Ärger: a::b, 1 ## 2, [x], \N{WOMAN}\N{ZERO WIDTH JOINER}\N{SCHOOL}\n\tnext line: ok"
    assert printable(plain) == plain
    assert commands_in(printable(NASTY)) == []
    assert commands_in(json_line({NASTY: [NASTY, "\ud800", plain]})) == []
    assert json.loads(json_line({NASTY: [NASTY, "\ud800", plain]})) == {
        NASTY: [NASTY, "\ud800", plain]
    }


def test_a_question_about_rows_commands_no_terminal():
    """It quotes cells and ids of the sheet."""
    with CliRunner().isolation(input="n\n") as (out, err, *_):
        assert console.confirm_sending(NASTY) is False
        said = out.getvalue().decode() + err.getvalue().decode()
    assert "Send them?" in said
    assert commands_in(said) == []


# The functions that print to a terminal. Each makes its text printable or prints only own words.
SPEAKERS = {
    "cli.main", "commands.console._echo", "commands.console.pour",
    "commands.console.page_through", "commands.schedule.work", "commands.console.confirm",
    "commands.init.init", "commands.watch._draw", "ledger.integrity._main",
    "commands.progress.say", "commands.widget.write",
    "sending.engines.ray_head._main", "inputs.calamine_process._say",
}  # fmt: skip


def test_only_the_listed_functions_print_to_a_terminal():
    """So a new message goes through one of them."""
    package = Path(pipeline.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        if module.startswith("sandbox."):
            continue
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for call in ast.walk(function):
                said = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
                if re.fullmatch(
                    r"print|click\.(echo(_via_pager)?|secho|confirm|prompt)|sys\.std(out|err)\.write",
                    said,
                ):
                    found.add(f"{module}.{function.name}")
    assert found == SPEAKERS | {"commands.schedule.schedule"}  # it contains `work`


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
def test_an_ipv6_address_with_a_zone_or_text_around_its_brackets_is_refused(address):
    """Some URL parsers take `http://evil.example[::1]` for this machine."""
    environment = {"AITUTOR_API_KEY": "sk_sandbox", "PIPELINE_NOTIFY_AT": address}
    with pytest.raises(Refused):
        find_access(address, None, environment)
    with pytest.raises(Refused):
        find_endpoint("${PIPELINE_NOTIFY_AT}", "spec: `webhook`", environment)


@pytest.mark.parametrize("address", ["http://[::1]:8000", "https://[2001:db8::1]"])
def test_an_ipv6_address_in_brackets_is_accepted(address):
    """It may have a port."""
    assert find_access(address, None, {"AITUTOR_API_KEY": "sk_sandbox"}).base_url == address
