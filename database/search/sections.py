"""
Texts cut into sections: Markdown by its headings, long sections and plain text by paragraphs.

Pure, and linear in time whatever the text is. The sections of a text are ranges of its UTF-8 that follow each other
without a gap, so that all of them together are the text, byte for byte. A cut depends on what stands near it, so a
change of a text changes the sections around it and leaves the others as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple
from uuid import UUID

from ..markup import heading_text

TARGET = 1_500  # bytes from which on a section ends with its paragraph; a few hundred words
LONGEST = 3_000  # bytes of a section; a heading of its own makes shorter ones
_LONGEST_PATH = 500  # characters
_LONGEST_LINE = 4_000  # bytes of a heading that is underlined; a longer line is a paragraph
SEPARATOR = " > "  # between the headings of a path


class Section(NamedTuple):
    """
    A range of a text in bytes of UTF-8, and the *headings* it stands under.

    The *key* is a hash of both, in hex, and of how often the same was there before: no two of a text are equal. It
    does not depend on the space around the text, which changes with what stands before and behind.
    """

    start: int
    length: int
    headings: str
    key: str


def cut_sections(data: bytes) -> list[Section]:
    """The sections of a text in UTF-8, in order; one that is empty where the text is empty."""
    sections: list[Section] = []
    repeated: dict[bytes, int] = {}
    for start, end, headings in _parts(data):
        path = headings.encode(errors="surrogatepass") + b"\0"
        for first, last in _pieces(data, start, end):
            key = blake2b(path + data[first:last].strip(), digest_size=16)
            digest = key.digest()
            if digest in repeated:
                key.update(b"\0%d" % repeated[digest])
            repeated[digest] = repeated.get(digest, 0) + 1
            sections.append(Section(first, last - first, headings, key.hexdigest()))
    return sections


def key_of(headings: str, text: str) -> UUID:
    """The key of a section of that text, where it is the first such one of its document."""
    path = headings.encode(errors="surrogatepass") + b"\0"
    return UUID(bytes=blake2b(path + text.encode().strip(), digest_size=16).digest())


# --- headings


class _Heading(NamedTuple):
    """Where its line begins and where what is under it begins, 1 to 6, and its words."""

    start: int
    end: int
    level: int
    text: str


# Every line that could be a heading or the fence of code. With the newline in front, because the search for one given
# byte is what `re` does fastest.
_MARKED = rb" {0,3}(?:(#{1,6})(?=[ \t\r\n]|\Z)([^\r\n]*)|(`{3,}|~{3,})([^\r\n]*)|(=+|-+)[ \t]*(?=\r?\n|\r?\Z))"
_FIRST_LINE = re.compile(_MARKED)
_LINE = re.compile(rb"\n" + _MARKED)
_FRONT_MATTER = re.compile(rb"(?:\xef\xbb\xbf)?---[ \t]*\r?\n")
_END_OF_FRONT_MATTER = re.compile(rb"\n(?:---|\.\.\.)[ \t]*\r?(?=\n|\Z)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What a line underlined by --- begins with where the two are no heading: lists, quotes, tables, HTML, rules, headings.
_NO_TITLE = re.compile(rb" {0,3}(?:[-+*][ \t]|\d{1,9}[.)][ \t]|[>|<#]|[-=*_~`]{3})| {4}|\t")


def _headings(data: bytes, begin: int) -> Iterator[_Heading]:
    """The headings of a Markdown text from *begin* on, outside of fenced code."""
    fence = b""
    first = _FIRST_LINE.match(data, begin)
    for line in chain([first] if first else [], _LINE.finditer(data, begin)):
        marks, title, opening, rest, underline = line.groups()
        start = line.start() if line is first else line.start() + 1
        if fence:
            if opening and opening[:1] == fence[:1] and len(opening) >= len(fence) and not rest.strip():
                fence = b""
        elif opening:
            fence = b"" if opening[:1] == b"`" and b"`" in rest else opening
        elif marks:
            yield _Heading(start, line.end(), len(marks), _words(title))
        elif underline and line is not first:
            before = max(begin, data.rfind(b"\n", begin, start - 1) + 1)
            title = data[before : min(start - 1, before + _LONGEST_LINE)]
            if start - 1 - before < _LONGEST_LINE and title.strip() and not _NO_TITLE.match(title):
                yield _Heading(before, line.end(), 1 if underline[:1] == b"=" else 2, _words(title))


def text_start(data: bytes) -> int:
    """Where the text begins, behind a byte order mark and front matter."""
    if _FRONT_MATTER.match(data) and (closing := _END_OF_FRONT_MATTER.search(data, 3)):
        return closing.end()
    return len(_BYTE_ORDER_MARK) if data.startswith(_BYTE_ORDER_MARK) else 0


_LEADING_HEADINGS = re.compile(r"\s*(?:#{1,6}[ \t][^\n]*(?:\n\s*|\Z))*")


def passage_of(section_text: str, *, is_first: bool) -> str:
    """What a section says below headings and, the first one, front matter; all of it where that is nothing."""
    text = section_text
    if is_first:
        data = text.encode()
        text = data[text_start(data) :].decode()
    return _LEADING_HEADINGS.sub("", text, count=1).rstrip() or section_text.strip()


# Words without anything that could be markup, and an anchor behind them.
_PLAIN = re.compile(rb"[ \t]*([^\\`*_~\[<&#{]*?)[ \t]*(?:\{ ?#[\w-]+ ?\})?[ \t]*")


def _words(title: bytes) -> str:
    if len(title) < 200 and (plain := _PLAIN.fullmatch(title)):
        return plain[1].decode(errors="replace")
    return heading_text(title[:_LONGEST_LINE].decode(errors="replace"))


_TEXT = re.compile(rb"\S")


def _parts(data: bytes) -> Iterator[tuple[int, int, str]]:
    """
    What stands under one heading: start, end, and the path of headings.

    Front matter, and a heading with nothing but another one below it, begin the part of that one.
    """
    start = 0
    body = text_start(data)  # where the text under the last heading begins
    path: list[_Heading] = []
    for heading in _headings(data, body):
        if _TEXT.search(data, body, heading.start):
            yield start, heading.start, _joined(path)
            start = heading.start
        body = heading.end
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
    yield start, len(data), _joined(path)


def _joined(path: list[_Heading]) -> str:
    return SEPARATOR.join(heading.text for heading in path if heading.text)[:_LONGEST_PATH]


# --- pieces


_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n+")
# Where a long paragraph may end, best first: a line, a sentence, a word, a character.
_ENDS = (
    re.compile(rb"\n"),
    re.compile(rb"[.!?;:]['\")\]]*[ \t]+|\xe3\x80\x82|\xef\xbc[\x81\x9b\x9f]"),
    re.compile(rb"[ \t]+"),
    re.compile(rb"(?=[^\x80-\xbf])"),
)


def _pieces(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The range cut into ones of at most `LONGEST` bytes."""
    while end - start > LONGEST:
        cut = _find_cut(data, start)
        yield start, cut
        start = cut
    yield start, end


def _find_cut(data: bytes, start: int) -> int:
    """Where the piece that begins at *start* ends: always at the first good place, for what is behind to stay as is."""
    target, longest = start + TARGET, start + LONGEST
    if blank := _BLANK_LINE.search(data, target, longest):
        return blank.end()
    ends = [blank.end() for blank in _BLANK_LINE.finditer(data, start + TARGET // 3, target)]
    if ends:
        return ends[-1]
    for pattern in _ENDS:
        if found := pattern.search(data, target, longest):
            return found.end()
    return longest  # no UTF-8
