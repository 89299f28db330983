"""Lists in one line."""

from __future__ import annotations

from pathlib import Path

from lsengine.wording import control_character, listed, parts_that_differ


def test_things_are_named_up_to_a_number():
    """A log line shows the first few cells and how many more."""
    assert listed([1, 2]) == "1, 2"
    assert listed(range(20), most=3) == "0, 1, 2 and 17 more"


def test_paths_without_a_name_and_circles_of_links_have_parts(tmp_path):
    """Whoever opens them says what is wrong."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert parts_that_differ([Path("/"), tmp_path / "circle"]) == ["/", "circle"]


def test_what_is_no_text_of_one_line_is_found():
    """Control characters, ends of lines, and bytes that are no text; no other character."""
    for bad in (
        "\0",
        "\t",
        "\n",
        "\x1b",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\u202e",
        "\u2066",
        "\udc80",
    ):
        assert control_character(f"a{bad}b\n") == bad
    assert not control_character("a b\u00a0\u200d\u00e9\U0001f600")
