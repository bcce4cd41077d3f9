"""The markup of Markdown's headings, and the words in it. Pure, and bounded in time whatever the text is."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

LONGEST_HEADING = 1_000  # characters

# Pandoc's and kramdown's attributes: { #anchor .class key=value }
_ATTRIBUTES = re.compile(r"[ \t]*\{:?[ \t]*(?:[#.][^\s{}]|[\w-]+=)[^{}]*\}$")


def without_closing_marks(heading: str) -> str:
    """`Title ## { #anchor }` and `Title { #anchor } ##` without both."""
    heading = _ATTRIBUTES.sub("", heading.strip()[: 2 * LONGEST_HEADING])
    shorter = heading.rstrip("#")
    return shorter.rstrip() if shorter.endswith((" ", "\t")) or not shorter else heading


# Code spans and escaped characters first: what is in them is no markup. Patterns cannot run away: a heading is short.
_LITERAL = re.compile(r"\\([!-/:-@\[-`{-~])|(?<!`)(`+)(?!`)(.+?)(?<!`)\2(?!`)")
_MARKS = frozenset("\\`*_~[<&")
_MARKUP: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"<(https?://[^<>\s]*|[^<>\s@]+@[^<>\s]+)>"), r"\1"),
    (re.compile(r"<!--.*?-->|</?[a-z][^<>]*>", re.IGNORECASE), ""),
    (re.compile(r"!\[([^\[\]]*)\](?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\])"), r"\1"),
    (re.compile(r"\[([^\[\]]*)\](?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\])"), r"\1"),
    (re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*"), r"\1"),
    (re.compile(r"\*(?=\S)(.+?)(?<=\S)\*"), r"\1"),
    (re.compile(r"(?<!\w)__(?=\S)(.+?)(?<=\S)__(?!\w)"), r"\1"),
    (re.compile(r"(?<!\w)_(?=\S)(.+?)(?<=\S)_(?!\w)"), r"\1"),
    (re.compile(r"~~(?=\S)(.+?)(?<=\S)~~"), r"\1"),
    (re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w{1,32});"), lambda entity: html.unescape(entity[0])),
]


def plain_text(heading: str) -> str:
    """The Markdown of one *heading* without its markup: emphasis, code, links, images, HTML, escapes, attributes."""
    literals: list[str] = []

    def put_aside(found: re.Match[str]) -> str:
        literals.append(found[1] or found[3].strip())
        return f"\0{len(literals) - 1}\0"

    text = _ATTRIBUTES.sub("", heading[: 2 * LONGEST_HEADING].replace("\0", "").strip())
    if not _MARKS.isdisjoint(text):
        text = _LITERAL.sub(put_aside, text)
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
        text = re.sub("\0(\\d+)\0", lambda found: literals[int(found[1])], text)
    return " ".join(text.split())[:LONGEST_HEADING]


def heading_text(line: str) -> str:
    """The words of a *line* that is a heading, without what stands around them: `## Title ##` without its marks."""
    return plain_text(without_closing_marks(line.lstrip(" #")))
