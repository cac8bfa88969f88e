"""The addresses of the page.

Reading ones answer GET and change nothing but what the commands `report` and `export` write. The
others answer POST, and the guard lets only forms of the page itself reach them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pipeline.core.errors import Locked, PipelineError, Refused
from pipeline.job.job import Job
from pipeline.planning.selection import parse_rows
from pipeline.review.decide import review_job
from pipeline.run.places import SPECS, Places
from pipeline.run.start import start_run
from pipeline.run.stop import stop_job
from pipeline.ui.edit_page import edit_page
from pipeline.ui.failures_page import failures_page
from pipeline.ui.files_page import download, files_page
from pipeline.ui.finders import Finders
from pipeline.ui.guard import Guard
from pipeline.ui.job_page import (
    Pace,
    Shown,
    actions,
    job_page,
    live_part,
    plan_page,
    stop_page,
)
from pipeline.ui.jobs_page import jobs_page
from pipeline.ui.markup import document, local, paragraph, to
from pipeline.ui.new_page import MOST_SHEET_BYTES, FormAnswer, continue_with, new_page, new_sheet
from pipeline.ui.row_page import review_question, row_page, row_part
from pipeline.ui.rows_page import Filter, rows_page
from pipeline.ui.steps import Step

STATIC = Path(__file__).parent / "static"
_LIVE_EVERY_S = 1.0
_LIVE_SHARE = 10
"""A reading of the state is followed by a wait that is at least so many times as long."""
_MOST_FORM_BYTES = 16 << 20
_MOST_FIELDS = 2000

Fields = Mapping[str, str]
Screen = Callable[[Fields], Response | str]


class Page:
    """The screens of one started folder. `ends` says whether the server is about to end. `at` is
    the job or the sheet to begin with."""

    def __init__(
        self, root: Path, ends: Callable[[], bool] = lambda: False, at: str | None = None
    ) -> None:
        self._places = Places(root)
        self._finders = Finders()
        self._ends = ends
        self._at = at

    def guarded(self, port: int) -> Guard:
        """The application for this port, behind its guard."""
        return Guard(self._app(), port)

    def _app(self) -> ASGIApp:
        reading: dict[str, Screen] = {
            "/": lambda fields: jobs_page(self._places, self._at),
            "/job": lambda fields: job_page(self._shown(fields)),
            "/actions": lambda fields: actions(self._shown(fields)).source,
            "/plan": lambda fields: plan_page(self._shown(fields), Step.of_fields(fields)),
            "/rows": lambda fields: self._rows(fields),
            "/row": self._row,
            "/new": self._new,
            "/edit": self._edit,
            "/failures": lambda fields: failures_page(self._shown(fields)),
            "/files": lambda fields: files_page(self._shown(fields)),
            "/download": self._download,
            "/stop-now": lambda fields: stop_page(self._shown(fields)),
        }
        changing: dict[str, Screen] = {
            "/start": self._start,
            "/rehearse": self._rehearse,
            "/stop": self._stop,
            "/review": self._review,
            "/new": self._new,
            "/edit": self._edit,
            "/continue": self._continue,
        }
        return Starlette(
            routes=[
                *(Route(path, _reading(screen)) for path, screen in reading.items()),
                *(Route(p, _changing(s), methods=["POST"]) for p, s in changing.items()),
                Route("/live", self._live),
                Route("/upload", self._upload, methods=["POST"]),
                Mount("/static", StaticFiles(directory=STATIC)),
            ],
            exception_handlers={
                PipelineError: _explained,
                OSError: _unreadable,
                ClientDisconnect: _gone,
            },
        )

    def _shown(self, fields: Fields) -> Shown:
        rehearsal = fields.get("rehearsal") == "1"
        at = fields.get("at", "")
        return Shown(at, self._places.job(at, rehearsal=rehearsal), rehearsal)

    def _start(self, fields: Fields) -> Response:
        shown, step = self._shown(fields), Step.of_fields(fields)
        token = fields.get("plan")
        if not token:
            raise Refused("This button has no plan. Open the job again. Nothing was sent.")
        start_run(shown.job, step.words, token)
        return _see(shown)

    def _rehearse(self, fields: Fields) -> Response:
        from pipeline.run.check import check_job

        at = fields.get("at", "")
        shown = Shown(at, self._places.job(at, rehearsal=True), rehearsal=True)
        start_run(shown.job, Step().words, check_job(shown.job).plan)
        return _see(shown)

    def _stop(self, fields: Fields) -> Response:
        shown = self._shown(fields)
        stop_job(shown.job, now=fields.get("now") == "1")
        return _see(shown)

    def _rows(self, fields: Fields) -> str:
        shown, wanted = self._shown(fields), Filter.of_fields(fields)
        return rows_page(shown, wanted, self._finders.of(shown.job), fields.get("open"))

    def _row(self, fields: Fields) -> str:
        shown, number = self._shown(fields), fields.get("row", "")
        finder, back = self._finders.of(shown.job), fields.get("back", "")
        if "part" in fields:
            return row_part(shown, finder, number, back).source
        return row_page(shown, finder, number, back)

    def _review(self, fields: Fields) -> Response | str:
        shown, number = self._shown(fields), fields.get("row", "")
        text, asked = fields.get("text"), []

        def ask(question: str) -> bool:
            asked.append(question)
            return False

        try:
            review_job(
                shown.job,
                fields.get("decision", ""),
                rows=parse_rows(number),
                # A form sends each line end as two characters.
                text=None if text is None else text.replace("\r\n", "\n"),
                column=fields.get("column"),
                answer=fields.get("answer", ""),
                ask=ask,
                yes=fields.get("sure") == "1",
            )
        except Refused:
            if not asked:
                raise
            return review_question(shown, asked[0], fields)
        back = Filter.of_text(fields.get("back", "")).fields
        return RedirectResponse(local("/rows", **shown.fields, **back, open=number).text, 303)

    def _new(self, fields: Fields) -> Response:
        return _answer(new_page(self._places, fields))

    def _edit(self, fields: Fields) -> Response:
        return _answer(edit_page(self._places, fields))

    def _continue(self, fields: Fields) -> Response:
        at = fields.get("at", "")
        continue_with(self._places, at, fields.get("sheet", ""))
        return RedirectResponse(local("/job", at=at).text, 303)

    async def _upload(self, request: Request) -> Response:
        """Saves a sheet under a name that no file has. Answers with the address to go to."""
        path = await run_in_threadpool(
            new_sheet, self._places, request.query_params.get("name", "")
        )
        try:
            with path.open("xb") as file:
                size = 0
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > MOST_SHEET_BYTES:
                        raise Refused("The page reads sheets up to 1 GB. Nothing was saved.")
                    await run_in_threadpool(file.write, chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return PlainTextResponse(local("/new", sheet=path.name).text)

    def _download(self, fields: Fields) -> Response:
        made = download(self._shown(fields), fields)
        return FileResponse(
            made.path,
            filename=made.path.name,
            media_type="application/octet-stream",
            background=BackgroundTask(made.remove),
        )

    async def _live(self, request: Request) -> Response:
        shown = await run_in_threadpool(self._shown, dict(request.query_params))
        events = _events(shown.job, self._ends)
        return StreamingResponse(events, media_type="text/event-stream")


async def _events(job: Job, ends: Callable[[], bool]) -> AsyncIterator[str]:
    """The state of a job once a second, and an event when another step comes next. Each reading
    opens its own view of the ledger and closes it."""
    pace, before = Pace(), None
    while not ends():
        begun = time.monotonic()
        try:
            active = job.folder.in_use
            text = (await run_in_threadpool(live_part, job, pace, time.monotonic())).source
        except PipelineError as error:
            active, text = False, paragraph(str(error), class_="problem").source
        yield f"event: live\ndata: {' '.join(text.splitlines())}\n\n"
        if before is not None and before != active:
            yield "event: changed\ndata: \n\n"
        before = active
        wait_s = max(_LIVE_EVERY_S, _LIVE_SHARE * (time.monotonic() - begun))
        until = time.monotonic() + wait_s
        while not ends() and (left_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, _LIVE_EVERY_S))


def _answer(found: FormAnswer) -> Response:
    if found.next:
        return RedirectResponse(found.next, 303)
    return HTMLResponse(found.text, 400 if found.fault else 200)


def _see(shown: Shown) -> Response:
    return RedirectResponse(local("/job", **shown.fields).text, 303)


def _reading(screen: Screen) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return _response(await run_in_threadpool(screen, dict(request.query_params)))

    return endpoint


def _changing(screen: Screen) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        body = await bounded_body(request, _MOST_FORM_BYTES)
        try:
            fields = dict(
                parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
            )
        except ValueError:
            raise Refused("This is no form of the page.") from None
        request.state.at = fields.get("at", "")  # for the way back, if this is refused
        return _response(await run_in_threadpool(screen, fields))

    return endpoint


async def bounded_body(request: Request, most: int) -> bytes:
    """The body of a request.

    Raises:
        Refused: if it has more than `most` bytes.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refused(f"The page accepts at most {most >> 20} MB at once. Nothing was saved.")
    return bytes(body)


def _response(answer: Response | str) -> Response:
    return HTMLResponse(answer) if isinstance(answer, str) else answer


def _explained(request: Request, error: Exception) -> Response:
    """Says what was refused, with the way back."""
    status = 409 if isinstance(error, Locked) else 400 if isinstance(error, Refused) else 500
    if request.url.path == "/upload":
        return PlainTextResponse(str(error), status)
    clicked = getattr(request.state, "at", "")
    at = clicked or request.query_params.get("at", "")
    back = to("Back to the job", local("/job", at=at)) if at else to("All jobs", local("/"))
    if at.endswith(SPECS) and not clicked and request.url.path != "/edit":
        back = to("Open the job file", local("/edit", at=at))
    text = document("Refused", paragraph(str(error), class_="problem"), paragraph(back))
    return HTMLResponse(text, status)


def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads this answer: the browser left in the middle of a form or an upload. Without it,
    the terminal would show a traceback."""
    return PlainTextResponse("", 400)


def _unreadable(request: Request, error: Exception) -> Response:
    """A file that went away between two clicks, or a disk that is full."""
    assert isinstance(error, OSError)
    what = error.filename or "A file"
    return _explained(request, PipelineError(f"{what}: {error.strerror or error}."))
