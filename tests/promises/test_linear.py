"""The functions that read texts of servers and sheets take linear time for the worst 1 MB.

Each case runs in a separate process that the kernel ends after 5 s of CPU time. A linear function
needs 0.01 to 1.6 s. A quadratic one would need an hour.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import added_columns, wording
from pipeline.core.added_columns import KINDS
from pipeline.core.model import Reply
from pipeline.export.xlsx import cells
from pipeline.inputs import jsonl, values
from pipeline.inputs.table import Findings
from pipeline.inputs.xlsx import format_code, reader, shared_strings
from pipeline.inputs.xlsx.areas import Area
from pipeline.job.spec import JobSpec
from pipeline.policy.answer import classify
from pipeline.policy.masking import Mask
from pipeline.report.html import markup
from pipeline.results import answered_sheet, formulas
from pipeline.results import cells as cells_of_exports
from pipeline.results.flags import flags_of
from pipeline.sandbox.workflows import Workflow
from pipeline.scaffold import columns, job_spec
from pipeline.sending.engines.client import _plain

MB = 1_000_000
LIMIT_S = 5

_IN_FORKS = multiprocessing.get_context("forkserver")
_IN_FORKS.set_forkserver_preload([__name__])


def filled(piece: str) -> str:
    """1 MB of `piece`."""
    return piece * (MB // len(piece))


def numbered(piece: str) -> str:
    """1 MB of `piece`, with another number in place of each {}."""
    return "".join(piece.replace("{}", str(n)) for n in range(MB // (len(piece) + 4)))


def _marks(result: str, **variables: str) -> None:
    flags_of(result, json.dumps(variables))


def _many_variables(result: str) -> None:
    _marks(result, **{f"{'v' * n}{n}": result[:2000] for n in range(1, 501)})


def _answer(**fields: object) -> None:
    _body(json.dumps({"success": True, **fields}).encode())


def _body(body: bytes, status: int = 200) -> None:
    classify(Reply(0.0, 0.0, status, {}, body))


def _said(message: str) -> None:
    for status in (200, 429, 500):
        _body(json.dumps({"success": False, "error": message}).encode(), status)


def _masked(text: str) -> None:
    mask = Mask(["sk_secret/key"])
    mask.text(text)
    mask.body(json.dumps([text]).encode())
    mask.body(f'["{text}sk_secret\\/key{text}"]'.encode())


class _Headers:
    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self.raw = raw


def _twice() -> None:
    names = [str(n) for n in range(MB // 8)]
    with pytest.raises(jsonl._Unusable):
        jsonl._object([(name, 1) for name in (*names, names[-1])])


def _merged() -> None:
    """40,000 merged ranges (1 MB of XML) of 16,384 columns, of which only the last is sent."""
    columns = tuple(f"c{n}" for n in range(16_384))
    spec = JobSpec(Path(), "job", "wf", Path("a.xlsx"), Path(), variables=(("c", "c16383"),))
    body = reader._SheetBody(spec, reader._Header("S", 1, 1, columns), Findings())
    for _ in range(40_000):
        body._check_merged(Area(1, 1, 9, 16_383), 9)


MARKED = {
    "a marker that does not end": "{{" + filled(" "),
    "a marker with a sign that does not end": "{{#" + filled(" "),
    "markers that do not end": filled("{{ "),
    "markers in markers": filled("{"),
    "markers with long gaps": filled("{{" + " " * 400),
    "markers with names that do not end": filled("{{a b "),
    "markers": numbered("{{ n{} }}"),
    "places that do not end": filled("{a"),
    "places with dollars": filled("$$a"),
    "places with percents": filled("%a"),
    "places with brackets": filled("[[a"),
    "places": numbered("{v{}} $$v{}$$ %v{}% [[v{}]]"),
    "dollars": filled("$"),
    "percents": filled("%"),
    "brackets": filled("["),
    "nothings": filled("undefined ") + "x",
    "nothings with long gaps": filled("null" + " ;" * 200) + "x",
    "only nothings": filled("undefined "),
    "quotes": filled("\"'`") + "x",
    "spaces": filled(" ") + "x",
    "an object, and more": filled("[object Object"),
    "a refusal with long gaps": "I'm" + " " * 390 + filled("x"),
    "a refusal of many words": "I'm " + filled("a "),
    "a refusal for something": "sorry for " + filled(" "),
    "a refusal of a request": "I cannot create " + filled("a "),
    "signs before a refusal": filled("-"),
    "emphasis before a refusal": filled("*"),
}

BASE64 = base64.b64encode(b"sk_secret/key").decode().rstrip("=")
HEX = b"sk_secret/key".hex()

HIDING = {
    "backslashes": filled("\\"),
    "numbers": filled("\\\\u0073"),
    "numbers that do not end": filled("\\\\u007"),
    "percent signs": filled("%2"),
    "percent signs in percent signs": "%" + filled("25"),
    "entities": filled("&#00000"),
    "names": filled("&am"),
    "names of signs": filled("&lowba"),
    "zeros of a number": "&#" + filled("0"),
    "zeros of numbers": filled("&#" + "0" * 1000),
    "zeros of a hexadecimal number": "&#x" + filled("0"),
    "NULs": filled("\x00"),
    "the key": filled("sk_secre\\/"),
    "base64 in columns that do not end": BASE64 + filled(BASE64[:9] + "\n" * 9),
    "base64 with long gaps": f"{BASE64[:9]}\n{BASE64[9:]}" + filled(BASE64[0] + "\n" * 999),
    "base64 with gaps of backslashes": f"{BASE64[:9]}\n{BASE64[9:]}"
    + filled(BASE64[0] + "\\" * 999),
    "base64 with one gap": f"{BASE64[:9]}\n{BASE64[9:]}{BASE64[0]}" + filled("\\n\n \\"),
    "base64 letters": f"{BASE64[:9]}\n{BASE64[9:]}" + filled(BASE64[0]),
    "hexadecimal of mixed case": HEX.upper() + filled(HEX[:-1]),
}

CASES: dict[str, Callable[[], object]] = {
    **{f"answer: {name}": lambda text=text: _marks(text, a="x") for name, text in MARKED.items()},
    **{
        f"answer and row: {name}": lambda text=text: _marks(text, a=text)
        for name, text in MARKED.items()
    },
    **{
        f"answer for 500 variables: {name}": lambda text=text: _many_variables(text)
        for name, text in MARKED.items()
    },
    **{
        f"answer that may hide the key: {name}": lambda text=text: _masked(text)
        for name, text in HIDING.items()
    },
    "answer: 64 MB": lambda: _marks(MARKED["markers"] * 64, a="x"),
    "answer: lists in lists": lambda: _body(b'{"result":' + b"[" * MB),
    "answer: lists in lists that end": lambda: _body(
        b'{"result":' + b"[" * 900 + b"]" * 900 + b"}"
    ),
    "answer: many small lists": lambda: _answer(result=[[]] * (MB // 3)),
    "answer: long chains beside each other": lambda: _answer(
        result=[json.loads("[" * 190 + "]" * 190)] * 2000
    ),
    "answer: many citations": lambda: _answer(result="x", citations=["a"] * (MB // 4)),
    "answer: many odd citations": lambda: _answer(result="x", citations=[1] * (MB // 2)),
    "answer: many fields": lambda: _answer(result="x", **{f"f{n}": n for n in range(MB // 10)}),
    "answer: half characters": lambda: _answer(result=filled("\ud800")),
    "answer: digits": lambda: _body(b'{"result":' + b"1" * MB + b"}"),
    "answer: digits of a fraction": lambda: _body(b'{"result":0.' + b"1" * MB + b"}"),
    "answer: an exponent": lambda: _body(b'{"result":1e' + b"1" * MB + b"}"),
    "answer: backslashes": lambda: _body(b'{"result":"' + b"\\" * MB),
    "answer: no JSON": lambda: _body(b" " * MB + b"x"),
    "error: spaces": lambda: _said(filled(" ") + "x"),
    "error: words": lambda: _said(filled("a ")),
    "error: control characters": lambda: _said(filled("\x01")),
    "error: a page": lambda: _body(b"<" * MB, 502),
    "headers: one again and again": lambda: _plain(_Headers([(b"a", b"b")] * (MB // 6))),
    "printed: line feeds": lambda: wording.printable(filled("\n")),
    "printed: blank lines": lambda: wording.printable(filled(" \n")),
    "printed: colons": lambda: wording.printable(filled("\n:")),
    "printed: numbers signs": lambda: wording.printable(filled("#")),
    "printed: signs and words": lambda: wording.printable(filled("##a")),
    "printed: a sign and a word": lambda: wording.printable("##" + filled("a")),
    "printed: control characters": lambda: wording.json_line(filled("\x01")),
    "printed: unseen marks": lambda: wording.printable(filled("\u200d:\n")),
    "printed: a colon and unseen marks": lambda: wording.printable(filled("\u200d") + ":"),
    "printed: signs and unseen marks": lambda: wording.json_line(filled("#\u200d")),
    "printed: a sign and unseen marks": lambda: wording.printable("#" + filled("\u200d") + "#"),
    "guarded: tabs": lambda: formulas.unformulaic("x" + filled("\t")),
    "guarded: spaces": lambda: formulas.unformulaic("x;" + filled(" ")),
    "guarded: separators and spaces": lambda: formulas.unformulaic(filled('; \t"')),
    "guarded: signs": lambda: formulas.unformulaic(filled(";-")),
    "guarded: signs and digits": lambda: formulas.unformulaic(filled(";-1 1 1 1 1 1 1 1")),
    "guarded: a sign and spaces": lambda: formulas.unformulaic(";-" + filled(" ") + "1"),
    "guarded: dashes": lambda: formulas.unformulaic(filled(";---")),
    "guarded: a cell's name": lambda: formulas.unformulaic("- A1" + filled(" ") + "x"),
    "guarded: equals": lambda: formulas.unformulaic(filled("\n=")),
    "guarded: controls": lambda: formulas.unformulaic(filled("\0")),
    "guarded: a rare separator": lambda: formulas.unformulaic(filled("~ "), "~"),
    "shown in a report: controls": lambda: markup.visible(filled("\x01\r")),
    "shown in a report: an address": lambda: markup.http_url("http://" + filled("a.")),
    "cell: digits and a letter": lambda: values.literal_text(filled("1") + "x"),
    "cell: digits": lambda: values.literal_text("-" + filled("1") + "e0", 15),
    "cell: a fraction": lambda: values.literal_text("0." + filled("1"), 15),
    "cell: an exponent": lambda: values.literal_text("1e" + filled("1")),
    "number format: brackets": lambda: values.shown_by(filled("[")),
    "number format: brackets and hours": lambda: values.shown_by(filled("[h")),
    "number format: hours": lambda: values.shown_by("[" + filled("h")),
    "number format: quotes": lambda: values.shown_by('"' + filled('""')),
    "number format: backslashes": lambda: values.shown_by(filled("\\") + "x"),
    "number format: parts": lambda: format_code.parse(filled("[")),
    "number format: zeros": lambda: values.padded_width(filled("0") + "x"),
    "cell: escapes": lambda: shared_strings.unescaped(filled("_x")),
    "cell: half escapes": lambda: shared_strings.unescaped(filled("_x000")),
    "exported: escapes": lambda: cells.escaped(filled("_x0000_")),
    "exported: citations": lambda: cells_of_exports._read_citations(filled("\n")),
    "exported: 16,000 columns": lambda: answered_sheet.AddedNames(
        frozenset(("result", *(f"result_{n}" for n in range(16_000)))),
        frozenset(),
        KINDS,
        None,
    ).kinds(),
    "exported: 16,000 statuses": lambda: added_columns.exported_columns(
        f"_status_{n}" for n in range(16_000)
    ),
    "JSON Lines: a name twice among many": _twice,
    "header: a long name": lambda: columns.variable_names([filled("a ")]),
    "header: a long name as YAML": lambda: job_spec.quoted("a" + filled(" ")),
    "header: 16,000 names": lambda: columns.variable_names([f"c {n}" for n in range(16_000)]),
    "header: 16,000 names that become one": lambda: columns.variable_names(
        ["a" + "-" * n for n in range(16_000)]
    ),
    "header: a name that is not there": lambda: wording.nearest("a" * 1000, [filled("a")]),
    "header: a long name that is not there": lambda: wording.nearest(filled("ab"), [filled("ba")]),
    "workbook: merged cells again and again": _merged,
    "template of the sandbox": lambda: Workflow("wf", "{{" + filled(" ")),
}


def _limited(case: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    CASES[case]()


@pytest.mark.parametrize("case", CASES)
def test_a_megabyte_of_the_worst_text_takes_a_moment(case):
    """If one took longer, the kernel would end this process."""
    process = _IN_FORKS.Process(target=_limited, args=(case,))
    process.start()
    process.join()
    assert process.exitcode == 0, f"{case}: {process.exitcode}; -24 is over {LIMIT_S} s"
