"""Text for people: what is long is cut."""

from __future__ import annotations

from cql_atari.system import text


def test_words_are_cut_where_they_are_too_long():
    assert text.shorten("a" * 60) == "a" * 60
    assert text.shorten("a" * 61) == "a" * 60 + "..."
    assert text.shorten("abc", 2) == "ab..."
