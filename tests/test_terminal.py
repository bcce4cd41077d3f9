"""Texts on their way to a terminal."""

from __future__ import annotations

import pytest

from database.cli.terminal import format_bytes, format_seconds, one_line, without_markdown


@pytest.mark.parametrize(
    ("markdown", "plain"),
    [
        ("# Title { #anchor }\n\nSome **bold** `code`.", "Title Some bold code."),
        (
            "see [the <mark>pool</mark>](docs/pool.md) and ![a picture](x.png)",
            "see the <mark>pool</mark> and a picture",
        ),
        ("cut](docs/pool.md) here", "cut here"),
        ('<div class="x">- a list\n- of <mark>two</mark></div>', "a list of <mark>two</mark>"),
        ("```python\nx = 1\n```", "x = 1"),
        ("{* ../../docs_src/x.py hl[26] *} after", "after"),
        ("a | table | row", "a table row"),
    ],
)
def test_a_snippet_reads_as_text(markdown: str, plain: str) -> None:
    """The signs of Markdown go, the words and the marks stay."""
    assert without_markdown(markdown) == plain


def test_a_line_obeys_nobody() -> None:
    """Control characters, line separators and changes of direction become spaces; emoji and joiners stay."""
    assert one_line("a\x1b[31m\nb\u2028c\u202ed\x9b") == "a [31m b c d "
    assert one_line("👩\u200d💻 क्\u200dष") == "👩\u200d💻 क्\u200dष"


def test_numbers_have_units() -> None:
    """Of the size that a person expects."""
    assert [format_bytes(size) for size in (0, 999, 12_400_000, 3e9)] == ["0 B", "999 B", "12.4 MB", "3.0 GB"]
    assert [format_seconds(seconds) for seconds in (0.00042, 0.5, 1234.5)] == ["0.4 ms", "0.50 s", "1,234.50 s"]
