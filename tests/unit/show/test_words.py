"""The difference between two texts, word by word."""

from __future__ import annotations

import random
import time

import pytest

from pipeline.show.words import changes


def marked(old: str, new: str) -> str:
    """The texts with [-old-] and {+new+} as `pipeline show` marks them, but with all spaces."""
    shown = ""
    for change in changes(old, new):
        if change.same:
            shown += change.new
        else:
            shown += (f"[-{change.old}-]" if change.old else "") + (
                f"{{+{change.new}+}}" if change.new else ""
            )
    return shown


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("a red fox", "a grey fox", "a [-red -]{+grey +}fox"),
        ("a fox", "a fox runs", "a fox {+runs+}"),
        ("it is one two", "one two", "[-it is -]one two"),
        ("one\ntwo\nthree", "one\n2\nthree", "one\n[-two\n-]{+2\n+}three"),
        ("", "new", "{+new+}"),
        ("same", "same", "same"),
        ("two  spaces", "two spaces", "two spaces"),
        ("", "", ""),
    ],
)
def test_words_that_changed_are_marked(old, new, shown):
    """Other spaces between the same words are no change."""
    assert marked(old, new) == shown


def test_both_texts_are_in_the_changes():
    """For random texts of a few words, also with lines and double spaces."""
    chance = random.Random(5)
    for _ in range(300):
        old, new = (
            "".join(chance.choice(["a ", "b ", "c\n", "d  ", "\n", " e"]) for _ in range(12))
            for _ in range(2)
        )
        found = changes(old, new)
        assert "".join(change.old for change in found) == old
        assert "".join(change.new for change in found) == new
        assert all(change.old.split() == change.new.split() for change in found if change.same)


@pytest.mark.parametrize("words", [2000, 4000, 150_000])
def test_texts_with_nothing_in_common_are_compared_in_a_bounded_time(words):
    """Each word occurs as often as it can without being left out by the comparison."""
    different = words // (words // 100 + 1)
    old = [f"w{number % different}" for number in range(words)]
    begun = time.process_time()
    found = changes(" ".join(old), " ".join(reversed(old)))
    assert time.process_time() - begun < 5
    assert "".join(change.new for change in found) == " ".join(reversed(old))
