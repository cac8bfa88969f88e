"""The flags of answers: clear cases, and as many answers that must not be flagged."""

from __future__ import annotations

import json

import pytest

from pipeline.results.flags import flags_of


def marks(result: str, **variables: str) -> tuple[str, ...]:
    return flags_of(result, json.dumps(variables))


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, but I can’t help with that.",
        "Sorry, I cannot create that kind of content.",
        "I am very sorry, but I am unable to provide medical advice.",
        "I'm sorry for the confusion, but I can't write that.",
        "I apologize, but I cannot fulfill this request.",
        "Unfortunately, I'm not able to browse the internet.",
        "As an AI language model, I do not have opinions.",
        "As an AI, I can't do that.",
        "**I cannot assist** with that.",
        '"I can\'t help you with this."',
        "I cannot generate that content.",
        "I must decline to answer.",
        "I won't be able to comply with this.",
    ],
)
def test_a_text_that_begins_like_a_refusal_is_flagged(text):
    """With the phrases that models use."""
    assert "refusal" in marks(text, story="x")


@pytest.mark.parametrize(
    "text",
    [
        "I can't help but wonder what the sea would say.",
        "I'm sorry, she said, and closed the door.",
        "Sorry I am late, the bus broke down.",
        "As an AI startup founder, Mia rose early.",
        "I cannot believe what happened that night.",
        "Unfortunately, I can't find my keys, thought the dog.",
        "The clerk said: I'm sorry, but I can't help with that.",
        "I won't write about the war, he wrote.",
        "Answers such as 'I cannot assist with that' are common.",
    ],
)
def test_a_story_that_sounds_a_little_like_a_refusal_is_not_flagged(text):
    """People in stories are sorry, too."""
    assert marks(text, story="x") == ()


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("undefined", "undefined"),
        (' "null". ', "undefined"),
        ("NaN, NaN", "undefined"),
        ("The price is [object Object] today.", "undefined"),
        ("Dear undefined, welcome.", "undefined"),
        ("Dear {{ first_name }}, welcome.", "template"),
        ("{{#each rows}}", "template"),
        ("Dear $$tone$$, welcome.", "template"),
        ("Dear {tone}, welcome.", "template"),
    ],
)
def test_a_lost_value_or_an_unfilled_place_of_a_template_is_flagged(text, mark):
    """For example `undefined`, or `{{name}}`."""
    assert marks(text, tone="warm") == (mark,)


@pytest.mark.parametrize(
    "text",
    [
        "In JavaScript, undefined and null differ; NaN is a number.",
        "None",
        "Dear Ann, your null hypothesis holds.",
        "The area is $$x^2$$ and the set {a, b}.",
        "def f(x): return {x: 1}",
        "Use {{name}} for the name.",
        "Write [object Object] to see it.",
    ],
)
def test_words_about_code_and_words_from_the_variables_are_not_flagged(text):
    """An answer may repeat a template's place from the variables."""
    sent = "How do I write {{name}} and why do I see [object Object]?"
    assert marks(text, question=sent) == ()
