"""A page on loopback for tests, and a client that sends what a browser would."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import httpx


class PageClient:
    """A browser without a screen: it has the cookie, and sends its own origin with each form."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.base = address.partition("/?")[0]
        self.http = httpx.Client(base_url=self.base, timeout=60, trust_env=False)
        answer = self.http.get(address.removeprefix(self.base))
        assert answer.status_code == 303, answer.text

    def without_cookie(self) -> httpx.Client:
        """Another client, which did not open the printed address."""
        return httpx.Client(base_url=self.base, trust_env=False)

    def get(self, path: str, **values: str) -> str:
        """Returns the text of a page. Another status than 200 fails the test."""
        answer = self.http.get(path, params=values)
        assert answer.status_code == 200, answer.text
        return answer.text

    def post(self, path: str, fields: Mapping[str, str], **headers: str) -> httpx.Response:
        own = {"origin": self.base} | headers
        return self.http.post(path, data=dict(fields), headers=own)

    def form(self, text: str, action: str) -> dict[str, str]:
        """The hidden fields of the first form of a page with this action."""
        found = re.search(
            rf'<form method="post" action="{re.escape(action)}".*?</form>', text, re.S
        )
        assert found, text
        names = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', found[0])
        return dict(names)

    def filled(self, text: str, action: str) -> dict[str, str]:
        """Everything that the last form of a page with this action would send, without buttons."""
        form = _Form(action)
        form.feed(text)
        assert form.fields is not None, text
        return form.fields

    def click(self, text: str, action: str, **more: str) -> httpx.Response:
        """Sends that form."""
        return self.post(action, self.form(text, action) | more)


class _Form(HTMLParser):
    """Reads the fields of a form."""

    def __init__(self, action: str) -> None:
        super().__init__()
        self.fields: dict[str, str] | None = None
        self._action, self._inside, self._name, self._text = action, False, "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = given["action"].partition("#")[0] == self._action
            self.fields = {} if self._inside else self.fields
        if not self._inside or self.fields is None:
            return
        if tag == "option" and ("selected" in given or self._name not in self.fields):
            self.fields[self._name] = given["value"]
        elif tag in ("input", "select", "textarea"):
            self._name, self._text = given["name"], tag == "textarea"
            if tag != "select":
                self.fields[self._name] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self._text = self._text and tag != "textarea"

    def handle_data(self, data: str) -> None:
        if self._text and self._inside and self.fields is not None:
            self.fields[self._name] += (
                data.removeprefix("\n") if not self.fields[self._name] else data
            )


@contextlib.contextmanager
def serving(
    where: Path, environment: Mapping[str, str], *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], PageClient]]:
    """Starts `pipeline ui`, and ends it with the block. Yields its process and a client."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "ui", str(where), "--no-open", *options],
        env=dict(environment),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline().decode()
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line)
        assert found, line
        page = PageClient(found[0])
        with contextlib.closing(page.http):
            yield process, page
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def eventually(happened: Callable[[], object], most_s: float = 60.0) -> None:
    """Waits until a condition holds. A machine that is too busy for `most_s` fails the test."""
    until = time.monotonic() + most_s
    while not happened():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)
