"""A row as lines for a terminal or a pipe.

A row begins with a line about it, and all other lines are indented. On a terminal long lines are
broken at its width. No text of a sheet or a server can command the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.core.model import Citation, State, Verdict
from pipeline.core.money import paid_word
from pipeline.core.wording import printable, shortened
from pipeline.show.rows import ShownAttempt, ShownRow, ShownVersion
from pipeline.show.words import changes
from pipeline.status.advice import advise

_INDENT = "  "
_NARROWEST = 20
_TAB = 4
_WIDE = re.compile(
    "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6"
    "\U0001f300-\U0001faff\U00020000-\U0003fffd]"
)
"""Characters that take two columns of a terminal."""
_OTHER_ENDS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_LINE_ENDS = re.compile(f"[{_OTHER_ENDS}]")
_NEXT_LINE = re.compile(r"\n(?=[^\n])")
_STRETCH_CHARACTERS = 64 * 1024
_BOLD, _OLD, _NEW, _END = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m"

Spans = list[tuple[str, str]]
"""Consecutive parts of a text, each with the style of a terminal, or with none."""


@dataclass(frozen=True, slots=True)
class Page:
    """Where rows are shown. `width` is that of the terminal; None: no line is broken. `colour`: the
    terminal shows colours. `rehearsal`: nothing was paid."""

    width: int | None = None
    colour: bool = False
    rehearsal: bool = False

    def printed(self, row: ShownRow) -> Iterator[str]:
        """Yields the text of a row in parts. The whole of an answer may be too much at once."""
        return _joined(self._row(row))

    def message(self, text: str) -> Iterator[str]:
        """Yields a message as it stands between rows."""
        return _joined(self._block([(text, "")], 0))

    def _row(self, row: ShownRow) -> Iterator[str]:
        """One line or several, without the last line feed."""
        yield from self._block([(_head(row), _BOLD)], 0)
        yield from self._earlier(row)
        title = "Sent" if row.sent else "Not sent yet. A run would send"
        if row.variables:
            yield from self._title(title)
        for name, text in row.variables.items():
            yield from self._pair(name, text)
        yield from self._answer(row)
        if row.columns:
            yield from self._title("Columns")
        for name, value in row.columns.items():
            yield from self._pair(name, "-" if value is None else value)
        if not row.versions[1:]:
            yield from self._citations(row.citations)
        yield from self._attempts(row.attempts)

    def _earlier(self, row: ShownRow) -> Iterator[str]:
        """The columns of earlier stages, except for those that this one sent."""
        sent = set(row.variables.values())
        texts = {name: text for name, text in row.earlier.items() if text not in sent}
        if texts:
            yield from self._title("From earlier stages")
        for name, text in texts.items():
            yield from self._pair(name, text)

    def _answer(self, row: ShownRow) -> Iterator[str]:
        if row.versions[1:]:
            yield from self._versions(row.versions)
        elif row.answer is not None:
            yield from self._title("Answer")
            yield from self._block([(_clean(row.answer), "")], 2)
        note = _note(row, self.rehearsal)
        if note:
            yield from self._title("Answer now" if row.answer is not None else "No answer")
            yield from self._block([(_clean(note), "")], 2)

    def _versions(self, versions: tuple[ShownVersion, ...]) -> Iterator[str]:
        before = None
        for version in versions:
            text = _clean(version.answer)
            title = f"Version {version.version}, {_time(version)}"
            if before is None:
                spans = [(text, "")]
            elif text == before:
                spans = [("The same text.", "")]
            else:
                title += ", with the changes from the version before"
                spans = _compared(before, text)
            yield from self._title(title)
            yield from self._block(spans, 2)
            yield from self._citations(version.citations)
            before = text

    def _citations(self, citations: tuple[Citation, ...]) -> Iterator[str]:
        if citations:
            yield from self._title("Citations")
        for number, citation in enumerate(citations, 1):
            text = " ".join(filter(None, (citation.title, citation.url)))
            yield from self._item([(f"{number}. {_clean(text)}", "")])

    def _attempts(self, attempts: tuple[ShownAttempt, ...]) -> Iterator[str]:
        if attempts:
            yield from self._title("Requests")
        several = len({attempt.version for attempt in attempts}) > 1
        last = 0
        for entry in _entries(attempts):
            first, last = last + 1, last + len(entry)
            numbers = f"{first}" if first == last else f"{first}-{last}"
            line = _attempt(entry[-1], self.rehearsal, several)
            yield from self._item([(f"{numbers}. {line}", "")])

    def _title(self, text: str) -> Iterator[str]:
        yield from self._block([(f"{text}:", _BOLD)], 1)

    def _pair(self, name: str, text: str) -> Iterator[str]:
        yield from self._item([(f"{_clean(name)}: ", _BOLD), (_clean(text), "")])

    def _item(self, spans: Spans) -> Iterator[str]:
        """The lines of one text among several. Only the first of them begins at the margin."""
        return self._block(spans, 2, hang=1)

    def _block(self, spans: Spans, depth: int, hang: int = 0) -> Iterator[str]:
        """The lines of a text at this depth. All but the first are `hang` deeper."""
        first, later = _INDENT * depth, _INDENT * (depth + hang)
        text = "".join(part for part, _ in spans)
        if self.width is None and not self.colour:
            yield from _indented(text, first, later)
            return
        width = None if self.width is None else max(self.width - len(later), _NARROWEST)
        cursor = _Cursor(spans)
        for begin, end in broken(text, width):
            # A line that begins in the middle of a text may begin like a command.
            line = cursor.styled(begin, end) if self.colour else printable(text[begin:end])
            yield f"{first}{line}".rstrip(" ")
            first = later


def _joined(lines: Iterator[str]) -> Iterator[str]:
    """Puts lines together, because a terminal and a pager get each part by itself."""
    held, size = [], 0
    for line in lines:
        held += [line, "\n"]
        size += len(line) + 1
        if size >= _STRETCH_CHARACTERS:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def _indented(text: str, first: str, later: str) -> Iterator[str]:
    """Many lines at once: an answer may have ten million."""
    for piece in _stretches(text):
        begin = first if piece[:1].strip("\n") else ""
        yield begin + _NEXT_LINE.sub(f"\n{later}", piece)
        first = later


class _Cursor:
    """Walks through spans once, because there may be a million."""

    def __init__(self, spans: Spans) -> None:
        self._spans = iter(spans)
        self._begin = self._end = 0
        self._part, self._style = "", ""

    def styled(self, begin: int, end: int) -> str:
        """The characters `begin` to `end` of the text, with their styles. Each call begins where
        the one before ended, or later."""
        pieces = []
        while begin < end:
            while self._end <= begin:
                self._part, self._style = next(self._spans)
                self._begin, self._end = self._end, self._end + len(self._part)
            stop = min(end, self._end)
            piece = printable(self._part[begin - self._begin : stop - self._begin])
            pieces.append(f"{self._style}{piece}{_END}" if self._style else piece)
            begin = stop
        return "".join(pieces)


def broken(text: str, width: int | None) -> Iterator[tuple[int, int]]:
    """Yields the lines of a text as (begin, end): at its line breaks, and at spaces so that each
    fits `width` columns of a terminal. Takes time in proportion to the text."""
    begin = 0
    while begin <= len(text):
        end = text.find("\n", begin)
        end = len(text) if end < 0 else end
        yield from [(begin, end)] if width is None else _fitted(text, begin, end, width)
        begin = end + 1


def _fitted(text: str, begin: int, end: int, width: int) -> Iterator[tuple[int, int]]:
    while True:
        stop = _stop(text, begin, end, width)
        if stop == end:
            yield begin, end
            return
        space = text.rfind(" ", begin + 1, stop + 1)
        yield begin, stop if space < 0 else space
        begin = stop if space < 0 else space + 1


def _stop(text: str, begin: int, end: int, width: int) -> int:
    """How far the text from `begin` on fits `width` columns: one character at least."""
    stop = min(begin + width, end)
    piece = text[begin:stop]
    wide = 0 if piece.isascii() else len(_WIDE.findall(piece))
    while len(piece) + wide > width and len(piece) > 1:
        wide -= _WIDE.match(piece[-1]) is not None
        piece = piece[:-1]
    return begin + len(piece)


def _clean(text: str) -> str:
    """A text whose lines end with a line feed, and that has nothing for a terminal to obey."""
    text = text.replace("\r\n", "\n")
    if _LINE_ENDS.search(text):
        text = text.translate({ord(end): "\n" for end in _OTHER_ENDS})
    stretches = _stretches(text.rstrip("\n"))
    return "\n".join(printable(piece.expandtabs(_TAB)) for piece in stretches)


def _stretches(text: str) -> Iterator[str]:
    """Cuts a text at line feeds into stretches of some size. A pattern that matches in a million
    places of one text would take a gigabyte."""
    begin = 0
    while begin <= len(text):
        end = text.find("\n", begin + _STRETCH_CHARACTERS)
        end = len(text) if end < 0 else end
        yield text[begin:end]
        begin = end + 1


def _compared(old: str, new: str) -> Spans:
    """The new text with marks around what is not in the old one, and what no longer is."""
    spans: Spans = []
    for change in changes(old, new):
        if change.same:
            spans.append((change.new, ""))
            continue
        words = change.old.rstrip()
        if words:
            spans.append((f"[-{words}-]", _OLD))
        added = change.new.rstrip()
        if added:
            spans.append((f"{{+{added}+}}", _NEW))
        last = change.new or change.old
        spans.append((last[len(last.rstrip()) :], ""))
    return spans


def _head(row: ShownRow) -> str:
    code = f" ({row.error_code})" if row.error_code and row.status != State.OK else ""
    flags = f", flagged {', '.join(row.flags)}" if row.flags else ""
    review = f", {row.review}" if row.review else ""
    return _clean(f"{row.name}: {row.status}{code}{flags}{review}")


def _note(row: ShownRow, rehearsal: bool) -> str:
    """Why there is no answer, or why the row has only an earlier one."""
    code, message = row.error_code or "", shortened(row.error_message or "")
    if row.skipped:
        kept = " It keeps its answer." if row.answer is not None else ""
        return f"The last run skipped this row: {message}.{kept}" if message else ""
    if row.status == State.OK:
        return f"A newer answer was asked for: {code}. {message}" if code else ""
    if row.attempts and row.attempts[-1].outcome == "in flight":
        return "The run waits for it."
    if not row.attempts and row.status == State.PENDING:
        return ""
    if row.status in (State.FAILED, State.AMBIGUOUS, State.PENDING):
        maybe = any(attempt.paid == "maybe paid" for attempt in row.attempts)
        return advise(State(row.status), code, maybe_paid=maybe, rehearsal=rehearsal)
    return message


def _entries(attempts: tuple[ShownAttempt, ...]) -> list[list[ShownAttempt]]:
    """The requests in their order. Consecutive ones that the server turned away for the same reason
    are one entry, because a busy server may do so thirty times."""
    entries: list[list[ShownAttempt]] = []
    for attempt in attempts:
        last = entries[-1][-1] if entries else None
        if last is not None and attempt.outcome == Verdict.REFUSED and _alike(last, attempt):
            entries[-1].append(attempt)
        else:
            entries.append([attempt])
    return entries


def _alike(one: ShownAttempt, other: ShownAttempt) -> bool:
    return (one.version, one.outcome, one.code) == (other.version, other.outcome, other.code)


def _attempt(attempt: ShownAttempt, rehearsal: bool, several: bool) -> str:
    facts = [_time(attempt)]
    facts += [f"version {attempt.version}"] if several else []
    facts += [] if attempt.http_status is None else [f"HTTP {attempt.http_status}"]
    facts += [] if attempt.duration_s is None else [f"{attempt.duration_s:.2f} s"]
    code = f" ({attempt.code})" if attempt.code else ""
    paid = attempt.paid.replace("paid", paid_word(rehearsal))
    message = f": {shortened(attempt.message)}" if attempt.message else ""
    return f"{', '.join(facts)}, {attempt.outcome}{code}, {paid}{message}"


def _time(one: ShownAttempt | ShownVersion) -> str:
    return one.sent_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
