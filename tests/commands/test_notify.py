"""Notifications: who gets them, and that they never change a run. Real servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.clock import SystemClock
from pipeline.core.errors import Refused
from pipeline.job.job import find_job
from pipeline.job.run_folder import RunFolder
from pipeline.ledger.ledger import open_ledger
from pipeline.notify.endpoint import find_endpoint
from pipeline.notify.metrics import markdown, prometheus
from pipeline.notify.posting import in_time, post
from pipeline.status.summary import summarize_error
from pipeline.system.files import write_json
from tests.conftest import KEY, closed_port, ended


def test_a_run_notifies_at_its_start_and_with_its_exit_code_at_its_end(sandbox, make_job, monitor):
    """`/start` and `/3`. The webhook gets the content of summary.json. The key goes to neither."""
    health, hook = monitor(), monitor()
    notify = {
        "healthcheck": f"{health.url}/uuid?rid=1",
        "webhook": f"{hook.url}/${{PIPELINE_NOTIFY_HOOK}}",
    }
    job = make_job(sandbox.url, rows=[["a"], ["#fault:blocked"]], notify=notify)
    assert job.run(expect=3, env={"PIPELINE_NOTIFY_HOOK": "s3cret"})["failed"] == 1
    assert health.paths == ["/uuid/start?rid=1", "/uuid/3?rid=1"]
    assert b"1 failed" in health.calls[1][3]
    [(method, path, headers, body)] = hook.calls
    assert (method, path, headers["Content-Type"]) == ("POST", "/s3cret", "application/json")
    assert json.loads(body) == json.loads((job.output / "summary.json").read_text())
    assert KEY not in str(health.calls + hook.calls)
    assert all("authorization" not in str(call).lower() for call in health.calls + hook.calls)
    for path in job.output.rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes()


def test_a_run_that_is_refused_or_interrupted_notifies_too(
    sandbox, start_sandbox, make_job, monitor
):
    """A refused run never started and reports 2, a stop from outside 143, a healthy night 0."""
    health = monitor()
    job = make_job(sandbox.url, rows=[[""], ["a"]], notify={"healthcheck": health.url})
    assert job.call("run").returncode == 2
    job.write_sheet(["story"], [["a"]])
    job.run()
    slow = start_sandbox(latency="1s")
    job.write_sheet(["story"], [["a"], ["b"]])
    job.base_url = slow.url
    process = job.start("--output", str(job.folder / "other"))
    with ended(process):
        while not slow.received():
            time.sleep(0.02)
        process.terminate()
        assert process.wait(20) == 143
    assert health.paths == ["/start", "/2", "/start", "/0", "/start", "/143"]
    assert b"sheet.csv" in health.calls[1][3]


def test_a_run_that_finds_the_folder_in_use_notifies_no_address(sandbox, make_job, monitor):
    """Its end would be taken for the end of the run that works there."""
    health = monitor()
    job = make_job(sandbox.url, rows=[["a"]], notify={"healthcheck": health.url})
    job.run()
    with RunFolder(job.output).locked():
        assert job.call("run").returncode == 75
        assert job.call("run", "--if-locked", "skip").returncode == 0
    assert health.paths == ["/start", "/0"]


def test_a_rehearsal_notifies_no_monitor(make_job, monitor):
    """The monitor would take it for the real run that it waits for."""
    health = monitor()
    job = make_job("", rows=[["a"]], notify={"healthcheck": health.url, "webhook": health.url})
    assert job.call("run", "--sandbox").returncode == 0
    assert health.calls == []


def test_monitors_that_hang_change_neither_the_exit_code_nor_the_run(sandbox, make_job, hanging):
    """Both hang. The run waits for their timeout once, and reports it without the address."""
    rows = [["a"], ["b"]]
    job = make_job(sandbox.url, rows=rows)
    began = time.monotonic()
    job.run("--output", str(job.folder / "without"))
    plain_s = time.monotonic() - began
    address = f"{hanging}/s3cret"
    job.write_spec(notify={"healthcheck": address, "webhook": address, "timeout_s": 5})
    began = time.monotonic()
    done = job.call("run", "--json", "--rate", "5000")
    assert time.monotonic() - began < plain_s + 5 + 4  # twice would be 10
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] == 2
    for whom in ("healthcheck http://127.0.0.1/…", "webhook http://127.0.0.1/…"):
        assert f"could not notify {whom}: no response within" in done.stderr
        assert whom in (job.output / "log.jsonl").read_text(encoding="utf-8")
    assert "s3cret" not in done.stderr + (job.output / "log.jsonl").read_text(encoding="utf-8")
    assert job.call("verify").returncode == 0


def test_a_monitor_that_fails_redirects_or_is_away_is_reported_and_changes_nothing(
    sandbox, make_job, monitor
):
    """The address that a redirect names gets no request."""
    elsewhere = monitor()
    for broken in (monitor(status=500), monitor(302, f"{elsewhere.url}/x"), None):
        url = broken.url if broken else f"http://127.0.0.1:{closed_port()}"
        job = make_job(sandbox.url, rows=[["a"]], notify={"webhook": url})
        done = job.call("run")
        assert done.returncode == 0
        assert "could not notify" in done.stderr
    assert elsewhere.calls == []


def test_a_quiet_run_prints_one_line_for_a_failed_notification_and_the_summary_names_it(
    sandbox, make_job
):
    """The exit code stays 0, and `verify` finds the summary with the checksum in the ledger."""
    hook = f"http://127.0.0.1:{closed_port()}/s3cret"
    job = make_job(sandbox.url, rows=[["a"]], notify={"webhook": hook})
    done = job.call("run", "--quiet", "--json")
    assert done.returncode == 0
    [line] = done.stderr.splitlines()
    assert line.startswith("The runner could not notify webhook http://127.0.0.1/…: ")
    said = json.loads(done.stdout)
    assert said == json.loads((job.output / "summary.json").read_text(encoding="utf-8"))
    assert said["failed_notifications"] == {"webhook http://127.0.0.1/…": "Connection refused"}
    assert job.call("verify").returncode == 0
    job.write_spec()
    assert job.run()["failed_notifications"] == {}
    assert sandbox.received() == 1


def test_a_quiet_run_that_is_refused_prints_a_failed_notification_too(sandbox, make_job):
    """One line for the refusal, one for the webhook, and exit code 2 as without a webhook."""
    hook = f"http://127.0.0.1:{closed_port()}"
    job = make_job(sandbox.url, rows=[[""]], notify={"webhook": hook})
    done = job.call("run", "--quiet")
    assert done.returncode == 2
    told, refused = done.stderr.splitlines()
    assert "could not notify" in told
    assert refused.endswith("Nothing was sent.")


def test_a_summary_that_another_run_wrote_meanwhile_is_left_alone(sandbox, make_job, hanging):
    """The first run still waits for its webhook when the second run ends."""
    job = make_job(sandbox.url, rows=[["a"]], notify={"webhook": hanging, "timeout_s": 8})
    first = job.start()
    with ended(first):
        while not (job.output / "summary.json").exists():
            assert first.poll() is None
            time.sleep(0.02)
        job.write_spec()
        second = job.run("--if-locked", "wait")["run_id"]
        assert first.poll() is None
        assert first.wait(30) == 0
    said = json.loads((job.output / "summary.json").read_text())
    assert (said["run_id"], said["failed_notifications"]) == (second, {})
    assert job.call("verify").returncode == 0


@pytest.mark.parametrize("written", [False, True])
def test_a_kill_while_the_summary_is_written_again_does_no_damage(sandbox, make_job, written):
    """The ledger has no checksum then, and `verify` accepts the old file and the new one."""
    job = make_job(sandbox.url, rows=[["a"]])
    run_id = job.run()["run_id"]
    folder = RunFolder(job.output)

    def killed() -> str:
        if written:
            write_json(folder.summary, json.loads(folder.summary.read_text()) | {"more": 1})
        raise KeyboardInterrupt

    with open_ledger(folder.ledger, SystemClock()) as ledger:
        with pytest.raises(KeyboardInterrupt):
            ledger.amend_summary(run_id, killed)
    assert job.call("verify").returncode == 0
    assert job.run()["ok"] == 1
    assert job.call("verify").returncode == 0


BAD = [
    ({"healthcheck": "http://example.com/x"}, "line 4: `healthcheck` must begin with https://"),
    ({"webhook": "ftp://127.0.0.1/x"}, "must begin with https://"),
    ({"webhook": "hc-ping.com/x"}, "not an https:// address"),
    ({"webhook": "https://me:pw@example.com/"}, "must not contain a user name"),
    (
        {"webhook": "https://example.com/${PIPELINE_NOTIFY_X}"},
        "variable PIPELINE_NOTIFY_X is not set",
    ),
    ({"webhook": "https://example.com/${HOME}"}, "does not allow HOME"),
    ({"webhook": "https://example.com/${AITUTOR_API_KEY}"}, "does not allow AITUTOR_API_KEY"),
    ({"webhook": f"https://example.com/{KEY}"}, "contains the API key"),
    ({"webhook": f"https://example.com/{KEY.replace('_', '%5f')}"}, "contains the API key"),
    ({"webhok": "https://example.com/"}, 'mean "webhook"'),
    ({"timeout_s": 0}, "above 0"),
    ({"timeout_s": 61}, "at most 60"),
    ({"timeout_s": 1e300}, "at most 60"),
    ("https://example.com", "needs lines for"),
]


@pytest.mark.parametrize(("notify", "words"), BAD)
def test_an_unusable_address_is_refused_before_anything_is_sent(sandbox, make_job, notify, words):
    """With a typo, a monitor would never hear of a night."""
    job = make_job(sandbox.url, rows=[["a"]], notify=notify)
    done = job.call("run")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stderr.rstrip().endswith("Nothing was sent.")
    assert sandbox.received() == 0


@pytest.mark.parametrize(("notify", "words"), BAD)
def test_check_finds_an_unusable_address_as_a_run_would(sandbox, make_job, notify, words):
    """Exit 2, before money is spent. `check` still shows the rest. A rehearsal uses no address."""
    job = make_job(sandbox.url, rows=[["a"]], notify=notify)
    done = job.call("check")
    assert done.returncode == 2
    assert words in done.stdout + done.stderr
    if isinstance(notify, dict) and {"healthcheck", "webhook"} & set(notify):
        assert "At most 1 request would be paid." in done.stdout
        assert job.call("check", "--sandbox").returncode == 0


@pytest.mark.parametrize("error", [OverflowError, KeyboardInterrupt, SystemExit, MemoryError])
def test_any_exception_in_a_notification_is_reported_at_once(error):
    """Its thread ends, and the run does not wait for the timeout."""

    def work() -> None:
        raise error

    begun = time.monotonic()
    assert asyncio.run(in_time(work, 30)) == error.__name__
    assert time.monotonic() - begun < 10


def test_a_notification_whose_thread_cannot_start_is_reported_at_once(monkeypatch):
    """As under a limit on processes."""

    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    assert asyncio.run(in_time(lambda: None, 30)) == "can't start new thread"


def test_an_address_shows_only_its_host():
    """The rest of it may be a secret."""
    endpoint = find_endpoint("https://hc-ping.com/${PIPELINE_NOTIFY_ID}", "x", {ID: "1-2"})
    assert "1-2" not in repr(endpoint)
    assert endpoint.shown == "https://hc-ping.com/…"
    with pytest.raises(Refused):
        find_endpoint("https://hc-ping.com/${PIPELINE_NOTIFY_ID}", "x", {ID: "1\r\nX: y"})


def test_only_the_environment_allows_a_variable_of_another_name():
    """Another person's job file could send any variable away. The refusal says how to allow it."""
    address, environment = "https://hc-ping.com/${HOOK}/${HC}", {"HOOK": "a", "HC": "b"}
    with pytest.raises(Refused, match="PIPELINE_NOTIFY_VARIABLES=HOOK"):
        find_endpoint(address, "x", environment)
    environment["PIPELINE_NOTIFY_VARIABLES"] = " HOOK"
    with pytest.raises(Refused, match="PIPELINE_NOTIFY_VARIABLES=HOOK,HC"):
        find_endpoint(address, "x", environment)
    environment["PIPELINE_NOTIFY_VARIABLES"] = "HOOK,HC"
    assert find_endpoint(address, "x", environment).shown == "https://hc-ping.com/…"


