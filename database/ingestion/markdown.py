"""
What a Markdown file says about itself: its front matter and its title.

Pure, and bounded in time whatever the text is: nothing here raises because of what a file holds.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ..markup import LONGEST_HEADING, plain_text, without_closing_marks

MAX_FRONT_MATTER = 64 * 1024  # characters
_WINDOW = 100_000  # characters in which the first heading is looked for
_HEAD = 1_024  # bytes in which it mostly is

# The rule of Jekyll and Pandoc: the first line is `---`, a later one `---` or `...`. A byte order mark may come before.
_OPENING = re.compile(r"\ufeff?---[ \t]*\r?\n")
_CLOSING = re.compile(r"^(?:---|\.\.\.)[ \t]*\r?$", re.MULTILINE)


class Markdown(NamedTuple):
    """
    *title*: that of the front matter, else the first heading as plain text, else None. *metadata*: the front matter.

    *problem* says what is wrong with a front matter that could not be read.
    """

    title: str | None
    metadata: dict[str, Any]
    problem: str | None = None


def read_markdown(text: str) -> Markdown:
    """
    What *text* says about itself.

    Front matter is YAML between `---` lines at the very beginning; what looks like it and is no mapping is text.
    Raises `ModuleNotFoundError` where there is front matter and PyYAML is not installed.
    """
    block, end = _split_front_matter(text)
    if block is None or len(block) > MAX_FRONT_MATTER:
        problem = block and f"its front matter has more than {MAX_FRONT_MATTER:,} characters"
        return Markdown(find_heading(text), {}, problem)
    if not block.strip():
        return Markdown(find_heading(text, end), {})

    from .front_matter import FrontMatterError, read_front_matter  # needs an extra

    try:
        found = read_front_matter(block)
    except FrontMatterError as exc:
        return Markdown(find_heading(text, end), {}, f"its front matter {exc}")
    if found is None:
        return Markdown(find_heading(text), {}, "its front matter does not consist of `key: value`")
    metadata, title = found
    title = " ".join((title or "").split())[:LONGEST_HEADING]
    return Markdown(title or find_heading(text, end), metadata)


# What most files begin with: `# Title` or `# Title { #anchor }`, in words without anything that could be markup.
_PLAIN_HEADING = re.compile(r"\ufeff?#{1,6} ((?:[^\s\0\\`*_~\[<&#{]+ )*[^\s\0\\`*_~\[<&#{]+)(?: \{ ?#[\w-]+ ?\})?\r?\n")


def read_encoded_markdown(data: bytes) -> Markdown:
    """
    As `read_markdown`, of a text in UTF-8, without decoding more of it than it takes.

    Does not tell whether *data* is UTF-8: what is not counts as U+FFFD.
    """
    first = data[: data.find(b"\n", 0, _HEAD) + 1].decode(errors="replace")
    plain = _PLAIN_HEADING.match(first)
    if plain and len(plain[1]) <= LONGEST_HEADING:
        return Markdown(plain[1], {})
    head = data[: data.rfind(b"\n", 0, _HEAD) + 1].decode(errors="replace")  # whole lines, which say the same
    if not _OPENING.match(head) and (title := find_heading(head)):
        return Markdown(title, {})
    return read_markdown(data.decode(errors="replace"))


def _split_front_matter(text: str) -> tuple[str | None, int]:
    """The text between the delimiters, None if there are none, and where the Markdown begins."""
    opening = _OPENING.match(text)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    if opening is None or closing is None:
        return None, 0
    return text[opening.end() : closing.start()], closing.end()


# https://spec.commonmark.org/0.31.2/#blocks, as far as it takes to tell a heading from what only looks like one
_LINE = re.compile(r"([^\r\n]*)(?:\r\n|[\r\n]|$)")
_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,})")
_ATX = re.compile(r"#{1,6}(?=[ \t]|$)")
_UNDERLINE = re.compile(r"(?:=+|-+)[ \t]*$")
_THEMATIC_BREAK = re.compile(r"(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_CONTAINER = re.compile(r">|(?:[-+*]|\d{1,9}[.)])(?:[ \t]|$)")
_RAW_HTML = re.compile(r"<(?:!--|(pre|script|style|textarea)(?=[\s>]|$))", re.IGNORECASE)
_HTML = re.compile(r"</?[a-z]|<[!?]", re.IGNORECASE)


def find_heading(text: str, start: int = 0) -> str | None:
    """
    The first heading of *text* from *start* on, of whatever level, as plain text; None if none has any text in it.

    ATX (`# Title`) and setext (underlined) headings, not those in code, comments, lists and quotes. Looks at 100,000
    characters.
    """
    scanner = _HeadingScanner()
    if text.startswith("\ufeff", start):
        start += 1
    for line in _LINE.finditer(text, start, start + _WINDOW):
        heading = scanner.feed(line[1].expandtabs(4))
        if heading is not None and (title := plain_text(heading)):
            return title
    return None


class _HeadingScanner:
    """Reads lines and knows what block they are in."""

    def __init__(self) -> None:
        self._paragraph: list[str] = []
        self._fence = ""
        self._end_of_html = ""
        self._contained = False  # in a list, quote or HTML block: what follows without a blank line belongs to it

    def feed(self, line: str) -> str | None:
        """The markup of the heading that ends with *line*, if one does."""
        body = line.strip(" ")
        indent = len(line) - len(line.lstrip(" "))
        if self._is_literal(body, indent):
            return None
        if body and indent >= 4:
            if self._paragraph:
                self._paragraph.append(body)
            return None
        if self._paragraph and _UNDERLINE.match(body):
            heading = " ".join(self._paragraph)
            self._paragraph.clear()
            return heading
        if self._begins_block(body):
            self._paragraph.clear()
            marks = _ATX.match(body)
            return without_closing_marks(body[marks.end() :]) if marks else None
        if not self._contained:
            self._paragraph.append(body)
        return None

    def _begins_block(self, body: str) -> bool:
        """True where *body* is not, or not only, a line of a paragraph; notes what that means for the next lines."""
        if fence := _FENCE.match(body):
            self._fence = fence[1] or fence[2]
        elif not _THEMATIC_BREAK.match(body) and (_CONTAINER.match(body) or _HTML.match(body)):
            self._open_html(body)
            self._contained = True
            return True
        elif body and not _ATX.match(body) and not _THEMATIC_BREAK.match(body):
            return False
        self._contained = False
        return True

    def _is_literal(self, body: str, indent: int) -> bool:
        """True inside of fenced code, comments and the like, up to the line that ends them."""
        if self._fence:
            if indent < 4 and len(body) >= len(self._fence) and not body.strip(self._fence[0]):
                self._fence = ""
            return True
        if self._end_of_html:
            if self._end_of_html in body.lower():
                self._end_of_html = ""
            return True
        return False

    def _open_html(self, body: str) -> None:
        opened = _RAW_HTML.match(body)
        if opened:
            end = f"</{opened[1].lower()}>" if opened[1] else "-->"
            self._end_of_html = "" if end in body.lower() else end
