"""Runs the command line in forks of one process that has imported everything.

Starting Python with everything loaded takes most of a second. A fork takes ten milliseconds, so
hundreds of kills fit into minutes. Each fork is a separate process, and dies like one.

Most commands in the tests are such forks. Tests of the start itself (imports, Python's environment
variables, memory of a child) start Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import hits

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Forked:
    """A running command, with the part of `subprocess.Popen` that tests need. Its output is thrown
    away."""

    def __init__(
        self, forks: Forks, words: list[str], environment: dict[str, str], program: str = "pipeline"
    ) -> None:
        self.returncode: int | None = None
        self._forks = forks
        self._folder = tempfile.TemporaryDirectory(dir=forks.folder)
        asked = {"words": words, "folder": self._folder.name, "environment": environment}
        self.pid = forks._ask(asked | {"here": os.getcwd(), "program": program})
        self._ended = os.pidfd_open(self.pid)

    def first_line(self) -> str:
        """Waits until the program has printed a line, and returns it. Raises if it ends without."""
        stdout = Path(self._folder.name, "stdout")
        while not stdout.exists() or not (line := stdout.read_text("utf-8")).endswith("\n"):
            assert self.poll() is None, "the program printed nothing"
            time.sleep(0.002)
        return line

    def poll(self) -> int | None:
        """Returns the exit code, or None while the command runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._ended, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            self.returncode = self._forks.wait(self.pid)
            os.close(self._ended)
            self._folder.cleanup()
        return self.returncode


@dataclass
class Forks:
    """The process that forks, and the folder for the output of its children."""

    server: subprocess.Popen[bytes]
    folder: Path
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def start(self, *words: str) -> int:
        """Starts ``pipeline`` with these words, and returns the id of its process."""
        return self._ask({"words": words, "folder": str(self.folder)})

    def wait(self, pid: int) -> int:
        """Waits until a process ends, and returns its exit code (negative after a signal)."""
        return os.waitstatus_to_exitcode(self._ask({"wait": pid}))

    def call(self, *words: str) -> int:
        """Runs a command until it ends."""
        return self.wait(self.start(*words))

    def run(
        self,
        command: list[str],
        environment: dict[str, str],
        timeout: float,
        limits: dict[int, int] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `command` like `subprocess.run`. Its first three words are Python, -m, pipeline.

        `limits` are resource limits of the child. The one of RLIMIT_AS is added to the memory that
        it already has.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            asked = {"words": command[3:], "folder": folder, "environment": environment}
            pid = self._ask(asked | {"here": os.getcwd(), "limits": list((limits or {}).items())})
            ended = os.pidfd_open(pid)
            try:
                if not select.select([ended], [], [], timeout)[0]:
                    os.kill(pid, signal.SIGKILL)
                    self.wait(pid)
                    raise subprocess.TimeoutExpired(command, timeout)
            finally:
                os.close(ended)
            said = [Path(folder, name).read_text("utf-8") for name in ("stdout", "stderr")]
            return subprocess.CompletedProcess(command, self.wait(pid), *said)

    def call_with_signals(self, words: list[str], signals: list[tuple[float, int]]) -> int:
        """Runs a command, and sends it each signal after the given seconds."""
        pid = self.start(*words)
        for after_s, number in signals:
            time.sleep(after_s)
            os.kill(pid, number)  # the process keeps its id until `wait`
        return self.wait(pid)

    @property
    def said(self) -> str:
        """The stdout of the last command."""
        return (self.folder / "stdout").read_text(encoding="utf-8")

    @property
    def complained(self) -> str:
        """The stderr of the last command."""
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def _ask(self, question: dict) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        with self._one_at_a_time:
            self.server.stdin.write(json.dumps(question).encode() + b"\n")
            self.server.stdin.flush()
            return int(self.server.stdout.readline())


@contextlib.contextmanager
def forking(folder: Path, environment: dict[str, str]) -> Iterator[Forks]:
    """Starts the process that forks, and ends it with the block."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forks"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield Forks(server, folder)
    finally:
        for stream in (server.stdin, server.stdout):
            if stream is not None:
                stream.close()
        server.wait()


def _serve() -> None:
    import pipeline.cli
    import pipeline.export
    import pipeline.report.html.write
    import pipeline.run.check
    import pipeline.run.run
    import pipeline.run.settle
    import pipeline.sandbox.server
    import pipeline.scaffold.job_spec
    import pipeline.sending.engines.local
    import pipeline.verify  # noqa: F401

    # The garbage collector of a child would write to each object, and so copy all memory.
    gc.collect()
    gc.freeze()
    # A signal during the fork is held back until the child is ready.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        waited = os.waitpid(asked["wait"], 0)[1] if "wait" in asked else None
        answer = (os.fork() or _become(asked)) if waited is None else waited
        sys.stdout.buffer.write(b"%d\n" % answer)
        sys.stdout.buffer.flush()


def _become(asked: dict) -> int:
    """Runs the command in the child, and never returns."""
    from pipeline import cli
    from pipeline.sandbox import server

    main = cli.main
    if asked.get("program") == "sandbox":
        main = server.main
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    code = 1
    folder = Path(asked["folder"])
    try:
        if "environment" in asked:
            os.environ.clear()
            os.environ.update(asked["environment"])
            os.chdir(asked["here"])
            time.tzset()
        for number, most in asked.get("limits", ()):
            if number == resource.RLIMIT_AS:
                most += (
                    int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                )
            resource.setrlimit(number, (most, most))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(folder / name, flags, 0o600), number)
        sys.argv = ["pipeline", *asked["words"]]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        sys.stdout.flush()
        sys.stderr.flush()
        hits.leave()
        os._exit(code)


if __name__ == "__main__":
    _serve()
