"""Titles and front matter of Markdown texts."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from database.ingestion.markdown import Markdown, find_heading, read_encoded_markdown, read_markdown
from database.markup import plain_text


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Title\n\ntext", "Title"),
        ("text\n\n### Third level\n# First level", "Third level"),
        ("   # Indented a little", "Indented a little"),
        ("    # code\n\n# Title", "Title"),
        ("\t# code\n\n# Title", "Title"),
        ("#hashtag\n\n# Title", "Title"),
        ("####### seven\n\n# Title", "Title"),
        ("# Closed ##", "Closed"),
        ("# C#", "C#"),
        ("# \n\n## Not empty", "Not empty"),
        ("#\tTab", "Tab"),
        ("Title\n=====\n", "Title"),
        ("Two\nlines\n---\n", "Two lines"),
        ("text\n\nTitle\n-\n", "Title"),
        ("---\n\n# Title", "Title"),
        ("- item\n---\n# Title", "Title"),
        ("> quote\n---\n# Title", "Title"),
        ("> quote\nlazy\n---\n# Title", "Title"),
        ("> # quoted\n\n# Title", "Title"),
        ("- # in a list\n\n# Title", "Title"),
        ("```\n# code\n```\n# Title", "Title"),
        ("````\n```\n# code\n````\n# Title", "Title"),
        ("~~~ python\n# code\n```\n# code\n~~~~\n# Title", "Title"),
        ("``` not a fence `\n# Title", "Title"),
        ("```\n# never closed", None),
        ("<!--\n# comment\n\n# comment\n--> text\n\n# Title", "Title"),
        ("<!-- one line -->\n# Title", "Title"),
        ("<pre>\n\n# preformatted\n</pre>\n\n# Title", "Title"),
        ("<div>\nhtml\n---\n</div>\n\n# Title", "Title"),
        ("| a | b |\n|---|---|\n\n# Title", "Title"),
        ("a\r\n\r\n# Title\r\n", "Title"),
        ("a\r\r# Title\r", "Title"),
        ("\ufeff# Title", "Title"),
        ("", None),
        ("no heading at all\n\nanywhere", None),
        ("x" * 200_000 + "\n\n# Far away", None),
    ],
)
def test_the_first_heading_is_found(text: str, title: str | None) -> None:
    """ATX and setext headings of any level count; what stands in code, comments, lists and quotes does not."""
    assert find_heading(text) == title


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("`code` and **bold** *it* __b__ _i_ ~~old~~", "code and bold it b i old"),
        ("***both*** and snake_case_name and 2 * 3 * 4", "both and snake_case_name and 2 * 3 * 4"),
        ("[text](https://x.org/a_(b) 'title') [ref][1] [plain]", "text ref [plain]"),
        ("[`code` in a *link*](url)", "code in a link"),
        ("[![badge](b.svg)](url) Name", "badge Name"),
        ("`**not bold** [x](y)` \\*stars\\* \\`ticks\\`", "**not bold** [x](y) *stars* `ticks`"),
        ("`` a ` b ``", "a ` b"),
        ("<https://x.org> <b>bold</b><br/> <!-- no -->1 < 2", "https://x.org bold 1 < 2"),
        ("Q&amp;A &lt;T&gt; &#228; &unknown; R&D", "Q&A <T> ä &unknown; R&D"),
        ("First steps { #first-steps }", "First steps"),
        ("Attributes {.class key=value}", "Attributes"),
        ("Kramdown {: #anchor}", "Kramdown"),
        ("Jinja {{ title }} and set {a, b}", "Jinja {{ title }} and set {a, b}"),
        ("  many \t spaces  ", "many spaces"),
        ("*unbalanced [brackets](", "*unbalanced [brackets]("),
    ],
)
def test_markup_of_a_heading_is_taken_away(markup: str, text: str) -> None:
    """A title is what people read: no emphasis, code marks, link targets, HTML, escapes and anchors."""
    assert plain_text(markup) == text
    assert find_heading(f"## {markup} ##") == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\ntitle: T\ntags: [a]\n---\n# H", Markdown("T", {"title": "T", "tags": ["a"]})),
        ("\ufeff---\r\ntitle: T\r\n---\r\n# H", Markdown("T", {"title": "T"})),
        ("--- \ntitle: T\n...\n# H", Markdown("T", {"title": "T"})),
        ("---\ntitle:  spread \n---\n", Markdown("spread", {"title": "spread"})),
        ("---\ndraft: true\n---\n# H", Markdown("H", {"draft": True})),
        ("---\ntitle: ''\n---\n# H", Markdown("H", {"title": ""})),
        ("---\n---\n# H", Markdown("H", {})),
        ("---\n# a comment\n---\n# H", Markdown("H", {})),
        ("---\ntitle: T\n", Markdown(None, {})),
        ("\n---\ntitle: T\n---\n# H", Markdown("title: T", {})),
        ("----\ntitle: T\n----\n# H", Markdown("title: T", {})),
        ("text\n---\na: b\n---\n", Markdown("text", {})),
    ],
)
def test_front_matter_is_told_from_text(text: str, expected: Markdown) -> None:
    """Only YAML between `---` lines at the very beginning is front matter; its title beats the first heading."""
    assert read_markdown(text) == expected


@pytest.mark.parametrize(
    ("text", "title", "problem"),
    [
        ("---\ntitle: a: b\n---\n# H", "H", "its front matter is not valid YAML in line 2: mapping values"),
        ("---\n# H\ntext\n---\n", "H", "its front matter does not consist of `key: value`"),
        ("---\na: [\n---\n", None, "its front matter is not valid YAML in line"),
        ("---\n\n# H\n" + "a: b\n" * 14_000 + "---\n", "H", "its front matter has more than 65,536 characters"),
    ],
)
def test_what_is_wrong_with_front_matter_is_said(text: str, title: str | None, problem: str) -> None:
    """Broken front matter gives no metadata and a reason, and the title is looked for in the Markdown."""
    found = read_markdown(text)
    assert (found.title, found.metadata) == (title, {})
    assert found.problem is not None
    assert found.problem.startswith(problem)


HOSTILE = [
    "# " + "[" * 90_000,
    "# " + "*a" * 45_000,
    "# " + "`" * 50_000 + "a" + "`" * 49_000,
    "# a" + " " * 90_000 + "b",
    "# " + "#" * 90_000 + " x",
    "# " + "![](" * 20_000,
    "# " + "<a " * 30_000,
    "# " + "&" * 90_000,
    "`" * 90_000 + "x`",
    "a\n" * 50_000 + "---",
    "=\n" * 50_000,
    "- " * 50_000,
    "* " * 50_000 + "x",
    "<!--\n" * 20_000,
    "---\n" + "\n" * 1_000_000,
    "---\n" + "--- \t" * 200_000,
    "---\n" + "a: &a [*a]\n" * 5_000 + "---\n",
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("text", HOSTILE, ids=[text[:12] for text in HOSTILE])
def test_hostile_text_is_read_in_time(text: str) -> None:
    """No text makes the patterns run away: each of these would take hours if one did."""
    read_markdown(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab#*_`[]()<>!-=~&;\\{} \t\r\n0.:\ufeff"))
def test_any_text_has_a_title_of_one_line_or_none(text: str) -> None:
    """Whatever a file holds, reading it does not fail, and a title is one line that is not empty."""
    title = read_markdown(text).title
    assert title is None or (title == " ".join(title.split()) and title)


PIECES = [
    "# ", "## ", "Title", " {#a}", " { #a-b }", "{.b}", "#", " ", "*x*", "`y`", "\\", "&amp;", "C", "\n", "\r\n", "\r",
    "é", "\u2028", "\u3000", "\t", "\ufeff", "---\n", "title: T\n", "===\n", "\0", "x" * 500, "日本語 " * 200,
    "```\n", "<!--", "-->",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example("# Title { #anchor }\n")
@example("# " + "x" * 1_010 + "\n")
@settings(max_examples=1_000)
def test_bytes_say_the_same_as_their_text(text: str) -> None:
    """Reading only as much of a file as it takes leads to the same title, metadata and problem as reading it all."""
    assert read_encoded_markdown(text.encode()) == read_markdown(text)
