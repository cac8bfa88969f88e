"""The command line in forks of one process that has imported everything.

A start of Python with everything loaded takes most of a second; a fork takes ten milliseconds, so
that hundreds of kills fit into minutes. Each fork is a process of its own, and dies like one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Forks:
    """The process that forks, and where its children write what they say."""

    server: subprocess.Popen[bytes]
    folder: Path

    def start(self, *words: str) -> int:
        """Starts ``pipeline`` with these words; the id of its process."""
        return self._ask({"words": words, "folder": str(self.folder)})

    def wait(self, pid: int) -> int:
        """The exit code of a process once it has ended; -9 and the like after a signal."""
        return os.waitstatus_to_exitcode(self._ask({"wait": pid}))

    def call(self, *words: str) -> int:
        """Runs a command to its end."""
        return self.wait(self.start(*words))

    def call_with_signals(self, words: list[str], signals: list[tuple[float, int]]) -> int:
        """Runs a command that is sent each signal after so many seconds."""
        pid = self.start(*words)
        for after_s, number in signals:
            time.sleep(after_s)
            os.kill(pid, number)  # not reaped before `wait`, so the id is still its own
        return self.wait(pid)

    @property
    def said(self) -> str:
        """What the last command wrote to stdout."""
        return (self.folder / "stdout").read_text(encoding="utf-8")

    @property
    def complained(self) -> str:
        """What the last command wrote to stderr."""
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def _ask(self, question: dict) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(question).encode() + b"\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


@contextlib.contextmanager
def forking(folder: Path, environment: dict[str, str]) -> Iterator[Forks]:
    """Starts the process that forks; it ends with this block."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forks"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=Path(__file__).parent.parent,
    )
    try:
        yield Forks(server, folder)
    finally:
        for stream in (server.stdin, server.stdout):
            if stream is not None:
                stream.close()
        server.wait()


def _serve() -> None:
    import pipeline.check
    import pipeline.cli
    import pipeline.engines.local
    import pipeline.export
    import pipeline.report.overview
    import pipeline.run  # noqa: F401

    # A signal that comes while the child is being made waits until the child is itself.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitpid(asked["wait"], 0)[1]
        else:
            answer = os.fork() or _become(asked["words"], Path(asked["folder"]))
        sys.stdout.buffer.write(b"%d\n" % answer)
        sys.stdout.buffer.flush()


def _become(words: list[str], folder: Path) -> int:
    """The child: no way back from here."""
    from pipeline.cli import main

    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(folder / name, flags, 0o600), number)
        sys.argv = ["pipeline", *words]
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
        os._exit(code)


if __name__ == "__main__":
    _serve()
