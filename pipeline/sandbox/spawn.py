"""A sandbox of one's own for one run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# The key that is for the real API only.
_SECRET = ("AITUTOR_API_KEY", "CREDENTIALS_DIRECTORY")


@dataclass(frozen=True, slots=True)
class Spawned:
    """A running sandbox: where it is, and the key that it takes."""

    url: str
    key: str


@contextmanager
def spawned_sandbox(workflow: str, variables: list[str], book: Path) -> Iterator[Spawned]:
    """Starts a sandbox that publishes `workflow`; it ends with this block or this process.

    It is a process of its own and inherits no open file: a lock that it held would outlive us.

    Raises:
        RuntimeError: when it does not come up.
    """
    options = json.dumps({"publish": [workflow, variables], "book": str(book), "with_parent": True})
    process = subprocess.Popen(
        # -P: else `-m` would import a pipeline.py or json.py of the current folder.
        [sys.executable, "-P", "-m", "pipeline.sandbox.server", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name not in _SECRET},
        start_new_session=True,  # a Ctrl-C in the terminal is for the runner alone
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it ended at once, as is seen below
            process.stdin.write(f"{options}\n".encode())
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the sandbox did not start")
        ready = json.loads(line)
        yield Spawned(ready["url"], ready["key"])
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
