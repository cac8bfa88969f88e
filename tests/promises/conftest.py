"""Chromium for the tests of the page.

Without Chromium these tests are skipped. With BROWSER_TESTS=required, which the CI sets, they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_REQUIRED = os.environ.get("BROWSER_TESTS") == "required"
_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None and not _REQUIRED:
        pytest.skip("Chromium is not installed")
    assert CHROMIUM is not None, "BROWSER_TESTS=required, and Chromium is not installed"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Callable[[str], Page]]:
    """Opens the page. At the end, it must have had no error and no breach of its policy."""
    faults: list[str] = []
    contexts, bases = [], ["-"]

    def note(said: ConsoleMessage) -> None:
        # A test leaves a screen, or ends the page, while the browser still loads a part of it.
        ended = said.location["url"].startswith(tuple(bases)) and "net::ERR" in said.text
        ended |= said.text.startswith(("htmx:afterRequest", "htmx:sendError", "htmx:sendAbort"))
        if said.type == "error" and not ended:
            faults.append(f"{said.text} {said.location}")

    def open_page(address: str, **options: object) -> Page:
        context = chromium.new_context(**options)
        contexts.append(context)
        bases.append(address.partition("?")[0])
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", note)
        context.expose_function("violated", lambda what: faults.append(f"policy: {what}"))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', (e) => "
            "violated(e.violatedDirective + ' ' + e.blockedURI))"
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
