"""docs/session.svg: a session without a key, recorded from a real terminal.

    python docs/record.py        prints it as it comes
    python docs/record.py --write    draws it (needs rich; see `make picture`)

It lies beside its picture, as `reference.py` does beside its page. `tests/commands/test_docs.py`
records again and compares the words.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

TOP = Path(__file__).parent.parent
PICTURE = Path(__file__).with_name("session.svg")
COLUMNS = 120
COMMANDS = (
    "pipeline run jobs/products.yaml --sandbox --limit 160",
    "pipeline report jobs/products.yaml --sandbox",
    "pipeline export jobs/products.yaml --sandbox --to done.csv",
)

# A viewer of pictures loads no fonts, so those of its machine are named.
_FRAME = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
}}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#17191d" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, 24)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def recorded(runner: Path) -> list[str]:
    """The lines of the session as the terminal holds them at its end, in a fresh checkout.

    `runner` is the installed command.
    """
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(TOP / "jobs", Path(folder, "jobs"), ignore=shutil.ignore_patterns("runs"))
        shutil.copytree(TOP / "data", Path(folder, "data"))
        lines = []
        for command in COMMANDS:
            lines += [f"$ {command}", *_held(_shown(runner, command, folder)), ""]
    return lines[:-1]


def _shown(runner: Path, command: str, folder: str) -> str:
    """All that a command writes to its terminal."""
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AITUTOR_")}
    environment |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
    words = [str(runner), *command.split()[1:]]
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    came = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # so Linux says that nobody has the other end any more
            break
        if not chunk:
            break
        came += chunk
    os.close(terminal)
    process.wait()
    return came.decode()


def _held(shown: str) -> list[str]:
    """The lines that stay: a progress bar is drawn over itself."""
    return [
        line.rstrip("\r").rsplit("\r", 1)[-1].rstrip()
        for line in shown.removesuffix("\n").split("\n")
    ]


def drawn(lines: list[str]) -> str:
    """The picture."""
    from io import StringIO

    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=StringIO())
    for line in lines:
        text = Text.from_ansi(line)
        if line.startswith("$ "):
            text.stylize("bold green")
        console.print(text, soft_wrap=True)
    return console.export_svg(code_format=_FRAME, unique_id="session")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    said = parser.parse_args()
    lines = recorded(TOP / ".venv" / "bin" / "pipeline")
    if said.write:
        PICTURE.write_text(drawn(lines), encoding="utf-8")
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
