"""Draws the pictures of the README and of docs/: a session in a terminal, an exported sheet, and
two pages in a browser, a report and the rows of `pipeline ui`.

    python docs/record.py            prints the session
    python docs/record.py --write    draws all four (needs rich and Chromium; see `make picture`)

`tests/commands/test_docs.py` records again and compares the words in the pictures.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import html
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from pipeline.run.places import Places
from pipeline.show.finder import Finder
from pipeline.ui.app import STATIC
from pipeline.ui.job_page import Shown
from pipeline.ui.rows_page import Filter, rows_page

TOP = Path(__file__).parent.parent
SESSION = Path(__file__).with_name("session.svg")
SHEET = Path(__file__).with_name("sheet.svg")
REPORT = Path(__file__).with_name("report.png")
ROWS = Path(__file__).with_name("page.png")
_SIZES = {REPORT: (1000, 1250), ROWS: (1180, 640)}
COLUMNS = 120
COMMANDS = (
    "pipeline run jobs/products.yaml --sandbox --limit 160",
    "pipeline report jobs/products.yaml --sandbox",
    "pipeline export jobs/products.yaml --sandbox --to done.csv",
)

# A viewer of pictures loads no fonts, so those of its machine are named.
_MONOSPACE = 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace'
_FRAME = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: FONT;
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
""".replace("FONT", _MONOSPACE)

# The columns of the exported sheet that are drawn, each with its width in pixels, and its rows.
_DRAWN = {"SKU": 60, "Product": 210, "result": 330, "citations": 230, "_status": 65}
_DRAWN |= {"_error_code": 115}
_ROWS = (1, 2, 3, 22, 23, 24, 25)
_ROW_PX, _NUMBER_PX, _CHARACTER_PX = 24, 40, 7.2


def recorded(runner: Path) -> tuple[list[str], list[list[str]], dict[Path, str]]:
    """Runs the session in a fresh copy of the jobs. Returns the lines in the terminal at its end,
    the drawn cells of the exported sheet, and the HTML of each page by its picture.

    `runner` is the installed command.
    """
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(TOP / "jobs", Path(folder, "jobs"), ignore=shutil.ignore_patterns("runs"))
        shutil.copytree(TOP / "data", Path(folder, "data"))
        lines = []
        for command in COMMANDS:
            lines += [f"$ {command}", *_final(_terminal_output(runner, command, folder)), ""]
        report = Path(folder, "jobs", "runs", "products.sandbox", "report.html")
        pages = {REPORT: report.read_text(encoding="utf-8"), ROWS: _rows_page(Path(folder))}
        return lines[:-1], _cells(Path(folder, "done.csv")), pages


def _rows_page(folder: Path) -> str:
    """The rows of the rehearsal, with the second one open."""
    at = "jobs/products.yaml"
    shown = Shown(at, Places(folder).job(at, rehearsal=True), rehearsal=True)
    page = rows_page(shown, Filter({}), Finder(shown.job), "2")
    return page.replace("/static/page.css", (STATIC / "page.css").as_uri())


