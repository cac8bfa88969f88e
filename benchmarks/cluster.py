"""Many machines: what one driver can feed, and what its workers can hold.

    python benchmarks/cluster.py ceiling [--rows 100000]

`ceiling` lets a job run through plan, pace, ledger and parts with an engine that answers at once:
in the driver's own process, which leaves only the driver's work, and from Ray workers, which adds
what the way there and back costs it. CPU seconds are the driver's alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import KEY, Bench, keep

WORKERS = 2


@dataclass(frozen=True)
class Driver:
    """What the driver took. `loop_s` is the CPU time of its event loop's thread."""

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


@asynccontextmanager
async def instant_engine(*_: Any) -> AsyncIterator[Any]:
    from at_once import InstantEngine

    yield InstantEngine()


def drive(engine: str, spec: Path, answers: Any) -> None:
    """Runs the job in this process and tells what that took."""
    import gc

    from pipeline import run
    from pipeline.events import AttemptEnded

    gc.freeze()
    gc.set_threshold(100_000)
    if engine == "in the driver":
        run.open_engine = instant_engine  # type: ignore[assignment]
    elif engine == "Ray workers that answer at once":
        from at_once import InstantWorker

        from pipeline.engines import ray

        ray.Worker = InstantWorker  # type: ignore[misc]
    looks: list[tuple[float, float, float]] = []
    others: list[Any] = []

    def look(event: Any) -> None:
        if not isinstance(event, AttemptEnded):
            others.append(event)
        elif len(looks) < 2:
            looks.append((time.monotonic(), time.process_time(), time.thread_time()))
        else:
            looks[1] = time.monotonic(), time.process_time(), time.thread_time()

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # of the workers, which import this
    os.environ["AITUTOR_API_KEY"] = KEY
    os.environ["AITUTOR_BASE_URL"] = "http://127.0.0.1:9"
    summary = run.run_job(spec, listeners=(look,))
    if len(looks) < 2:
        raise SystemExit(f"nothing was sent: {others}")
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
    print(f"kept in {keep('ceiling', figures)}")


def apart(function: Callable[..., None], *arguments: Any) -> Any:
    """What `function` puts into its last argument, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("the driver ended without an answer") from None
    finally:
        process.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["ceiling"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=2_000)
    asked = parser.parse_args()
    ceiling(asked.rows, asked.concurrency)