def test_no_variable_carries_the_key_to_a_monitor(sandbox, make_job, tmp_path):
    """Whatever the variable's name is, and wherever the run gets the key from."""
    file = tmp_path / "key"
    file.write_text("sk_from_a_file_0\n")
    file.chmod(0o600)
    job = make_job(
        sandbox.url,
        rows=[["a"]],
        notify={"webhook": "https://example.com/${PIPELINE_NOTIFY_HOOK}"},
    )
    for command in ("run", "check"):
        for key, options in ((KEY, ()), ("sk_from_a_file_0", ("--key-file", str(file)))):
            done = job.call(command, *options, env={"PIPELINE_NOTIFY_HOOK": f"x={key}"})
            assert done.returncode == 2, done.stderr
            assert "contains the API key" in done.stderr + done.stdout
    assert sandbox.received() == 0


LOCAL_ADDRESSES = [
    "http://127.0.0.1:9/x",
    "http://localhost:9/x",
    "https://127.8.9.1/x",
    "https://[::1]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://0.0.0.0/x",
    "https://169.254.169.254/latest/meta-data",
    "https://[fe80::1]/x",
    "https://x.localhost./x",
]


@pytest.mark.parametrize("address", LOCAL_ADDRESSES)
def test_only_the_environment_allows_an_address_of_this_machine(address):
    """Services there trust local callers, and a job file may come from another person."""
    with pytest.raises(Refused, match="PIPELINE_NOTIFY_LOCAL=1"):
        find_endpoint(address, "x", {})
    find_endpoint(address, "x", {"PIPELINE_NOTIFY_LOCAL": "1"})