def _terminal_output(runner: Path, command: str, folder: str) -> str:
    """Everything that a command writes to its terminal."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AITUTOR_")}
    environment |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
    words = [str(runner), *command.split()[1:]]
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdin=its_end, stdout=its_end, stderr=its_end
    )
    os.close(its_end)
    output = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux reports the closed other end in this way
            break
        if not chunk:
            break
        output += chunk
    os.close(terminal)
    process.wait()
    return output.decode()


def _final(output: str) -> list[str]:
    """The lines that stay: a progress bar overwrites itself."""
    return [
        line.rstrip("\r").rsplit("\r", 1)[-1].rstrip()
        for line in output.removesuffix("\n").split("\n")
    ]


def _cells(export: Path) -> list[list[str]]:
    """The column names, then the drawn rows, each beginning with its number in a spreadsheet."""
    with export.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = [[str(n + 1), *(rows[n - 1][name] for name in _DRAWN)] for n in _ROWS]
    return [["1", *_DRAWN], *([number, *map(_fitting, cells, _DRAWN)] for number, *cells in drawn)]


def _fitting(text: str, column: str) -> str:
    """As much of a text as its cell shows."""
    room = int((_DRAWN[column] - 8) / _CHARACTER_PX)
    line = " ".join(text.split())
    return line if len(line) <= room else line[: room - 1] + "…"


def draw_session(lines: list[str]) -> str:
    """The terminal as SVG."""
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


def draw_sheet(rows: list[list[str]]) -> str:
    """The exported sheet as SVG, as a spreadsheet program shows it."""
    widths = [_NUMBER_PX, *_DRAWN.values()]
    width, height = sum(widths), _ROW_PX * (len(rows) + 1)
    added = sum(widths[:3])
    parts = [
        f'<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">',
        "<style>text { font-family: system-ui, sans-serif; font-size: 12px; fill: #202124 }"
        " .head { fill: #5f6368 } .name { font-weight: bold } .no { fill: #b3261e }</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<rect width="{width}" height="{_ROW_PX}" fill="#f1f3f4"/>',
        f'<rect width="{_NUMBER_PX}" height="{height}" fill="#f1f3f4"/>',
        f'<rect x="{added}" y="{_ROW_PX}" width="{width - added}" height="{height}"'
        ' fill="#e6f4ea"/>',
    ]
    lettered = [["", *"ABCDEFGHIJ"[: len(_DRAWN)]], *rows]
    for line, cells in enumerate(lettered):
        left = 0
        for column, (text, room) in enumerate(zip(cells, widths, strict=True)):
            kind = _kind(line, column, text)
            parts.append(
                f'<text x="{left + 4}" y="{_ROW_PX * line + 16}"{kind}>{html.escape(text)}</text>'
            )
            left += room
    marks = [sum(widths[: n + 1]) for n in range(len(widths))]
    lines = [f"M{x} 0V{height}" for x in marks]
    lines += [f"M0 {_ROW_PX * n}H{width}" for n in range(len(lettered) + 1)]
    return "\n".join([*parts, f'<path d="{"".join(lines)}" stroke="#dadce0"/>', "</svg>", ""])


def _kind(line: int, column: int, text: str) -> str:
    if line == 0 or column == 0:
        return ' class="head"'
    if line == 1:
        return ' class="name"'
    return ' class="no"' if text in ("failed", "ambiguous") else ""


def draw_page(page: str, target: Path) -> None:
    """A PNG of the upper part of a page. It contains the page's words as a text chunk, with which a
    test sees that the picture is out of date."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit("Chromium is needed for the pictures of pages.")
    with tempfile.TemporaryDirectory() as folder:
        source, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        source.write_text(page, encoding="utf-8")
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        width, height = _SIZES[target]
        size = (f"--window-size={width},{height}", f"--screenshot={shot}")
        profile = f"--user-data-dir={folder}/profile"
        subprocess.run([browser, *options, *size, profile, source.as_uri()], check=True)
        about = PngInfo()
        about.add_itxt("words", "\n".join(page_words(page)))
        with Image.open(shot) as image:
            image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(
                target, pnginfo=about, optimize=True
            )


def page_words(page: str) -> list[str]:
    """The headings, the buttons, and the words of the failed groups: what does not depend on the
    time."""
    words = re.findall(r"<(?:h1|h2|h3|th|code|button)\b[^>]*>(.*?)</", page, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]*>", "", word)).strip() for word in words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    lines, cells, pages = recorded(TOP / ".venv" / "bin" / "pipeline")
    if not write:
        print("\n".join(lines))
        return
    SESSION.write_text(draw_session(lines), encoding="utf-8")
    SHEET.write_text(draw_sheet(cells), encoding="utf-8")
    for target, page in pages.items():
        draw_page(page, target)


if __name__ == "__main__":
    sys.exit(main())
