"""Measures a Ray cluster: one driver's speed, the workers' capacity, and Ray Data for comparison.

    python benchmarks/cluster.py ceiling [--rows 100000]
    python benchmarks/cluster.py in-flight [--in-flight 10000] [--answer-after 10]
    python benchmarks/cluster.py peer [--rows 20000]        (with ray[data] installed)

`ceiling` runs a job through plan, pace, ledger and parts with an engine that answers at once. In
the driver's process this measures only the driver's work. With Ray workers it adds the cost of
sending each request to a worker and back. CPU seconds are those of the driver alone.

`in-flight` keeps thousands of requests in flight on two workers. The ideal time is the number of
rows, divided by the requests in flight, times the time of an answer.

`peer` sends the same rows with Ray Data's HTTP processor on the same cluster. Then it kills the
driver of each in the middle of a job and counts the answers that survive.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from measure import KEY, Bench, keep, serving

WORKERS = 2


@dataclass(frozen=True)
class Driver:
    """Time that the driver took. `loop_s` is the CPU time of its event loop's thread."""

    engine: str
    rows: int
    wall_s: float
    cpu_s: float
    loop_s: float

    def __str__(self) -> str:
        thousands = self.rows / 1000
        return (
            f"{self.engine:34} {self.rows / self.wall_s:8.0f} rows/s {self.cpu_s / thousands:7.3f} "
            f"CPU s per 1,000, {self.loop_s / thousands:.3f} of it in the loop"
        )


def drive(engine: str, spec: Path, answers: Any) -> None:
    """Runs the job in this process and sends its figures to `answers`."""
    import gc

    from pipeline.core.events import AttemptEnded
    from pipeline.run import run

    gc.freeze()
    gc.set_threshold(100_000)
    if engine == "in the driver":
        from at_once import answer_at_once

        answer_at_once()
    elif engine == "Ray workers that answer at once":
        from worker_at_once import InstantWorker

        from pipeline.sending.engines import ray

        ray.Worker = InstantWorker  # type: ignore[attr-defined]
    looks: list[tuple[float, float, float]] = []
    others: list[Any] = []

    def look(event: Any) -> None:
        if not isinstance(event, AttemptEnded):
            others.append(event)
        elif len(looks) < 2:
            looks.append((time.monotonic(), time.process_time(), time.thread_time()))
        else:
            looks[1] = time.monotonic(), time.process_time(), time.thread_time()

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # for the workers, which import this file
    os.environ["AITUTOR_API_KEY"] = KEY
    os.environ["AITUTOR_BASE_URL"] = "http://127.0.0.1:9"
    summary = run.run_job(spec, listeners=(look,))
    if len(looks) < 2:
        raise SystemExit(f"The run sent nothing. Its events: {others}")
    spent = [then - first for first, then in zip(*looks, strict=True)]
    answers.send((summary.ok, *spent))


def ceiling(rows: int, concurrency: int) -> None:
    figures = []
    for engine in ("in the driver", "Ray workers that answer at once"):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), "")
            more = {} if engine == "in the driver" else {"engine": "ray", "workers": WORKERS}
            bench.write(
                (f"a story about dog number {n}" for n in range(rows)),
                concurrency=concurrency,
                **more,
            )
            found = apart(drive, engine, bench.spec)
            assert found[0] == rows, found
            figures.append(Driver(engine, rows, *found[1:]))
            print(figures[-1], flush=True)
    print(f"Written to {keep('ceiling', figures)}")


def in_flight(number: int, answer_after_s: float) -> None:
    rows = number * 4
    with serving(answer_after_s) as (kind, url), tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), url)
        bench.write(
            (f"a story about dog number {n}" for n in range(rows)),
            concurrency=number,
            engine="ray",
            workers=WORKERS,
        )
        spent = bench.call("run", "--quiet")
        figure = Held(number, rows, answer_after_s, *astuple(spent))
        print(figure)
        print(f"Written to {keep('cluster-in-flight', [figure], server=kind)}")


@dataclass(frozen=True)
class Held:
    """A run with many requests in flight. CPU includes driver, workers and Ray; `rss_mb` is that of
    the largest process."""

    in_flight: int
    rows: int
    answer_after_s: float
    wall_s: float
    cpu_s: float
    rss_mb: float

    def __str__(self) -> str:
        ideal_s = self.rows / self.in_flight * self.answer_after_s
        return (
            f"{self.in_flight} in flight on {WORKERS} workers: {self.wall_s:.1f} s,"
            f" {self.wall_s / ideal_s:.2f} of the ideal with start and end of the cluster;"
            f" {self.cpu_s / self.rows * 1000:.3f} CPU s per 1,000 rows of all processes;"
            f" {self.rss_mb:.0f} MB the largest"
        )


@dataclass(frozen=True)
class Beside:
    """One program on the cluster. CPU and `rss_mb` include its driver and the whole cluster."""

    program: str
    rows: int
    wall_s: float
    cpu_s: float
    rss_mb: float
    kept_after_kill: int
    asked_twice: int

    def __str__(self) -> str:
        return (
            f"{self.program:10} {self.rows / self.wall_s:7.0f} rows/s"
            f" {self.cpu_s / self.rows * 1000:7.3f} CPU s per 1,000 {self.rss_mb:7.0f} MB;"
            f" killed in the middle of {_KILLED_ROWS}: {self.kept_after_kill} answers kept,"
            f" {self.asked_twice} rows sent twice by the next run"
        )