def own_address() -> str:
    """Returns the address from which this machine would reach others. Sends nothing for that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anywhere:
        with contextlib.suppress(OSError):
            anywhere.connect(("192.0.2.1", 9))
        return str(anywhere.getsockname()[0])


@pytest.mark.parametrize("address", ["127.0.0.1", "the machine's own"])
def test_a_name_that_leads_to_this_machine_reaches_no_service(monkeypatch, address):
    """A name server can decide that after the job file was read. TLS does not begin."""
    host = address if address[0].isdigit() else own_address()
    if host == "0.0.0.0":
        pytest.skip("this machine has no address but its loopback")
    with socket.create_server((host, 0)) as service:
        there = service.getsockname()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", there)])
        endpoint = find_endpoint(f"https://rebound.example:{there[1]}/x", "x", {})
        why = asyncio.run(post(endpoint, b"secret", "text/plain", 5))
        assert "leads to an address of this machine" in (why or "")
        connection, _ = service.accept()
        with connection:
            assert connection.recv(100) == b""


def test_a_textfile_replaces_only_metrics(sandbox, make_job):
    """Another person's job file may name any file of this user."""
    job = make_job(sandbox.url, rows=[["a"]], notify={"textfile": "authorized_keys"})
    keys = job.folder / "authorized_keys"
    keys.write_text("ssh-ed25519 AAAA")
    keys.chmod(0o600)
    assert "must end in .prom" in job.call("run").stderr
    for name, make in {
        "mine.prom": lambda path: path.write_text("# HELP other_rows x\n"),
        "link.prom": lambda path: path.symlink_to(keys),
        "pipe.prom": lambda path: os.mkfifo(path),
        "folder.prom": lambda path: path.mkdir(),
    }.items():
        make(job.folder / name)
        job.write_spec(notify={"textfile": name})
        for command in ("run", "check"):
            done = job.call(command)
            assert done.returncode == 2, done.stderr
            assert f"{name} is not a metrics file of an earlier run" in done.stderr + done.stdout
    assert (keys.read_text(), stat.S_IMODE(keys.stat().st_mode)) == ("ssh-ed25519 AAAA", 0o600)
    assert sandbox.received() == 0
    job.write_spec(notify={"textfile": "own.prom"})
    job.run()
    job.run()  # replaces its own file
    assert (job.folder / "own.prom").read_text().startswith("# HELP pipeline_rows ")


