"""Letters, texts and numbers that options of pictures take."""

from __future__ import annotations

import pytest

from lsengine.looks import values


@pytest.mark.parametrize("form", ["a", "(a)", "b.", "C", "[D]", "a)", ""])
def test_letters_of_panels(form):
    """One letter, with a sign on either side or none; an empty text is none."""
    assert not values.letters(form)


@pytest.mark.parametrize("form", ["aa", "1", "((a))", "$a$", "a b", None, 3])
def test_other_forms_are_no_letters(form):
    """The message shows what is."""
    assert "such as a, (a) or B." in values.letters(form)


@pytest.mark.parametrize("text", ["", "two\nlines", "\u03b1 = $x_1$", "thin\u2009space"])
def test_texts_may_have_lines_and_mathematics(text):
    """Whatever can be shown."""
    assert not values.text(text)


@pytest.mark.parametrize("text", ["\x00", "a\tb", "\udc80", "\u2028", "\n" * 20, 7])
def test_what_cannot_be_shown_is_no_text(text):
    """Control characters, and bytes that are no text."""
    assert values.text(text)


def test_numbers_are_within_and_no_booleans():
    """Both ends are allowed; not a number is none."""
    check = values.number(1, 89)
    assert not any(map(check, (1, 89, 20.5)))
    assert all(map(check, (0.9, 90, float("nan"), True, "3")))
    assert values.number(2, 100, whole=True)(2.0)
