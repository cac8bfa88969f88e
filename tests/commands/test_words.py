"""Text is plain English: pages, `--help`, messages and docstrings avoid a short list of words.

This is no grammar checker. Each pattern is a habit that made earlier text hard to read, with the
words to use in its place.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize

import click
import pytest

from pipeline.cli import cli
from tests.conftest import TOP

BANNED = {
    r"mend(s|ed|ing)?": "fix",
    r"go(es|ing)? on|went on|gone on": "continue",
    r"any more": "no longer",
    r"that (is|are|was|were) none": "does not exist, is not a",
    r"of (one's|its|his|her|their|your|our) own": "its own …",
    r"but for": "except",
    r"besides?": "next to, compared with, apart from",
    r"by way of": "through, with",
    r"anew": "again",
    r"a hair|some (thousands|hundreds|dozens)": "a number",
    r"(is|are|was|were|be|been) (told|said|meant|brought)": "name who does it: shows, says, prints",
    r"who(ever)? (asks|asked)": "the user",
    r"what came back|whatever may|what may be paid": "the response, the row",
    r"turns? one round|at rest|way home|in the way of": "say what happens",
    r"as it (is|was) (meant|told)": "say what happens",
}
_BANNED = {re.compile(rf"\b({words})\b", re.IGNORECASE): better for words, better in BANNED.items()}
# Text that a program reads, or that others wrote.
ALLOWED = ("More could be said, but nothing",)
PAGES = sorted(
    str(page.relative_to(TOP))
    for page in [*TOP.glob("*.md"), *TOP.glob("docs/*.md"), *TOP.glob("jobs/*.yaml")]
)
MODULES = sorted(str(path.relative_to(TOP)) for path in TOP.glob("pipeline/**/*.py"))


def faults(text: str) -> list[str]:
    """Each banned expression of a text, with its neighbours and what to write."""
    line = " ".join(text.split())
    return [
        f"{line[max(found.start() - 30, 0) : found.end() + 30]!r}: write {better!r}"
        for pattern, better in _BANNED.items()
        for found in pattern.finditer(line)
        if not any(words in line for words in ALLOWED)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_plain(page):
    """Its code blocks too: their comments are read."""
    assert faults((TOP / page).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_help_of_a_command_is_plain(name):
    """All of its options."""
    top = click.Context(cli, **cli.context_settings)
    command = cli.commands[name]
    assert faults(command.get_help(click.Context(command, info_name=name, parent=top))) == []


@pytest.mark.parametrize("path", MODULES)
def test_the_messages_of_a_module_are_plain(path):
    """Every text of three words and more that is not a docstring."""
    assert [fault for text in messages(path) for fault in faults(text)] == []


def test_docstrings_and_comments_are_plain():
    """Of the package, the tests, the benchmarks and the scripts of docs/."""
    paths = itertools.chain.from_iterable(
        (TOP / folder).glob("**/*.py") for folder in ("pipeline", "tests", "benchmarks", "docs")
    )
    found = []
    for path in paths:
        source = path.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = " ".join(token.string for token in tokens if token.type == tokenize.COMMENT)
        texts = [comments, *(str(one.value) for one in docstrings(ast.parse(source)))]
        found += [f"{path.name}: {fault}" for text in texts for fault in faults(text)]
    assert found == []


def docstrings(tree: ast.AST) -> list[ast.Constant]:
    """Every text that is a statement."""
    values = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return [value for value in values if isinstance(value, ast.Constant)]


def messages(path: str) -> list[str]:
    """The texts of a module, each f-string as one text with `…` for its values."""
    tree = ast.parse((TOP / path).read_text(encoding="utf-8"))
    documentation = set(map(id, docstrings(tree)))
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    other = documentation | inside
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(map(_text, node.values)))
        elif isinstance(getattr(node, "value", None), str) and id(node) not in other:
            texts.append(node.value)
    return [text for text in texts if len(text.split()) >= 3]


def _text(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "…"


def test_a_banned_word_is_found():
    """In a message that is put together from parts as well."""
    assert faults("To go on: pipeline run, but for\n row 3") != []
    assert faults("The run stopped. Next: pipeline run") == []
    assert len(messages("pipeline/job/spec.py")) > 10