ID = "PIPELINE_NOTIFY_ID"
SAMPLE = re.compile(r'pipeline_[a-z_]+\{(?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+\} -?[0-9.e+]+')


def test_a_textfile_has_metrics_that_prometheus_accepts_and_other_users_can_read(sandbox, make_job):
    """Each has HELP and TYPE. The file is replaced whole, and no temporary file is left."""
    folder = make_job(sandbox.url).folder / "metrics"
    folder.mkdir()
    job = make_job(
        sandbox.url, rows=[["a"], ["#fault:blocked"]], notify={"textfile": "metrics/x.prom"}
    )
    job.run(expect=3)
    lines = (folder / "x.prom").read_text(encoding="utf-8").splitlines()
    assert 'pipeline_rows{job="job",state="ok"} 1' in lines
    assert 'pipeline_unfinished_rows{job="job",code="request_blocked"} 1' in lines
    assert 'pipeline_last_run_exit_code{job="job"} 3' in lines
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    for line in lines:
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line
        assert line.startswith("# ") or line.split("{")[0] in names
    assert stat.S_IMODE((folder / "x.prom").stat().st_mode) == 0o644
    assert [path.name for path in folder.iterdir()] == ["x.prom"]
    job.write_spec(notify={"textfile": "nowhere/x.prom"})
    done = job.call("run")
    assert (done.returncode, "textfile" in done.stderr) == (3, True)