_KILLED_ROWS, _KILLED_AT = 600, 300
_IN_FLIGHT = 256


def peer(rows: int) -> None:
    figures = []
    for program in ("this runner", "Ray Data"):
        with cluster() as (address, root):
            with serving() as (_, url), tempfile.TemporaryDirectory() as folder:
                bench = Bench(Path(folder), url)
                begun, before = time.monotonic(), cpu_s(root)
                with driving(program, bench, address, url, rows) as driver:
                    most = 0.0
                    while driver.poll() is None:
                        most = max(most, rss_mb(root) + rss_mb(driver.pid))
                        spent_s = cpu_s(driver.pid)
                        time.sleep(0.1)
                assert driver.returncode == 0, program
                wall_s = time.monotonic() - begun
                spent_s += cpu_s(root) - before
            kept, twice = killed(program, address)
            figures.append(Beside(program, rows, wall_s, spent_s, most, kept, twice))
            print(figures[-1], flush=True)
    print(f"Written to {keep('cluster-peer', figures)}")


def killed(program: str, address: str) -> tuple[int, int]:
    """Kills the driver in the middle of a job and starts the job again. Returns (answers that
    survived, rows sent twice), by the server's own count.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = {"limit": 100_000, "book": f"{folder}/book.sqlite", "latency": "300ms"}
        server = subprocess.Popen(
            [sys.executable, "-m", "pipeline.sandbox.server", json.dumps(words)],
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        try:
            call = urllib.request.Request(
                f"{url}/_sandbox/workflows",
                json.dumps({"id": "wf_bench", "template": "{{story}}"}).encode(),
                method="PUT",
            )
            urllib.request.urlopen(call).close()
            bench = Bench(Path(folder, "job"), url, "sk_sandbox")
            bench.folder.mkdir()
            with driving(program, bench, address, url, _KILLED_ROWS, in_flight=20) as driver:
                while sum(received(url)) < _KILLED_AT:
                    time.sleep(0.05)
                driver.kill()
            time.sleep(5)  # gives Ray time to notice
            kept = 0
            if program == "this runner":
                kept = json.loads(bench.told("status"))["ok"]
            with driving(program, bench, address, url, _KILLED_ROWS, in_flight=20) as driver:
                driver.wait()
            return kept, sum(times > 1 for times in received(url))
        finally:
            server.kill()
            server.wait()


def received(url: str) -> list[int]:
    """Counts how often each row has reached the server."""
    with urllib.request.urlopen(f"{url}/_sandbox/bills") as answer:
        return [entry["received"] for entry in json.load(answer)["bills"]]


@contextmanager
def driving(
    program: str, bench: Bench, address: str, url: str, rows: int, in_flight: int = _IN_FLIGHT
) -> Iterator[subprocess.Popen[bytes]]:
    """The program's driver, as a process that ends with this context."""
    environment = bench.environment() | {"RAY_ADDRESS": address}
    if program == "this runner":
        if not bench.spec.exists():
            stories = (f"a story about dog number {n}" for n in range(rows))
            bench.write(
                stories, concurrency=in_flight, engine="ray", ray_address=address, workers=1
            )
        command = [sys.executable, "-m", "pipeline", "run", str(bench.spec), "--quiet"]
    else:
        peers = str(Path(__file__).with_name("peers.py"))
        command = [sys.executable, peers, "ray", url, str(rows), str(in_flight)]
    driver = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield driver
    finally:
        if driver.poll() is None:
            driver.kill()
        driver.wait()


@contextmanager
def cluster() -> Iterator[tuple[str, int]]:
    """Yields (address, process) of a cluster with two CPUs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            *("--port", str(port), "--num-cpus", "2", "--object-store-memory", "500000000"),
            *("--include-dashboard", "false", "--disable-usage-stats", "--temp-dir", folder),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            while "runtime started" not in process.stdout.readline():
                pass
            yield f"127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.communicate()


def cpu_s(root: int) -> float:
    """Returns the CPU seconds of a process and of all its descendants, ended ones included."""
    ticks = 0
    for pid in descendants(root):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mb(root: int) -> float:
    """Returns the memory of these processes. Shared memory counts in proportion."""
    total_kb = 0
    for pid in descendants(root):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total_kb += int(line.split()[1])
    return total_kb / 1024


def descendants(root: int) -> list[int]:
    found = [root]
    for pid in found:
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def apart(function: Callable[..., None], *arguments: Any) -> Any:
    """Runs `function` in a new process and returns the object that it sends through its last
    argument."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("The driver ended without a result.") from None
    finally:
        process.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["ceiling", "in-flight", "peer"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--concurrency", type=int, default=2_000)
    parser.add_argument("--in-flight", type=int, default=10_000)
    parser.add_argument("--answer-after", type=float, default=10.0)
    asked = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if asked.what == "ceiling":
        ceiling(asked.rows or 100_000, asked.concurrency)
    elif asked.what == "in-flight":
        in_flight(asked.in_flight, asked.answer_after)
    else:
        peer(asked.rows or 20_000)
