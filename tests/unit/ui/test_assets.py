"""The files that the browser loads."""

from __future__ import annotations

import hashlib
import re

from pipeline.ui.app import STATIC

_HTMX = (
    "61d1f2e85ce30f8aa8c88ff258621bb0a9c91def7cafdea7a7d5de629de8bc52"
    "fed2c34ffcd6c3ad89522c3af96ba35d8b9b118bd1a0263facb84ef22de50c35"
)
"""SHA-512 of dist/htmx.min.js in htmx.org 2.0.11 on npm, whose package has the integrity
sha512-Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM3p4gJgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA==."""


def test_htmx_is_the_published_file_with_its_licence():
    assert hashlib.sha512((STATIC / "htmx.min.js").read_bytes()).hexdigest() == _HTMX
    assert "Zero-Clause BSD" in (STATIC / "htmx.LICENSE").read_text("utf-8")


def test_all_assets_together_are_small():
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 60_000


def test_no_asset_loads_anything_from_elsewhere():
    for name in ("page.js", "page.css", "icon.svg"):
        found = re.findall(r"https?://[^\s\"')]+", (STATIC / name).read_text("utf-8"))
        assert set(found) <= {"http://www.w3.org/2000/svg"}