def test_hosted_ci_gets_a_table_in_which_a_server_s_texts_are_escaped(sandbox, make_job, tmp_path):
    """It is appended to the step's summary, in rehearsals too, and has at most a few kilobytes."""
    page = tmp_path / "summary.md"
    page.write_text("before\n")
    job = make_job(sandbox.url, rows=[["a"], ["#fault:blocked"]])
    env = {"GITHUB_STEP_SUMMARY": str(page)}
    job.run(expect=3, env=env)
    assert job.call("run", "--sandbox", env=env).returncode == 3
    text = page.read_text()
    assert text.startswith("before\n### job\n")
    assert "| 2 | 1 | 1 | 0 | 0 | 0 | 1 | 2 | 3 |" in text
    assert r"| request\_blocked | 1 |" in text
    hostile = summarize_error(find_job(job.spec), Refused("no\n# <b>|`x`"))
    codes = {f"<img src=x>|[a](b)\n{n}" + "x" * 500: n for n in range(1000)}
    table = markdown(replace(hostile, by_code=codes), "no\n# <b>|`x`")
    assert len(table) < 4096
    assert r"\<img src=x\>\|\[a\]\(b\)" in table
    assert r"no \# \<b\>\|\`x\`" in table
    for line in prometheus(replace(hostile, by_code={'a"\\\n': 1}), 0.0).splitlines():
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line


def test_a_step_summary_that_cannot_be_written_changes_nothing(sandbox, make_job, tmp_path):
    """There is a folder in place of the file."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.call("run", env={"GITHUB_STEP_SUMMARY": str(Path(tmp_path))})
    assert (done.returncode, "could not notify GITHUB_STEP_SUMMARY" in done.stderr) == (0, True)
