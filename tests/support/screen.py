"""A terminal of a given width, as far as progress bars need one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO


def shown_lines(drawn: str, columns: int) -> list[str]:
    """Returns what a terminal shows. A text that is too long continues on the next line."""
    lines, column = [""], 0
    for character in drawn:
        if character == "\r":
            column = 0
            continue
        if character == "\n" or column == columns:
            lines.append("")
            column = 0
        if character != "\n":
            line = lines[-1].ljust(column)
            lines[-1] = line[:column] + character + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@dataclass
class Screen:
    """A pseudo terminal. Programs write to `stream`. `widest` is the longest line so far, as far as
    `lines` has looked."""

    columns: int
    stream: TextIO
    _reader: int
    _drawn: str = ""
    widest: int = field(default=0, init=False)

    def lines(self) -> list[str]:
        """The lines on the screen."""
        self.stream.flush()
        self._drawn += self._written()
        self.widest = max(map(len, re.split("[\r\n]", self._drawn)))
        return shown_lines(self._drawn, self.columns)

    def _written(self) -> str:
        found = b""
        os.set_blocking(self._reader, False)
        while True:
            try:
                found += os.read(self._reader, 65536)
            except (BlockingIOError, OSError):
                return found.decode()


@contextmanager
def screen(columns: int) -> Iterator[Screen]:
    """Opens a terminal with so many columns."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        with os.fdopen(writer, "w", encoding="utf-8") as stream:
            yield Screen(columns, stream, reader)
    finally:
        os.close(reader)
