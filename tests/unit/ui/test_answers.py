"""Answers as markup."""

from __future__ import annotations

import html
import time

import pytest

from pipeline.ui.answers import rendered


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("plain", '<p dir="auto">plain</p>'),
        ("# Title\n\ntext", '<h4 dir="auto">Title</h4><p dir="auto">text</p>'),
        ("- a\n- **b**", '<li dir="auto">a</li><li dir="auto"><strong>b</strong></li>'),
        ("```\n<b>\n```", "<pre><code>&lt;b&gt;</code></pre>"),
        ("*a* and `b`", "<em>a</em> and <code>b</code>"),
        ('{"a": [1]}', "&quot;a&quot;: [\n    1\n  ]"),
    ],
)
def test_json_and_a_part_of_markdown_are_rendered(text: str, markup: str):
    assert markup in rendered(text).source


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"a":1.10,"b":[]}', '{\n  "a": 1.10,\n  "b": []\n}'),
        ("[9007199254740993.0, 1E400,1e2]", "[\n  9007199254740993.0,\n  1E400,\n  1e2\n]"),
        ('{"a": 1, "a": 2}', '{\n  "a": 1,\n  "a": 2\n}'),
        ('["caf\\u00e9 \\"a\\": {,"]', '[\n  "café \\"a\\": {,"\n]'),
        ('["\\ud800 \\u00e9", "\\u0007"]', '[\n  "\\ud800 \\u00e9",\n  "\\u0007"\n]'),
        ("{ }", "{}"),
        ("[[],[[1]]]", "[\n  [],\n  [\n    [\n      1\n    ]\n  ]\n]"),
    ],
)
def test_json_keeps_its_numbers_its_keys_and_its_texts(text: str, shown: str):
    assert rendered(text).source == f"<pre><code>{html.escape(shown)}</code></pre>"


def test_a_link_goes_to_http_alone():
    assert 'href="https://example.com/a"' in rendered("[x](https://example.com/a)").source
    for address in ("javascript:alert(1)", "data:text/html,x", "//evil.example", "/start", "file:"):
        source = rendered(f"[x]({address})").source
        assert "href" not in source
        assert "<a" not in source


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '<img src=x onerror="alert(1)">',
        "![x](https://evil.example/pixel.png)",
        "**<iframe srcdoc='x'>**",
        "`</code><script>`",
        '[<script>](https://example.com/"><script>)',
        '{"a": "</pre><script>alert(1)</script>"}',
        "# <svg/onload=alert(1)>",
    ],
)
def test_no_element_of_an_answer_is_markup(text: str):
    source = rendered(text).source.lower()
    for name in ("<script", "<img", "<iframe", "<svg"):
        assert name not in source


@pytest.mark.parametrize("text", ["*" * 100_000, "[" * 100_000, "`" * 99_999, "[x](" * 40_000])
def test_a_hostile_answer_takes_no_long_time(text: str):
    began = time.process_time()
    rendered(text)
    assert time.process_time() - began < 5


def test_a_deep_answer_does_not_become_much_longer():
    deep = "[" * 900 + ",".join("1" * 50_000) + "]" * 900
    assert len(rendered(deep).source) < 100 * len(deep)
